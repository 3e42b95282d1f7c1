"""The OCDBT database: fresh, synced, and clear about damage."""

import os

import pytest

from nulls_jax import errors
from nulls_jax.unlearning.checkpoint import storage


def test_round_trip(tmp_path):
  database = storage.Database.create(tmp_path / "db")
  database.write([("b", b"small"), ("a", b"x" * 5000)])
  database.write([("c", b"")])
  again = storage.Database.open(tmp_path / "db")
  assert again.keys() == ["a", "b", "c"]
  assert again.read(["c", "a", "b"]) == [b"", b"x" * 5000, b"small"]


def test_a_failing_source_of_items_writes_nothing(tmp_path):
  database = storage.Database.create(tmp_path / "db")
  database.write([("a", b"1")])

  def items():
    yield "b", b"2"
    raise RuntimeError("no more")

  with pytest.raises(RuntimeError, match="no more"):
    database.write(items())
  assert storage.Database.open(tmp_path / "db").keys() == ["a"]


def test_create_wants_a_fresh_directory(tmp_path):
  storage.Database.create(tmp_path).write([("a", b"1")])
  with pytest.raises(RuntimeError, match=r"manifest.ocdbt exists"):
    storage.Database.create(tmp_path)
  (tmp_path / "manifest.ocdbt").unlink()
  with pytest.raises(RuntimeError, match=r"d exists; a copy must be fresh"):
    storage.Database.create(tmp_path)


def test_names_missing_keys(tmp_path):
  database = storage.Database.create(tmp_path)
  database.write([("a", b"1")])
  with pytest.raises(
    errors.UserError, match=r": a/c/0 is missing; use another"
  ):
    database.read(["a", "a/c/0"])


def test_refuses_a_directory_without_database(tmp_path):
  with pytest.raises(errors.UserError, match=r"manifest.ocdbt is missing"):
    storage.Database.open(tmp_path)


@pytest.mark.parametrize("size", [0, 40])
def test_says_what_is_truncated(size, tmp_path):
  storage.Database.create(tmp_path).write([("a", b"x" * 5000)])
  for name in ("d", "manifest.ocdbt"):
    path = tmp_path / name
    path = next(path.iterdir()) if path.is_dir() else path
    content = path.read_bytes()
    os.truncate(path, size)
    with pytest.raises(
      errors.UserError, match="damaged or unreadable"
    ) as caught:
      storage.Database.open(tmp_path).keys()
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(content)
  assert storage.Database.open(tmp_path).keys() == ["a"]


def test_a_failed_write_is_the_machines(tmp_path):
  database = storage.Database.create(tmp_path)
  (tmp_path / "d").write_text("a file where the directory should be")
  with pytest.raises(errors.MachineError, match="cannot be written") as caught:
    database.write([("a", b"x" * 5000)])
  assert "\n" not in str(caught.value)


def test_reason_leaves_the_specification_out():
  error = ValueError("DATA_LOSS: bad byte [tensorstore_spec='{...}']\nmore")
  assert storage.reason(error) == "DATA_LOSS: bad byte"
  assert storage.reason(ValueError("x" * 500)) == "x" * 400 + "..."
  assert storage.reason(ValueError()) == "ValueError"
