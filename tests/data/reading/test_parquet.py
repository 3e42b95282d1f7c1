"""Parquet: rows as documents, streamed; another schema is one clear line."""

import datetime
import decimal
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nulls_jax import errors
from nulls_jax.data.reading import documents, inputs


def _write(tmp_path, columns, name="corpus.parquet", **settings):
  path = tmp_path / name
  pq.write_table(pa.table(columns), path, **settings)
  return path


def _read(path, block_bytes=2**30, refusals=None, **settings):
  opened = inputs.open([path], inputs.Settings(**settings))
  return [
    document
    for block in opened.blocks(block_bytes)
    for document in opened.documents(block, refusals)
  ]


def _columns(count):
  return {
    "source": [f"s{n // 2}" for n in range(count)],
    "text": [f"text {n}" for n in range(count)],
    "number": list(range(count)),
  }


def test_rows_are_documents_whatever_the_blocks(tmp_path):
  path = _write(tmp_path, _columns(100), row_group_size=30)
  found = _read(path)
  assert [d.text for d in found] == [f"text {n}" for n in range(100)]
  assert (found[31].source, found[31].metadata) == ("s15", {"number": 31})
  assert found[0].where == f"{path}: row group 0, row 1"
  assert found[31].where == f"{path}: row group 1, row 2"
  for block_bytes in (1, 700):
    assert _read(path, block_bytes) == found
  opened = inputs.open([path])
  assert len(opened.blocks(1)) == 4
  assert sum(b.num_bytes for b in opened.blocks(700)) == opened.num_bytes


def test_values_become_json(tmp_path):
  (document,) = _read(
    _write(
      tmp_path,
      {
        "source": pa.array(["a"]).dictionary_encode(),
        "text": pa.array([b"caf\xc3\xa9"], pa.binary()),
        "day": [datetime.date(2026, 1, 2)],
        "price": [decimal.Decimal("1.50")],
        "picture": [b"\xff\xd8\xff"],
        "tags": [["x", "y"]],
        "nested": [{"a": {"b": 1}}],
        "none": pa.array([None], pa.string()),
      },
    )
  )
  assert (document.source, document.text) == ("a", "café")
  assert document.metadata == {
    "day": "2026-01-02",
    "price": "1.50",
    "picture": "3 bytes",
    "tags": ["x", "y"],
    "nested": {"a": {"b": 1}},
    "none": None,
  }


def test_bad_rows_are_counted_with_their_place(tmp_path):
  # Strings are not checked when they are written.
  texts = pa.array([b"good", b"bad \xff", None, b"", b"n\0l"], pa.binary())
  strings = pa.Array.from_buffers(pa.string(), 5, texts.buffers())
  binary = pa.array([b"a", b"b", b"c", b"\xff", b"e"], pa.binary())
  for text, source, reasons in (
    (strings, ["a"] * 5, ["not UTF-8", "no text", "text is empty"]),
    (texts, ["a"] * 5, ["not UTF-8", "no text", "text is empty"]),
    (["x"] * 5, binary, ["source is not a string but bytes"]),
  ):
    path = _write(tmp_path, {"source": source, "text": text})
    refusals = documents.Refusals()
    found = _read(path, refusals=refusals)
    assert len(found) + refusals.total == 5
    assert list(refusals.counts)[: len(reasons)] == reasons
  assert refusals.first[reasons[0]].startswith(
    f"{path}: row group 0, row 4: source is not"
  )
  with pytest.raises(errors.UserError, match=r"group 0, row 2: not UTF-8; by"):
    _read(_write(tmp_path, {"source": ["a"] * 5, "text": strings}))


def test_another_schema(tmp_path):
  path = _write(tmp_path, {"title": ["a"], "content": ["b"], "n": [1]})
  with pytest.raises(
    errors.UserError,
    match=r"corpus\.parquet has no field 'text', 'source' but 'title', "
    r"'content', 'n'; name the text with --text-field",
  ):
    inputs.open([path])
  with pytest.raises(errors.UserError, match=r"column 'n' is int64 and"):
    inputs.open([path], inputs.Settings(text_field="n", sources="path"))
  settings = {"text_field": "content", "sources": "field:title"}
  (document,) = _read(path, **settings)
  assert (document.source, document.text) == ("a", "b")
  (document,) = _read(path, text_field="content", allow_no_source=True)
  assert (document.source, document.metadata) == ("", {"title": "a", "n": 1})
  folder = tmp_path / "folder"
  folder.mkdir()
  _write(folder, {"title": ["a"], "content": ["b"]}, "1.parquet")
  _write(folder, {"title": ["a"], "body": ["b"]}, "2.parquet")
  with pytest.raises(errors.UserError, match=r"2\.parquet has no field 'conte"):
    inputs.open([folder], inputs.Settings(**settings))


def test_damaged_files(tmp_path):
  path = _write(tmp_path, _columns(5000), compression="gzip")
  whole = path.read_bytes()
  for content in (whole[:-30], b"no parquet", b""):
    path.write_bytes(content)
    with pytest.raises(
      errors.UserError, match=r"corpus\.parquet: damaged, or no Parquet"
    ) as caught:
      inputs.open([path])
    assert "\n" not in str(caught.value)
  half = len(whole) // 2
  path.write_bytes(whole[:500] + bytes(half - 500) + whole[half:])
  with pytest.raises(errors.UserError, match=r"group 0, row 1 or later: da"):
    _read(path, refusals=documents.Refusals())
  with pytest.raises(errors.UserError, match="holds no rows"):
    inputs.open([_write(tmp_path, {"source": [], "text": []})])


def test_a_file_that_changes(tmp_path):
  opened = inputs.open([_write(tmp_path, _columns(9))])
  _write(tmp_path, _columns(99))
  with pytest.raises(errors.UserError, match="has changed while it was read"):
    list(opened.documents(opened.blocks(1)[0]))


def test_without_pyarrow(tmp_path, monkeypatch):
  path = _write(tmp_path, _columns(1))
  for name in ("pyarrow", "pyarrow.parquet"):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(
    errors.UserError, match=r"pyarrow.*pip install 'nulls_jax\[corpora\]'"
  ):
    inputs.open([path])
