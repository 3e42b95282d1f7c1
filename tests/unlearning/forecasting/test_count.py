"""The fast counts are those of the assignment, in every way of counting."""

import numpy as np
import pytest

from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import count as forecast_count

NUM_LAYERS = 3


def _draw(config, num_sources, shares):
  """Routing words, and a set for each share of the blocks."""
  random = np.random.default_rng(0)
  words = random.integers(0, 2**32, (num_sources, 2), dtype=np.uint32)
  shape = (NUM_LAYERS, config.strata, config.blocks_per_stratum)
  return words, [random.random(shape) < share for share in shares]


def _by_assignment(config, words, lost):
  strata = np.arange(config.strata)[:, None]
  return sum(
    lost[layer, strata, assignment.blocks(config, words, layer)].sum((1, 2))
    for layer in range(NUM_LAYERS)
  )


@pytest.mark.parametrize(
  ("pool_size", "sinks", "strata", "block_size"),
  [
    (8192, 96, 8, 1),  # 10 bits
    (512, 8, 2, 1),
    (2048, 12, 1, 4),
    (8, 4, 1, 1),  # an odd number of bits
    (64, 64, 2, 1),  # a source owns everything
    (2, 2, 2, 1),  # one block a stratum
    (2**16, 16, 1, 1),  # the last that fits 16-bit words
    (2**17, 8, 1, 1),  # the first that does not
    (2048, 300, 1, 1),  # counts beyond 8 bits
  ],
)
def test_counts_are_those_of_the_assignment(
  pool_size, sinks, strata, block_size
):
  config = assignment.SinkConfig(
    pool_size=pool_size,
    sinks_per_source=sinks,
    strata=strata,
    block_size=block_size,
    seed=2**32 - 1,
  )
  few = 3 / config.blocks_per_stratum
  words, sets = _draw(config, 700, (0, few, 0.4, 1 - few, 1))
  counts = forecast_count.lost_blocks(config, words, sets)
  assert counts.dtype == np.uint32
  for count, lost in zip(counts, sets, strict=True):
    np.testing.assert_array_equal(count, _by_assignment(config, words, lost))


def test_chunks_and_threads_change_nothing(monkeypatch):
  config = assignment.SinkConfig(pool_size=512, sinks_per_source=8, strata=2)
  words, sets = _draw(config, 1000, (0.02, 0.5))
  whole = forecast_count.lost_blocks(config, words, sets, threads=1)
  monkeypatch.setattr(forecast_count, "_TASK", 300)
  monkeypatch.setattr(forecast_count, "_DRAWN", 1)
  monkeypatch.setattr(forecast_count, "_LOOKED_UP", 600)
  done = []
  split = forecast_count.lost_blocks(
    config, words, sets, threads=3, progress=lambda *now: done.append(now)
  )
  np.testing.assert_array_equal(split, whole)
  assert done == [(300, 1000), (600, 1000), (900, 1000), (1000, 1000)]


def test_many_finds_of_one_source_are_not_cut(monkeypatch):
  """A look-up of all 1,024 blocks at once would find more than a byte holds."""
  config = assignment.SinkConfig(pool_size=4096, sinks_per_source=1024)
  words, (lost,) = _draw(config, 20, (0.6,))
  monkeypatch.setattr(forecast_count, "_LOOKED_UP", 2**20)
  (count,) = forecast_count.lost_blocks(config, words, [lost])
  np.testing.assert_array_equal(count, _by_assignment(config, words, lost))


def test_nothing_to_count_is_done_at_once():
  config = assignment.SinkConfig(pool_size=64, sinks_per_source=8)
  words, sets = _draw(config, 5, (0, 1))
  done = []
  counts = forecast_count.lost_blocks(
    config, words, sets, progress=lambda *now: done.append(now)
  )
  assert counts.tolist() == [[0] * 5, [8 * NUM_LAYERS] * 5]
  assert done == [(5, 5)]
