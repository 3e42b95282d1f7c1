"""Folders: every file in one part, and paths as source keys."""

import gzip
import json
import os

import pytest

from nulls_jax import errors
from nulls_jax.data.reading import documents, inputs


def _corpus(root, files):
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )
  return root


def _read(*paths, block_bytes=2**30, **settings):
  opened = inputs.open(paths, inputs.Settings(**settings))
  refusals = documents.Refusals()
  found = [
    document
    for block in opened.blocks(block_bytes)
    for document in opened.documents(block, refusals)
  ]
  return found, refusals


FILES = {
  "b/2.txt": "two",
  "b/10.txt": "ten",
  "a.md": "\ufeffmarked",
  "c/d/e": "no suffix",
  "z.txt.gz": gzip.compress(b"packed"),
  ".hidden": "no document",
  ".git/config": "no document",
}


def test_a_file_is_a_source(tmp_path):
  _corpus(tmp_path, FILES)
  found, refusals = _read(tmp_path)
  assert [(d.source, d.text, d.metadata) for d in found] == [
    ("a.md", "marked", {}),
    ("b/10.txt", "ten", {}),
    ("b/2.txt", "two", {}),
    ("c/d/e", "no suffix", {}),
    ("z.txt.gz", "packed", {}),
  ]
  assert found[2].where == str(tmp_path / "b/2.txt")
  assert refusals.total == 0
  for block_bytes in (1, 5, 9):
    assert _read(tmp_path, block_bytes=block_bytes)[0] == found


def test_a_folder_is_a_source(tmp_path):
  _corpus(tmp_path, FILES)
  found, refusals = _read(tmp_path, sources="folder")
  assert [(d.source, d.metadata["path"]) for d in found] == [
    ("b", "b/10.txt"),
    ("b", "b/2.txt"),
    ("c/d", "c/d/e"),
  ]
  assert dict(refusals.counts) == {"no source": 2}


def test_other_formats_in_a_folder(tmp_path):
  line = json.dumps({"source": "s", "text": "t"}) + "\n"
  _corpus(
    tmp_path,
    {"x.jsonl": line * 2, "y/z.jsonl.gz": gzip.compress(line.encode())},
  )
  _corpus(tmp_path, {"w.txt": "text"})
  found, _ = _read(tmp_path)
  assert [d.source for d in found] == ["s", "s", "s", "w.txt"]
  found, _ = _read(tmp_path, sources="path")
  assert [d.source for d in found] == [
    "x.jsonl",
    "x.jsonl",
    "y/z.jsonl.gz",
    "w.txt",
  ]
  found, _ = _read(tmp_path / "w.txt", tmp_path / "x.jsonl")
  assert [d.source for d in found] == ["w.txt", "s", "s"]


def test_bad_texts_are_refused_by_name(tmp_path, monkeypatch):
  monkeypatch.setattr(documents, "MAX_RECORD_BYTES", 100)
  _corpus(
    tmp_path,
    {
      "bytes": b"a\xff",
      "empty": "",
      "long": "x" * 101,
      "nulls": "a\0b",
      "right": "x" * 100,
    },
  )
  found, refusals = _read(tmp_path)
  assert [d.source for d in found] == ["right"]
  assert refusals.total == 4
  for name, first in zip(
    ("bytes", "empty", "long", "nulls"), refusals.first.values(), strict=True
  ):
    assert first.startswith(f"{tmp_path / name}: ")
  with pytest.raises(errors.UserError, match=r"bytes: not UTF-8; byte 2 of"):
    opened = inputs.open([tmp_path])
    list(opened.documents(opened.blocks(1)[0]))


def test_a_damaged_text_stops(tmp_path):
  cut = gzip.compress(b"text" * 100)[:-4]
  _corpus(tmp_path, {"a.txt.gz": cut})
  with pytest.raises(errors.UserError, match=r"a\.txt\.gz: damaged gzip"):
    _read(tmp_path)


def test_a_text_that_changes_or_goes_away(tmp_path):
  _corpus(tmp_path, {"a.txt": "text"})
  opened = inputs.open([tmp_path])
  (block,) = opened.blocks(100)
  _corpus(tmp_path, {"a.txt": "text and more"})
  with pytest.raises(errors.UserError, match=r"a\.txt has changed while"):
    list(opened.documents(block))
  (tmp_path / "a.txt").unlink()
  with pytest.raises(errors.UserError, match=r"a\.txt cannot be read any mo"):
    list(opened.documents(block))


def test_paths_that_cannot_be_read(tmp_path, monkeypatch):
  with pytest.raises(errors.UserError, match="holds no file"):
    inputs.open([_corpus(tmp_path, {".hidden": "x"})])
  with pytest.raises(errors.UserError, match="no documents named"):
    inputs.open([])
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(errors.UserError, match="pipe is neither file nor folder"):
    inputs.open([tmp_path])
  os.remove(tmp_path / "pipe")
  os.symlink(tmp_path, tmp_path / "circle")
  with pytest.raises(errors.UserError, match="circle is a link to a folder"):
    inputs.open([tmp_path])
  os.remove(tmp_path / "circle")
  os.symlink(tmp_path / "absent", tmp_path / "loose")
  with pytest.raises(errors.UserError, match="loose does not exist"):
    inputs.open([tmp_path])
  os.remove(tmp_path / "loose")
  with pytest.raises(errors.UserError, match=r"unknown scheme 'hf'; give a"):
    inputs.open(["hf:allenai/c4"])


def test_files_and_folders_without_rights(tmp_path, monkeypatch):
  """The superuser may read everything: the refusal is put in for real."""
  _corpus(tmp_path, {"a/x.txt": "x"})
  real_scan, real_access = os.scandir, os.access
  shut = tmp_path / "a"

  def scan(path):
    if path == shut:
      raise PermissionError(13, "Permission denied", str(path))
    return real_scan(path)

  monkeypatch.setattr(os, "scandir", scan)
  with pytest.raises(errors.UserError, match=r"a may not be read; change its"):
    inputs.open([tmp_path])
  monkeypatch.setattr(os, "scandir", real_scan)
  monkeypatch.setattr(
    os,
    "access",
    lambda path, mode: path != shut / "x.txt" and real_access(path, mode),
  )
  with pytest.raises(errors.UserError, match=r"x\.txt may not be read; change"):
    inputs.open([tmp_path])


def test_one_key_of_two_folders_is_refused(tmp_path):
  for name in ("one", "two"):
    _corpus(tmp_path / name, {"x.txt": name, "d/y.txt": name})
  given = tmp_path / "one", tmp_path / "two"
  with pytest.raises(errors.UserError, match=r"'d/y\.txt' would be one source"):
    inputs.open(given)
  with pytest.raises(errors.UserError, match="'d' would be one source"):
    inputs.open(given, inputs.Settings(sources="folder"))
  found, _ = _read(tmp_path, sources="folder", allow_no_source=True)
  assert [d.source for d in found] == ["one/d", "one", "two/d", "two"]


def test_a_file_given_twice_is_refused(tmp_path):
  _corpus(tmp_path, {"x.txt": "x", "y.jsonl": "{}"})
  for given in ([tmp_path, tmp_path / "x.txt"], [tmp_path / "y.jsonl"] * 2):
    with pytest.raises(errors.UserError, match="is given twice; name it once"):
      inputs.open(given)


def test_rules_that_texts_do_not_fit(tmp_path):
  _corpus(tmp_path, {"x.txt": "x"})
  with pytest.raises(errors.UserError, match=r"text files have no .*'author'"):
    inputs.open([tmp_path], inputs.Settings(sources="field:author"))
  found, _ = _read(tmp_path, sources="template:book/{path}")
  assert found[0].source == "book/x.txt"


def test_a_range_names_the_files_that_it_reads(tmp_path):
  _corpus(tmp_path, {f"{n}.txt": "x" * (10 + n) for n in range(9)})
  opened = inputs.open([tmp_path])
  (part,) = opened.parts
  found = []
  for block in opened.blocks(30):
    names = [name for name, _ in part.files_of(block.start, block.stop)]
    assert [d.source for d in opened.documents(block)] == names
    found += names
  assert found == [name for name, _ in part.files()]


def test_digests_and_stamp_of_a_folder(tmp_path):
  _corpus(tmp_path / "a", {"x.txt": "x", "y.txt": "y"})
  _corpus(tmp_path / "b", {"x.txt": "x", "y.txt": "y"})
  first = inputs.open([tmp_path / "a"]).digests()
  assert inputs.open([tmp_path / "b"]).digests() == first
  (tmp_path / "b/y.txt").rename(tmp_path / "b/z.txt")
  assert inputs.open([tmp_path / "b"]).digests() != first
