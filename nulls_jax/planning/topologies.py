"""Names of TPU slices, and their devices without the slices themselves.

Owns the two ways to write a slice (as it is rented: `v5e-256`, `v5p-512`; as
JAX writes it: `v5e:16x16`, `v5p:4x8x8`), the environment that keeps libtpu
from looking for a TPU and from writing on the terminal, and the mesh over a
slice's devices.

Invariant: nothing here asks a real TPU for anything; the process computes on
its CPU.
"""

import dataclasses
import importlib.util
import math
import os
import re

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.experimental import topologies as jax_topologies

from nulls_jax import errors
from nulls_jax.planning import chips
from nulls_jax.training import partitioning
from nulls_jax.training.config import MeshConfig

# libtpu reads these when it is loaded. The first three stand for what the
# metadata server of a TPU host would say; the type is any that exists.
_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_LOG_DIR": "disabled",
  # Another process may be compiling; no device is shared.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """One or several equal slices of a pod.

  Attributes:
    chip: the generation.
    shape: chips along each axis of one slice.
    num_slices: slices, joined by the data centre's network.
  """

  chip: chips.Chip
  shape: tuple[int, ...]
  num_slices: int = 1

  @property
  def num_chips(self) -> int:
    """Chips of all slices together; JAX has one device for each."""
    return math.prod(self.shape) * self.num_slices

  @property
  def name(self) -> str:
    """As it is rented, `v5p-512`; with `2 x ` before it for two slices."""
    rented = f"{self.chip.name}-{math.prod(self.shape) * self.chip.units}"
    return rented if self.num_slices == 1 else f"{self.num_slices} x {rented}"

  @property
  def jax_name(self) -> str:
    """One slice, as JAX writes it: `v5p:4x8x8`."""
    return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parse(name: str, num_slices: int = 1) -> Topology:
  """Read the name of a slice; raises `UserError`, which lists the known ones.

  >>> parse("v5p-512").shape, parse("v5e:16x16").name
  ((4, 8, 8), 'v5e-256')
  """
  if num_slices < 1:
    raise errors.UserError(f"num_slices={num_slices} must be at least 1")
  family, mark, size = re.fullmatch(
    r"([^-:]*)([-:]?)(.*)", name.strip()
  ).groups()
  chip = chips.CHIPS.get(family)
  if chip is not None:
    for shape in chip.shapes:
      rented = str(math.prod(shape) * chip.units)
      written = re.fullmatch(r"\d+(x\d+)*", size) and tuple(
        int(part) for part in size.split("x")
      )
      if (mark == "-" and size == rented) or (
        mark == ":" and written and sorted(written) == sorted(shape)
      ):
        return Topology(
          chip=chip,
          shape=shape if mark == "-" else written,
          num_slices=num_slices,
        )
  raise errors.UserError(
    f"no TPU topology {name!r}; known ones are {_known()}; or, as JAX writes "
    "them, v5e:16x16 or v5p:4x8x8"
  )


def _known() -> str:
  return "; ".join(
    ", ".join(
      f"{chip.name}-{math.prod(shape) * chip.units}" for shape in chip.shapes
    )
    for chip in chips.CHIPS.values()
  )


def devices(topology: Topology) -> list:
  """Return the topology's devices, which can be compiled for and no more.

  Raises:
    errors.UserError: libtpu is missing, or does not know the topology.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise errors.UserError(
      "compiling for a TPU needs libtpu, which is not installed; "
      "pip install 'nulls_jax[tpu]'"
    )
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  # On a host that has accelerators they stay with whoever uses them.
  jax.config.update("jax_platforms", "cpu")
  options = {}
  if math.prod(topology.shape) == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    found = jax_topologies.get_topology_desc(
      platform="tpu",
      topology_name=topology.jax_name,
      num_slices=topology.num_slices,
      **options,
    )
  except jax.errors.JaxRuntimeError as error:
    raise errors.UserError(
      f"libtpu does not know the topology {topology.jax_name} "
      f"({str(error).splitlines()[0]}); install the libtpu that this jax asks "
      "for: pip install 'nulls_jax[tpu]'"
    ) from error
  return list(found.devices)


def axes(config: MeshConfig, topology: Topology) -> tuple[int, int, int]:
  """Return the sizes of data, fsdp and tensor over a topology's chips.

  Args:
    config: sizes of the axes; data=-1 takes what the others leave.
    topology: whose chips they are.

  Raises:
    errors.UserError: the axes do not make the topology's chips, or the data
      axis cannot be split over the slices.
  """
  fixed = config.fsdp * config.tensor
  data = topology.num_chips // fixed if config.data == -1 else config.data
  if data < 1 or data * fixed != topology.num_chips:
    raise errors.UserError(
      f"mesh: data={config.data} x fsdp={config.fsdp} x "
      f"tensor={config.tensor} does not make the {topology.num_chips} chips "
      f"of {topology.name}; change the mesh section, or leave data=-1"
    )
  if data % topology.num_slices:
    raise errors.UserError(
      f"mesh: data={data} cannot be split over {topology.num_slices} slices; "
      "make data a multiple of num_slices"
    )
  return data, config.fsdp, config.tensor


def make_mesh(config: MeshConfig, topology: Topology, found: list):
  """Return the mesh `data x fsdp x tensor` over a topology's devices.

  Several slices share the data axis and no other: only gradients, and rows of
  a dedicated table that is cut over it, cross the network between them.

  Args:
    config: sizes of the axes; data=-1 takes what the others leave.
    topology: whose devices they are.
    found: from `devices`.

  Raises:
    errors.UserError: as `axes`, or they do not map onto the topology.
  """
  data, *_ = axes(config, topology)
  slices = topology.num_slices
  shape = (data // slices, config.fsdp, config.tensor)
  try:
    if slices > 1:
      arranged = mesh_utils.create_hybrid_device_mesh(
        shape,
        (slices, 1, 1),
        devices=found,
        allow_split_physical_axes=True,
      )
    else:
      arranged = mesh_utils.create_device_mesh(
        shape, devices=found, allow_split_physical_axes=True
      )
  except NotImplementedError as error:
    raise errors.UserError(
      f"mesh: data={data} x fsdp={config.fsdp} x tensor={config.tensor} does "
      f"not map onto {topology.jax_name}; choose axes that are products of its "
      "sides"
    ) from error
  return jax.sharding.Mesh(
    np.asarray(arranged),
    partitioning.AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(partitioning.AXES),
  )
