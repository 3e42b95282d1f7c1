"""Evaluations of real, tiny runs: who is asked in which mode, and what."""

import json
import shutil

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.evaluation import evaluate, questions
from nulls_jax.unlearning.revocation import revocation


@pytest.fixture(scope="module")
def results(files, tmp_path_factory):
  """Evaluations of the trained, the erased and the dense run, as read back."""
  folder = tmp_path_factory.mktemp("evaluation")
  found = {}
  for name, run in files.runs.items():
    path = folder / f"{name}.json"
    evaluate.evaluate(
      run,
      path,
      documents=files.documents,
      held_out=files.held_out,
      probes=files.probes,
      forget=files.forget,
      sample=questions.Sample(retained=5, truth_ratios=2, examples=1),
    )
    found[name] = json.loads(path.read_text())
    assert [entry.name for entry in folder.glob("*.partial")] == []
  return found


def group(result, part, **wanted):
  found = [
    one
    for one in result[part]
    if all(one[name] == value for name, value in wanted.items())
  ]
  assert len(found) == 1, f"{len(found)} groups of {wanted}"
  return found[0]


def modes(result, part, population):
  return {
    one["mode"] for one in result[part] if one["population"] == population
  }


@pytest.mark.parametrize("part", ["documents", "probes"])
def test_modes_are_those_that_make_sense(results, part):
  assert modes(results["trained"], part, "forget") == {"on", "off", "nearest"}
  assert modes(results["trained"], part, "retained") == {"on", "off"}
  assert modes(results["trained"], part, "held_out") == {"off"}
  assert modes(results["erased"], part, "forget") == {
    "erased",
    "off",
    "nearest",
  }
  for population in ("forget", "retained", "held_out"):
    assert modes(results["dense"], part, population) == {"off"}


def test_counts(results, files):
  trained = results["trained"]
  assert trained["num_sources"] == {"forget": 3, "retained": 21, "held_out": 6}
  own = group(trained, "probes", population="forget", mode="on", kind="unique")
  assert own["n"] == 3 * 14
  assert sorted(set(own["items"]["source"])) == list(files.forget)
  on = group(trained, "probes", population="retained", mode="on", kind="unique")
  assert on["n"] == 5 * 14
  # All retained sources answer without sinks: the leak needs them.
  off = group(
    trained, "probes", population="retained", mode="off", kind="unique"
  )
  assert off["n"] == 21 * 14
  assert trained["leak"]["n"] == 30 * 14
  assert sum(one is not None for one in off["items"]["log_truth_ratio"]) == 28
  assert None not in own["items"]["log_truth_ratio"]


def test_erased_rows_say_what_the_backbone_says(results):
  for part, column in (("probes", "log_probability"), ("documents", "loss")):
    wanted = {"population": "forget"}
    if part == "probes":
      wanted |= {"kind": "unique"}
    erased = group(results["erased"], part, mode="erased", **wanted)
    off = group(results["erased"], part, mode="off", **wanted)
    np.testing.assert_allclose(
      erased["items"][column], off["items"][column], rtol=1e-6
    )
    on = group(results["trained"], part, mode="on", **wanted)
    change = np.subtract(on["items"][column], off["items"][column])
    assert np.abs(change).max() > 0.01


def test_dedicated_survivors_keep_every_bit(results):
  before, after = (
    group(results[name], "documents", population="retained", mode="on")
    for name in ("trained", "erased")
  )
  assert before["items"] == after["items"]
  assert len(set(before["items"]["digest"])) == 21
  off = group(
    results["trained"], "documents", population="retained", mode="off"
  )
  assert not set(off["items"]["digest"]) & set(before["items"]["digest"])


def test_nearest_is_asked_only_what_the_neighbour_does_not_state(
  results, files
):
  asked = [json.loads(line) for line in files.probes.read_text().splitlines()]
  values = {(one["source"], one["attribute"]): one["answer"] for one in asked}
  served_by = {
    one["source"]: one["neighbour"] for one in results["trained"]["neighbours"]
  }
  assert set(served_by) == set(files.forget)
  assert not set(served_by.values()) & set(files.forget)
  for one in results["trained"]["probes"]:
    if one["mode"] != "nearest":
      continue
    for number in one["items"]["probe"]:
      probe = asked[number]
      neighbour = served_by[probe["source"]]
      assert values[neighbour, probe["attribute"]] != probe["answer"]


def test_examples_show_every_mode(results, files):
  (example,) = results["trained"]["examples"]
  assert example["source"] == files.forget[0]
  assert set(example["completions"]) == {"on", "off", "nearest"}


def test_evaluation_is_repeatable(results, files, tmp_path):
  again = evaluate.evaluate(
    files.runs["dense"],
    tmp_path / "again.json",
    documents=files.documents,
    held_out=files.held_out,
    probes=files.probes,
    forget=files.forget,
    sample=questions.Sample(retained=5, truth_ratios=2, examples=1),
  )
  first = {**results["dense"], "seconds": 0}
  assert json.loads(json.dumps({**again, "seconds": 0})) == first


def test_texts_alone(files, tmp_path):
  found = evaluate.evaluate(
    files.runs["trained"],
    tmp_path / "x.json",
    documents=files.documents,
    forget=files.forget,
    sample=questions.Sample(documents=4, examples=1),
  )
  assert found["probes"] == [] and found["leak"] is None
  assert modes(found, "documents", "held_out") == set()
  retained = group(found, "documents", population="retained", mode="on")
  assert len(retained["items"]["source"]) == 4
  (example,) = found["examples"]
  text = json.loads(files.documents.read_text().splitlines()[0])["text"]
  assert len(example["prompt"].split()) == 12 < len(text.split())


def test_sources_that_this_run_never_saw_have_no_sinks(files, tmp_path):
  # As a model that was retrained without them.
  unknown = [
    json.loads(line)["source"]
    for line in files.held_out.read_text().splitlines()
  ]
  found = evaluate.evaluate(
    files.runs["trained"],
    tmp_path / "x.json",
    documents=files.held_out,
    forget=unknown[:2],
    sample=questions.Sample(examples=0),
  )
  assert found["forget"]["status"] == "unknown"
  assert modes(found, "documents", "forget") == {"off"}


@pytest.fixture(scope="module")
def suspended(files, tmp_path_factory):
  """Results of the trained run with the sources to forget suspended."""
  root = tmp_path_factory.mktemp("suspended")
  shutil.copytree(files.runs["trained"], root / "run")
  more = json.loads(files.documents.read_text().splitlines()[0])["source"]
  revocation.suspend(root / "run", [*files.forget, more])
  return evaluate.evaluate(
    root / "run",
    root / "results.json",
    documents=files.documents,
    held_out=files.held_out,
    probes=files.probes,
    forget=files.forget,
    sample=questions.Sample(retained=5, truth_ratios=2, examples=1),
  )


def test_suspended_sources_are_asked_without_their_sinks(
  suspended, results, files
):
  assert suspended["forget"]["status"] == "suspended"
  for part in ("documents", "probes"):
    assert modes(suspended, part, "forget") == {"off", "nearest"}
    assert modes(suspended, part, "retained") == {"on", "off"}
  (example,) = suspended["examples"]
  assert set(example["completions"]) == {"off", "nearest"}
  # Those that are not named are nobody's: one fewer than of the trained run.
  assert suspended["num_sources"]["retained"] == 20
  neighbours = {one["neighbour"] for one in suspended["neighbours"]}
  retained = group(suspended, "documents", population="retained", mode="on")
  assert neighbours <= set(retained["items"]["source"])
  assert not neighbours & set(files.forget)
  before, after = (
    group(one, "documents", population="forget", mode="off")
    for one in (results["trained"], suspended)
  )
  assert before == after


def test_the_results_say_what_was_suspended(suspended, results):
  found = suspended["revocations"]
  assert (found["version"], found["num_suspended"]) == (1, 4)
  assert len(found["head"]) == 64
  assert evaluate.suspended_line(suspended) == (
    "4 suspended sources (revocation list version 1) were asked through the "
    "backbone alone, if at all"
  )
  nothing = {"version": 0, "head": None, "num_suspended": 0}
  assert results["erased"]["revocations"] == nothing
  assert evaluate.suspended_line(results["erased"]) is None


def test_nothing_to_score(files, tmp_path):
  with pytest.raises(errors.UserError, match="nothing to score"):
    evaluate.evaluate(files.runs["dense"], tmp_path / "x.json")
  assert not (tmp_path / "x.json").exists()


def test_an_unknown_key_is_refused(files, tmp_path):
  with pytest.raises(errors.UserError, match="'person/Nobody'; correct"):
    evaluate.evaluate(
      files.runs["trained"],
      tmp_path / "x.json",
      documents=files.documents,
      forget=["person/Nobody"],
    )


def test_a_trained_source_is_not_held_out(files, tmp_path):
  with pytest.raises(errors.UserError, match="24 held-out sources were train"):
    evaluate.evaluate(
      files.runs["trained"], tmp_path / "x.json", held_out=files.documents
    )


def test_erased_and_kept_are_not_one_population(files, tmp_path):
  kept = json.loads(files.documents.read_text().splitlines()[0])["source"]
  assert kept not in files.forget
  with pytest.raises(errors.UserError, match="1 active, 3 erased; name"):
    evaluate.evaluate(
      files.runs["erased"],
      tmp_path / "x.json",
      documents=files.documents,
      forget=[*files.forget, kept],
    )
