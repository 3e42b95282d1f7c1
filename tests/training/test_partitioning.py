"""The mesh, its rules, and the golden table of shardings."""

import dataclasses

import jax
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.training import partitioning, state
from nulls_jax.training.config import MeshConfig

CONFIG = run_config.RunConfig(
  model=run_config.ModelConfig(vocab_size=64, num_kv_heads=2),
  sinks=run_config.SinkConfig(pool_size=64, sinks_per_source=8, strata=4),
  training=run_config.TrainingConfig(num_steps=10),
)

DEDICATED = dataclasses.replace(
  CONFIG,
  sinks=run_config.SinkConfig(
    kind="dedicated", num_sources=5, sinks_per_source=8, strata=4
  ),
)
TABLE = "layers/sinks/table"

# (data, fsdp, tensor) = (2, 2, 2). A change here changes how every run is
# laid out: regenerate by printing `_specs(...)` and say why.
GOLDEN = {
  "embedding/table": (("tensor", "fsdp")),
  "head/kernel": ("fsdp", "tensor"),
  "layers/attention/key": (None, "fsdp", "tensor", None),
  "layers/attention/output": (None, "tensor", None, "fsdp"),
  "layers/attention/query": (None, "fsdp", "tensor", None),
  "layers/attention/value": (None, "fsdp", "tensor", None),
  "layers/mlp/down": (None, "tensor", "fsdp"),
  "layers/mlp/gate": (None, "fsdp", "tensor"),
  "layers/mlp/up": (None, "fsdp", "tensor"),
  "layers/norm_attention/scale": (None, None),
  "layers/norm_mlp/scale": (None, None),
  "layers/sinks/table": (None, "tensor", None, "fsdp"),
  "norm/scale": (None,),
}


def _mesh(**axes):
  return partitioning.make_mesh(MeshConfig(**axes))


def _specs(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(
      leaf.sharding.spec
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_every_parameter_and_moment_has_its_golden_sharding():
  abstract = state.abstract(CONFIG, _mesh(data=2, fsdp=2, tensor=2))
  assert _specs(abstract["params"]) == GOLDEN
  adam = abstract["opt_state"][1]
  assert _specs(adam.mu) == GOLDEN
  assert _specs(adam.nu) == GOLDEN
  assert tuple(abstract["step"].sharding.spec) == ()


def test_every_row_moment_has_its_golden_sharding():
  """A dedicated table is cut over `data` as well, and so is all of its."""
  abstract = state.abstract(DEDICATED, _mesh(data=2, fsdp=2, tensor=2))
  golden = {**GOLDEN, TABLE: ("data", "tensor", None, "fsdp")}
  assert _specs(abstract["params"]) == golden
  rows = abstract["opt_state"]["rows"]
  assert _specs(rows["mu"]) == _specs(rows["nu"]) == {TABLE: golden[TABLE]}
  assert _specs(rows["count"]) == {TABLE: golden[TABLE][:3]}
  adam = abstract["opt_state"]["dense"][0]
  del golden[TABLE]
  assert _specs(adam.mu) == _specs(adam.nu) == golden


# The axes of the table's spec on a mesh with strata on `tensor`, on `fsdp`,
# and with strata that `fsdp` does not divide.
@pytest.mark.parametrize(
  ("axes", "strata", "spec"),
  [
    ({"data": 2, "tensor": 4}, 4, (None, "tensor", None, None)),
    ({"data": 2, "fsdp": 4}, 4, (None, "fsdp", None, None)),
    ({"data": 2, "fsdp": 4}, 2, (None, None, None, "fsdp")),
  ],
)
def test_the_table_lies_where_the_mesh_has_room(axes, strata, spec):
  config = dataclasses.replace(
    CONFIG, sinks=dataclasses.replace(CONFIG.sinks, strata=strata)
  )
  abstract = state.abstract(config, _mesh(**axes))
  assert _specs(abstract["params"])[TABLE] == spec
  assert _specs(abstract["opt_state"][1].nu)[TABLE] == spec


@pytest.mark.parametrize("config", [CONFIG, DEDICATED], ids=["hashed", "rows"])
def test_the_state_is_born_sharded_and_equal_on_any_mesh(config):
  sharded = state.create(config, _mesh(data=2, fsdp=2, tensor=2))
  single = state.create(
    config, partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  )
  assert _specs(sharded) == _specs(
    state.abstract(config, _mesh(data=2, fsdp=2, tensor=2))
  )
  for a, b in zip(
    jax.tree.leaves(sharded), jax.tree.leaves(single), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_an_axis_that_the_mesh_does_not_divide_stays_whole():
  config = dataclasses.replace(
    CONFIG, model=dataclasses.replace(CONFIG.model, vocab_size=63)
  )
  abstract = state.abstract(config, _mesh(data=2, fsdp=2, tensor=2))
  assert _specs(abstract["params"])["embedding/table"] == (None, "fsdp")


def test_data_takes_the_devices_that_are_left():
  assert dict(_mesh(tensor=2).shape) == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
  "axes", [{"tensor": 3}, {"data": 4}, {"fsdp": 16}, {"data": 0}]
)
def test_a_mesh_that_the_devices_do_not_make_is_refused(axes):
  with pytest.raises(errors.UserError, match="does not make the 8 devices"):
    _mesh(**axes)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
  mesh = _mesh(data=2, fsdp=2, tensor=2)
  partitioning.check_batch(16, 4, mesh)
  with pytest.raises(errors.UserError, match="choose a multiple of 16"):
    partitioning.check_batch(24, 4, mesh)


@pytest.mark.parametrize(
  ("section", "change", "message"),
  [
    ("sinks", {"strata": 1}, "does not divide sinks.strata=1"),
    ("model", {"num_kv_heads": 1}, "does not divide model.num_kv_heads=1"),
    ("model", {"backbone_width": 129}, "model.backbone_width=129"),
    ("model", {"loss_chunk": 100}, "not a multiple of model.loss_chunk"),
    ("mesh", {"fsdp": 7}, "does not divide model.d_model=64"),
  ],
)
def test_sections_that_do_not_fit_together_are_refused(
  section, change, message
):
  config = dataclasses.replace(CONFIG, mesh=MeshConfig(tensor=2))
  bad = dataclasses.replace(
    config,
    **{section: dataclasses.replace(getattr(config, section), **change)},
  )
  run_config.validate(config)
  with pytest.raises(errors.UserError, match=message):
    run_config.validate(bad)
