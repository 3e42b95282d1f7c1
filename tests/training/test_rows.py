"""Row-sparse training: what moves, by how much, and that nothing else does."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax.sinks import assignment
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import partitioning, rows, state
from nulls_jax.training import step as train_step
from nulls_jax.training.config import MeshConfig, OptimizerConfig

N, G, D, B, T, S = 2, 2, 8, 4, 3, 4
E = 3 * D

SINKS = assignment.SinkConfig(
  kind="dedicated",
  num_sources=9,
  num_shares=20,
  sinks_per_source=4,
  strata=G,
  size_classes=3,
)
NUM_STEPS = 25
# Ledger classes of nine sources: one share, or two, or four.
CLASSES = np.array([0, 0, 1, 2, 0, 1, 0, 2, 0, 0])
WORDS = assignment.routing_words(
  SINKS,
  np.arange(10, dtype=np.uint64),
  assignment.first_shares(SINKS, CLASSES),
  CLASSES,
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
  optimizer=OptimizerConfig(
    sink_weight_decay=0.5, sink_learning_rate_scale=2.0, warmup_fraction=0.0
  ),
  training=run_config.TrainingConfig(batch_size=B, num_steps=40),
)


def _draw(step):
  """A batch's sources, ledger indices: repeats, no source, not all of them."""
  rng = np.random.default_rng(step)
  few = rng.choice(np.arange(1, 10), 3, replace=False)
  return rng.choice([0, *few], (B, T))


def _batch(step):
  rng = np.random.default_rng([step, 1])
  shape = (B, T * S)
  indices = _draw(step)
  return {
    "tokens": rng.integers(4, 32, shape).astype(np.int32),
    "targets": rng.integers(4, 32, shape).astype(np.int32),
    "weights": rng.integers(0, 2, shape).astype(np.float32),
    "segments": np.repeat(np.arange(1, T + 1), S)[None].repeat(B, 0),
    "positions": np.tile(np.arange(S), (B, T)).astype(np.int32),
    "sources": WORDS[indices],
  }


def _train(config, mesh, num_steps):
  """Yield the states before and after each step, on the host."""
  with partitioning.context(mesh):
    current, update = state.create(config, mesh), train_step.make(config, mesh)
    yield jax.device_get(current), None
    for number in range(num_steps):
      batch = partitioning.to_devices(mesh, _batch(number))
      current, metrics = update(current, batch)
      yield jax.device_get(current), jax.device_get(metrics)


def _single():
  return partitioning.make_mesh(MeshConfig(), jax.devices()[:1])


@functools.cache
def _on_one_device():
  return list(_train(CONFIG, _single(), NUM_STEPS))


def _tables(current):
  found = {"params": current["params"], **current["opt_state"]["rows"]}
  return {
    name: np.asarray(tree["layers"]["sinks"]["table"])
    for name, tree in found.items()
  }


def _rows_of(index):
  """Mark the rows of a source in one layer: `bool [G, R]`."""
  marks = np.zeros((G, SINKS.rows_per_stratum), bool)
  words = WORDS[[index]]
  numbers, owned = (
    assignment.rows(SINKS, words, 0),
    assignment.owned(SINKS, words),
  )
  for stratum in range(G):
    marks[stratum, numbers[0, stratum][owned[0]]] = True
  return marks


def test_a_row_keeps_every_bit_in_every_step_without_its_source():
  states = _on_one_device()
  seen_at_all = set()
  for number, (before, after) in enumerate(itertools.pairwise(states)):
    present = set(_draw(number).ravel()) - {0}
    seen_at_all |= present
    old, new = _tables(before[0]), _tables(after[0])
    for index in range(1, 10):
      marks = _rows_of(index)
      assert marks.sum() == SINKS.sinks_per_source << CLASSES[index]
      for name in ("params", "mu", "nu", "count"):
        a, b = old[name][:, marks], new[name][:, marks]
        if index not in present:
          np.testing.assert_array_equal(a, b)
        elif name in ("params", "count"):
          # A source of which nothing was weighed in still decays.
          assert (a != b).reshape(N, marks.sum(), -1).any(axis=-1).all()
  assert seen_at_all == set(range(1, 10))
  visits = sum(
    np.isin(np.arange(10), _draw(number)) for number in range(NUM_STEPS)
  )
  count = _tables(states[-1][0])["count"]
  for index in range(1, 10):
    assert (count[:, _rows_of(index)] == visits[index]).all()


def test_rows_of_no_source_never_move():
  first, last = _on_one_device()[0][0], _on_one_device()[-1][0]
  nobodys = ~np.any([_rows_of(index) for index in range(1, 10)], axis=0)
  assert nobodys.any()
  for name, old in _tables(first).items():
    np.testing.assert_array_equal(
      old[:, nobodys], _tables(last)[name][:, nobodys]
    )


def test_the_update_is_adamw_with_the_rows_own_count():
  """Two updates of a row, five steps apart, against the formula."""
  config = OptimizerConfig(
    b1=0.8,
    b2=0.9,
    sink_weight_decay=7.0,
    row_weight_decay=0.25,
    sink_learning_rate_scale=9.0,
    row_learning_rate_scale=3.0,
  )
  rng = np.random.default_rng(0)
  table = rng.normal(size=(N, G, SINKS.rows_per_stratum, E)).astype(np.float32)
  first, second = rng.normal(size=(2, N, 1, G, SINKS.active_per_stratum, E))
  update = jax.jit(functools.partial(rows.update, config, SINKS))
  current, moments = jnp.asarray(table), rows.initial(jnp.asarray(table))
  marks = _rows_of(3)
  expected, mu, nu = table[:, marks].astype(np.float64), 0.0, 0.0
  for times, (gradient, rate) in enumerate(
    ((first, 0.1), (second, 0.02)), start=1
  ):
    current, moments = update(
      current, moments, WORDS[[3]], gradient.astype(np.float32), rate
    )
    mine = gradient[:, 0].reshape(N, -1, E)
    mu, nu = 0.8 * mu + 0.2 * mine, 0.9 * nu + 0.1 * mine**2
    change = (mu / (1 - 0.8**times)) / (np.sqrt(nu / (1 - 0.9**times)) + 1e-8)
    expected -= 3 * rate * (change + 0.25 * expected)
    # Another source's update between the two changes nothing.
    current, moments = update(
      current, moments, WORDS[[2]], gradient.astype(np.float32), rate
    )
  np.testing.assert_allclose(
    np.asarray(current)[:, marks], expected, rtol=1e-5, atol=1e-6
  )


def test_duplicates_of_a_source_are_summed_once():
  sources = WORDS[np.array([[3, 0, 3], [5, 3, 0], [5, 5, 5], [1, 0, 0]])]
  gradients = np.random.default_rng(0).normal(
    size=(N, B, T, G, SINKS.active_per_stratum, E)
  )
  words, sums = jax.jit(functools.partial(rows.by_source, SINKS))(
    sources, gradients.astype(np.float32)
  )
  words, sums = np.asarray(words), np.asarray(sums)
  assert sorted(map(tuple, words[words.any(axis=-1)].tolist())) == sorted(
    map(tuple, WORDS[[1, 3, 5]].tolist())
  )
  for word, total in zip(words, sums.swapaxes(0, 1), strict=True):
    if word.any():
      tiles = (sources == word).all(axis=-1)
      np.testing.assert_allclose(
        total, gradients[:, tiles].sum(axis=1), rtol=1e-4, atol=1e-5
      )


@pytest.mark.parametrize(
  "axes",
  [
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 2, "fsdp": 4, "tensor": 1},
  ],
  ids=str,
)
def test_eight_devices_train_the_rows_of_one(axes):
  mesh = partitioning.make_mesh(MeshConfig(**axes))
  _compare(list(_train_wide(mesh)), _wide_on_one_device())


@functools.cache
def _wide_on_one_device():
  return list(_train_wide(_single()))


def _train_wide(mesh):
  """Two batches side by side, so that eight devices have a row each."""
  config = dataclasses.replace(
    CONFIG, training=dataclasses.replace(CONFIG.training, batch_size=8)
  )
  with partitioning.context(mesh):
    current, update = state.create(config, mesh), train_step.make(config, mesh)
    for number in range(3):
      pair = _batch(2 * number), _batch(2 * number + 1)
      batch = {
        name: np.concatenate([one[name] for one in pair]) for name in pair[0]
      }
      current, metrics = update(current, partitioning.to_devices(mesh, batch))
      yield jax.device_get(current), jax.device_get(metrics)


def test_accumulation_is_one_batch_for_rows():
  config = dataclasses.replace(
    CONFIG, training=dataclasses.replace(CONFIG.training, accumulation=2)
  )
  _compare(list(_train(config, _single(), 4))[1:], _on_one_device()[1:5])


def _compare(ours, expected):
  for (current, metrics), (wanted, wanted_metrics) in zip(
    ours, expected, strict=True
  ):
    for name, value in wanted_metrics.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6)
    found = _tables(current)
    for name, value in _tables(wanted).items():
      np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-5)


def test_gradients_as_rows_are_those_of_the_table():
  current = jax.device_get(_on_one_device()[0][0])
  batch = _batch(3)
  with partitioning.context(_single()):
    _, row_grads, loss, sums = jax.jit(
      functools.partial(train_step.row_gradients, CONFIG)
    )(current["params"], batch)
    dense, mean, _ = jax.jit(functools.partial(train_step.gradients, CONFIG))(
      current["params"], batch
    )
  weight = sums["weight"]
  np.testing.assert_allclose(loss / weight, mean, rtol=1e-6)
  table, _ = table_lib.detach(dense)
  numbers = assignment.rows(SINKS, batch["sources"], 0)
  found = np.zeros(table.shape, np.float32)
  for b, t, g in np.ndindex(B, T, G):
    np.add.at(
      found[:, g], (slice(None), numbers[b, t, g]), row_grads[:, b, t, g]
    )
  assert np.abs(table).max() > 1e-4
  np.testing.assert_allclose(found / weight, table, rtol=1e-4, atol=1e-7)
