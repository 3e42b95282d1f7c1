"""The stored rows of a prepared dataset or mixture, by their number.

Owns the reading of rows from several files and parts in the order in which
they are stored, for whatever looks at a dataset and does not train on it. The
order of training is `pipeline`'s.

Invariant: row n is the same row as long as the dataset is; its sources have
the numbers of the dataset's own ledger.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
from array_record.python import array_record_module

from nulls_jax import errors
from nulls_jax.data import mixture, packing
from nulls_jax.data.preparation import dataset

_ROWS_AT_ONCE = 1024

Split = tuple[np.ndarray, np.ndarray, np.ndarray]


class Rows:
  """Open rows; a context manager that closes them.

  Attributes:
    num_rows: rows, those of all parts one after the other.
  """

  def __init__(self, prepared: dataset.Prepared):
    """Open the files; `errors.UserError` when one is damaged."""
    self._directory = prepared.directory
    self._row_length = prepared.config.row_length
    self._parts = [_Part(part) for part in mixture.parts_of(prepared)]
    self.num_rows = sum(part.num_rows for part in self._parts)

  def __enter__(self) -> "Rows":
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    for part in self._parts:
      part.close()

  def read(self, numbers_R: np.ndarray) -> Split:
    """Return rows by ascending numbers.

    Returns:
      Tokens `[R, L]`, tile documents and sources `[R, T]`, uint32.

    Raises:
      errors.UserError: the rows are damaged, or fewer.
    """
    with damage_named(self._directory):
      if not 0 <= numbers_R[0] <= numbers_R[-1] < self.num_rows:
        raise IndexError(
          f"it has {self.num_rows} rows, not row {numbers_R[-1]}"
        )
    found, end = [], 0
    for part in self._parts:
      start, end = end, end + part.num_rows
      low, high = np.searchsorted(numbers_R, (start, end))
      if low < high:
        own = numbers_R[low:high] - start
        found.append(part.read(own, self._row_length))
    return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))

  def in_parts(
    self, numbers_R: np.ndarray | None = None
  ) -> Iterator[tuple[np.ndarray, Split]]:
    """Yield rows by ascending numbers, or all, some at a time.

    Yields:
      Their numbers, and what `read` returns.
    """
    if numbers_R is None:
      numbers_R = np.arange(self.num_rows)
    for start in range(0, len(numbers_R), _ROWS_AT_ONCE):
      some_R = numbers_R[start : start + _ROWS_AT_ONCE]
      yield some_R, self.read(some_R)


class _Part:
  """The rows of one part, in several files."""

  def __init__(self, part: mixture.Part):
    self._directory = part.directory
    self._kept = part.load_kept()
    self._numbers = part.load_numbers()
    with damage_named(part.directory):
      self._readers = [
        array_record_module.ArrayRecordReader(str(path))
        for path in part.row_files
      ]
      self._sizes = [reader.num_records() for reader in self._readers]
    self.num_rows = sum(self._sizes)
    if self._kept is not None:
      self.num_rows = len(self._kept)

  def close(self):
    for reader in self._readers:
      reader.close()

  def read(self, numbers_R: np.ndarray, row_length: int) -> Split:
    if self._kept is not None:
      numbers_R = self._kept[numbers_R]
    records, end = [], 0
    with damage_named(self._directory):
      for reader, size in zip(self._readers, self._sizes, strict=True):
        start, end = end, end + size
        low, high = np.searchsorted(numbers_R, (start, end))
        own = (numbers_R[low:high] - start).tolist()
        if own and own[-1] - own[0] == len(own) - 1:
          # In a row: read as one piece.
          records += reader.read(own[0], own[-1] + 1)
        elif own:
          records += reader.read(own)
    return mixture.renumbered(
      *packing.split_records(records, row_length), self._numbers
    )


@contextlib.contextmanager
def damage_named(directory):
  """ArrayRecord checks what it reads, and has one kind of error."""
  try:
    yield
  except (RuntimeError, IndexError) as error:
    raise errors.UserError(
      f"prepared dataset {directory} is damaged: {error}; delete it and "
      "prepare again"
    ) from error
