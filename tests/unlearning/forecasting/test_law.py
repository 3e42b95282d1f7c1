"""The law against its closed form, against counts, and at its ends."""

import fractions
import math

import numpy as np
import pytest

from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import count as forecast_count
from nulls_jax.unlearning.forecasting import law as forecast_law

SMALL = assignment.SinkConfig(pool_size=64, sinks_per_source=10, strata=2)
DEDICATED = assignment.SinkConfig(
  kind="dedicated", sinks_per_source=4, strata=2, num_sources=50
)


@pytest.mark.parametrize("num_erased", [0, 1, 7, 40])
def test_the_chain_is_the_closed_form(num_erased):
  """The formula of the module's text, in exact fractions."""
  blocks, owned = 32, 5
  missed = [
    fractions.Fraction(math.comb(blocks - n, owned), math.comb(blocks, owned))
    ** num_erased
    for n in range(owned + 1)
  ]
  expected = [
    float(
      math.comb(owned, left)
      * sum(
        (-1) ** n * math.comb(owned - left, n) * missed[left + n]
        for n in range(owned - left + 1)
      )
    )
    for left in range(owned + 1)
  ]
  law = forecast_law.Law(SMALL, 3)
  (state,) = law.after(law.untouched(), num_erased)
  assert state.shape == (6, owned + 1)
  np.testing.assert_allclose(state[0], expected, rtol=0, atol=1e-13)
  mean = 1 - (1 - owned / blocks) ** num_erased
  assert abs(law.lost([state]).mean - mean) < 1e-11
  assert abs(forecast_law.expected_share(SMALL, num_erased) - mean) < 1e-14


def test_strata_add_up_as_independent_draws():
  """Three strata of which 1, 16 and 31 of 32 blocks are lost."""
  law = forecast_law.Law(
    assignment.SinkConfig(pool_size=96, sinks_per_source=6, strata=3), 1
  )
  found = law.lost(law.counted(np.array([1, 16, 31])))
  expected = np.ones(1)
  for lost in (1, 16, 31):
    one = [
      math.comb(lost, n) * math.comb(32 - lost, 2 - n) / math.comb(32, 2)
      for n in range(3)
    ]
    expected = np.convolve(expected, one)
  np.testing.assert_allclose(found.weights, expected, rtol=0, atol=1e-12)


def test_the_law_is_what_is_counted():
  """4,000 survivors of 25 erasures, 32 independent strata and layers."""
  config = assignment.SinkConfig(pool_size=1024, sinks_per_source=32, strata=4)
  num_layers, erased = 8, 25
  words = np.random.default_rng(1).integers(
    0, 2**32, (4000 + erased, 2), dtype=np.uint32
  )
  lost = np.zeros((num_layers, 4, config.blocks_per_stratum), bool)
  for layer in range(num_layers):
    blocks = assignment.blocks(config, words[:erased], layer)
    lost[layer, np.arange(4)[:, None], blocks] = True
  (counts,) = forecast_count.lost_blocks(config, words[erased:], [lost])
  most = num_layers * config.sinks_per_source
  exact = forecast_law.Distribution.of_counts(counts, most)
  law = forecast_law.Law(config, num_layers)
  given = law.lost(law.counted(lost.sum(axis=2)))
  by_number = law.lost(law.after(law.untouched(), erased))
  found, expected = (one.figures(counted=False) for one in (exact, by_number))
  # Five standard errors of a mean over 4,000 survivors.
  error = 5 * found.standard_deviation / math.sqrt(4000)
  assert abs(exact.mean - given.mean) < error
  # The rows that 25 sources share vary, for all survivors alike.
  assert abs(exact.mean - by_number.mean) < 0.005
  assert abs(found.standard_deviation / expected.standard_deviation - 1) < 0.06
  for name in ("median", "quantile_95", "quantile_99"):
    step = 2 / most
    assert abs(getattr(found, name) - getattr(expected, name)) <= step + 0.005


def test_until_is_the_first_number_that_reaches_it():
  law = forecast_law.Law(SMALL, 3)
  start = law.counted(np.full(6, 4))
  for reached in (
    lambda lost: lost.mean >= 0.5,
    lambda lost: lost.quantile(0.99) >= 0.5,
  ):
    number = law.until(start, reached)
    assert number > 1
    assert reached(law.lost(law.after(start, number)))
    assert not reached(law.lost(law.after(start, number - 1)))
  assert law.until(start, lambda lost: lost.mean >= 0.1) == 0


def test_a_dedicated_table_loses_nothing():
  law = forecast_law.Law(DEDICATED, 2)
  state = law.after(law.counted(np.full((1, 1), 7)), 40)
  assert law.lost(state).weights.tolist() == [1, *[0] * 8]
  assert law.until(state, lambda lost: lost.mean >= 0.1) is None
  assert forecast_law.expected_share(DEDICATED, 40) == 0


def test_a_source_that_owns_the_pool_takes_all():
  config = assignment.SinkConfig(pool_size=8, sinks_per_source=8)
  law = forecast_law.Law(config, 1)
  assert law.lost(law.after(law.untouched(), 1)).mean == pytest.approx(1)
  assert [forecast_law.expected_share(config, n) for n in (0, 1)] == [0, 1]


def test_figures_of_counts():
  counts = np.repeat([0, 2, 4, 10], [49, 46, 4, 1])
  figures = forecast_law.Distribution.of_counts(counts, 10).figures(
    counted=True
  )
  assert figures.mean == pytest.approx(0.118)
  assert figures.standard_deviation == pytest.approx(np.std(counts / 10))
  assert (figures.median, figures.quantile_95) == (0.2, 0.2)
  assert (figures.quantile_99, figures.maximum) == (0.4, 1.0)
