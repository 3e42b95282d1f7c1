"""A run that grows: old rows in their places, new ones at the end, refusals."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax import files
from nulls_jax.data import ledger_writing
from nulls_jax.model import transformer
from nulls_jax.sinks import assignment
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import checkpoint, growth, partitioning, state
from nulls_jax.training import step as train_step
from nulls_jax.training.config import MeshConfig

N, G, D, B, T, S = 2, 2, 8, 4, 2, 4
OLD, NEW = 5, 8

SINKS = assignment.SinkConfig(
  kind="dedicated", num_sources=NEW, sinks_per_source=4, strata=G
)
CONFIG = run_config.RunConfig(
  model=run_config.ModelConfig(
    vocab_size=32,
    d_model=D,
    num_layers=N,
    num_heads=2,
    num_kv_heads=2,
    head_size=4,
    backbone_width=8,
  ),
  sinks=SINKS,
  data=run_config.DataConfig(row_length=T * S, tile=S),
  optimizer=run_config.OptimizerConfig(
    sink_weight_decay=0.5, warmup_fraction=0.0
  ),
  training=run_config.TrainingConfig(batch_size=B, num_steps=40),
)
OLD_ROWS = OLD * SINKS.sinks_per_source // G


def _with_sinks(config, **changes):
  sinks = dataclasses.replace(config.sinks, **changes)
  return dataclasses.replace(config, sinks=sinks)


def _with_training(config, **changes):
  training = dataclasses.replace(config.training, **changes)
  return dataclasses.replace(config, training=training)


def _mesh(**axes):
  devices = None if axes else jax.devices()[:1]
  return partitioning.make_mesh(MeshConfig(**axes), devices)


def _leaves(tree) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
    for path, leaf in leaves
  }


def _same(tree, other):
  found, wanted = _leaves(tree), _leaves(other)
  assert found.keys() == wanted.keys()
  for name, leaf in wanted.items():
    assert found[name].tobytes() == leaf.tobytes(), name


def _drawn(config):
  """Return a state of values that no step gave."""
  rng = np.random.default_rng(0)

  def draw(leaf):
    if leaf.dtype == np.int32:
      value = rng.integers(1, 9, leaf.shape)
    else:
      value = rng.normal(size=leaf.shape) ** 2 / 4
    return jax.device_put(value.astype(leaf.dtype), leaf.sharding)

  return jax.tree.map(draw, state.abstract(config, _mesh()))


def _save(path, config):
  """Write a checkpoint of drawn values; return them."""
  drawn = _drawn(config)
  with checkpoint.Checkpoints(path, config.checkpoint, 7) as saves:
    saves.save(7, drawn, checkpoint.metadata(config, "tokenizer", "ledger"))
  return drawn


def _origin(path, config):
  return growth.Origin(
    run=str(path),
    step=7,
    metadata_sha256=files.json_sha256(checkpoint.read_metadata(path, 7)),
    ledger_fingerprint="ledger",
    tokenizer_fingerprint="tokenizer",
    num_sources=OLD,
    num_erased=0,
    table_sources=config.sinks.num_sources,
    table_shares=config.sinks.num_shares,
  )


@pytest.fixture(scope="module")
def old(tmp_path_factory, compiled):
  """A step of a run with five sources, and what grows from it."""
  path = tmp_path_factory.mktemp("old")
  config = _with_sinks(CONFIG, num_sources=OLD)
  saved = jax.device_get(_save(path, config))
  origin = _origin(path, config)
  return types.SimpleNamespace(
    config=config,
    state=saved,
    origin=origin,
    grown=jax.device_get(growth.create(origin, CONFIG, _mesh())),
  )


def _tables(current) -> dict[str, np.ndarray]:
  trees = {"params": current["params"], **current["opt_state"]["rows"]}
  return {
    name: np.asarray(tree["layers"]["sinks"]["table"])
    for name, tree in trees.items()
  }


def _same_start(current, before):
  for name, leaf in _tables(before).items():
    found = _tables(current)[name][:, :, :OLD_ROWS]
    assert found.tobytes() == leaf.tobytes(), name


# -- The first state


def test_the_first_state_is_the_old_one_with_room(old):
  current = old.grown
  _same_start(current, old.state)
  _, before = table_lib.detach(old.state["params"])
  _, after = table_lib.detach(current["params"])
  _same(after, before)
  assert int(current["step"]) == 0
  assert not any(
    leaf.any() for leaf in _leaves(current["opt_state"]["dense"]).values()
  )
  grown = {
    name: leaf[:, :, OLD_ROWS:] for name, leaf in _tables(current).items()
  }
  assert grown["params"].shape == (N, G, (NEW - OLD) * 2, 3 * D)
  assert not any(grown[name].any() for name in ("mu", "nu", "count"))
  # As large as any fresh rows.
  spread = grown["params"][..., : 2 * D].std()
  np.testing.assert_allclose(spread, D**-0.5, rtol=0.1)


def test_eight_devices_grow_to_the_bits_of_one(old):
  mesh = _mesh(data=2, fsdp=2, tensor=2)
  current = growth.create(old.origin, CONFIG, mesh)
  _same(current, old.grown)
  jax.tree.map(
    lambda leaf, abstract: assert_sharding(leaf, abstract.sharding),
    current,
    state.abstract(CONFIG, mesh),
  )
  before = state.abstract(old.config, mesh)
  with partitioning.context(mesh):
    text = (
      growth.compile_growth(CONFIG, mesh)
      .lower(
        jax.eval_shape(lambda: jax.random.key(0)),
        {
          "params": before["params"],
          "opt_state": {"rows": before["opt_state"]["rows"]},
        },
      )
      .compile()
      .as_text()
    )
  for name in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
    assert name not in text


def assert_sharding(leaf, wanted):
  assert leaf.sharding == wanted, (leaf.sharding, wanted)


def test_a_table_with_room_keeps_its_shape_and_every_bit(tmp_path):
  config = _with_sinks(CONFIG, num_sources=NEW)
  before = _save(tmp_path, config)
  current = growth.create(_origin(tmp_path, config), config, _mesh())
  for name, leaf in _tables(before).items():
    assert _tables(current)[name].tobytes() == leaf.tobytes(), name


def test_a_hashed_pool_keeps_its_size_and_starts_its_moments_anew(tmp_path):
  config = _with_sinks(CONFIG, kind="hashed", pool_size=64, num_sources=0)
  before = _save(tmp_path, config)
  current = growth.create(_origin(tmp_path, config), config, _mesh())
  _same(current["params"], before["params"])
  assert not any(leaf.any() for leaf in _leaves(current["opt_state"]).values())


def test_another_step_than_was_recorded_is_refused(old):
  other = dataclasses.replace(old.origin, metadata_sha256="0" * 64)
  with pytest.raises(ValueError, match="step 7 is not what it was"):
    growth.create(other, CONFIG, _mesh())


# -- Steps in which only new sources are seen


def _batch(number, sources):
  rng = np.random.default_rng(number)
  shape = (B, T * S)
  indices = rng.choice(sources, (B, T))
  return {
    "tokens": rng.integers(4, 32, shape).astype(np.int32),
    "targets": rng.integers(4, 32, shape).astype(np.int32),
    "weights": np.ones(shape, np.float32),
    "segments": np.repeat(np.arange(1, T + 1), S)[None].repeat(B, 0),
    "positions": np.tile(np.arange(S), (B, T)).astype(np.int32),
    "sources": np.stack([0 * indices, indices], axis=-1).astype(np.uint32),
  }


def _train(config, current, num_steps=4):
  mesh = _mesh()
  with partitioning.context(mesh):
    update = train_step.make(config, mesh)
    current = jax.device_put(
      current,
      jax.tree.map(lambda leaf: leaf.sharding, state.abstract(config, mesh)),
    )
    for number in range(num_steps):
      batch = _batch(number, [0, *range(OLD + 1, NEW + 1)])
      current, _ = update(current, partitioning.to_devices(mesh, batch))
  return current


def _answers(config, params):
  """Logits of old sources."""
  logits = jax.jit(
    functools.partial(transformer.logits, config.model, config.sinks)
  )
  with partitioning.context(_mesh()):
    return np.asarray(logits(params, _batch(99, range(1, OLD + 1))))


def test_old_rows_keep_every_bit_while_new_sources_learn(old):
  first = _leaves(old.grown)
  current = _train(CONFIG, old.grown)
  _same_start(current, old.state)
  last = _leaves(current)
  moved = {
    name for name in first if first[name].tobytes() != last[name].tobytes()
  }
  # All arrays have: the table by its new rows.
  assert moved == set(first)


def test_learning_sinks_leaves_old_sources_their_answers(old):
  config = _with_training(CONFIG, learn="sinks", accumulation=2)
  current = _train(config, growth.create(old.origin, config, _mesh()))
  _same_start(current, old.state)
  _, before = table_lib.detach(old.state["params"])
  _, after = table_lib.detach(current["params"])
  _same(after, before)
  first, last = (
    _answers(old.config, old.state["params"]),
    _answers(config, current["params"]),
  )
  assert np.abs(first).max() > 0.1
  assert first.tobytes() == last.tobytes()
  tables = _tables(current)
  assert tables["count"][:, :, OLD_ROWS:].all()
  moved = (tables["params"] != _tables(old.grown)["params"]).any(axis=(0, 1, 3))
  assert moved.tolist() == [False] * OLD_ROWS + [True] * (len(moved) - OLD_ROWS)
  # No moments are kept of what does not learn.
  kept = _leaves(current["opt_state"])
  assert all("layers.sinks.table" in n or not kept[n].shape for n in kept)


def test_learning_sinks_of_a_hashed_pool_moves_the_table_alone():
  config = _with_sinks(CONFIG, kind="hashed", pool_size=64, num_sources=0)
  config = _with_training(config, learn="sinks")
  before = _leaves(_drawn(config))
  after = _leaves(_train(config, _drawn(config)))
  table = "params.layers.sinks.table"
  for name, leaf in before.items():
    if name.startswith("params."):
      assert (leaf.tobytes() == after[name].tobytes()) == (name != table), name
  kept = [name for name in after if name.startswith("opt_state.")]
  assert all("layers.sinks.table" in n or not after[n].shape for n in kept)


# -- The layout of the table


@pytest.mark.parametrize(
  "old_sizes, asked, expected",
  [
    # (num_sources, num_shares); six sources own nine shares, of two classes.
    ((4, 6), (4, 6), (6, 9)),
    ((4, 6), (0, 0), (6, 9)),
    ((6, 9), (6, 9), (6, 9)),
    ((8, 12), (8, 12), (8, 12)),
    ((4, 6), (10, 6), (10, 13)),
    ((4, 6), (10, 20), (10, 20)),
    ((4, 20), (4, 20), (6, 20)),
  ],
)
def test_a_table_is_as_large_as_old_rows_new_sources_and_what_is_asked(
  tmp_path, old_sizes, asked, expected
):
  prepared = types.SimpleNamespace(ledger_path=tmp_path / "ledger.sqlite")
  with ledger_writing.Writer.create(prepared.ledger_path) as book:
    book.add_documents((name, 1, {}) for name in "abcdef")
    book.set_size_classes(np.array([0, 0, 1, 0, 1, 1, 0]))
  origin = growth.Origin(
    run="OLD",
    step=7,
    metadata_sha256="",
    ledger_fingerprint="",
    tokenizer_fingerprint="",
    num_sources=4,
    num_erased=0,
    table_sources=old_sizes[0],
    table_shares=old_sizes[1],
  )
  config = _with_sinks(
    CONFIG, size_classes=2, num_sources=asked[0], num_shares=asked[1]
  )
  found = growth.lay_out(origin, config, prepared).sinks
  assert (found.num_sources, found.num_shares) == expected
  assert growth.lay_out(None, config, prepared) == config
  # Taken up again, with what was found as its settings.
  again = _with_sinks(
    config, num_sources=found.num_sources, num_shares=found.num_shares
  )
  assert growth.lay_out(origin, again, prepared).sinks == found
