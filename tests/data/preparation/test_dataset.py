"""Opening a prepared dataset, and checking all of it."""

import json
import shutil

import pytest

from nulls_jax.data import mixture
from nulls_jax.data.preparation import dataset


@pytest.fixture
def copy(many_blocks, tmp_path):
  shutil.copytree(many_blocks.undisturbed, tmp_path / "set")
  return tmp_path / "set"


def test_check_reads_every_file(copy, nulls, refused):
  status, out, err = nulls("prepare", "check", "--data", copy)
  assert (status, err) == (0, "")
  assert "files are what the manifest says" in out
  names = json.loads((copy / "manifest.json").read_text())["files"]
  assert len(names) > 6
  for name in (*list(names)[:2], "tokenizer.model"):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    dataset.Prepared.open(copy)  # Sizes are as they were.
    line = refused("prepare", "check", "--data", copy)
    assert f"{name} has the SHA-256" in line and "prepare again" in line
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
  dataset.Prepared.open(copy, verify=True)


@pytest.mark.parametrize(
  ("field", "expected"),
  [
    ("rows_sha256", "the digests of its rows do not match rows_sha256"),
    ("tokenizer_fingerprint", "digest of its tokenizer is not its fingerprint"),
  ],
)
def test_a_manifest_that_contradicts_itself(copy, refused, field, expected):
  manifest = json.loads((copy / "manifest.json").read_text())
  manifest[field] = "0" * 64
  (copy / "manifest.json").write_text(json.dumps(manifest))
  assert expected in refused("prepare", "check", "--data", copy)


@pytest.mark.parametrize("kind", [dataset.FORMAT, mixture.FORMAT])
def test_a_manifest_that_lacks_something(copy, refused, kind):
  manifest = {"format": kind, "config": {}, "files": []}
  (copy / "manifest.json").write_text(json.dumps(manifest))
  line = refused("prepare", "check", "--data", copy)
  assert "manifest.json is damaged: " in line
  assert "files, " in line and f"delete {copy} and make it again" in line


def test_rows_are_in_the_order_of_their_files(many_blocks):
  found = dataset.Prepared.open(many_blocks.undisturbed)
  count = len(found.row_files)
  assert count > 4
  assert [path.name for path in found.row_files] == [
    f"rows-{number:05d}-of-{count:05d}.array_record" for number in range(count)
  ]


def test_a_dataset_of_the_first_release_opens_and_is_checked(tmp_path, refused):
  """It has no digest of its ledger, and one file of rows."""
  import hashlib

  names = {
    dataset.TOKENIZER: b"model",
    dataset.LEDGER: b"ledger",
    dataset.ROWS: b"rows",
  }
  for name, content in names.items():
    (tmp_path / name).write_bytes(content)
  manifest = {
    "format": dataset.FORMAT,
    "config": {"row_length": 64, "tile": 32},
    "tokenizer_fingerprint": hashlib.sha256(b"model").hexdigest(),
    "rows_sha256": hashlib.sha256(b"rows").hexdigest(),
    "files": {name: len(content) for name, content in names.items()},
  }
  (tmp_path / "manifest.json").write_text(json.dumps(manifest))
  found = dataset.Prepared.open(tmp_path, verify=True)
  assert found.config.row_length == 64
  assert found.row_files == (tmp_path / dataset.ROWS,)
  (tmp_path / dataset.ROWS).write_bytes(b"raws")
  line = refused("prepare", "check", "--data", tmp_path)
  assert "rows-00000-of-00001.array_record has the SHA-256" in line
