"""Files of packed rows, from the parts of blocks; each written by a worker.

Owns which parts share a file, and the change from a part's own source numbers
to indices in the ledger. Knows nothing of texts.

Invariant: files hold the rows of the blocks in their order.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from array_record.python import array_record_module

from nulls_jax import errors, files
from nulls_jax.data import packing
from nulls_jax.data.preparation import dataset
from nulls_jax.data.preparation import work as work_lib

# Blocks whose rows share a file; more where there would be too many files,
# as training keeps all of them open.
_BLOCKS_A_FILE = 4
_MAX_FILES = 512


def group(
  num_rows: Sequence[Sequence[int]],
) -> list[list[tuple[int, int]]]:
  """Return the parts, by block and number, that each file has.

  A function of the rows alone. Files without rows are left out, unless there
  is no row at all.

  >>> group([[5], [], [7, 8], [], [9]])
  [[(0, 0), (2, 0), (2, 1)], [(4, 0)]]

  Args:
    num_rows: by block, the rows of its parts.
  """
  size = max(_BLOCKS_A_FILE, math.ceil(len(num_rows) / _MAX_FILES))
  found = []
  for start in range(0, len(num_rows), size):
    blocks = enumerate(num_rows[start : start + size], start=start)
    parts = [
      (block, part) for block, rows in blocks for part in range(len(rows))
    ]
    if parts:
      found.append(parts)
  return found or [[]]


@dataclasses.dataclass(frozen=True)
class Task:
  """Writes files: `task(number)`; picklable.

  Attributes:
    files: the parts of each file.
    places: by block, the folder of work that has its parts.
    directory: the folder of work that has the sources' indices and gets the
      files.
  """

  files: Sequence[Sequence[tuple[int, int]]]
  places: Mapping[int, pathlib.Path]
  directory: pathlib.Path

  def path(self, number: int) -> pathlib.Path:
    """Return the place of a file."""
    work = work_lib.Work(self.directory)
    return work.final / dataset.rows_name(number, len(self.files))

  def facts(self, number: int) -> pathlib.Path:
    """Return the place of a file's size and digest; written after it."""
    return work_lib.Work(self.directory).directory / f"rows-{number:05d}.json"

  def __call__(self, number: int) -> None:
    """Write a file."""
    path = self.path(number)
    partial = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    write_records(partial, self._records(number))
    with files.disk_errors(path):
      os.replace(partial, path)
    facts = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    work_lib.write_json(self.facts(number), facts)

  def _records(self, number: int) -> Iterator[bytes]:
    work = work_lib.Work(self.directory)
    for block, part in self.files[number]:
      indices = np.load(work.indices(block, part))
      place = work_lib.Work(self.places[block]).part(block, part)
      arrays = work_lib.read_arrays(
        place, "tokens", "tile_documents", "tile_sources"
      )
      tokens, documents = arrays["tokens"], arrays["tile_documents"]
      sources = indices[arrays["tile_sources"]]
      for row in range(len(tokens)):
        yield packing.Row(tokens[row], documents[row], sources[row]).to_bytes()


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> int:
  """Write an ArrayRecord file and sync it; return the number of records.

  Raises:
    errors.MachineError: the disk is full or fails.
  """
  count = 0
  try:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
      writer.write(record)
      count += 1
    writer.close()
  except RuntimeError as error:
    # ArrayRecord has one kind of error; the text starts with the cause.
    reason = str(error).split(";")[0]
    raise errors.MachineError(
      f"writing {path} failed: {reason}; free space and repeat"
    ) from error
  with files.disk_errors(path), open(path, "rb") as file:
    os.fsync(file.fileno())
  return count
