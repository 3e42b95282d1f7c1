"""Held-out documents: what a block leaves behind, and the dataset's files.

Owns the lines in between. A document of a block is only known to be one of a
source that is trained on when all blocks are done.

Invariant: a function of the blocks and their order alone.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from nulls_jax.data import splits
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.reading import documents
from nulls_jax.sinks import assignment

# A letter of each kind, and the 16 hex digits of the source's id.
_LETTERS = {kind[0]: kind for kind in splits.FILES}
_HEAD = 1 + 16


class Writer:
  """Writes the held-out documents of a block as lines."""

  def __init__(self, file: BinaryIO):
    self._file = file

  def __call__(self, kind: str, document: documents.Document) -> None:
    number = assignment.source_id(document.source) if document.source else 0
    self._file.write(f"{kind[0]}{number:016x}".encode())
    self._file.write(
      splits.to_line(document.source, document.text, document.metadata)
    )


@dataclasses.dataclass(frozen=True)
class Written:
  """The files of held-out documents that a dataset has.

  Attributes:
    counts: documents by kind.
    files: their names; a kind without documents has none.
  """

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  files: tuple[str, ...] = ()


def put_together(
  paths: Sequence[pathlib.Path], ids: np.ndarray, directory: pathlib.Path
) -> Written:
  """Write the files of all blocks' held-out documents.

  Args:
    paths: of the blocks, in order.
    ids: `uint64 [sources + 1]` of the ledger: the sources that are trained
      on.
    directory: of the dataset.
  """
  trained = np.sort(ids)
  counts = collections.Counter()
  for kind, name in splits.FILES.items():

    def write(file, kind=kind):
      for found, line in _lines(paths, trained):
        if found == kind:
          file.write(line)
          counts[kind] += 1

    work_lib.write(directory / name, write)
    if not counts[kind]:
      (directory / name).unlink()
  return Written(
    {kind: counts[kind] for kind in splits.FILES},
    tuple(splits.FILES[kind] for kind in splits.FILES if counts[kind]),
  )


def _lines(paths, trained: np.ndarray) -> Iterator[tuple[str, bytes]]:
  """Yield the kind and the line of every held-out document."""
  for path in paths:
    with open(path, "rb") as file:
      for line in file:
        number = np.uint64(int(line[1:_HEAD], 16))
        place = np.searchsorted(trained, number)
        is_trained = place < len(trained) and trained[place] == number
        kind = _LETTERS[line[:1].decode()]
        yield splits.placed(kind, is_trained=bool(is_trained)), line[_HEAD:]
