"""Held-out splits: the same for any order, and as large as was asked."""

import hashlib
import json
import subprocess
import sys

import pytest

from nulls_jax import errors
from nulls_jax.data import splits
from nulls_jax.data.reading import inputs

# Of one letter for each document: t, s, d; `test_golden_draw` makes it.
GOLDEN = "a271cf6bcdb688e02de0db3ef72f54a0fed1cd29cf13277cf10c623090deacd7"
DOCUMENTS = [(f"source {n % 400}", f"text {n}") for n in range(4000)]


def test_golden_draw():
  """Never changes: a later dataset holds the same documents out."""
  held = splits.Splits(sources=0.1, documents=0.05)
  found = "".join(held.of(*document)[0] for document in DOCUMENTS)
  assert hashlib.sha256(found.encode()).hexdigest() == GOLDEN
  code = (
    "from nulls_jax.data import splits\n"
    "held = splits.Splits(sources=0.1, documents=0.05)\n"
    "print(held.of('source 3', 'text 3'), held.of('', 'text'))"
  )
  # Another process, with another seed of Python's own hash.
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout
  assert out.split() == [held.of("source 3", "text 3"), held.of("", "text")]


def test_shares():
  held = splits.Splits(sources=0.2, documents=0.1)
  found = [held.of(*document) for document in DOCUMENTS]
  sources = {
    source
    for (source, _), where in zip(DOCUMENTS, found, strict=True)
    if where == splits.SOURCE
  }
  # Standard deviations: 8 of 400 sources, 17 of 3,200 documents.
  assert abs(len(sources) - 80) < 4 * 8
  for (source, _), where in zip(DOCUMENTS, found, strict=True):
    assert (where == splits.SOURCE) == (source in sources)
  rest = len(DOCUMENTS) - found.count(splits.SOURCE)
  assert abs(found.count(splits.DOCUMENT) - 0.1 * rest) < 4 * 17


def test_a_larger_share_holds_the_same_out_and_more():
  small = splits.Splits(sources=0.05, documents=0.05)
  large = splits.Splits(sources=0.05, documents=0.3)
  for document in DOCUMENTS:
    if small.of(*document) != splits.TRAIN:
      assert large.of(*document) == small.of(*document)
  sources = [
    {
      source
      for source, text in DOCUMENTS
      if splits.Splits(sources=share).of(source, text) == splits.SOURCE
    }
    for share in (0.05, 0.06, 0.5)
  ]
  assert sources[0] <= sources[1] < sources[2]


def test_documents_without_a_source_are_held_out_by_text():
  held = splits.Splits(sources=0.9, documents=0.5)
  found = {held.of("", f"text {n}") for n in range(50)}
  assert found == {splits.TRAIN, splits.PUBLIC}


def test_equal_texts_of_a_source_go_the_same_way_and_names_do_not_run_on():
  # ("ab", "c") and ("a", "bc") are drawn apart.
  ab = [splits.is_held_out(0.5, f"{n}ab", "c") for n in range(64)]
  a = [splits.is_held_out(0.5, f"{n}a", "bc") for n in range(64)]
  assert ab != a
  assert ab == [splits.is_held_out(0.5, f"{n}ab", "c") for n in range(64)]


def test_nothing_is_held_out_unless_asked():
  held = splits.Splits()
  assert not held
  assert {held.of(*document) for document in DOCUMENTS} == {splits.TRAIN}
  assert splits.Splits(documents=0.01)
  assert splits.Splits(sources=0.01)


def test_a_source_without_trained_documents_is_held_out():
  assert splits.placed(splits.DOCUMENT, is_trained=False) == splits.SOURCE
  assert splits.placed(splits.DOCUMENT, is_trained=True) == splits.DOCUMENT
  assert splits.placed(splits.SOURCE, is_trained=False) == splits.SOURCE
  assert splits.placed(splits.PUBLIC, is_trained=False) == splits.PUBLIC


def test_lines_are_documents_again(tmp_path):
  written = [
    ("a key\nwith 'signs'", "Ein Text.\u2028Zwei\x01 Zeilen.\n", {"year": 3}),
    ("b", "\U0001f600", {"odd": "\ud800", "list": [1, None]}),
  ]
  path = tmp_path / "held_out.jsonl"
  path.write_bytes(b"".join(splits.to_line(*one) for one in written))
  found = [(d.source, d.text, d.metadata) for d in inputs.read_documents(path)]
  assert found == written
  assert len(path.read_bytes().splitlines()) == 2
  assert json.loads(path.read_bytes().splitlines()[0])["year"] == 3


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_bad_shares(share):
  for name in ("sources", "documents"):
    with pytest.raises(errors.UserError, match=f"share of {name} to hold out"):
      splits.Splits(**{name: share})
