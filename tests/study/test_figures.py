"""Figures of runs whose answers are known, under their names."""

import pytest

from nulls_jax.study import figures


def value(summary, name):
  return summary["figures"][name]["value"]


def test_accuracy_by_condition(make_outcome):
  summary, _, _ = make_outcome()
  for kind in ("hashed", "dedicated"):
    own = f"{kind}.forget.unique"
    assert value(summary, f"{own}.on.accuracy") == 1.0
    for condition in ("off", "nearest", "erased", "retrained"):
      assert value(summary, f"{own}.{condition}.accuracy") == 0.0
    shared = f"{kind}.forget.shared_bare"
    assert value(summary, f"{shared}.erased.accuracy") == 0.75
    # Three of four facts have 20 supporters, and those are known.
    assert value(summary, f"{shared}.support_15.erased.accuracy") == 1.0
    assert value(summary, f"{shared}.support_1.erased.accuracy") == 0.0
  assert value(summary, "dense.forget.unique.off.accuracy") == 0.0
  assert value(summary, "dense.forget.unique.off.log_truth_ratio") == -0.5


def test_what_was_not_measured_is_absent(make_outcome):
  names = make_outcome()[0]["figures"]
  assert "hashed.forget.shared_bare.support_4.on.accuracy" not in names
  assert "dense.forget.unique.on.accuracy" not in names
  assert "hashed.held_out.unique.on.accuracy" not in names
  texts = make_outcome(with_facts=False)[0]["figures"]
  assert not [name for name in texts if "accuracy" in name or name == "leak"]


def test_comparisons(make_outcome):
  summary, _, _ = make_outcome()
  assert value(summary, "hashed.leak") == pytest.approx(0.0)
  assert value(summary, "hashed.accuracy_over_retrained") == 0.0
  assert value(summary, "hashed.leak_over_retrained") == pytest.approx(0.0)
  # 20.1 of the erased run over 20 of the dense one.
  assert value(summary, "hashed.held_out_over_dense") == pytest.approx(1.005)
  assert value(summary, "dedicated.held_out_over_dense") == pytest.approx(1.0)
  assert value(summary, "hashed.retained_loss_change") == pytest.approx(0.01)
  assert value(summary, "hashed.max_loss_difference") == pytest.approx(0.1)
  assert value(summary, "hashed.sinks_lost") == pytest.approx(0.1)
  # Sink-On 10, erased 20.1, retrained 20.
  assert value(summary, "hashed.gap_closed") == pytest.approx(1.01)
  assert value(summary, "hashed.text_leak") == pytest.approx(-0.01)
  assert value(summary, "hashed.text_leak_stand_in") == pytest.approx(0.0)


def test_identity_is_of_bits(make_outcome):
  summary, results, _ = make_outcome()
  assert value(summary, "dedicated.identical_sources") == 1.0
  assert value(summary, "hashed.identical_sources") == 0.0
  # Equal states under another head give other logits.
  results.one(0, "dedicated-erased")["head_digest"] = "other"
  found = figures.compute(results, ["dedicated"], {})
  assert found["dedicated.identical_sources"]["value"] == 0.0


def test_seeds_are_pooled_and_kept_apart(make_outcome):
  one = make_outcome(seeds=1)[0]["figures"]
  two = make_outcome(seeds=2)[0]["figures"]
  assert one.keys() == two.keys()
  name = "hashed.forget.unique.on.accuracy"
  assert two[name]["n"] == 2 * one[name]["n"]
  assert two[name]["by_seed"] == [1.0, 1.0]
