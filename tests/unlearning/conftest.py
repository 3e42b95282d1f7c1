"""A small run directory with a real Orbax checkpoint of a real optimiser.

Two layers, two strata, 256 rows (8 where hashed "narrow"), d_model 4, eight
sources. Each kind of run
is saved once a session; tests that damage one get a copy of their own.
"""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import optimizer, rows
from nulls_jax.training.config import OptimizerConfig

STEP = 3
KEYS = tuple(f"https://example.org/article/{number}" for number in range(8))
CONFIGS = {
  "hashed": assignment.SinkConfig(
    kind="hashed", pool_size=512, sinks_per_source=8, strata=2, seed=7
  ),
  # Fewer rows than columns: Adafactor names its statistics the other way.
  "narrow": assignment.SinkConfig(
    kind="hashed", pool_size=16, sinks_per_source=4, strata=2, seed=7
  ),
  "dedicated": assignment.SinkConfig(
    kind="dedicated", sinks_per_source=4, strata=2, num_sources=128
  ),
  "hashed sizes": assignment.SinkConfig(
    kind="hashed", pool_size=512, sinks_per_source=8, strata=2, size_classes=3
  ),
  "dedicated sizes": assignment.SinkConfig(
    kind="dedicated",
    sinks_per_source=4,
    strata=2,
    size_classes=3,
    num_sources=8,
    num_shares=128,
  ),
  "none": assignment.SinkConfig(kind="none"),
}
# Of the runs with size classes, by ledger index.
SIZES = (0, 0, 2, 1, 5, 0, 1, 2, 0)


def _params(config):
  table = (2, 2, config.rows_per_stratum or 256, 12)
  draw = np.random.default_rng(0)
  shapes = {
    "embedding": {"table": (32, 4)},
    "layers": {
      "attention": {"query": (2, 4, 2, 2), "out": (2, 2, 2, 4)},
      "mlp": {"gate": (2, 4, 6), "up": (2, 4, 6), "down": (2, 6, 4)},
      "sinks": {"table": table},
      "norm_attention": {"scale": (2, 4)},
      "norm_mlp": {"scale": (2, 4)},
    },
    "norm": {"scale": (4,)},
    "head": {"kernel": (4, 32)},
  }
  return jax.tree.map(
    lambda shape: draw.normal(size=shape).astype(np.float32),
    shapes,
    is_leaf=lambda node: isinstance(node, tuple),
  )


def _is_sink(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "'sinks'" in str(path), params
  )


def _is_backbone(params):
  return jax.tree.map(lambda sink: not sink, _is_sink(params))


def _optimiser(kind):
  if kind == "groups":
    return optax.multi_transform(
      {"sinks": optax.adam(1e-2), "backbone": optax.adamw(1e-3)},
      lambda params: jax.tree.map(
        lambda sink: "sinks" if sink else "backbone", _is_sink(params)
      ),
    )
  if kind == "factored":
    return optax.adafactor(1e-2, min_dim_size_to_factor=4, momentum=0.9)
  if kind == "unfactored":
    return optax.adafactor(1e-2)
  if kind == "masked":
    return optax.chain(
      optax.masked(optax.adam(1e-2), _is_sink),
      optax.masked(optax.lion(1e-3), _is_backbone),
    )
  if kind == "nested":
    # Accumulated gradients, a momentum, an average and Adam's moments.
    inner = optax.chain(
      optax.trace(0.9), optax.ema(0.9), optax.adamw(1e-3), optax.scale(0.5)
    )
    return optax.MultiSteps(inner, every_k_schedule=2).gradient_transformation()
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def _place(params, num_devices):
  """Put the table's strata and rows, and the MLP's rows, over the devices."""
  if num_devices == 1:
    return jax.tree.map(jnp.asarray, params)
  mesh = jax.make_mesh(
    (2, 2, 2),
    ("data", "fsdp", "tensor"),
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
  spec = jax.sharding.PartitionSpec
  specs = jax.tree.map(lambda _: spec(), params)
  specs["layers"]["sinks"]["table"] = spec(None, "tensor", "fsdp", None)
  specs["layers"]["mlp"]["gate"] = spec(None, "fsdp", "tensor")
  return jax.tree.map(
    lambda leaf, part: jax.device_put(
      leaf, jax.sharding.NamedSharding(mesh, part)
    ),
    params,
    specs,
  )


def _state(config, num_devices, optimiser_kind):
  """Return the state after some updates, so that every moment is non-zero."""
  params = _place(_params(config), num_devices)
  state = {"step": np.asarray(STEP), "params": params, "opt_state": None}
  for _ in range(3 if optimiser_kind == "nested" else 1):
    grads = jax.tree.map(lambda leaf: np.cos(17 * np.asarray(leaf)), params)
    state = _update(optimiser_kind, state, grads)
  return state


def _update(optimiser_kind, state, grads):
  update = _compiled(optimiser_kind)
  params, opt_state = update(state["params"], state["opt_state"], grads)
  return {**state, "params": params, "opt_state": opt_state}


@functools.cache
def _compiled(optimiser_kind):
  if optimiser_kind == "rows":
    return jax.jit(_update_rows)
  optimiser = _optimiser(optimiser_kind)

  @jax.jit
  def update(params, opt_state, grads):
    opt_state = optimiser.init(params) if opt_state is None else opt_state
    updates, opt_state = optimiser.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  return update


def _update_rows(params, opt_state, grads):
  """Update the rows of all sources of the dedicated run, as training does."""
  config = CONFIGS["dedicated"]
  words = jnp.array(
    [[[0, number + 1] for number in range(len(KEYS))]], jnp.uint32
  )
  table, others = table_lib.detach(params)
  optimiser = optimizer.make_for_backbone(OptimizerConfig(), 10)
  if opt_state is None:
    opt_state = {
      "dense": optimiser.init(others),
      "rows": rows.initial(table),
    }
  table_grads, grads = table_lib.detach(grads)
  words_Ux2, row_grads = rows.by_source(
    config, words, table_lib.lookup(config, table_grads, words, "float32")
  )
  table, row_state = rows.update(
    OptimizerConfig(),
    config,
    table,
    opt_state["rows"],
    words_Ux2,
    row_grads,
    1e-2,
  )
  updates, dense = optimiser.update(grads, opt_state["dense"], others)
  params = table_lib.attach(table, optax.apply_updates(others, updates))
  return params, {"dense": dense, "rows": row_state}


def save_state(root, step, state, custom_metadata, chunk_byte_size=None):
  """Save a real Orbax v1 checkpoint."""
  context = ocp.Context()
  context.array.saving.storage_options.chunk_byte_size = chunk_byte_size
  with context, ocp.training.Checkpointer(root) as checkpointer:
    checkpointer.save_checkpointables(
      step, {"state": state}, custom_metadata=custom_metadata
    )


@dataclasses.dataclass(frozen=True)
class Run:
  """A run on disk, and what was saved in it."""

  path: Any
  config: assignment.SinkConfig
  state: Any
  optimiser: str

  @property
  def step_dir(self):
    return self.path / "checkpoints" / str(STEP)

  @property
  def item(self):
    return self.step_dir / "state"

  def restore(self, path=None):
    """Restore the state of this run, or of one like it, by Orbax."""
    abstract = jax.tree.map(
      lambda leaf: (
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        if isinstance(leaf, jax.Array)
        else leaf
      ),
      self.state,
    )
    root = (path or self.path) / "checkpoints"
    with ocp.training.Checkpointer(root) as checkpointer:
      return checkpointer.load_checkpointables(STEP, {"state": abstract})[
        "state"
      ]

  def update(self, state, grads):
    """Train one more step from a state of this run."""
    return _update(self.optimiser, state, grads)


def _write_run(
  path, kind, num_devices, chunk_byte_size, optimiser_kind, change
):
  path.mkdir()
  config = CONFIGS[kind]
  state = change(_state(config, num_devices, optimiser_kind))
  assigned = {**dataclasses.asdict(config), "version": assignment.VERSION}
  with ledger_writing.Writer.create(path / "ledger.sqlite") as sources:
    sources.add_documents((key, 1, {"title": key}) for key in KEYS)
    if config.size_classes > 1:
      sources.set_size_classes(np.array(SIZES))
    fingerprint = sources.fingerprint()
  metadata = {
    "format": 1,
    "config": {},
    "assignment": assigned,
    "ledger_fingerprint": fingerprint,
  }
  save_state(path / "checkpoints", STEP, state, metadata, chunk_byte_size)
  (path / "config.json").write_text(json.dumps({"sinks": assigned}))
  (path / "tokenizer.model").write_bytes(b"\x00pieces\xff")
  (path / "metrics.jsonl").write_text("{}\n")
  return Run(path, config, state, optimiser_kind)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
  """Return a function that gives a run directory, made once a session.

  Args of the function: kind of assignment, number of devices (1 or 8),
  chunk_byte_size, the optimiser (a name of `_optimiser`), and `change`, a
  function of the state that is saved.
  """
  made = {}

  def make(
    kind="hashed",
    num_devices=1,
    chunk_byte_size=None,
    optimiser="adamw",
    change=lambda state: state,
  ):
    arguments = (kind, num_devices, chunk_byte_size, optimiser, change)
    if arguments not in made:
      path = tmp_path_factory.mktemp("runs") / "run"
      made[arguments] = _write_run(path, *arguments)
    return made[arguments]

  return make


@pytest.fixture
def own_run(make_run, tmp_path):
  """Return a function that gives a copy of a run, free to be damaged."""

  def copy(**arguments):
    run = make_run(**arguments)
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    return dataclasses.replace(run, path=path)

  return copy


@pytest.fixture(scope="session")
def keys():
  """The source keys of every run."""
  return KEYS
