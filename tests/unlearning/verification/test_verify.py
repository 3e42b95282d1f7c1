"""Verification of what is whole: every layout, chains, sources, bad input.

What is tampered with is in test_verify_tampering.py.
"""

import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorstore as ts

from nulls_jax import errors
from nulls_jax.commands import redaction
from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays, generations, storage
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.verification import scan, verify

# Of the run, and whether the optimiser's state is dropped.
LAYOUTS = {
  "8 devices, small chunks": (
    {"num_devices": 8, "chunk_byte_size": 1024},
    False,
  ),
  "dedicated": ({"kind": "dedicated"}, True),
  "groups": ({"optimiser": "groups"}, False),
  "factored": ({"optimiser": "factored"}, False),
}


def item_of(out, step=3):
  return out / "checkpoints" / str(step) / "state"


def checks(found):
  return {check.name: check for check in found.checks}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verifies_every_layout(layout, make_run, keys, tmp_path):
  arguments, drop_optimizer = LAYOUTS[layout]
  run, out = make_run(**arguments), tmp_path / "out"
  erase.erase(run.path, out, keys[2:5], drop_optimizer=drop_optimizer)
  found = verify.verify(out, source=run.path)
  assert found.verified and found.conclusion == "verified", found.checks
  assert all(check.passed for check in found.checks)
  made = checks(found)
  (step,) = receipt.chain(out)[0].predicate["steps"]
  num_rows = sum(map(sum, step["rowsZeroed"]))
  assert f"{num_rows} rows of 3 sources are zero" in made["rows"].detail
  num_arrays = len(arrays.read_arrays(storage.Database.open(item_of(out))))
  assert f"{num_arrays} digests as stated" in made["arrays"].detail
  assert "finds" in made["control"].detail
  assert ("dropped" in made["rest"].detail) == drop_optimizer
  is_factored = layout == "factored"
  assert ("reset to a mean" in made["rest"].detail) == is_factored


def test_verifies_small_batches_and_every_version(
  make_run, keys, tmp_path, monkeypatch
):
  """Many transactions make many versions; each is walked through."""
  monkeypatch.setattr(arrays, "BATCH_BYTES", 2000)
  monkeypatch.setattr(scan, "_AHEAD_BYTES", 1000)
  run = make_run(num_devices=8, chunk_byte_size=1024)
  out = tmp_path / "out"
  erase.erase(run.path, out, keys[:2])
  survey = generations.survey(item_of(out))
  assert survey.num_versions > 10 and not survey.unaccounted
  # Independent of ours: tensorstore opens each version and lists its keys.
  keys_of = set()
  for version in range(1, survey.num_versions + 1):
    base = {"driver": "file", "path": f"{item_of(out)}/"}
    store = ts.KvStore.open(
      {"driver": "ocdbt", "base": base, "version": version}
    ).result()
    keys_of.update(key.decode() for key in store.list().result())
  assert keys_of == survey.newest.keys()
  found = verify.verify(out, source=run.path)
  assert found.verified
  assert f"of {survey.num_versions} versions" in checks(found)["stored"].detail


def test_every_step(own_run, keys, tmp_path):
  run = own_run()
  shutil.copytree(run.step_dir, run.path / "checkpoints" / "20")
  out = tmp_path / "out"
  erase.erase(run.path, out, keys[:1], all_steps=True)
  found = verify.verify(out, source=run.path)
  assert found.verified, found.checks
  details = [check.detail for check in found.checks if check.name == "rows"]
  assert [detail.split(":")[0] for detail in details] == ["step 3", "step 20"]


def test_the_control_needs_something_to_find(own_run, make_run, keys, tmp_path):
  """A source without the rows makes the scan's silence worthless."""
  run = make_run()
  erase.erase(run.path, tmp_path / "a", keys[:2])
  # Erased again by name: there was nothing left, and that is said.
  erase.erase(tmp_path / "a", tmp_path / "b", keys[:1])
  found = verify.verify(tmp_path / "b", source=tmp_path / "a")
  assert found.verified
  assert checks(found)["control"].detail == (
    "nothing was left to erase in the source"
  )
  # All zero from the start, and named for the first time.
  blank = make_run(
    change=lambda state: {
      **state,
      "params": {
        **state["params"],
        "layers": {
          **state["params"]["layers"],
          "sinks": {"table": np.zeros((2, 2, 256, 12), np.float32)},
        },
      },
      "opt_state": {},
    }
  )
  erase.erase(blank.path, tmp_path / "c", keys[:1])
  found = verify.verify(tmp_path / "c", source=blank.path)
  assert [check.name for check in found.failures] == ["control"]
  assert "says nothing" in found.failures[0].detail


def test_a_source_that_is_none(make_run, keys, tmp_path):
  run, other = make_run(), make_run(kind="dedicated")
  erase.erase(run.path, tmp_path / "a", keys[:1])
  erase.erase(run.path, tmp_path / "b", keys[1:2])
  for source, message in (
    (tmp_path / "b", "is not what any receipt began with"),
    (tmp_path / "a", "is not what any receipt began with"),
    (other.path, "has another assignment than the receipts"),
  ):
    found = verify.verify(tmp_path / "a", source=source)
    (failure,) = found.failures
    assert failure.name == "source"
    assert message in failure.detail
  # Only another copy of its step.
  shutil.copytree(run.path, tmp_path / "c")
  (tmp_path / "c/checkpoints/3").rename(tmp_path / "c/checkpoints/5")
  (failure,) = verify.verify(tmp_path / "a", source=tmp_path / "c").failures
  assert failure.detail.endswith("has no step 3; it has 5")


# -- Repair


def change_rows(item, places):
  """Write a fresh database with some rows of the table changed."""
  database = storage.Database.open(item)
  values = dict(
    zip(database.keys(), database.read(database.keys()), strict=True)
  )
  (table,) = (
    one
    for one in arrays.read_arrays(database)
    if one.name == "params.layers.sinks.table"
  )
  (chunk,) = table.chunks()
  codec = arrays.Codec(table)
  elements = codec.decode(chunk, values[chunk.key], item)
  before = elements.any(axis=-1)
  for place in places:
    elements[place] += 1
  values[chunk.key] = codec.encode(chunk, elements)
  (item / "manifest.ocdbt").unlink()
  shutil.rmtree(item / "d")
  storage.Database.create(item).write(values.items())
  return before


SINKS = "params.layers.sinks.table"


def repair(source, out, config, place=None, edited=(SINKS,), began=None):
  """What a repair writes: another step, with a surviving row trained.

  Args:
    source: the run.
    out: the new run.
    config: the settings of its sinks.
    place: the row, a surviving one by default.
    edited: what the receipt says was edited.
    began: digests that the receipt says it began with; the run's by default.
  """
  shutil.copytree(
    source, out, ignore=shutil.ignore_patterns("receipts", "partial")
  )
  (out / "checkpoints" / "3").rename(out / "checkpoints" / "9")
  if place is None:
    alive = change_rows(item_of(out, 9), [])
    place = tuple(np.argwhere(alive)[0])
  change_rows(item_of(out, 9), [place])
  before = scan.scan(item_of(source), config, [])
  after = scan.scan(item_of(out, 9), config, [])
  earlier = receipt.chain(source)[-1].predicate
  step = receipt.StepRecord(
    step=9,
    arrays=tuple(
      receipt.ArrayRecord(
        name=array.name,
        shape=array.shape,
        data_type=array.data_type,
        before=(began or before.digests)[array.name],
        after=after.digests[array.name],
      )
      for array in after.arrays
    ),
    edited=edited,
    rows_zeroed=((0, 0), (0, 0)),
  )
  facts = receipt.Facts(
    action="repair",
    steps=(step,),
    assignment=earlier["assignment"],
    sources=(),
    optimizer="kept",
    ledger_fingerprint=earlier["ledgerFingerprint"]["sha256"],
    reference=None,
    time=datetime.datetime.now(datetime.UTC),
    not_reached=(),
  )
  receipt.write(out, facts, previous=source)


def test_erase_repair_erase(make_run, keys, tmp_path):
  run = make_run()
  first, repaired, last = (tmp_path / name for name in "abc")
  erase.erase(run.path, first, keys[:2])
  repair(first, repaired, run.config)
  erase.erase(repaired, last, keys[5:6])
  for out, source, rest in (
    (repaired, first, "34 arrays are equal but for these rows; 1 trained"),
    (last, repaired, "35 arrays are equal but for these rows"),
    (last, first, "34 arrays are equal but for these rows; 1 trained"),
    (last, run.path, "34 arrays are equal but for these rows; 1 trained"),
  ):
    found = verify.verify(out, source=source)
    assert found.verified, found.checks
    assert checks(found)["rest"].detail.startswith(rest)
  assert "rows of 3 sources are zero" in checks(found)["rows"].detail
  assert [one.predicate["action"] for one in receipt.chain(last)] == [
    "erase",
    "repair",
    "erase",
  ]


def test_a_repair_that_brought_a_row_back(make_run, keys, tmp_path):
  run = make_run()
  erase.erase(run.path, tmp_path / "a", keys[:1])
  words = assignment.routing_words(
    run.config,
    np.asarray([assignment.source_id(keys[0])], np.uint64),
    np.asarray([1]),
  )
  row = int(assignment.rows(run.config, words, 0)[0, 0, 0])
  repair(tmp_path / "a", tmp_path / "b", run.config, place=(0, 0, row))
  found = verify.verify(tmp_path / "b")
  assert [check.name for check in found.failures] == ["rows"]
  assert f"layer 0, stratum 0, row {row})" in found.failures[0].detail


def test_a_repair_changes_sinks_only(make_run, keys, tmp_path):
  run, norm = make_run(), "params.norm.scale"
  erase.erase(run.path, tmp_path / "a", keys[:1])
  began = dict(scan.scan(item_of(tmp_path / "a"), run.config, []).digests)
  began[norm] = "0" * 64
  repair(
    *(tmp_path / "a", tmp_path / "b", run.config),
    **{"edited": (SINKS, norm), "began": began},
  )
  (check,) = verify.verify(tmp_path / "b").failures
  assert check.name == "receipts"
  assert f"{norm} has another digest, and a repair trains" in check.detail
  assert "it began with no step that 0001-" in check.detail


# -- The command


def test_the_command(make_run, keys, tmp_path, capsys):
  out = tmp_path / "out"
  redaction.Erase(
    checkpoint=make_run().path,
    out=out,
    source=keys[:2],
    reference="case 3",
    name_keys=True,
  ).run()
  said = capsys.readouterr().out
  assert "step 3, 2 sources erased" in said
  assert f"receipt: {out}/receipts/0001-" in said
  assert "not reached: " in said
  (one,) = receipt.chain(out)
  assert [source["key"] for source in one.predicate["sources"]] == list(
    keys[:2]
  )

  redaction.Verify(output=out, receipt=one.path).run()
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1] == "verified"
  assert all(line.startswith("ok  ") for line in lines[:-1])

  one.sibling(".html").unlink()
  with pytest.raises(SystemExit, match=r"^3$"):
    redaction.Verify(output=out, json=True).run()
  found = json.loads(capsys.readouterr().out)
  assert found["verified"] is False
  assert [
    check["name"] for check in found["checks"] if not check["passed"]
  ] == ["pages"]

  redaction.ReceiptPage(receipt=one.path, to=one.sibling(".html")).run()
  capsys.readouterr()
  redaction.Verify(output=out / "checkpoints" / "3").run()
  assert capsys.readouterr().out.endswith("\nverified\n")


def test_there_must_be_something_to_verify(make_run, keys, tmp_path):
  run = make_run()
  out = tmp_path / "out"
  erase.erase(run.path, out, keys[:1])
  for arguments, options, message in (
    ((tmp_path / "none",), {}, r"none does not exist; give a redacted run"),
    ((run.path,), {}, r"run has no receipts/, so nothing was erased there"),
    ((out,), {"source": tmp_path / "no"}, r"no does not exist; mend"),
    ((out,), {"receipt_path": tmp_path / "x"}, r"x does not exist; mend"),
    ((out,), {"public_key": tmp_path / "x"}, r"x: the public key cannot be"),
    ((out,), {"public_key": out / "config.json"}, r"is no public key in PEM"),
  ):
    with pytest.raises(errors.UserError, match=message):
      verify.verify(*arguments, **options)


def test_needs_no_jax(make_run, keys, tmp_path):
  """Neither to verify nor to apply a patch; the command line included."""
  out, patch = tmp_path / "out", tmp_path / "patch"
  erase.erase(make_run().path, out, keys[:1])
  code = """
    import sys, pathlib
    from nulls_jax.commands import redaction
    out, patch, run, new = map(pathlib.Path, sys.argv[1:])
    redaction.ExportPatch(output=out, to=patch).run()
    redaction.ApplyPatch(file=patch, checkpoint=run, out=new).run()
    redaction.Verify(output=new, checkpoint=run).run()
    print({name.partition(".")[0] for name in sys.modules}
          & {"jax", "jaxlib", "flax", "orbax", "optax"})
    """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)]
    + [str(path) for path in (out, patch, make_run().path, tmp_path / "new")],
    capture_output=True,
    text=True,
    timeout=120,
  )
  lines = done.stdout.splitlines()
  assert (done.returncode, done.stderr) == (0, "")
  assert lines[-2:] == ["verified", "set()"]


def test_a_ledger_of_another_run(make_run, keys, tmp_path):
  out = tmp_path / "out"
  erase.erase(make_run().path, out, keys[:1])
  pathlib.Path(out / "ledger.sqlite").unlink()
  with ledger_writing.Writer.create(out / "ledger.sqlite") as sources:
    sources.add_documents((key, 1, {}) for key in keys[:4])
  made = checks(verify.verify(out))
  assert made["ledger"].detail == "ledger.sqlite is the ledger of another run"
  (out / "ledger.sqlite").unlink()
  made = checks(verify.verify(out))
  assert "ledger.sqlite does not exist" in made["ledger"].detail
  assert not made["ledger"].passed
