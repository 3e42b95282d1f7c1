"""Files that are whole or not there."""

import os
import pathlib

from nulls_jax import errors


def write_whole(path: pathlib.Path, text: str) -> None:
  """Write a text file beside its place, sync it and rename it there.

  Raises:
    errors.MachineError: it cannot be written, the disk is full for one.
  """
  partial = path.with_name(f"{path.name}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    raise errors.MachineError(
      f"{path}: cannot be written: {error.strerror}"
    ) from error
