"""The rule of advice at its thresholds, and its evidence."""

import pytest

from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import advice as forecast_advice

HASHED = assignment.SinkConfig()


@pytest.mark.parametrize(
  ("lost", "action"),
  [
    (0.0, "erase"),
    (0.0399, "erase"),
    (0.04, "erase and repair"),
    (0.55, "erase and repair"),
    (0.551, "retrain"),
    (1.0, "retrain"),
  ],
)
def test_hashed_pools_by_what_survivors_have_lost(lost, action):
  advice = forecast_advice.advise(HASHED, 0.0, lost)
  assert advice.action == action
  assert f"{lost:.1%}" in advice.reason and "earlier" not in advice.reason
  assert "not measured" in advice.limits


def test_earlier_losses_are_told_apart():
  reason = forecast_advice.advise(HASHED, 0.03, 0.05).reason
  assert "3.0% of it by earlier erasures" in reason
  assert "the rest, 2.0%" in reason


def test_dedicated_tables_cost_nothing():
  config = assignment.SinkConfig(kind="dedicated", num_sources=3)
  advice = forecast_advice.advise(config, 0.0, 0.0)
  assert advice.action == "erase" and "every other" in advice.reason


def test_the_rule_says_what_was_measured():
  """The words of the rule hold for the table of measurements."""
  people = [
    one for one in forecast_advice.MEASURED if one.unit == "% of facts known"
  ]

  def points(low, high, pools):
    return [
      round(one.before - one.after, 1)
      for one in people
      if low <= one.share_lost <= high and one.pool in pools
    ]

  small = points(0.018, forecast_advice.REPAIR_FROM, (8192, 2048))
  assert (min(small), max(small)) == (0.2, 0.7)
  assert points(0.018, forecast_advice.REPAIR_FROM, (512,)) == [2.1]
  assert points(0.17, 0.18, (8192,)) == [3.3]
  middle = points(0.14, forecast_advice.RETRAIN_FROM, (512, 2048))
  assert (min(middle), max(middle)) == (4.2, 29.0)
