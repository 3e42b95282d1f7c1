"""The folder of unfinished work: its lock, and files that are whole or absent.

Owns names of what is kept from one start to the next, how a file gets there,
and how the finished result gets its name. Knows nothing of what the files
hold.

Invariant: a file under its own name is complete, whenever and however the
process that wrote it ended.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from nulls_jax import errors, files

_LOCK = "lock"
_UNFINISHED = ".unfinished"
_FOLDERS = ("samples", "blocks", "indices", "dataset")


class UnfinishedError(errors.UserError):
  """The place holds unfinished work of another result."""


@dataclasses.dataclass(frozen=True)
class Work:
  """Places in a folder of unfinished work.

  Attributes:
    directory: the folder.
  """

  directory: pathlib.Path

  @classmethod
  def beside(cls, out: pathlib.Path) -> "Work":
    """Return the place of what is to become `out`."""
    return cls(out.with_name(f"{out.name}.partial"))

  @property
  def plan(self) -> pathlib.Path:
    """What is being made: a start with another plan is refused."""
    return self.directory / "plan.json"

  @property
  def shard(self) -> pathlib.Path:
    """Of a shard that is complete."""
    return self.directory / "shard.json"

  @property
  def tokenizer(self) -> pathlib.Path:
    """The tokenizer, given or trained."""
    return self.directory / "tokenizer.model"

  @property
  def training(self) -> pathlib.Path:
    """How the tokenizer was trained; written after it."""
    return self.directory / "tokenizer.json"

  @property
  def clusters(self) -> pathlib.Path:
    """The clustering that gives documents their sources."""
    return self.directory / "clusters"

  @property
  def final(self) -> pathlib.Path:
    """The dataset, until it gets its name."""
    return self.directory / "dataset"

  def sample(self, block: int) -> pathlib.Path:
    """Texts of a block that the tokenizer may be trained on."""
    return self.directory / "samples" / f"{block:08d}.npz"

  def summary(self, block: int) -> pathlib.Path:
    """Counts of a block; written last: with it, the block is done."""
    return self.directory / "blocks" / f"{block:08d}.json"

  def usage(self, block: int) -> pathlib.Path:
    """Which pieces the block uses."""
    return self.directory / "blocks" / f"{block:08d}-pieces.npz"

  def part(self, block: int, part: int) -> pathlib.Path:
    """Packed rows of a part of a block, and its sources."""
    return self.directory / "blocks" / f"{block:08d}-{part:04d}.npz"

  def held_out(self, block: int) -> pathlib.Path:
    """Documents of a block that are held out."""
    return self.directory / "blocks" / f"{block:08d}-held-out"

  def indices(self, block: int, part: int) -> pathlib.Path:
    """A part's sources' indices in the ledger."""
    return self.directory / "indices" / f"{block:08d}-{part:04d}.npy"

  def prepare(self) -> None:
    """Make the folders; delete what a killed process left half-written."""
    for name in _FOLDERS:
      (self.directory / name).mkdir(exist_ok=True)
    for path in self.directory.rglob(f"*{_UNFINISHED}"):
      path.unlink()

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Make the folder and keep a second process out of it.

    The system takes the lock back when the process ends, however it ends.

    Raises:
      errors.UserError: another process has the lock.
    """
    self.directory.mkdir(parents=True, exist_ok=True)
    with open(self.directory / _LOCK, "a") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its holder may have ended, and deleted it, just now.
        gone = not os.fstat(file.fileno()).st_nlink
      except BlockingIOError:
        gone = True
      if gone:
        raise errors.UserError(
          f"another process is at work in {self.directory}; wait for its end, "
          "or choose another --out"
        )
      yield

  @contextlib.contextmanager
  def at_work(self) -> Iterator[None]:
    """Hold the lock; delete the work when the input is wrong.

    Nothing of it can be used when the input is mended. After any other
    failure it stays.
    """
    with files.disk_errors(self.directory), self.locked():
      try:
        yield
      except UnfinishedError:
        raise
      except errors.UserError:
        self.delete()
        raise

  def publish(self, out: pathlib.Path) -> None:
    """Give the finished result its name; delete what it was made from."""
    with files.disk_errors(out):
      sync_directory(self.final)
      if out.exists():
        out.rmdir()
      os.replace(self.final, out)
      sync_directory(out.parent)
    self.delete()

  def delete(self) -> None:
    """Delete the folder and all that is in it."""
    shutil.rmtree(self.directory, ignore_errors=True)


def write(path: pathlib.Path, content: Callable[[BinaryIO], Any]) -> None:
  """Write a file whole: beside its place, synced, then renamed.

  Args:
    path: its place.
    content: called with the open file.

  Raises:
    errors.MachineError: the disk is full or fails.
  """
  # An orphan of a killed process may be at the same file: its own name.
  partial = path.with_name(f"{path.name}.{os.getpid()}{_UNFINISHED}")
  with files.disk_errors(path):
    with open(partial, "wb") as file:
      content(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Write a JSON file whole."""
  text = json.dumps(value, indent=2) + "\n"
  write(path, lambda file: file.write(text.encode("utf-8")))


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
  """Write an .npy file whole."""
  write(path, lambda file: np.save(file, array))


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Write an .npz file whole."""
  write(path, lambda file: np.savez(file, **arrays))


def read_json(path: pathlib.Path) -> Any:
  """Return the value of a JSON file, None if there is none."""
  try:
    return json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise _damaged(path, error) from error


def read_arrays(path: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
  """Return arrays of an .npz file, all of them unless some are named.

  Raises:
    errors.UserError: the file is missing or damaged.
  """
  try:
    with np.load(path) as arrays:
      return {name: arrays[name] for name in names or arrays.files}
  except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
    raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, error: Exception) -> errors.UserError:
  folder = path.parent
  if folder.name in _FOLDERS:
    folder = folder.parent
  return errors.UserError(
    f"{path} is damaged or missing ({error}); delete {folder} and prepare again"
  )


def pack_texts(texts: list[bytes]) -> dict[str, np.ndarray]:
  """Return byte strings as arrays: all of them joined, and where they end."""
  return {
    "bytes": np.frombuffer(b"".join(texts), np.uint8),
    "ends": np.cumsum([len(text) for text in texts], dtype=np.int64),
  }


def unpack_texts(joined: np.ndarray, ends: np.ndarray) -> Iterator[bytes]:
  """Yield what `pack_texts` joined."""
  content, start = joined.tobytes(), 0
  for end in ends.tolist():
    yield content[start:end]
    start = end


def sync_directory(path: pathlib.Path) -> None:
  """Make the names in a directory survive a crash of the machine."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
