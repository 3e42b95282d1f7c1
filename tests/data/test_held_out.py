"""Held-out documents of a preparation: out of rows and tokenizer, counted."""

import collections
import json

import numpy as np
import pytest

from nulls_jax.data import ledger, splits, stored_rows, tokenizer
from nulls_jax.data.preparation import dataset
from nulls_jax.data.reading import documents as documents_lib
from nulls_jax.data.reading import inputs as inputs_lib

FLAGS = (
  *("--data.row-length=64", "--data.tile=16", "--data.vocab-size=320"),
  "--allow-no-source",
)
SHARES = ("--hold-out-sources=0.2", "--hold-out-documents=0.3")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Forty sources of one to eight documents, and some of no source."""
  draw = np.random.default_rng(0)
  words = ["river", "stone", "tower", "garden", "old", "new", "the", "of"]
  lines = []
  for number in range(200):
    key = f"key {int(draw.integers(40))}" if number % 10 else ""
    text = " ".join(draw.choice(words, 8)) + f" {number}."
    lines.append(json.dumps({"source": key, "text": text, "n": number}) + "\n")
  path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
  path.write_text("".join(lines))
  return path


def _read(path):
  found = inputs_lib.open([path], inputs_lib.Settings(allow_no_source=True))
  refusals = documents_lib.Refusals()
  return [
    document
    for block in found.blocks(2**30)
    for document in found.documents(block, refusals)
  ]


@pytest.fixture
def prepared(corpus, tmp_path, nulls):
  out = tmp_path / "set"
  status, said, err = nulls(
    *("prepare", "--documents", corpus, "--out", out, "--workers=1"),
    *FLAGS,
    *SHARES,
  )
  assert (status, err) == (0, "")
  return dataset.Prepared.open(out, verify=True), said


def test_every_document_is_in_the_rows_or_in_a_file(corpus, prepared):
  prepared, said = prepared
  held = splits.Splits(sources=0.2, documents=0.3)
  kinds = {d.text: held.of(d.source, d.text) for d in _read(corpus)}
  with ledger.Ledger.open(prepared.ledger_path) as book:
    trained = {source.key for source in book}
    counted = sum(source.num_documents for source in book)
  own = {
    kind: _read(prepared.directory / name)
    for kind, name in splits.FILES.items()
    if (prepared.directory / name).exists()
  }
  # As they were: text, source, metadata, each in one file, in their order.
  everything = {d.text: (d.source, d.metadata) for d in _read(corpus)}
  found = [d.text for kind in own for d in own[kind]]
  assert sorted(found) == sorted(t for t in kinds if kinds[t] != splits.TRAIN)
  for kind, some in own.items():
    places = [list(everything).index(d.text) for d in some]
    assert places == sorted(places)
    for document in some:
      assert everything[document.text] == (document.source, document.metadata)
      if kind != splits.PUBLIC:
        is_trained = document.source in trained
        assert is_trained == (kind == splits.DOCUMENT)
  # All documents of one source, held out one by one, make it held out.
  moved = [d for d in own[splits.SOURCE] if kinds[d.text] == splits.DOCUMENT]
  assert moved
  # The rows hold the rest and nothing else.
  model = tokenizer.Tokenizer.load(prepared.tokenizer_path)
  in_rows = collections.Counter()
  with stored_rows.Rows(prepared) as rows:
    tokens, documents, _ = rows.read(np.arange(rows.num_rows))
  for row, numbers in zip(tokens, documents, strict=True):
    for number in range(1, int(numbers.max()) + 1):
      text = row[np.repeat(numbers == number, 16)]
      in_rows[model.decode(text[text != 0].tolist())] += 1
  rest = [text for text, kind in kinds.items() if kind == splits.TRAIN]
  assert in_rows == collections.Counter(rest)
  counts = prepared.manifest["counts"]
  no_source = [d for d in _read(corpus) if not d.source]
  assert counted == len(rest) - sum(
    kinds[d.text] == splits.TRAIN for d in no_source
  )
  assert counts["documents_in"] == 200
  assert counts["documents_out"] == len(rest)
  assert counts["documents_held_out"] == 200 - len(rest)
  expected = {kind: len(own.get(kind, ())) for kind in splits.FILES}
  assert prepared.manifest["held_out"] == {
    "shares": {"sources": 0.2, "documents": 0.3},
    "documents": expected,
  }
  line = f"held out: {expected['source']} documents of untrained sources, "
  assert line in said


def test_workers_and_shards_change_nothing(corpus, prepared, tmp_path, nulls):
  prepared, _ = prepared
  model = prepared.tokenizer_path
  # Blocks of some lines, so that there is something to share out.
  more = (*FLAGS, *SHARES, "--data.block-bytes=2000", "--tokenizer", model)
  for name, workers in (("one", 1), ("two", 2)):
    status, _, err = nulls(
      *("prepare", "--documents", corpus, "--out", tmp_path / name),
      *more,
      f"--workers={workers}",
    )
    assert (status, err) == (0, "")
  for shard in range(3):
    status, _, err = nulls(
      *("prepare", "--documents", corpus, "--out", tmp_path / "shards"),
      *more,
      *("--workers=1", "--shard", f"{shard}/3"),
    )
    assert (status, err) == (0, "")
  merge = ("prepare", "merge", "--out", tmp_path / "shards", "--workers=1")
  assert nulls(*merge)[0] == 0
  one = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
  assert set(splits.FILES.values()) <= set(one)
  for name in ("two", "shards"):
    found = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    assert found == one
  # And the block has nothing to do with what is held out.
  for name in splits.FILES.values():
    assert one[name] == (prepared.directory / name).read_bytes()


def test_nothing_is_held_out_unless_asked(corpus, tmp_path, nulls, refused):
  out = ("--out", tmp_path / "set", "--workers=1")
  documents = ("prepare", "--documents", corpus)
  assert nulls(*documents, *out, *FLAGS)[0] == 0
  manifest = dataset.Prepared.open(tmp_path / "set").manifest
  assert "held_out" not in manifest
  assert "documents_held_out" not in manifest["counts"]
  assert manifest["counts"]["documents_out"] == 200
  assert "other documents or settings" in refused(
    *documents, *out, *FLAGS, *SHARES
  )
  assert "share of documents to hold out is 1.0" in refused(
    *documents, "--out", tmp_path / "x", *FLAGS, "--hold-out-documents=1"
  )
