"""Formulas against numbers worked out by hand."""

import math

import numpy as np
import pytest

from nulls_jax.evaluation import metrics


def test_mean_of_single_items():
  found = metrics.mean([1.0, 0.0, 0.0, 1.0, 1.0])
  assert found.value == pytest.approx(0.6)
  # Sample variance 0.3, over 5 items.
  assert found.standard_error == pytest.approx(math.sqrt(0.3 / 5))
  assert found.n == 5


def test_mean_counts_a_cluster_once():
  # Two sources, each all right or all wrong: as sure as two coin throws.
  found = metrics.mean([1, 1, 1, 0, 0, 0], ["a", "a", "a", "b", "b", "b"])
  assert found.value == pytest.approx(0.5)
  # sum of squares (1.5^2 + 1.5^2) * 2 / (2 - 1) / 6^2 = 0.25
  assert found.standard_error == pytest.approx(0.5)
  assert found.n == 6


def test_mean_of_one_cluster_has_no_error():
  assert metrics.mean([1.0, 0.0], ["a", "a"]).standard_error is None


def test_mean_refuses_nothing():
  with pytest.raises(ValueError, match="at least one"):
    metrics.mean([])


def test_clusters_must_match():
  with pytest.raises(ValueError, match="1 clusters for 2 items"):
    metrics.mean([1.0, 2.0], ["a"])


def test_ratio_weighs_by_the_denominator():
  found = metrics.ratio([10.0, 30.0], [5.0, 10.0])
  assert found.value == pytest.approx(40 / 15)
  residual = 10 - 40 / 15 * 5
  assert found.standard_error == pytest.approx(
    math.sqrt(2 * 2 * residual**2) / 15
  )


def test_difference_adds_errors():
  found = metrics.difference(
    metrics.Estimate(2.0, 0.3, 10), metrics.Estimate(0.5, 0.4, 20)
  )
  assert found.value == pytest.approx(1.5)
  assert found.standard_error == pytest.approx(0.5)
  assert found.n == 30


def test_paired_difference_sees_through_common_spread():
  found = metrics.paired_difference([1.0, 5.0, 9.0], [0.0, 4.0, 8.0])
  assert found.value == pytest.approx(1.0)
  assert found.standard_error == pytest.approx(0.0)


def test_log_truth_ratio():
  # Correct: 2 tokens of probability 1/2 each; wrong: one token of 1/8, two
  # tokens of 1/4 each. log TR = -log 2 - (-log 8 - log 4) / 2.
  found = metrics.log_truth_ratio(
    [2 * math.log(1 / 2)],
    [2],
    np.array([[math.log(1 / 8), 2 * math.log(1 / 4)]]),
    np.array([[1, 2]]),
  )
  assert found == pytest.approx([1.5 * math.log(2)])


def test_log_odds():
  found = metrics.log_odds(np.log([0.5, 0.8, 0.01]))
  assert found == pytest.approx([0.0, math.log(4), math.log(1 / 99)])


def test_log_odds_of_certainty_is_finite():
  assert metrics.log_odds([0.0]) == pytest.approx([math.log(1e7)], rel=1e-3)


def test_leak_is_zero_for_equals_and_grows_with_odds():
  known, unknown = np.log([0.5, 0.5]), np.log([1 / 32, 1 / 32])
  assert metrics.leak(known, "ab", known, "cd").value == pytest.approx(0)
  assert metrics.leak(known, "ab", unknown, "cd").value == pytest.approx(
    math.log(31)
  )


def test_gap_closed():
  # Sink-On 2 nats, erased 10 and retrained 12 in sum: 8 of 10.
  found = metrics.gap_closed([1.0, 1.0], [6.0, 4.0], [7.0, 5.0])
  assert found.value == pytest.approx(0.8)
  # Residuals 5 - 0.8 * 6 and 3 - 0.8 * 4.
  assert found.standard_error == pytest.approx(math.sqrt(2 * 2 * 0.2**2) / 10)
