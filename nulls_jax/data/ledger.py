"""The ledger: which sources a dataset holds, what they are, their status.

Owns what the SQLite file of sources holds, and reading it; `ledger_writing`
writes it. Needs NumPy only, so that redaction tools can use it without JAX.
Knows neither tokens nor weights.

A key is any text of 1 to 4,096 bytes of UTF-8, line ends, quotes and SQL
included, and is its exact code points: never normalised, trimmed or folded,
because two sources may differ in no more than that. A key that is unknown,
but looks like a known one, gets that one suggested (`suggestions`).

Invariant: a source's index, counted from 1 in order of first appearance, its
64-bit id and its size class never change; after an erasure the key's text is
nowhere in the file, while the id stays, so that asking for the key again finds
the erasure.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np

from nulls_jax import errors
from nulls_jax.data import conditions, suggestions
from nulls_jax.data.reading import keys as source_keys
from nulls_jax.sinks import assignment

FORMAT = "nulls ledger 2"
# Without the column of size classes: every source is of class 0.
FORMAT_1 = "nulls ledger 1"
ACTIVE, ERASED = "active", "erased"

# Ledgers up to this size are searched in full for the key that was meant; in
# larger ones only what stands near in the order of keys is seen.
_MAX_SOURCES_TO_SCAN = 20_000
_CHUNK = 500
_INDEX_AND_VALUE = np.dtype([("index", np.int64), ("value", np.int64)])
# So many at once that they stay in a cache: memory grows by the result alone.
_PAIRS = 8192

# Of both formats; the size class comes after them.
COLUMNS = (
  "source_index, source_id, key, num_documents, num_tokens, metadata, status"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """One source.

  Attributes:
    index: its number in the ledger, from 1.
    id: its unsigned 64-bit id.
    key: its key; None once erased.
    num_documents: documents that were prepared.
    num_tokens: tokens of those, bos and eos included.
    metadata: the other fields of its first document.
    status: "active" or "erased".
    size_class: it owns 2 ** size_class shares of sinks, as far as a pool
      has so many classes.
  """

  index: int
  id: int
  key: str | None
  num_documents: int
  num_tokens: int
  metadata: dict[str, Any]
  status: str
  size_class: int = 0


def to_signed(source_id: int) -> int:
  """SQLite's integers are signed: the same 64 bits."""
  return source_id - 2**64 if source_id >= 2**63 else source_id


class Ledger:
  """An open ledger, to be read; a context manager that closes it."""

  _MODE = "ro"

  def __init__(
    self,
    path: pathlib.Path,
    connection: sqlite3.Connection,
    has_size_classes: bool = True,
  ):
    self.path = path
    self._connection = connection
    self._size_class = "size_class" if has_size_classes else "0"
    self._columns = f"{COLUMNS}, {self._size_class}"
    self._connection.execute("PRAGMA secure_delete = ON")

  @classmethod
  def open(cls, path: str | os.PathLike) -> Self:
    """Open an existing ledger.

    Raises:
      errors.UserError: the file is missing or no ledger of a known format.
    """
    path = pathlib.Path(path)
    if not path.is_file():
      raise errors.UserError(
        f"{path} does not exist; give the ledger.sqlite of a prepared "
        "dataset or of a run"
      )
    uri = f"{path.absolute().as_uri()}?mode={cls._MODE}"
    connection = sqlite3.connect(uri, uri=True)
    try:
      row = connection.execute(
        "SELECT value FROM info WHERE key = 'format'"
      ).fetchone()
    except sqlite3.DatabaseError:
      row = None
    if row is None or row[0] not in (FORMAT, FORMAT_1):
      connection.close()
      found = "no ledger" if row is None else f"a ledger of format {row[0]!r}"
      raise errors.UserError(
        f"{path} is {found}; expected a ledger.sqlite of format {FORMAT!r}"
      )
    return cls(path, connection, has_size_classes=row[0] == FORMAT)

  def __enter__(self) -> "Ledger":
    return self

  def __exit__(self, *_):
    self.close()

  def close(self):
    """Close the file; uncommitted changes do not exist."""
    self._connection.close()

  @property
  def num_sources(self) -> int:
    """Sources, erased ones included: the largest index."""
    query = "SELECT COALESCE(MAX(source_index), 0) FROM sources"
    return self._connection.execute(query).fetchone()[0]

  def __iter__(self) -> Iterator[Source]:
    """Yield all sources by index."""
    query = f"SELECT {self._columns} FROM sources ORDER BY source_index"
    for row in self._connection.execute(query):
      yield _source(row)

  def find(
    self, keys: Iterable[str], *, allow_erased: bool = False
  ) -> list[Source]:
    """Return the sources of these keys, in their order.

    Args:
      keys: source keys.
      allow_erased: return erased sources too; their key is None.

    Raises:
      errors.UserError: keys are unknown or (unless allowed) were erased; all
        of them in one line, unknown ones with the nearest known key.
    """
    keys = list(keys)
    for key in keys:
      source_keys.check_key(key)
    ids = [to_signed(assignment.source_id(key)) for key in keys]
    rows = {row[1]: row for row in self._rows_by_id(ids)}
    found, unknown, erased = [], [], []
    for key, number in zip(keys, ids, strict=True):
      row = rows.get(number)
      if row is None or row[2] not in (None, key):
        unknown.append(key)
      elif row[2] is None and not allow_erased:
        erased.append(key)
      else:
        found.append(_source(row))
    if unknown or erased:
      raise errors.UserError(
        suggestions.not_found(
          self._connection,
          unknown,
          erased,
          where=self.path,
          scan=self.num_sources <= _MAX_SOURCES_TO_SCAN,
        )
      )
    return found

  def neighbours(self, key: str) -> list[str]:
    """Return the keys before and after a text in the order of keys."""
    return suggestions.neighbours(self._connection, key, 1)

  def select(
    self,
    condition: conditions.Condition,
    indices: Iterable[int] | None = None,
  ) -> Iterator[Source]:
    """Yield the sources of a condition, erased ones too, by index.

    Reads on as the caller does: memory does not grow with the ledger.

    Args:
      condition: what they must fulfil.
      indices: only these sources; None is all.

    Raises:
      errors.UserError: SQLite finds a pattern of the condition too complex.
    """
    query = f"SELECT {self._columns} FROM sources WHERE {condition.sql}"
    parts = [()]
    if indices is not None:
      indices = sorted(set(indices))
      parts = [
        tuple(indices[start : start + _CHUNK])
        for start in range(0, len(indices), _CHUNK)
      ]
    for part in parts:
      within = f" AND source_index IN ({','.join('?' * len(part))})"
      try:
        for row in self._connection.execute(
          f"{query}{within if part else ''} ORDER BY source_index",
          condition.parameters + part,
        ):
          yield _source(row)
      except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
          raise
        raise errors.UserError(
          f"the condition cannot be evaluated in {self.path}: {error}"
        ) from error

  def find_by_id(self, source_id: int) -> Source:
    """Return the source of an unsigned 64-bit id, erased or not.

    Raises:
      errors.UserError: there is none.
    """
    rows = self._rows_by_id([to_signed(source_id)])
    if not rows:
      raise errors.UserError(
        f"{self.path} has no source with the id {source_id:016x}"
      )
    return _source(rows[0])

  def indices(self, source_ids: Iterable[int]) -> dict[int, int]:
    """Return the indices of unsigned ids, of those that are here."""
    rows = self._rows_by_id(map(to_signed, source_ids))
    return {row[1] % 2**64: row[0] for row in rows}

  def _rows_by_id(self, ids: Iterable[int]) -> list[tuple]:
    ids = list(ids)
    rows = []
    for start in range(0, len(ids), _CHUNK):
      part = ids[start : start + _CHUNK]
      marks = ",".join("?" * len(part))
      query = (
        f"SELECT {self._columns} FROM sources WHERE source_id IN ({marks})"
      )
      rows.extend(self._connection.execute(query, part))
    return rows

  def ids(self) -> np.ndarray:
    """Return the ids by index: `uint64 [num_sources + 1]`, 0 first."""
    result = np.zeros(self.num_sources + 1, np.int64)
    for part in self._pairs("SELECT source_index, source_id FROM sources"):
      result[part["index"]] = part["value"]
    return result.view(np.uint64)

  def size_classes(self) -> np.ndarray:
    """Return the size classes by index: `uint8 [num_sources + 1]`, 0 first."""
    result = np.zeros(self.num_sources + 1, np.uint8)
    query = (
      f"SELECT source_index, {self._size_class} FROM sources "
      f"WHERE {self._size_class} != 0"
    )
    for part in self._pairs(query):
      result[part["index"]] = part["value"]
    return result

  def _pairs(self, query: str) -> Iterator[np.ndarray]:
    """Yield what a query gives, some thousands at a time."""
    found = self._connection.execute(query)
    while len(
      part := np.fromiter(itertools.islice(found, _PAIRS), _INDEX_AND_VALUE)
    ):
      yield part

  def fingerprint(self) -> str:
    """Return what says whose rows are whose, and no erasure changes.

    The SHA-256 of all ids in order, and of all size classes after them (a
    byte each) unless every one is 0.
    """
    digest = hashlib.sha256(self.ids().astype("<u8", copy=False))
    classes = self.size_classes()
    if classes.any():
      digest.update(classes)
    return digest.hexdigest()

  def erased(self) -> list[Source]:
    """Return the erased sources, by index; their keys are gone."""
    query = (
      f"SELECT {self._columns} FROM sources WHERE status = 'erased' "
      "ORDER BY source_index"
    )
    return [_source(row) for row in self._connection.execute(query)]


def _source(row: tuple) -> Source:
  return Source(
    index=row[0],
    id=row[1] % 2**64,
    key=row[2],
    num_documents=row[3],
    num_tokens=row[4],
    metadata=json.loads(row[5]),
    status=row[6],
    size_class=row[7],
  )
