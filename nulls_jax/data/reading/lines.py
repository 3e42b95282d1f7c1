"""Lines and whole texts of files, plain, `.gz` or `.zst`, in bounded memory.

Owns opening and unpacking, and the damage that a file can have. Knows not
what a line means.

Invariant: a file is read to its end or an error is raised; every line of a
file is given exactly once, by the byte range in which it starts.
"""

import contextlib
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from nulls_jax import errors
from nulls_jax.data.reading import documents, extra

PACKED = (".gz", ".zst")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_SKIP_BYTES = 2**20
_BUFFER_BYTES = 2**18


def is_packed(path: str | os.PathLike) -> bool:
  """Tell whether a file is unpacked on the fly: it has no byte ranges."""
  return pathlib.PurePath(path).suffix in PACKED


def read(
  path: str | os.PathLike, start: int = 0, stop: int | None = None
) -> Iterator[bytes | None]:
  """Yield the lines that start in a range of bytes, with their line ends.

  Yields None for a line of more than `documents.MAX_RECORD_BYTES`, which is
  passed over without being held. A byte order mark at the start of the file
  is taken off.

  Args:
    path: the file.
    start: first byte; of a packed file 0.
    stop: byte after the last, None for the end; of a packed file None.

  Raises:
    errors.UserError: the file cannot be read, or is damaged.
  """
  progress = _Progress()
  with _mendable(path, progress), _open(path) as file:
    position = start
    if start:
      # The line that the byte before belongs to is another range's, unless
      # it ends just there.
      file.seek(start - 1)
      position = start - 1 + _skip_line(file, stop and stop - start + 1)
    while stop is None or position < stop:
      line = file.readline(documents.MAX_RECORD_BYTES + 1)
      if not line:
        return
      position += len(line)
      if len(line) > documents.MAX_RECORD_BYTES and not line.endswith(b"\n"):
        position += _skip_line(file)
        yield None
      elif progress.lines == start == 0 and line.startswith(BYTE_ORDER_MARK):
        yield line[len(BYTE_ORDER_MARK) :]
      else:
        yield line
      progress.lines += 1


def read_whole(path: str | os.PathLike) -> bytes | None:
  """Return what a file holds; None if that is longer than a record may be.

  Raises:
    errors.UserError: the file cannot be read, or is damaged.
  """
  with _mendable(path, None), _open(path) as file:
    content = file.read(documents.MAX_RECORD_BYTES + 1)
    if len(content) > documents.MAX_RECORD_BYTES:
      return None
    return content.removeprefix(BYTE_ORDER_MARK)


def decode(line: bytes, unit: str = "line") -> str:
  """Return a line as text; raises `documents.BadRecord`."""
  try:
    return line.decode("utf-8")
  except UnicodeDecodeError as error:
    raise documents.BadRecord(
      "not UTF-8", f"byte {error.start + 1} of the {unit}; convert the file"
    ) from None


class _Progress:
  """How many lines were read whole, to say where damage begins."""

  def __init__(self):
    self.lines = 0


def _skip_line(file: BinaryIO, limit: int | None = None) -> int:
  """Read past the next line end or `limit` bytes; return the bytes read."""
  skipped = 0
  while limit is None or skipped < limit:
    most = _SKIP_BYTES if limit is None else min(_SKIP_BYTES, limit - skipped)
    piece = file.readline(most)
    skipped += len(piece)
    if not piece or piece.endswith(b"\n"):
      break
  return skipped


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[BinaryIO]:
  suffix = pathlib.PurePath(path).suffix
  if suffix == ".gz":
    packed = gzip.GzipFile(path, "rb")
  elif suffix == ".zst":
    zstd = extra.zstd(str(path))
    # Files packed with `zstd --long=31` too.
    most = zstd.DecompressionParameter.window_log_max
    packed = zstd.ZstdFile(path, options={most: most.bounds()[1]})
  else:
    with open(path, "rb", buffering=_BUFFER_BYTES) as file:
      yield file
    return
  with packed, io.BufferedReader(packed, _BUFFER_BYTES) as file:
    yield file


@contextlib.contextmanager
def _mendable(path: str | os.PathLike, progress: _Progress | None):
  """Turn what can be wrong with a file into one line."""
  kind = pathlib.PurePath(path).suffix
  damage: tuple[type[Exception], ...] = (EOFError,)
  if kind == ".gz":
    damage = (EOFError, gzip.BadGzipFile, zlib.error)
  elif kind == ".zst":
    damage = (EOFError, extra.zstd(str(path)).ZstdError)
  try:
    yield
  except damage as error:
    where = f"{path}:{progress.lines + 1}" if progress else f"{path}"
    name = {".gz": "gzip", ".zst": "Zstandard"}[kind]
    raise errors.UserError(
      f"{where}: damaged {name} ({error}); fetch or pack the file again"
    ) from None
  except FileNotFoundError:
    raise errors.UserError(
      f"{path} does not exist; give an existing file"
    ) from None
  except IsADirectoryError:
    raise errors.UserError(f"{path} is a directory; give a file") from None
  except PermissionError:
    raise errors.UserError(
      f"{path} may not be read; change its permissions"
    ) from None
