"""Receipts: canonical statements, their schema, names, pages and chain."""

import datetime
import hashlib
import itertools
import json
import os
import re

import jsonschema
import pytest

from nulls_jax import errors
from nulls_jax.unlearning.receipts import guarantee, receipt
from nulls_jax.unlearning.receipts import page as receipt_page

BEFORE, AFTER = "ab" * 32, "cd" * 32
TABLE = "params.layers.sinks.table"


def facts(**changes):
  """Return facts of an erasure with a dropped, an edited and a kept array."""
  arrays = tuple(
    receipt.ArrayRecord(
      name=name, shape=(2, 3), data_type="float32", before=before, after=after
    )
    for name, before, after in (
      ("step", BEFORE, BEFORE),
      (TABLE, BEFORE, AFTER),
      ("opt_state.mu", BEFORE, None),
    )
  )
  step = receipt.StepRecord(
    step=7, arrays=arrays, edited=(TABLE,), rows_zeroed=((3, 4), (5, 6))
  )
  source = receipt.SourceRecord(
    id=0xFEDCBA9876543210, index=3, key=None, was_erased=False
  )
  values = {
    "action": "erase",
    "steps": (step,),
    "assignment": {"kind": "hashed", "version": 1, "seed": 7},
    "sources": (source,),
    "optimizer": "dropped",
    "ledger_fingerprint": "ef" * 32,
    "reference": "Akte 7/2026 <ü>",
    "time": datetime.datetime(
      2026, 3, 4, 5, 6, 7, 89, datetime.timezone(datetime.timedelta(hours=1))
    ),
    "not_reached": ("The backups.", "The <exports>."),
  }
  return receipt.Facts(**{**values, **changes})


def make_run(path):
  (path / "checkpoints" / "7").mkdir(parents=True)
  (path / "config.json").write_text("{}")
  (path / "checkpoints" / "7" / "data").write_bytes(b"rows")
  (path / "revocations.jsonl").write_text("")
  return path


@pytest.fixture
def run(tmp_path):
  return make_run(tmp_path / "run")


@pytest.fixture
def chained(run, tmp_path):
  """A run with three receipts."""
  receipt.write(run, facts(), previous=None)
  for name in ("second", "third"):
    following = make_run(tmp_path / name)
    receipt.write(following, facts(), previous=run)
    run = following
  return run


def test_the_statement(run):
  path = receipt.write(run, facts(), previous=None)
  statement = json.loads(path.read_bytes())
  assert statement["_type"] == "https://in-toto.io/Statement/v1"
  assert statement["predicateType"].startswith("urn:uuid:")
  digest = hashlib.sha256(b"rows").hexdigest()
  assert statement["subject"] == [
    {"name": "checkpoints/7/data", "digest": {"sha256": digest}},
    {
      "name": f"checkpoints/7/state/{TABLE}",
      "digest": {"nullsArrayV1": AFTER},
    },
    {"name": "checkpoints/7/state/step", "digest": {"nullsArrayV1": BEFORE}},
    {
      "name": "config.json",
      "digest": {"sha256": hashlib.sha256(b"{}").hexdigest()},
    },
  ]
  predicate = statement["predicate"]
  assert predicate["time"] == "2026-03-04T04:06:07Z"
  assert predicate["sources"] == [
    {"id": "fedcba9876543210", "index": 3, "wasErased": False}
  ]
  assert predicate["number"] == 1 and predicate["previous"] is None
  (step,) = predicate["steps"]
  assert step["rowsZeroed"] == [[3, 4], [5, 6]]
  assert (step["numRowsZeroed"], step["numArraysUntouched"]) == (18, 1)
  assert [array["name"] for array in step["arrays"]] == [
    "opt_state.mu",
    TABLE,
    "step",
  ]
  assert step["arrays"][0]["after"] is None
  assert "can recompute its id" in predicate["definitions"]["sources"]


def test_bytes_are_canonical(run, tmp_path):
  path = receipt.write(run, facts(), previous=None)
  content = path.read_bytes()
  again = receipt.write(make_run(tmp_path / "x"), facts(), previous=None)
  assert again.read_bytes() == content and again.name == path.name
  assert path.name == f"0001-{hashlib.sha256(content).hexdigest()[:16]}.json"
  assert content.endswith(b"}\n") and content.count(b"\n") == 1
  assert "Akte 7/2026 <ü>".encode() in content
  statement = json.loads(content)
  assert receipt.encode(dict(reversed(statement.items()))) == content


def test_keys_only_where_they_are_given(run):
  source = receipt.SourceRecord(id=1, index=1, key="a <key>", was_erased=True)
  path = receipt.write(run, facts(sources=(source,)), previous=None)
  assert receipt.read(path).predicate["sources"] == [
    {
      "id": f"{1:016x}",
      "index": 1,
      "key": "a <key>",
      "wasErased": True,
    }
  ]
  page = path.with_suffix(".html").read_text()
  assert "a &lt;key&gt;" in page and "1 of them had been erased" in page


def test_the_chain(chained):
  receipts = receipt.chain(chained)
  assert [one.number for one in receipts] == [1, 2, 3]
  for earlier, later in itertools.pairwise(receipts):
    digest = hashlib.sha256(earlier.path.read_bytes()).hexdigest()
    assert later.predicate["previous"] == {
      "name": earlier.path.name,
      "sha256": digest,
    }
  names = sorted(path.name for path in (chained / "receipts").iterdir())
  assert names == sorted(
    one.path.stem + suffix for one in receipts for suffix in (".json", ".html")
  )


def test_a_run_without_receipts(run):
  assert receipt.chain(run) == ()


def drop(receipts):
  receipts[1].path.unlink()


def drop_with_page(receipts):
  receipts[1].path.unlink()
  receipts[1].sibling(".html").unlink()


def edit(receipts):
  path = receipts[1].path
  path.write_bytes(receipts[1].content.replace(b"Akte 7", b"Akte 8"))


def edit_and_rename(receipts):
  content = receipts[1].content.replace(b"Akte 7", b"Akte 8")
  digest = hashlib.sha256(content).hexdigest()[:16]
  receipts[1].path.unlink()
  receipts[1].sibling(".html").unlink()
  receipts[1].path.with_name(f"0002-{digest}.json").write_bytes(content)


def rename(receipts):
  path = receipts[1].path
  for suffix in (".json", ".html"):
    old = receipts[1].sibling(suffix)
    old.rename(path.with_name(f"0002-{'0' * 16}{suffix}"))


def reformat(receipts):
  path = receipts[1].path
  path.write_text(json.dumps(receipts[1].statement, indent=2))


def add(receipts):
  (receipts[0].path.parent / "note.txt").write_text("")


def twice(receipts):
  path = receipts[0].path.with_name(f"0001-{'0' * 16}.json")
  path.write_bytes(receipts[0].content)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (drop, r"holds what is no receipt: 0002-\w+\.html"),
    (drop_with_page, r"receipts 1, 3 are there, and one between or before is"),
    (edit, r"0002-\w+\.json was edited: by its content its name is 0002-"),
    (
      edit_and_rename,
      r"0003-\w+\.json: the chain is broken: its predecessor is 0002-(\w+)"
      r"\.json, and 0002-(?!\1)\w+\.json is there",
    ),
    (rename, r"0002-0000000000000000\.json was edited: by its content"),
    (reformat, r"0002-\w+\.json was edited: its bytes are not the canonical"),
    (add, r"receipts holds what is no receipt: note\.txt"),
    (twice, r"holds what is no receipt: 0001-\w+\.(html|json)"),
  ],
)
def test_a_broken_chain(damage, message, chained, tmp_path):
  damage(receipt.chain(chained))
  with pytest.raises(errors.UserError, match=message):
    receipt.chain(chained)
  # It is not gone on with, either.
  following = make_run(tmp_path / "fourth")
  with pytest.raises(errors.UserError, match=message):
    receipt.write(following, facts(), previous=chained)
  assert not (following / "receipts").exists()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda one: one.pop("subject"), r"\$: 'subject' is a required property"),
    (lambda one: one.update(_type="x"), r"\$\['_type'\]: .*was expected"),
    (lambda one: one.update(more=1), r"\$: Additional properties .*'more'"),
    (
      lambda one: one["predicate"].update(time="yesterday"),
      r"\$\.predicate\.time: 'yesterday' does not match",
    ),
    (
      lambda one: one["predicate"]["sources"][0].update(id="12"),
      r"\$\.predicate\.sources\[0\]\.id: '12' does not match",
    ),
    (
      lambda one: one["predicate"]["steps"][0]["arrays"][0].pop("before"),
      r"arrays\[0\]: 'before' is a required property",
    ),
    (
      lambda one: one["predicate"].update(format=2),
      r"\$\.predicate\.format: 1 was expected",
    ),
  ],
)
def test_what_does_not_fit_the_schema(change, message, run):
  path = receipt.write(run, facts(), previous=None)
  statement = json.loads(path.read_bytes())
  change(statement)
  path.write_bytes(receipt.encode(statement))
  with pytest.raises(errors.UserError, match=message):
    receipt.read(path)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, r"cannot be read \(No such file"),
    (b"", r"is no receipt: not JSON"),
    (b"\xff\xfe{}", r"is no receipt"),
    (b"[" * 100_000, r"is no receipt"),
    (b'{"a":"\\ud800"}\n', r"is no receipt"),
    (b"[]\n", r"is no receipt of format 1: \$: \[\] is not of type 'object'"),
  ],
)
def test_what_is_no_receipt(content, message, tmp_path):
  path = tmp_path / "file.json"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.UserError, match=message) as caught:
    receipt.read(path)
  assert "\n" not in str(caught.value)


def test_the_schema_is_a_schema():
  schema = receipt.schema_validator().schema
  jsonschema.Draft202012Validator.check_schema(schema)
  # The predicate's type leads to it.
  kind = schema["properties"]["predicateType"]["const"]
  assert kind.partition("#")[0] == schema["$id"]


def test_a_time_without_a_zone_is_a_defect(run):
  with pytest.raises(ValueError, match="has no time zone"):
    receipt.write(run, facts(time=datetime.datetime(2026, 1, 1)), previous=None)


def test_a_full_disk(run, monkeypatch):
  def full(_):
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(errors.MachineError, match="receipts: cannot be written"):
    receipt.write(run, facts(), previous=None)


def test_the_page_says_all_that_a_person_needs(run):
  path = receipt.write(run, facts(), previous=None)
  page = path.with_suffix(".html").read_text()
  for text in (
    "1 source erased from 1 checkpoint",
    "2026-03-04 04:06:07 UTC",
    "Akte 7/2026 &lt;ü&gt;",
    path.name,
    receipt.read(path).sha256,
    "fedcba9876543210",
    "The backups.",
    "The &lt;exports&gt;.",
    "The optimiser's state was dropped",
    f"nulls verify RUN --receipt {path.name}",
    "This is not exact unlearning",
    "other sources that shared a row",
    BEFORE,
    AFTER,
  ):
    assert text in page, text
  # Nothing is loaded from elsewhere.
  assert not re.search(r"(?:src|href|url|@import)\s*[=(]", page)


def test_the_page_names_only_so_many(run):
  sources = tuple(
    receipt.SourceRecord(id=number, index=number, key=None, was_erased=False)
    for number in range(1, 1001)
  )
  path = receipt.write(run, facts(sources=sources), previous=None)
  page = path.with_suffix(".html").read_text()
  assert "1,000 sources erased" in page
  assert "and 960 more, which the receipt's file lists." in page
  assert len(receipt.read(path).predicate["sources"]) == 1000


def test_the_layout_of_a_page_is_pinned():
  """A change that shows in a page needs the next `receipt_page.FORMAT`.

  Then put the new digest here.
  """
  from nulls_jax.unlearning.receipts import statement

  made = statement.build(facts(), {"config.json": BEFORE}, 1, None)
  for name in ("guarantee", "limits"):
    made["predicate"][name] = ["words"]
  made["predicate"]["definitions"] = dict.fromkeys(
    guarantee.DEFINITIONS, "words"
  )
  made["predicate"]["tool"]["version"] = "0"
  page = receipt_page.render(made, "0001-x.json", AFTER)
  assert (receipt_page.FORMAT, hashlib.sha256(page.encode()).hexdigest()) == (
    1,
    "622b7c8da4763a0858b0a63c824aba1ad3d77267b7ea2967fc30067f13788b3e",
  )


def test_a_repair_promises_other_things(run):
  path = receipt.write(run, facts(action="repair", sources=()), previous=None)
  page = path.with_suffix(".html").read_text()
  assert "Receipt of a repair after an erasure" in page
  assert "trained again" in page and "Whose" not in page


def test_limits_fit_the_assignment():
  hashed, dedicated = (
    " ".join(guarantee.limits("erase", kind))
    for kind in ("hashed", "dedicated")
  )
  assert "have lost that row" in hashed and "has lost a row" not in hashed
  assert "no other source has lost a row" in dedicated
