"""The assignment's contract: distinct, balanced, independent, pinned."""

import dataclasses
import hashlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.sinks import assignment

HASHED = assignment.SinkConfig(
  kind="hashed", pool_size=4096, sinks_per_source=32, strata=4, block_size=2
)


def _sources(count: int) -> np.ndarray:
  """Routing words of `count` made-up sources."""
  ids = [assignment.source_id(f"source {number}") for number in range(count)]
  return np.array([assignment.split_id(one) for one in ids], np.uint32)


def _sets(config, sources, layer):
  """One set of row numbers, strata told apart, for each source."""
  rows = assignment.rows(config, sources, layer).astype(np.int64)
  offset = np.arange(config.strata)[:, None] * config.rows_per_stratum
  return [set((row + offset).ravel().tolist()) for row in rows]


@pytest.mark.parametrize("strata", [1, 2, 8])
@pytest.mark.parametrize("block_size", [1, 4])
def test_each_source_owns_exactly_k_distinct_rows(strata, block_size):
  config = dataclasses.replace(HASHED, strata=strata, block_size=block_size)
  for owned in _sets(config, _sources(300), layer=3):
    assert len(owned) == config.sinks_per_source
    per_stratum = np.bincount(
      np.array(sorted(owned)) // config.rows_per_stratum, minlength=strata
    )
    assert (per_stratum == config.active_per_stratum).all()


def test_a_source_may_own_the_whole_pool():
  config = assignment.SinkConfig(pool_size=64, sinks_per_source=64, strata=2)
  for owned in _sets(config, _sources(50), layer=0):
    assert owned == set(range(64))


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_numpy_and_jax_agree_bit_for_bit(kind):
  config = dataclasses.replace(HASHED, kind=kind, num_sources=400)
  sources = _sources(400).reshape(20, 20, 2)
  if kind == "dedicated":
    sources = np.stack(
      [np.zeros(400, np.uint32), np.arange(1, 401, dtype=np.uint32)], -1
    )
  for layer in (0, 31):
    ours = assignment.rows(config, sources, layer)
    traced = jax.jit(lambda s, n: assignment.rows(config, s, n))(
      sources, np.uint32(layer)
    )
    assert ours.dtype == traced.dtype == np.uint32
    np.testing.assert_array_equal(ours, np.asarray(traced))


def test_golden_vectors():
  """Pins version 1 for good: a stored checkpoint depends on it.

  A change here needs a new `assignment.VERSION`, not a new golden.
  """
  assert assignment.source_id("https://example.org/a") == GOLDEN_ID
  words = np.array([assignment.split_id(GOLDEN_ID)], np.uint32)
  assert assignment.rows(HASHED, words, 5).tolist() == [GOLDEN_ROWS]
  everything = assignment.rows(
    dataclasses.replace(HASHED, seed=7), _sources(500), 1
  )
  digest = hashlib.sha256(everything.astype("<u4").tobytes()).hexdigest()
  assert digest == GOLDEN_DIGEST


GOLDEN_ID = 0xC08CFD8B8DF0A9C0
GOLDEN_ROWS = [
  [922, 923, 970, 971, 556, 557, 758, 759],
  [794, 795, 606, 607, 904, 905, 16, 17],
  [756, 757, 172, 173, 70, 71, 4, 5],
  [912, 913, 38, 39, 954, 955, 446, 447],
]
GOLDEN_DIGEST = (
  "aa5e71a3420f3a1ebcae32ad2c26d6fc3312480a3aeaebeb233186fb097f67cd"
)


def test_overlaps_follow_the_hypergeometric_law():
  """Mean and variance of two sources' overlap against theory, within 3 %."""
  config = assignment.SinkConfig(pool_size=2048, sinks_per_source=64)
  pool, drawn = config.pool_size, config.sinks_per_source
  member = np.zeros((1500, pool), np.float32)
  for row, owned in enumerate(_sets(config, _sources(1500), layer=0)):
    member[row, sorted(owned)] = 1
  overlaps = (member @ member.T)[np.triu_indices(1500, 1)]
  mean = drawn * drawn / pool
  variance = mean * (1 - drawn / pool) * (pool - drawn) / (pool - 1)
  assert abs(overlaps.mean() / mean - 1) < 0.03
  assert abs(overlaps.var() / variance - 1) < 0.03


def test_every_row_is_drawn_equally_often():
  config = assignment.SinkConfig(pool_size=512, sinks_per_source=16, strata=2)
  rows = assignment.rows(config, _sources(20_000), 2)
  for stratum in range(2):
    counts = np.bincount(rows[:, stratum].ravel(), minlength=256)
    expected = 20_000 * 8 / 256
    # Chi-square over its 255 degrees of freedom; 1.35 is p < 1e-3.
    assert ((counts - expected) ** 2 / expected).mean() < 1.35


@pytest.mark.parametrize("other", [lambda s: s + 1, lambda s: 2 * s])
def test_related_ids_overlap_as_strangers_do(other):
  config = assignment.SinkConfig(pool_size=2048, sinks_per_source=64)
  ids = range(1, 3001)
  near = np.array([assignment.split_id(one) for one in ids], np.uint32)
  far = np.array([assignment.split_id(other(one)) for one in ids], np.uint32)
  pairs = zip(_sets(config, near, 0), _sets(config, far, 0), strict=True)
  mean = np.mean([len(a & b) for a, b in pairs])
  assert abs(mean / (64 * 64 / 2048) - 1) < 0.05


def test_layers_and_seeds_draw_independently():
  config = assignment.SinkConfig(pool_size=2048, sinks_per_source=64)
  sources = _sources(3000)
  first = _sets(config, sources, 0)
  for second in (
    _sets(config, sources, 1),
    _sets(dataclasses.replace(config, seed=1), sources, 0),
  ):
    overlap = np.mean([len(a & b) for a, b in zip(first, second, strict=True)])
    assert abs(overlap / 2 - 1) < 0.05


def test_dedicated_rows_are_disjoint_and_fill_the_table():
  config = assignment.SinkConfig(
    kind="dedicated", num_sources=50, sinks_per_source=8, strata=2
  )
  words = assignment.routing_words(
    config, np.zeros(50, np.uint64), np.arange(1, 51)
  )
  owned = _sets(config, words, 0)
  assert set.union(*owned) == set(range(50 * 8))
  assert sum(map(len, owned)) == 50 * 8


def test_source_ids_are_never_zero_and_differ():
  ids = {assignment.source_id(f"key {number}") for number in range(10_000)}
  assert len(ids) == 10_000
  assert 0 not in ids


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"pool_size": 3000}, "choose a power of two"),
    ({"sinks_per_source": 12}, "not a multiple of strata"),
    ({"pool_size": 16, "sinks_per_source": 32}, "enlarge pool_size"),
    ({"strata": 0}, "at least 1"),
    ({"seed": 2**32}, "32 bits"),
  ],
)
def test_impossible_pools_are_refused(change, message):
  with pytest.raises(errors.UserError, match=message):
    dataclasses.replace(HASHED, **change)


def test_needs_no_jax():
  program = (
    "import sys; from nulls_jax.sinks import assignment;"
    "assert not {'jax', 'flax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
