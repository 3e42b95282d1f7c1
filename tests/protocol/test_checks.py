"""Bad input of an evaluation: one clear line each, before anything computes.

Through the real command line; `refused` sees to one line and exit status 2.
"""

import hashlib
import json
import shutil

import pytest

from nulls_jax.data import ledger, ledger_writing
from nulls_jax.protocol import checks
from nulls_jax.protocol import protocol as protocol_lib
from nulls_jax.unlearning.revocation import revocation

BOTH = ("full", "erased")
ALL = ("full", "suspended", "erased", "retrained", "dense")


@pytest.fixture
def refuse(world, write, refused, tmp_path):
  """Return a function that checks a protocol; gives the line of refusal."""

  def check(*roles, change=lambda content: None, **more):
    content = world.content(*roles, **more)
    change(content)
    path = write(content)
    line = refused("evaluate", "--protocol", path, "--out", tmp_path / "out")
    # Nothing was computed, nothing was made.
    assert not (tmp_path / "out").exists()
    assert line.startswith(f"nulls: {path}: ")
    return line

  return check


@pytest.fixture
def copied(world, tmp_path):
  """Return a function that copies a run, to be damaged."""

  def copy(role, name="copy"):
    shutil.copytree(world.runs[role], tmp_path / name)
    return tmp_path / name

  return copy


def step_file(run):
  (step,) = (run / "checkpoints").iterdir()
  return step / "_CHECKPOINT_METADATA"


def edit_metadata(run, change):
  content = json.loads(step_file(run).read_text())
  change(content["custom_metadata"])
  step_file(run).write_text(json.dumps(content))


def new_ledger(run, keys):
  """Give a run the ledger, and the fingerprint, of other sources."""
  (run / "ledger.sqlite").unlink()
  with ledger_writing.Writer.create(run / "ledger.sqlite") as book:
    book.add_documents((key, 1, {}) for key in keys)
    fingerprint = book.fingerprint()
  edit_metadata(run, lambda found: found.update(ledger_fingerprint=fingerprint))


def keys_of(run):
  with ledger.Ledger.open(run / "ledger.sqlite") as book:
    return [source.key for source in book]


def test_what_is_right_passes(world, write, nulls):
  path = write(
    world.content(
      *ALL,
      metrics=["truth_ratio", "gap_closed", "forget_quality", "capability"],
      attacks={"membership": {}, "reenabling": {}, "relearning": {}},
    )
  )
  assert nulls("evaluate", "--protocol", path, "--check") == (
    0,
    f"{path}: nothing is wrong with it\n",
    "",
  )
  found = checks.check(protocol_lib.read(path))
  assert found.steps[found.facts["erased"][0].run] == 120
  assert set(found.contents.inputs) == {
    "documents",
    "held_out",
    "probes",
    "forget",
  }


def test_out_is_needed_unless_only_checking(world, write, refused):
  path = write(world.content())
  assert "give --out DIR" in refused("evaluate", "--protocol", path)


# -- What is asked for


@pytest.mark.parametrize(
  ("roles", "more", "message"),
  [
    (BOTH, {"metrics": ["acc"]}, "metrics has no 'acc'; there are probability"),
    (
      BOTH,
      {"metrics": ["gap_closed"]},
      "'gap_closed' needs 1 or more runs.retr",
    ),
    (
      BOTH,
      {"metrics": ["z"]},
      "'z' needs 2 or more runs.retrained, there are 0",
    ),
    (
      BOTH,
      {"metrics": ["forget_quality"]},
      "'forget_quality' needs 1 or more runs",
    ),
    (
      BOTH,
      {"metrics": ["capability"]},
      "'capability' needs 1 or more runs.dense",
    ),
    (
      BOTH,
      {"attacks": {"membership": {}}},
      "membership needs runs.retrained to",
    ),
    (
      BOTH,
      {"attacks": {"relearning": {}}},
      "relearning needs runs.retrained to",
    ),
    (
      BOTH,
      {"attacks": {"extraction": {}}},
      "extraction needs runs.retrained to",
    ),
    (
      ("full",),
      {"attacks": {"reenabling": {}}},
      "runs has none of suspended, erased",
    ),
    (
      BOTH,
      {"attacks": {"quantisation": {"roles": ["dense"]}}},
      "quantisation.roles has dense, of which quantisation says nothing",
    ),
    (
      BOTH,
      {"attacks": {"quantisation": {"bits": [8, 40]}}},
      "attacks.quantisation: quantisation: bits=40",
    ),
    (
      BOTH,
      {"attacks": {"quantisation": {"bit": 8}}},
      "attacks.quantisation has no 'bit'; it has bits",
    ),
    (
      BOTH,
      {"sample": {"retained": "all"}},
      "sample.retained is 'all', not a whole",
    ),
    (BOTH, {"collateral": {"draws": 0}}, "collateral: collateral: draws=0"),
    (
      BOTH,
      {"gates": {"original": "x"}},
      "gates sets original, which follows from",
    ),
    (
      BOTH,
      {"confidence": 0.9999},
      "2000 resamples are too few for a confidence",
    ),
    (BOTH, {"confidence": 1.5}, "confidence 1.5 is not between"),
    (BOTH, {"promises": ["none"]}, "promises[0] is 'none', not a"),
    (
      BOTH,
      {"interval_width": 0.1},
      "items cannot give a 95% interval 0.1 wide; give at least 385",
    ),
  ],
)
def test_what_is_asked_must_be_possible(refuse, roles, more, message):
  assert message in refuse(*roles, **more)


def test_baselines_need_a_dense_run(refuse):
  line = refuse("full", baselines={"npo": {}})
  assert "baselines.npo needs runs.dense to compare with" in line
  line = refuse("full", "dense", baselines={"npq": {}, "rmu": {"c": 1}})
  assert "baselines.npq: baseline 'npq' is unknown; choose of" in line
  assert "baselines.rmu has no 'c'; it has method, learning_rates" in line


def test_all_complaints_come_at_once(refuse):
  line = refuse(
    "full",
    metrics=["acc", "z"],
    sample={"retain": 3},
    attacks={"membership": {}},
  )
  assert "5 complaints: (1) " in line
  for text in ("'acc'", "'z'", "'retain'", "membership needs runs.retrained"):
    assert text in line


# -- Input files


def test_missing_and_changed_files(refuse, world, tmp_path):
  def missing(content):
    content["inputs"]["probes"] = tmp_path / "none.jsonl"

  line = refuse(change=missing)
  assert "inputs.probes: " in line
  assert "cannot be read" in line

  def changed(content):
    content["inputs"]["digests"] = {"probes": "ab" * 32}

  line = refuse(change=changed)
  assert "is not the file that the protocol was written for" in line
  assert "expected abababababab): it was changed" in line


@pytest.fixture
def with_probes(world, tmp_path):
  """Return a function that changes each probe; gives a protocol's change."""

  def change_all(change):
    path = tmp_path / "changed.jsonl"
    with open(world.root / "probes.jsonl") as file:
      lines = [change(json.loads(line)) for line in file]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return lambda content: content["inputs"].update(probes=path)

  return change_all


def test_truth_ratios_need_distractors(refuse, with_probes, world):
  bare = with_probes(lambda probe: {**probe, "distractors": []})
  line = refuse(change=bare, metrics=["truth_ratio"])
  assert "metrics: 'truth_ratio' needs wrong answers, and" in line
  assert "have no distractors (probe " in line
  # Of other sources they may be missing.
  others = with_probes(
    lambda probe: {
      **probe,
      "distractors": (
        probe["distractors"] if probe["source"] in world.forget else []
      ),
    }
  )
  line = refuse(change=others, metrics=["truth_ratio", "none"])
  assert "wrong answers" not in line


def test_swapped_labels_are_seen(refuse, with_probes):
  swapped = with_probes(
    lambda probe: {**probe, "answer": probe["distractors"][0]}
  )
  line = refuse(change=swapped)
  assert "have their answer among their distractors" in line
  assert "labels were swapped" in line


def test_unknown_sources_are_refused(refuse, with_probes, tmp_path, world):
  def rename(probe):
    strange = probe["source"] in world.forget
    return {**probe, "source": "person/Nobody" if strange else probe["source"]}

  line = refuse(change=with_probes(rename))
  assert "was not trained on 1 sources of the inputs: 'person/Nobody'" in line
  path = tmp_path / "forget.txt"
  path.write_text("person/Nobody\n")
  line = refuse(change=lambda content: content["inputs"].update(forget=path))
  assert "have neither texts nor probes: 'person/Nobody'" in line
  assert "runs.full[0]" in line


def test_held_out_sources_are_never_trained(refuse, world):
  line = refuse(
    change=lambda content: content["inputs"].update(
      held_out=world.root / "documents.jsonl"
    )
  )
  assert "3 sources are to forget and held out at once" in line
  assert "was trained on 8 held-out sources" in line


# -- Runs and roles


def test_a_run_that_is_not_there(refuse, tmp_path):
  def other(path):
    return lambda content: content["runs"].update(full=[path])

  line = refuse(change=other(tmp_path / "none"))
  assert "runs.full[0]: " in line
  assert "does not exist; give a run directory" in line
  (tmp_path / "empty").mkdir()
  assert "is not a run directory" in refuse(change=other(tmp_path / "empty"))


def test_a_step_that_is_not_there(refuse, world):
  path = world.runs["full"] / "checkpoints" / "7"
  line = refuse(change=lambda content: content["runs"].update(full=[path]))
  assert "has no step 7; it has 120" in line


def test_files_of_a_run_belong_together(refuse, copied):
  run = copied("full")
  (run / "tokenizer.model").write_bytes(b"another")
  line = refuse(change=lambda content: content["runs"].update(full=[run]))
  assert "is not the tokenizer that the checkpoint was trained with" in line


def test_a_ledger_of_another_run(refuse, copied, world):
  run = copied("full")
  shutil.copyfile(
    world.runs["retrained"] / "ledger.sqlite", run / "ledger.sqlite"
  )
  line = refuse(change=lambda content: content["runs"].update(full=[run]))
  assert "is the ledger of another run" in line


def test_one_directory_in_two_roles(refuse, world, tmp_path):
  link = tmp_path / "link"
  link.symlink_to(world.runs["full"])

  def twice(content):
    content["runs"].update(suspended=[link])

  line = refuse(change=twice)
  assert "is runs.full[0] and runs.suspended[0]; give each run once" in line
  # Not suspended either.
  assert "that are not suspended" in line


def test_seeds_are_aligned(refuse, world, copied):
  run = copied("erased")
  line = refuse(
    "full",
    change=lambda content: content["runs"].update(
      erased=[world.runs["erased"], run]
    ),
  )
  assert "runs.erased has 2 runs and runs.full 1" in line


def test_copies_of_another_run_are_refused(refuse, world, copied):
  run = copied("erased")
  edit_metadata(
    run,
    lambda found: found["checksums"].update({"params.head.kernel": 1}),
  )
  line = refuse(
    "full", change=lambda content: content["runs"].update(erased=[run])
  )
  assert "is no erased copy of runs.full[0]" in line
  assert "other weights than the sinks' differ" in line
  assert "has a receipt of another run, or was changed after it" in line


def test_erased_needs_its_own_receipt(refuse, world, copied):
  run = copied("erased", "bare")
  shutil.rmtree(run / "receipts")

  def give(content):
    content["runs"].update(erased=[run])

  line = refuse("full", change=give)
  assert "has no receipt, so nothing says that it was erased" in line
  # The receipt of a run that was not this one.
  shutil.copytree(world.runs["erased"] / "receipts", run / "receipts")
  with open(run / "config.json", "a") as file:
    file.write("\n")
  line = refuse("full", change=give)
  assert "was changed after it: changed: config.json" in line


def test_what_was_not_erased_is_not_erased(refuse, world, copied):
  run = copied("full", "same")
  line = refuse(
    "full", change=lambda content: content["runs"].update(erased=[run])
  )
  assert "has 3 of the 3 sources to forget that are not erased" in line
  assert "erase them with `nulls erase`" in line
  # An erased run is no repaired one, and no full one.
  line = refuse(
    "full",
    change=lambda content: content["runs"].update(
      repaired=[world.runs["erased"]]
    ),
  )
  assert "was last changed by 'erase'" in line
  line = refuse(
    "full",
    change=lambda content: content["runs"].update(full=[world.runs["erased"]]),
  )
  assert "that are not active" in line


def test_unproven_runs_pass_when_they_are_to_be_judged(
  world, write, nulls, copied
):
  runs = {"full": [world.runs["full"]], "erased": [world.runs["full"]]}
  path = write(world.content(runs=runs, allow_unproven=True))
  assert nulls("evaluate", "--protocol", path, "--check")[0] == 0


def test_suspended_means_all_of_them(refuse, world, copied):
  run = copied("suspended")
  revocation.restore(run, world.forget[:1])
  line = refuse(
    "full", change=lambda content: content["runs"].update(suspended=[run])
  )
  assert "has 1 of the 3 sources to forget that are not suspended" in line
  assert repr(world.forget[0]) in line


def test_references_never_saw_the_deleted_sources(refuse, world, copied):
  run = copied("full")
  line = refuse(
    "full", change=lambda content: content["runs"].update(retrained=[run])
  )
  assert "was trained on 3 of the 3 sources to forget" in line
  assert repr(world.forget[0]) in line
  dense = copied("dense", "dense")
  line = refuse(
    "full",
    change=lambda content: content["runs"].update(dense_retrained=[dense]),
  )
  assert "runs.dense_retrained[0]" in line
  assert "was trained on 3 of the 3 sources to forget" in line


def test_references_saw_all_else(refuse, world, copied):
  run = copied("retrained")
  keys = keys_of(run)
  new_ledger(run, [*keys[1:], "person/Nobody"])
  line = refuse(
    "full", change=lambda content: content["runs"].update(retrained=[run])
  )
  assert f"trained without 1 other sources of runs.full: {keys[0]!r}" in line
  assert "on 1 sources that runs.full never saw: 'person/Nobody'" in line


def test_references_have_the_same_settings(refuse, copied):
  run = copied("retrained")
  edit_metadata(
    run, lambda found: found["config"]["model"].update(backbone_width=99)
  )
  line = refuse(
    "full", change=lambda content: content["runs"].update(retrained=[run])
  )
  assert "other settings than runs.full: model.backbone_width: 16 -> 99" in line


def test_dense_and_sinks_are_not_mixed(refuse, world):
  dense = world.runs["dense"]
  line = refuse(change=lambda content: content["runs"].update(full=[dense]))
  assert "is a dense model (sinks.kind none), which is no full run" in line
  line = refuse(
    "full", change=lambda content: content["runs"].update(retrained=[dense])
  )
  assert "which is no retrained run" in line
  line = refuse(
    "full",
    change=lambda content: content["runs"].update(
      dense=[world.runs["retrained"]]
    ),
  )
  assert "has sinks, so it is no dense run" in line


def test_tokenizers_must_agree(refuse, copied, tmp_path):
  run = copied("retrained")
  (run / "tokenizer.model").write_bytes(b"another")
  digest = hashlib.sha256(b"another").hexdigest()
  edit_metadata(run, lambda found: found.update(tokenizer_fingerprint=digest))
  line = refuse(
    "full", change=lambda content: content["runs"].update(retrained=[run])
  )
  assert "has another tokenizer than runs.full[0] (fingerprint" in line
