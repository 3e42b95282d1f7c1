"""Readers: what a document is, and one clear line for what is none."""

import gzip
import json

import pytest

from nulls_jax import errors
from nulls_jax.data import readers


def _write(tmp_path, content, name="documents.jsonl"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def test_documents_with_metadata(tmp_path):
  path = _write(
    tmp_path,
    '{"source": "ä b", "text": " x\\n", "title": "T", "year": 3}\n'
    '{"text": "no line end", "source": "c"}',
  )
  first, second = readers.read_documents(path)
  assert (first.source, first.text) == ("ä b", " x\n")
  assert first.metadata == {"title": "T", "year": 3}
  assert first.where == f"{path}:1"
  assert (second.source, second.metadata) == ("c", {})


def test_gzip_reads_the_same(tmp_path):
  line = b'{"source": "a", "text": "t"}\n'
  path = _write(tmp_path, gzip.compress(line * 3), "documents.jsonl.gz")
  assert [d.source for d in readers.read_documents(path)] == ["a"] * 3


GOOD = b'{"source": "a", "text": "t"}\n'
BAD_LINES = {
  "not JSON": b"source: a",
  "not readable JSON": b'{"text": ' + b"1" * 5000 + b"}",
  "not a JSON object but list": b'["a", "t"]',
  "no text": b'{"source": "a"}',
  "text is empty": b'{"source": "a", "text": " \\n"}',
  "text is not a string but int": b'{"source": "a", "text": 3}',
  "text is not valid Unicode": b'{"source": "a", "text": "\\ud800"}',
  "no source": b'{"text": "t"}',
  "source is not a string but int": b'{"source": 7, "text": "t"}',
  "source key is longer than 4096 bytes": json.dumps(
    {"source": "ä" * 2049, "text": "t"}
  ).encode(),
  "source key is not valid Unicode": b'{"source": "\\udfff", "text": "t"}',
  "not UTF-8": b'{"source": "a", "text": "\xff"}',
  "empty line": b"",
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_bad_line_names_its_place(tmp_path, reason):
  path = _write(tmp_path, GOOD + BAD_LINES[reason] + b"\n" + GOOD)
  with pytest.raises(
    errors.UserError, match=f"documents.jsonl:2: {reason}.*;"
  ) as caught:
    list(readers.read_documents(path))
  assert "\n" not in str(caught.value)


def test_refusals_are_counted_by_reason(tmp_path):
  bad = [*BAD_LINES.values(), BAD_LINES["no text"]]
  path = _write(tmp_path, GOOD + b"\n".join(bad) + b"\n" + GOOD)
  refusals = readers.Refusals()
  assert len(list(readers.read_documents(path, refusals=refusals))) == 2
  assert refusals.total == len(bad)
  assert refusals.counts["no text"] == 2
  # Reasons are a fixed few, never parts of the text.
  assert len(refusals.counts) == len(BAD_LINES)
  assert f"{path}:5: no text" in refusals.first["no text"]


def test_key_of_just_4096_bytes(tmp_path):
  line = json.dumps({"source": "ä" * 2048, "text": "t"})
  (document,) = readers.read_documents(_write(tmp_path, line))
  assert len(document.source) == 2048


@pytest.mark.parametrize("source", ['"source": "", ', '"source": null, ', ""])
def test_no_source_only_on_demand(tmp_path, source):
  path = _write(tmp_path, "{" + source + '"text": "t"}\n')
  with pytest.raises(errors.UserError, match=r"no source.*--allow-no-source"):
    list(readers.read_documents(path))
  (document,) = readers.read_documents(path, allow_no_source=True)
  assert document.source == ""


def test_missing_empty_and_directory(tmp_path):
  with pytest.raises(errors.UserError, match=r"absent\.jsonl does not exist"):
    list(readers.read_documents(tmp_path / "absent.jsonl"))
  with pytest.raises(errors.UserError, match=r"documents\.jsonl is empty"):
    list(readers.read_documents(_write(tmp_path, "")))
  with pytest.raises(errors.UserError, match="is a directory"):
    list(readers.read_documents(tmp_path))


def test_damaged_gzip_raises_even_when_refusing(tmp_path):
  lines = b"".join(
    b'{"source": "%d", "text": "%d"}\n' % (i, i * i) for i in range(5000)
  )
  whole = gzip.compress(lines)
  cut = _write(tmp_path, whole[:-20], "cut.jsonl.gz")
  with pytest.raises(errors.UserError, match=r"cut\.jsonl\.gz:\d+: damaged"):
    list(readers.read_documents(cut, refusals=readers.Refusals()))
  plain = _write(tmp_path, GOOD, "plain.jsonl.gz")
  with pytest.raises(errors.UserError, match=r"plain\.jsonl\.gz:1: damaged"):
    list(readers.read_documents(plain))


def test_keys(tmp_path):
  path = _write(tmp_path, "person/A B\n\n ä \r\nperson/A B\nlast", "keys.txt")
  assert readers.read_keys(path) == ["person/A B", " ä ", "last"]


def test_bad_keys(tmp_path):
  with pytest.raises(errors.UserError, match="holds no key"):
    readers.read_keys(_write(tmp_path, "\n\n", "keys.txt"))
  with pytest.raises(errors.UserError, match=r"keys\.txt:2: not UTF-8"):
    readers.read_keys(_write(tmp_path, b"a\n\xff\n", "keys.txt"))
  with pytest.raises(errors.UserError, match=r"keys\.txt:1: source key is lon"):
    readers.read_keys(_write(tmp_path, "a" * 4097, "keys.txt"))
  with pytest.raises(errors.UserError, match="does not exist"):
    readers.read_keys(tmp_path / "absent")
