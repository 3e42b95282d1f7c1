"""Forecasts where sources own sinks by their size, against brute force."""

import dataclasses
import itertools

import numpy as np
import pytest

from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import count as forecast_count
from nulls_jax.unlearning.forecasting import forecast
from nulls_jax.unlearning.forecasting import law as forecast_law
from nulls_jax.unlearning.forecasting import page as forecast_page
from nulls_jax.unlearning.forecasting import survey as forecast_survey

HASHED = assignment.SinkConfig(
  pool_size=512, sinks_per_source=8, strata=2, block_size=2, size_classes=3
)
DEDICATED = assignment.SinkConfig(
  kind="dedicated", sinks_per_source=8, strata=2, size_classes=3
)
NUM_LAYERS = 2
KEYS = tuple(f"source {number}" for number in range(150))
ERASED, NAMED = KEYS[:3], KEYS[20:26]
# By index; classes above 2 count as 2.
SIZES = np.array([0, *itertools.islice(itertools.cycle((0, 1, 0, 4)), 150)])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
  path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
  with ledger_writing.Writer.create(path) as sources:
    sources.add_documents((key, 1, {}) for key in KEYS)
    sources.set_size_classes(SIZES)
    sources.erase(ERASED)
  return path


@pytest.fixture(scope="module")
def done(ledger):
  pool = forecast_survey.Pool(
    config=HASHED, num_layers=NUM_LAYERS, ledger=ledger
  )
  return forecast.forecast(pool, NAMED, erasures=4)


def _blocks(key):
  """The blocks of a source, by brute force."""
  number = min(2, SIZES[KEYS.index(key) + 1])
  words = assignment.routing_words(
    HASHED,
    np.array(assignment.source_id(key), np.uint64),
    np.array(0),
    np.array(number),
  )
  found = {
    (layer, stratum, int(block))
    for layer in range(NUM_LAYERS)
    for stratum, blocks in enumerate(assignment.blocks(HASHED, words, layer))
    for block in blocks
  }
  assert len(found) == NUM_LAYERS * 2 * (2 << number)
  return found


def test_losses_of_sources_of_every_size(done):
  before = set().union(*map(_blocks, ERASED))
  after = before.union(*map(_blocks, NAMED))
  survivors = [key for key in KEYS if key not in ERASED + NAMED]
  owned = list(map(_blocks, survivors))
  shares = np.array([len(own & after) / len(own) for own in owned])
  earlier = np.array([len(own & before) / len(own) for own in owned])
  for figures, values in (
    (done.loss.exact, shares),
    (done.loss.exact_by_request, shares - earlier),
  ):
    assert figures.mean == pytest.approx(values.mean())
    assert figures.standard_deviation == pytest.approx(values.std())
    assert figures.maximum == pytest.approx(values.max())
  assert sum(map(sum, done.rows.zero_before)) == 2 * len(before)
  assert sum(map(sum, done.rows.newly_zero)) == 2 * len(after - before)
  # Of the blocks of a largest source, 2 << 2 in each of 2 strata and layers.
  assert done.loss.blocks_of_a_source == 32
  assert done.loss.sources_by_blocks_lost == [
    (number, int((np.round(shares * 32) == number).sum()))
    for number in sorted(set(np.round(shares * 32).astype(int).tolist()))
  ]
  best = int(np.argmax(shares))
  assert done.worst[0].key == survivors[best]
  assert done.worst[0].share == pytest.approx(shares[best])


def test_formulas_take_the_sizes_of_those_who_go(done):
  # Of 128 blocks; erased: sizes 0, 1, 0 and 0, 1, 0, 2, 0, 1 (twice 2).
  erased = [min(2, SIZES[KEYS.index(key) + 1]) for key in ERASED + NAMED]
  left = np.prod([1 - (2 << number) / 128 for number in erased])
  assert done.loss.expected.mean == pytest.approx(1 - left)
  assert abs(done.loss.exact.mean - (1 - left)) < 0.04
  lost = done.loss.expected_given_rows.mean
  assert lost == pytest.approx(
    np.sum([done.rows.zero_before, done.rows.newly_zero]) / (4 * 256)
  )
  mean = (2 << np.minimum(SIZES[1:], 2)).mean() / 128
  assert done.outlook.asked.mean == pytest.approx(
    1 - (1 - lost) * (1 - mean) ** 4
  )
  assert done.outlook.mean[0] == pytest.approx(mean)
  assert "up to 32 blocks" in forecast_page.summary(done)


def test_dedicated_rows_follow_the_sizes(ledger):
  pool = forecast_survey.Pool(
    config=DEDICATED, num_layers=NUM_LAYERS, ledger=ledger
  )
  found = forecast.forecast(pool, NAMED)
  shares = 1 << np.minimum(SIZES[1:], 2)
  assert found.pool.config.num_shares == shares.sum()
  assert found.rows.in_stratum == 4 * shares.sum()
  newly = 4 * int(shares[20:26].sum())
  assert found.rows.newly_zero == [[newly] * 2] * NUM_LAYERS
  before = 4 * int(shares[:3].sum())
  assert found.rows.zero_before == [[before] * 2] * NUM_LAYERS
  assert found.loss.exact.maximum == 0


@pytest.mark.parametrize("strata", [1, 2])
def test_counts_are_those_of_the_assignment(strata):
  config = dataclasses.replace(HASHED, strata=strata, size_classes=4)
  random = np.random.default_rng(0)
  words = random.integers(0, 2**28, (300, 2), dtype=np.uint32)
  classes = random.integers(0, 4, 300)
  words[:, 0] |= classes.astype(np.uint32) << np.uint32(28)
  lost = random.random((3, strata, config.blocks_per_stratum)) < 0.3
  done = []
  (counts,) = forecast_count.lost_blocks(
    config, words, [lost], progress=lambda *now: done.append(now)
  )
  own = np.arange(config.blocks_per_source) < (
    config.blocks_per_share << classes[:, None]
  )
  expected = 0
  for layer in range(3):
    blocks = assignment.blocks(config, words, layer)
    hit = lost[layer, np.arange(strata)[:, None], blocks]
    expected = expected + (hit & own[:, None]).sum((1, 2))
  np.testing.assert_array_equal(counts, expected)
  assert done[-1] == (300, 300)


def test_the_law_of_mixed_sizes_is_what_is_counted():
  """3,000 survivors of 40 erasures, 24 independent strata and layers."""
  config = assignment.SinkConfig(
    pool_size=1024, sinks_per_source=8, strata=4, size_classes=3
  )
  random = np.random.default_rng(2)
  words = random.integers(0, 2**28, (3040, 2), dtype=np.uint32)
  classes = random.choice(3, 3040, p=[0.5, 0.3, 0.2])
  words[:, 0] |= classes.astype(np.uint32) << np.uint32(28)
  lost = np.zeros((6, 4, 256), bool)
  for layer in range(6):
    blocks = assignment.blocks(config, words[:40], layer)
    lost[layer, np.arange(4)[:, None], blocks] = True
  (counts,) = forecast_count.lost_blocks(config, words[40:], [lost])
  counts <<= (2 - classes[40:]).astype(np.uint32)
  exact = forecast_law.Distribution.of_counts(counts, 6 * 4 * 8)
  erased, surviving = np.bincount(classes[:40]), np.bincount(classes[40:])
  law = forecast_law.Law(config, 6, surviving, erased + surviving)
  given = law.lost(law.counted(lost.sum(axis=2)))
  by_sizes = law.lost(law.after_sizes(law.untouched(), erased))
  by_number = law.lost(law.after(law.untouched(), 40))
  figures = exact.figures(counted=False)
  error = 5 * figures.standard_deviation / np.sqrt(3000)
  assert abs(exact.mean - given.mean) < error
  assert abs(exact.mean - by_sizes.mean) < 0.015
  for one in (given, by_sizes):
    found = one.figures(counted=False)
    ratio = found.standard_deviation / figures.standard_deviation
    assert abs(ratio - 1) < 0.06
    assert abs(found.quantile_99 - figures.quantile_99) < 0.03
  share = forecast_law.expected_share(config, 40, erased + surviving)
  assert by_number.mean == pytest.approx(share, abs=1e-9)
