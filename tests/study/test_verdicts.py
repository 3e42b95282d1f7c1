"""Bounds, worst modes, and figures that are missing."""

from nulls_jax.study import verdicts


def figure(value):
  return {"value": value, "standard_error": 0.01, "n": 10}


def judge(figures, kind="hashed", with_facts=True):
  found = verdicts.judge(figures, [kind], with_facts)
  return {verdict.name: verdict for verdict in found}


def test_a_value_on_the_bound_passes_and_beyond_fails():
  name = "hashed.forget.unique.erased.accuracy"
  assert judge({name: figure(0.06)})["hashed.erased"].passed is True
  assert judge({name: figure(0.0601)})["hashed.erased"].passed is False


def test_a_missing_figure_is_no_pass():
  found = judge({})["hashed.sink_on"]
  assert found.passed is None
  assert found.note == "no figure hashed.forget.unique.on.accuracy"


def test_shared_facts_are_judged_by_the_worst_mode():
  place = "hashed.forget.shared_in_context.support_15"
  figures = {
    f"{place}.{mode}.accuracy": figure(value)
    for mode, value in (
      ("on", 1.0),
      ("off", 0.99),
      ("nearest", 0.7),
      ("erased", 0.99),
    )
  }
  found = judge(figures)["hashed.shared"]
  assert found.passed is False
  assert found.value == 0.7
  assert "nearest" in found.note
  del figures[f"{place}.off.accuracy"]
  assert judge(figures)["hashed.shared"].passed is None


def test_only_dedicated_promises_identical_logits():
  figures = {"dedicated.identical_sources": figure(0.999)}
  assert "hashed.identical" not in judge(figures)
  found = judge(figures, "dedicated")
  assert found["dedicated.identical"].passed is False


def test_real_text_is_judged_by_losses():
  figures = {"hashed.gap_closed": figure(0.9)}
  found = judge(figures, with_facts=False)
  assert set(found) == {
    "hashed.gap_closed",
    "hashed.text_leak",
    "hashed.held_out",
  }
  assert found["hashed.gap_closed"].passed is True
