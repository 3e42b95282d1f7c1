"""Where a run is kept: in a folder, or at a place such as gs://BUCKET/RUN.

Orbax writes checkpoints to either by itself. All other files of a run are
local ones; those of a remote run lie in a temporary folder, are fetched from
there when it is taken up, and copied back at every checkpoint. Copies go
through `etils.epath`; an object of a store appears when it is whole.

Invariant: a remote run has a `config.json` only if all files beside it are
whole, and its log never lacks a step that a checkpoint has.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

from etils import epath

from nulls_jax import errors

# What is fetched; the rest of a run is checkpoints, or made by other commands
# from a copy of it.
_FILES = (
  "tokenizer.model",
  "ledger.sqlite",
  "revocations.jsonl",
  "metrics.jsonl",
  "dataset.json",
  "config.json",
)
# What the libraries of stores raise besides the builtin ones.
_LIBRARY_ERRORS = (
  ("google.auth.exceptions", "GoogleAuthError"),
  ("gcsfs.retry", "HttpError"),
  ("aiohttp", "ClientError"),
  ("botocore.exceptions", "BotoCoreError"),
  ("botocore.exceptions", "ClientError"),
)


def root(place: str | os.PathLike) -> pathlib.Path:
  """Return a run's place as a path; one of `epath` where it is a URI."""
  text = os.fspath(place)
  return epath.Path(text) if is_remote(text) else pathlib.Path(text)


def is_remote(place: str | os.PathLike) -> bool:
  """Whether a place is a URI.

  >>> is_remote("gs://bucket/run"), is_remote("runs/wiki")
  (True, False)
  """
  return "://" in os.fspath(place)


def absolute(path: pathlib.Path) -> pathlib.Path:
  """Return a path from the root on, which a URI is already."""
  return path if is_remote(path) else path.absolute()


def store_errors() -> tuple[type[Exception], ...]:
  """Return what may be raised where a store is not reached; for `except`.

  A library that is not loaded raises nothing.
  """
  loaded = [
    getattr(sys.modules[module], name)
    for module, name in _LIBRARY_ERRORS
    if module in sys.modules
  ]
  return (OSError, ValueError, RuntimeError, *loaded)


class Storage:
  """The files of one run; `opened` makes it.

  Attributes:
    root: where the run is.
    local: the folder of its local files; the same, unless it is remote.
  """

  def __init__(self, place: pathlib.Path, local: pathlib.Path):
    """Nothing is read yet."""
    self.root = place
    self.local = local
    self._copied: dict[pathlib.Path, tuple[int, int]] = {}

  def fetch(self) -> None:
    """Bring the files of a remote run here; raises `UserError`."""
    if self.local == self.root:
      return
    with _one_line(self.root):
      found = {path.name for path in _entries(self.root)}
      if "config.json" not in found and found - set(_FILES):
        raise errors.UserError(
          f"{self.root}: not empty and not a run; give another --run"
        )
      if "config.json" in found:
        for name in found & set(_FILES):
          _copy(self.root / name, self.local / name)
          self._copied[self.local / name] = _state(self.local / name)

  def publish(self) -> None:
    """Copy what has changed to a remote run; raises `MachineError`."""
    if self.local == self.root:
      return
    # Its config last: it says that the others are there.
    files = sorted(
      (path for path in self.local.rglob("*") if path.is_file()),
      key=lambda path: (path.name == "config.json", path),
    )
    for path in files:
      state = _state(path)
      if self._copied.get(path) == state:
        continue
      with _one_line(self.root):
        target = self.root / path.relative_to(self.local).as_posix()
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target)
      self._copied[path] = state


@contextlib.contextmanager
def opened(place: str | os.PathLike) -> Iterator[Storage]:
  """Yield the storage of a run that is or will be at `place`."""
  path = root(place)
  if not is_remote(place):
    yield Storage(path, path)
    return
  with tempfile.TemporaryDirectory(prefix="nulls-run-") as folder:
    try:
      yield Storage(path, pathlib.Path(folder))
    except (
      errors.UserError,
      errors.MachineError,
      errors.StartAgain,
    ) as error:
      # The folder goes away, and is nothing that the user knows.
      error.args = (str(error).replace(folder, os.fspath(place)),)
      raise


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  return list(folder.iterdir()) if folder.exists() else []


def _state(path: pathlib.Path) -> tuple[int, int]:
  stat = path.stat()
  return stat.st_size, stat.st_mtime_ns


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  with source.open("rb") as reads, target.open("wb") as writes:
    shutil.copyfileobj(reads, writes, 1 << 20)


@contextlib.contextmanager
def _one_line(place: pathlib.Path):
  """Report an unreachable place in one line."""
  try:
    yield
  except errors.UserError:
    raise
  except ImportError as error:
    raise errors.UserError(
      f"{place}: {error}; install this package with the extra [gcs], or give "
      "a folder as --run"
    ) from error
  except store_errors() as error:
    raise errors.MachineError(
      f"{place} cannot be reached ({' '.join(str(error).split())}); see "
      "whether this host may read and write there, then start again"
    ) from error
