"""Selections: whole or not there, of one ledger, and nothing taken unasked."""

import json

import pytest

from nulls_jax import errors
from nulls_jax.data import ledger, selection

PRINT = "ab" * 32
KEYS = ("plain", "two\nlines", "Zoë 東京", " spaces ", "{", "k" * 4096)


def _source(key, index=1, status="active", **metadata):
  return ledger.Source(
    index=index,
    id=2**64 - index,
    key=key,
    num_documents=2,
    num_tokens=30,
    metadata=metadata,
    status=status,
  )


def _write(path, sources=(), candidates=(), complete=True):
  with selection.Writer(path, PRINT, {"quote": "a b"}) as writer:
    for source in sources:
      writer.add(selection.entry(source, share=1.0))
    writer.finish(map(selection.entry, candidates), complete)
  return path


def test_what_is_written(tmp_path):
  path = _write(
    tmp_path / "new" / "found.json",
    [_source("Zoë"), _source("b", 2, site="x", odd="\ud800")],
    [_source("c", 3)],
    complete=False,
  )
  assert [p.name for p in path.parent.iterdir()] == ["found.json"]
  # One source a line, readable and comparable.
  assert '"key": "Zoë"' in path.read_text().splitlines()[5]
  found = json.loads(path.read_text())
  assert found.pop("sources")[0] == {
    "key": "Zoë",
    "id": "ffffffffffffffff",
    "index": 1,
    "num_documents": 2,
    "num_tokens": 30,
    "status": "active",
    "metadata": {},
    "share": 1.0,
  }
  assert [one["key"] for one in found.pop("candidates")] == ["c"]
  assert found == {
    "format": "nulls selection 1",
    "ledger_fingerprint": PRINT,
    "query": {"quote": "a b"},
    "complete": False,
  }


def test_keys_come_back(tmp_path):
  sources = [_source(key, index) for index, key in enumerate(KEYS, start=1)]
  path = _write(tmp_path / "any.name", [*sources, sources[0]])
  assert selection.read_keys(path) == list(KEYS)
  assert selection.read_keys(path, PRINT) == list(KEYS)
  assert selection.read_keys(path, lambda: PRINT) == list(KEYS)


def test_candidates_and_erased_sources_are_not_taken(tmp_path):
  erased = _source(None, 3, "erased")
  path = _write(tmp_path / "a", [erased, _source("a")], [_source("b")])
  assert selection.read_keys(path) == ["a"]
  path = _write(tmp_path / "b", [], [_source("b")])
  with pytest.raises(errors.UserError, match="no source, only 1 candidates"):
    selection.read_keys(path)
  path = _write(tmp_path / "c", [erased])
  with pytest.raises(errors.UserError, match="all of it were erased already"):
    selection.read_keys(path)
  with pytest.raises(errors.UserError, match="no source; run `nulls find`"):
    selection.read_keys(_write(tmp_path / "d"))


def test_the_selection_of_another_ledger(tmp_path):
  path = _write(tmp_path / "found.json", [_source("a")])
  with pytest.raises(
    errors.UserError, match=r"another ledger \(fingerprint abababababab, not 77"
  ):
    selection.read_keys(path, "77" * 32)
  fields = {"format": selection.FORMAT, "sources": [{"key": "a"}]}
  path.write_text(json.dumps(fields))
  assert selection.read_keys(path) == ["a"]
  with pytest.raises(errors.UserError, match="another ledger"):
    selection.read_keys(path, PRINT)


def test_keys_one_a_line(tmp_path):
  path = tmp_path / "keys.txt"
  path.write_bytes('{"a": 1}\r\n\n Zoë \nlast'.encode())
  unasked = iter(())
  keys = selection.read_keys(path, lambda: next(unasked))
  assert keys == ['{"a": 1}', " Zoë ", "last"]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("keys.txt", "", "holds no key"),
    ("keys.txt", "\n \n", "holds no key"),
    ("keys.txt", "ok\n" + "k" * 4097, "keys.txt:2: .*longer than 4096 bytes"),
    ("a.json", "", "not readable as JSON"),
    ("a.json", '["a"]', "no selection of format"),
    ("a.json", '{"format": "nulls selection 9"}', "no selection of format"),
    ("a", '{ "format": "nulls selection 1", ', "not readable as JSON"),
    ("a", '{"format": "nulls selection 1", "sources": 3}', "has no key"),
    ("a", '{"format":"nulls selection 1","sources":[{}]}', "has no key"),
    ("a", '{"format":"nulls selection 1","sources":["k"]}', "has no key"),
    (
      "a",
      '{"format":"nulls selection 1","sources":[{"key":7}]}',
      "has no key",
    ),
    (
      "a",
      '{"format":"nulls selection 1","sources":[{"key":""}]}',
      "source key is empty",
    ),
    (
      "a",
      '{"format":"nulls selection 1","sources":[{"key":"\\ud800"}]}',
      "lone surrogate",
    ),
    ("a.json", "[" * 100_000, "not readable as JSON"),
  ],
)
def test_files_that_name_nothing(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(errors.UserError, match=message):
    selection.read_keys(path)


@pytest.mark.parametrize("name", ["absent", "absent.json"])
def test_a_file_that_is_not_there(tmp_path, name):
  with pytest.raises(errors.UserError, match=f"{name} does not exist"):
    selection.read_keys(tmp_path / name)


def test_a_selection_is_never_overwritten(tmp_path):
  path = _write(tmp_path / "found.json", [_source("a")])
  before = path.read_bytes()
  with pytest.raises(errors.UserError, match="is never overwritten"):
    _write(path, [_source("b")])
  assert path.read_bytes() == before


def test_an_unfinished_selection_is_not_there(tmp_path):
  with (
    pytest.raises(KeyboardInterrupt, match="stop"),
    selection.Writer(tmp_path / "found.json", PRINT, {}) as writer,
  ):
    writer.add(selection.entry(_source("a")))
    raise KeyboardInterrupt("stop")
  assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="cannot be written"):
    _write(tmp_path / "file" / "found.json", [_source("a")])


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_full_disk(tmp_path, size):
  (tmp_path / "found.json.partial").symlink_to("/dev/full")
  with pytest.raises(errors.MachineError, match="disk is full while writing"):
    _write(tmp_path / "found.json", [_source("a", text="x" * size)])
  assert not list(tmp_path.iterdir())
