"""A directory that appears whole or not at all.

Owns the temporary directory beside the destination, the lock that keeps two
writers apart, the syncing to disk, and what failures of the file system mean.
Knows neither arrays nor sources.

Invariant: the destination's name is given by one rename, after every file and
directory under it was synced, and only where nothing has that name.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator

from nulls_jax import errors

# Refusals of the file system that another path or permission mends.
_USER_ERRNOS = frozenset(
  {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
  }
)


@contextlib.contextmanager
def whole_or_absent(
  destination: pathlib.Path, inputs: Iterable[pathlib.Path], needed: int
) -> Iterator[pathlib.Path]:
  """Give a temporary sibling that becomes `destination` when all went well.

  What a killed process left of an earlier attempt is removed first. Only one
  process at a time can be here for one destination.

  Args:
    destination: an absolute path that does not exist; its parents are made.
    inputs: directories that it must not lie in.
    needed: bytes that will be written.

  Raises:
    UserError: the destination exists, lies in an input, cannot be written, or
      another process is writing it.
    MachineError: the disk has no room, or fails.
  """
  with file_errors(destination):
    check_destination(destination, inputs)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.partial")
    with _lock(destination):
      check_destination(destination, inputs)
      try:
        if partial.exists():
          shutil.rmtree(partial)
        partial.mkdir()
        _check_space(partial, needed)
        yield partial
        for directory, _, files in os.walk(partial):
          for name in files:
            sync(os.path.join(directory, name))
          sync(directory)
        # A rename would replace an empty directory without a word.
        check_destination(destination, inputs)
        os.rename(partial, destination)
        sync(destination.parent)
      finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_destination(
  destination: pathlib.Path, inputs: Iterable[pathlib.Path]
) -> None:
  """Refuse a destination that exists or lies in an input, by any path."""
  if os.path.lexists(destination):
    raise errors.UserError(
      f"{destination} exists; the output is written into a new directory "
      "only: give another one, or remove it"
    )
  # By file numbers: links, mounts and letter case cannot hide a directory.
  forbidden = {_number(path): path for path in inputs if path.exists()}
  resolved = pathlib.Path(os.path.realpath(destination))
  for parent in (*destination.parents, *resolved.parents):
    found = forbidden.get(_number(parent)) if parent.exists() else None
    if found is not None:
      raise errors.UserError(
        f"{destination} lies inside the run's {found}, which still holds the "
        "sources; give a directory outside of it"
      )


def _number(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_dev, status.st_ino


@contextlib.contextmanager
def _lock(destination: pathlib.Path) -> Iterator[None]:
  """Hold the destination's lock file; the kernel frees a dead process's."""
  path = destination.with_name(f".{destination.name}.lock")
  while True:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      os.close(descriptor)
      raise errors.UserError(
        f"{destination} is being written by another process; wait for it, or "
        "give another directory"
      ) from error
    # The holder before us may have removed the file that we opened.
    if _is_file(path, descriptor):
      break
    os.close(descriptor)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      os.unlink(path)
    os.close(descriptor)


def _is_file(path: pathlib.Path, descriptor: int) -> bool:
  try:
    found = os.stat(path)
  except FileNotFoundError:
    return False
  return os.path.samestat(found, os.fstat(descriptor))


@contextlib.contextmanager
def file_errors(destination: pathlib.Path) -> Iterator[None]:
  """Turn failures of the file system into one clear line."""
  try:
    yield
  except OSError as error:
    where = error.filename or destination
    if error.errno in _USER_ERRNOS:
      raise errors.UserError(
        f"{where}: {error.strerror}; mend the path or its permissions"
      ) from error
    raise errors.MachineError(
      f"{where}: {error.strerror or error}; {destination} was not written"
    ) from error


def _check_space(directory: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(directory).free
  if free < needed:
    raise errors.MachineError(
      f"{directory.parent} has {free / 1e9:.3g} GB free, the checkpoint needs "
      f"{needed / 1e9:.3g} GB; free space or write elsewhere"
    )


def sync(path: str | os.PathLike) -> None:
  """Flush a file or a directory to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def size_of(path: pathlib.Path) -> int:
  """Return the bytes of a file, or of all files under a directory."""
  files = path.rglob("*") if path.is_dir() else (path,)
  return sum(file.stat().st_size for file in files if file.is_file())


def copy_files(
  source: pathlib.Path, target: pathlib.Path, names: Iterable[str]
) -> None:
  """Copy these files and directories of files, where they exist."""
  for name in names:
    if (source / name).is_dir():
      (target / name).mkdir()
      inner = sorted(path.name for path in (source / name).iterdir())
      copy_files(source / name, target / name, inner)
    elif (source / name).exists():
      shutil.copyfile(source / name, target / name)


def write_text(path: pathlib.Path, text: str) -> None:
  """Write a file of the temporary directory, which is synced in the end."""
  with path.open("x", encoding="utf-8") as file:
    file.write(text)


def read_json(path: pathlib.Path) -> dict:
  """Return the JSON object in a file; raises `UserError` if it is none."""
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise errors.UserError(
      f"{path} is damaged ({error}); use a backup of it"
    ) from error
  if not isinstance(content, dict):
    raise errors.UserError(
      f"{path} holds no JSON object but a {type(content).__name__}; use a "
      "backup of it"
    )
  return content
