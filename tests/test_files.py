"""Files that are whole or not there, and what a disk may refuse."""

import pytest

from nulls_jax import errors, files


def test_a_file_is_whole_or_not_there(tmp_path):
  path = tmp_path / "deep" / "name"
  files.write_whole(path, "one\n")
  files.write_whole(path, "two\n")
  assert path.read_text() == "two\n"
  assert [one.name for one in path.parent.iterdir()] == ["name"]
  with pytest.raises(errors.MachineError, match="below: cannot be written: "):
    files.write_whole(path / "below", "three")
  assert path.read_text() == "two\n"


def test_disk_errors_of_files(tmp_path):
  with (
    pytest.raises(errors.MachineError, match="disk is full while writing here"),
    files.disk_errors("here"),
    open("/dev/full", "wb") as file,
  ):
    file.write(b"x")
  (tmp_path / "file").write_bytes(b"")
  with (
    pytest.raises(errors.UserError, match="here cannot be written: Not a dir"),
    files.disk_errors("here"),
  ):
    (tmp_path / "file" / "below").mkdir()


def test_the_digest_of_values_does_not_depend_on_their_order():
  one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
  assert files.json_sha256(one) == files.json_sha256(other)
  assert files.json_sha256({"a": 1}) != files.json_sha256({"a": 2})
