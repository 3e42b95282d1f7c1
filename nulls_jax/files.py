"""Files that are whole or not there, and what a disk may refuse."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import sqlite3
from typing import Any

from nulls_jax import errors


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Write a file beside its place, sync it and rename it there.

  Args:
    path: its place; parents are made.
    content: bytes, or text that becomes UTF-8.

  Raises:
    errors.MachineError: it cannot be written, the disk is full for one.
  """
  partial = path.with_name(f"{path.name}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "wb") as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    raise errors.MachineError(
      f"{path}: cannot be written: {error.strerror}"
    ) from error


def sha256(path: pathlib.Path) -> str:
  """Return the hex SHA-256 of a file, read in pieces; raises `OSError`."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(values: Any) -> str:
  """Return the hex SHA-256 of what JSON holds, whatever the order in dicts."""
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(place: str | os.PathLike):
  """Turn failures of disk and permissions under `place` into one line.

  Raises:
    errors.MachineError: the disk is full or fails.
    errors.UserError: the place cannot be written, or another program has
      the database locked.
  """
  try:
    yield
  except sqlite3.OperationalError as error:
    # The low byte is the primary code; the rest says where.
    code = error.sqlite_errorcode & 0xFF
    if code == sqlite3.SQLITE_FULL:
      raise errors.MachineError(_FULL.format(place)) from error
    if code == sqlite3.SQLITE_IOERR:
      raise errors.MachineError(f"writing {place} failed: {error}") from error
    if code in _MENDABLE_CODES:
      raise errors.UserError(f"{place} cannot be written: {error}") from error
    raise
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      raise errors.MachineError(_FULL.format(place)) from error
    if error.errno in (errno.EIO, errno.EFBIG):
      raise errors.MachineError(f"writing {place} failed: {error}") from error
    if error.errno in _MENDABLE_NUMBERS:
      raise errors.UserError(
        f"{place} cannot be written: {error.strerror}; choose another place "
        "or mend its permissions"
      ) from error
    raise


_FULL = "the disk is full while writing {}; free space and repeat"
_MENDABLE_CODES = (
  sqlite3.SQLITE_READONLY,
  sqlite3.SQLITE_CANTOPEN,
  sqlite3.SQLITE_BUSY,
)
_MENDABLE_NUMBERS = (
  errno.EACCES,
  errno.EPERM,
  errno.EROFS,
  errno.ENOTDIR,
  errno.EEXIST,
)
