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


SIZED = assignment.SinkConfig(
  pool_size=4096, sinks_per_source=8, strata=4, block_size=2, size_classes=3
)
SHARES = assignment.SinkConfig(
  kind="dedicated",
  sinks_per_source=4,
  strata=2,
  size_classes=3,
  num_sources=6,
  num_shares=11,
)


def test_golden_vectors_of_size_classes():
  """As `test_golden_vectors`: never to be changed."""
  ids = np.full(3, GOLDEN_ID, np.uint64)
  words = assignment.routing_words(SIZED, ids, np.zeros(3), np.arange(3))
  assert words.tolist() == GOLDEN_SIZED_WORDS
  assert assignment.rows(SIZED, words, 5)[:, 1].tolist() == GOLDEN_SIZED_ROWS
  ids = np.array(
    [assignment.source_id(f"source {number}") for number in range(500)],
    np.uint64,
  )
  words = assignment.routing_words(
    SIZED, ids, np.zeros(500), np.arange(500) % 3
  )
  everything = assignment.rows(dataclasses.replace(SIZED, seed=7), words, 1)
  digest = hashlib.sha256(everything.astype("<u4").tobytes()).hexdigest()
  assert digest == GOLDEN_SIZED_DIGEST
  # Shares 1, 2-5, 6-7, 8, 9-10 and 11, two rows a stratum each.
  classes = np.array([0, 0, 2, 1, 0, 1, 0])
  firsts = assignment.first_shares(SHARES, classes)
  assert firsts.tolist() == [0, 1, 2, 6, 8, 9, 11]
  words = assignment.routing_words(
    SHARES, np.zeros(7, np.uint64), firsts, classes
  )
  assert words.tolist() == [
    [0, 0],
    [0, 1],
    [2 << 28, 2],
    [1 << 28, 6],
    [0, 8],
    [1 << 28, 9],
    [0, 11],
  ]
  rows = assignment.rows(SHARES, words, 3)
  np.testing.assert_array_equal(rows[:, 0], rows[:, 1])
  assert rows[1:, 0].tolist() == [
    [0, 1, 0, 0, 0, 0, 0, 0],
    [2, 3, 4, 5, 6, 7, 8, 9],
    [10, 11, 12, 13, 10, 10, 10, 10],
    [14, 15, 14, 14, 14, 14, 14, 14],
    [16, 17, 18, 19, 16, 16, 16, 16],
    [20, 21, 20, 20, 20, 20, 20, 20],
  ]
  owned = assignment.owned(SHARES, words)
  assert owned.sum(axis=-1).tolist() == [0, 2, 8, 4, 2, 4, 2]
  # The first ones.
  assert (np.diff(owned.astype(int), axis=-1) <= 0).all()


GOLDEN_SIZED_WORDS = [
  [9239947, 2381359552],
  [277675403, 2381359552],
  [546110859, 2381359552],
]
GOLDEN_SIZED_ROWS = [
  [756, 757, 756, 757, 756, 757, 756, 757],
  [756, 757, 14, 15, 756, 757, 756, 757],
  [756, 757, 14, 15, 364, 365, 484, 485],
]
GOLDEN_SIZED_DIGEST = (
  "abc0291b13f514873453ecda0f0784d08e09ec233dba0acb1adb0f5ec88a74c3"
)


def test_a_larger_class_draws_the_smaller_ones_rows_and_more():
  ids = np.repeat(
    [assignment.source_id(f"source {number}") for number in range(40)], 3
  ).astype(np.uint64)
  classes = np.tile(np.arange(3), 40)
  words = assignment.routing_words(SIZED, ids, np.zeros(120), classes)
  owned = assignment.owned(SIZED, words)
  assert owned.shape == (120, 8)
  assert owned.sum(axis=-1).tolist() == [2, 4, 8] * 40
  for layer in (0, 9):
    rows = assignment.rows(SIZED, words, layer)
    for small, middle, large in rows.reshape(40, 3, 4, 8):
      np.testing.assert_array_equal(small[:, :2], large[:, :2])
      np.testing.assert_array_equal(middle[:, :4], large[:, :4])
      for stratum in range(4):
        assert len(set(large[stratum].tolist())) == 8
        # What is not owned is nobody else's row.
        assert set(small[stratum].tolist()) == set(large[stratum, :2].tolist())


@pytest.mark.parametrize("config", [SIZED, SHARES], ids=["hashed", "dedicated"])
def test_sizes_are_the_same_in_numpy_and_jax(config):
  classes = np.array([0, 0, 2, 1, 0, 1, 0])
  ids = np.array([0, *(assignment.source_id(str(n)) for n in range(6))])
  words = assignment.routing_words(
    config,
    ids.astype(np.uint64),
    assignment.first_shares(config, classes),
    classes,
  )
  traced = jax.jit(
    lambda s, n: (assignment.rows(config, s, n), assignment.owned(config, s))
  )(words.reshape(7, 1, 2), np.uint32(4))
  ours = assignment.rows(config, words, 4), assignment.owned(config, words)
  for one, other in zip(ours, traced, strict=True):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, np.asarray(other)[:, 0])
  assert (ours[0] < config.rows_per_stratum).all()


def test_dedicated_shares_of_mixed_sizes_are_disjoint_and_fill_the_table():
  classes = np.random.default_rng(0).integers(0, 6, 200)
  classes[0] = 0
  config = dataclasses.replace(SHARES, num_sources=0)
  needed = assignment.shares(config, classes[1:]).sum()
  config = dataclasses.replace(config, num_shares=int(needed))
  firsts = assignment.first_shares(config, classes)
  # Sources that are added change nothing.
  more = assignment.first_shares(config, np.append(classes, [2, 0]))
  np.testing.assert_array_equal(more[:-2], firsts)
  words = assignment.routing_words(
    config, np.zeros(200, np.uint64), firsts, classes
  )[1:]
  owned = _sets(config, words, 0)
  assert set.union(*owned) == set(range(int(needed) * 4))
  assert sum(map(len, owned)) == needed * 4
  assert [len(one) for one in owned] == [
    4 << min(number, 2) for number in classes[1:].tolist()
  ]


def test_one_size_class_owns_all_rows_and_ignores_the_ledgers_classes():
  words = assignment.routing_words(
    HASHED, np.array([2**64 - 1, 0], np.uint64), np.zeros(2), np.array([3, 0])
  )
  assert words.tolist() == [[2**32 - 1] * 2, [0, 0]]
  owned = assignment.owned(HASHED, words)
  assert owned.tolist() == [[True] * 8, [False] * 8]


def test_ids_that_differ_in_the_top_bits_only_are_found():
  ids = np.array([0, 5, 2**63 + 7, 9, 7], np.uint64)
  assert sorted(assignment.same_words(ids)) == [2, 4]
  assert assignment.same_words(ids[:4]) is None
  # Nothing is left of the id: the words of no source.
  ids[1] = 2**62
  assert sorted(assignment.same_words(ids[:3])) == [0, 1]


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
    ({"size_classes": 0}, r"size_classes is 0; it must be 1 .* to 16"),
    ({"size_classes": 17}, r"size_classes is 17; it must be 1 .* to 16"),
    (
      {"size_classes": 9},
      r"=32 with sinks.size_classes=9 needs 1024 distinct .* has 512; enlarge",
    ),
    (
      {"kind": "dedicated", "num_sources": 2**28},
      "2147483648 rows a stratum; at most 2147483647 can be addressed",
    ),
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
