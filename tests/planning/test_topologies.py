import dataclasses
import importlib.util
import math

import jax
import pytest

from nulls_jax import errors
from nulls_jax.planning import chips, topologies
from nulls_jax.training.config import MeshConfig


@pytest.mark.parametrize(
  ("name", "shape", "jax_name", "num_chips"),
  [
    ("v5e-1", (1, 1), "v5e:1x1", 1),
    ("v5e-8", (2, 4), "v5e:2x4", 8),
    ("v5e-256", (16, 16), "v5e:16x16", 256),
    ("v6e-256", (16, 16), "v6e:16x16", 256),
    # v5p names count TensorCores, two a chip.
    ("v5p-8", (2, 2, 1), "v5p:2x2x1", 4),
    ("v5p-512", (4, 8, 8), "v5p:4x8x8", 256),
    ("v5e:4x8", (4, 8), "v5e:4x8", 32),
    ("v5p:8x8x4", (8, 8, 4), "v5p:8x8x4", 256),
  ],
)
def test_names_as_rented_and_as_jax_writes_them(
  name, shape, jax_name, num_chips
):
  topology = topologies.parse(name)
  assert topology.shape == shape
  assert topology.jax_name == jax_name
  assert topology.num_chips == num_chips


def test_several_slices_are_named_and_counted():
  topology = topologies.parse("v5p-512", num_slices=2)
  assert (topology.name, topology.num_chips) == ("2 x v5p-512", 512)
  assert topologies.parse(topologies.parse("v5e:16x16").name).num_chips == 256


@pytest.mark.parametrize(
  "name",
  [
    "v5e-3",
    "v5p-256x",
    "v5p-4",
    "v9-8",
    "v5e:3x3",
    "v5p:4x4",
    "v5e256",
    "",
    "v5e:",
  ],
)
def test_an_unknown_topology_lists_the_known_ones(name):
  with pytest.raises(errors.UserError, match="known ones are v5e-1, ") as found:
    topologies.parse(name)
  message = str(found.value)
  assert repr(name) in message
  assert "v5p-512" in message and "v6e-256" in message


def test_every_rented_name_is_of_one_shape():
  for chip in chips.CHIPS.values():
    sizes = [math.prod(shape) for shape in chip.shapes]
    assert len(sizes) == len(set(sizes))
    assert sizes == sorted(sizes)
    assert 0 < chip.usable_bytes < 1.01 * chip.hbm_bytes
    assert chip.peak_flops > 1e14


def test_slices_must_be_some():
  with pytest.raises(errors.UserError, match="num_slices=0 must be"):
    topologies.parse("v5e-8", num_slices=0)


def test_a_missing_libtpu_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(errors.UserError, match=r"pip install 'nulls_jax\[tpu\]'"):
    topologies.devices(topologies.parse("v5e-8"))


def test_the_mesh_takes_what_the_other_axes_leave():
  mesh = topologies.make_mesh(
    MeshConfig(data=-1, fsdp=4), topologies.parse("v5e-8"), jax.devices()
  )
  assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
  assert len({device.id for device in mesh.devices.flat}) == 8


@pytest.mark.parametrize("mesh", [{"data": 3}, {"fsdp": 16}, {"fsdp": 3}])
def test_a_mesh_that_does_not_cover_the_topology(mesh):
  with pytest.raises(
    errors.UserError, match="does not make the 8 chips of v5e-8"
  ):
    topologies.make_mesh(
      dataclasses.replace(MeshConfig(), **mesh),
      topologies.parse("v5e-8"),
      jax.devices(),
    )


def test_slices_share_the_data_axis_and_no_other():
  with pytest.raises(errors.UserError, match="data=1 cannot be split over 2"):
    topologies.make_mesh(
      MeshConfig(fsdp=8), topologies.parse("v5e-4", num_slices=2), jax.devices()
    )
