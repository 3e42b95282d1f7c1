"""Writing a ledger: new sources, their numbers, their erasure.

Owns how the file of `data.ledger` comes to be and changes.

Invariant: a call is kept whole or not at all, and an index, an id or a size
class that was given is never changed.
"""

import json
import os
import pathlib
import sqlite3
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import ledger, routing
from nulls_jax.data.reading import keys as source_keys
from nulls_jax.sinks import assignment

# Sources that are looked up at a time.
_CHUNK = 500

_SCHEMA = """
CREATE TABLE info (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (
  source_index INTEGER PRIMARY KEY,
  source_id INTEGER NOT NULL UNIQUE,
  key TEXT UNIQUE,
  num_documents INTEGER NOT NULL,
  num_tokens INTEGER NOT NULL,
  metadata TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('active', 'erased')),
  size_class INTEGER NOT NULL DEFAULT 0 CHECK (size_class BETWEEN 0 AND 15)
);
"""


class Writer(ledger.Ledger):
  """An open ledger that may be written; closed as any is."""

  _MODE = "rw"

  @classmethod
  def create(cls, path: str | os.PathLike) -> Self:
    """Create an empty ledger; `errors.UserError` when the file exists."""
    path = pathlib.Path(path)
    if path.exists():
      raise errors.UserError(f"{path} exists; a ledger is never overwritten")
    with files.disk_errors(path):
      # One file and nothing beside it: no write-ahead log to forget.
      connection = sqlite3.connect(path)
      connection.executescript(_SCHEMA)
      connection.execute(
        "INSERT INTO info VALUES ('format', ?)", (ledger.FORMAT,)
      )
      connection.commit()
    return cls(path, connection)

  @classmethod
  def copy(cls, path: str | os.PathLike, original: str | os.PathLike) -> Self:
    """Create a ledger that begins with all sources of another, as they are.

    Of the older format, it becomes one of this format.

    Raises:
      errors.UserError: the file exists, or the other is no ledger.
    """
    with ledger.Ledger.open(original) as book:
      columns = f"{ledger.COLUMNS}, size_class"
      query = f"SELECT {book._columns} FROM sources ORDER BY source_index"
      copied = cls.create(path)
      with files.disk_errors(path), copied._connection as connection:
        connection.executemany(
          f"INSERT INTO sources ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
          book._connection.execute(query),
        )
    return copied

  def add_documents(self, entries: Iterable[tuple[str, int, dict[str, Any]]]):
    """Add documents to their sources; new keys get the next indices.

    Args:
      entries: key, number of documents, and the metadata that the source
        gets if it is new. A key may come again and again.

    Raises:
      errors.UserError: a key is too long, was erased, or has the 64-bit id
        of another key. Nothing of this call is kept then.
    """
    chunk: dict[str, list] = {}
    next_index = self.num_sources + 1
    with files.disk_errors(self.path), self._connection:
      for key, num_documents, metadata in entries:
        if key in chunk:
          chunk[key][0] += num_documents
          continue
        source_keys.check_key(key)
        chunk[key] = [num_documents, metadata]
        if len(chunk) == _CHUNK:
          next_index += self._add_chunk(chunk, next_index)
          chunk = {}
      self._add_chunk(chunk, next_index)

  def _add_chunk(self, chunk: dict[str, list], next_index: int) -> int:
    ids = {key: ledger.to_signed(assignment.source_id(key)) for key in chunk}
    known = self._rows_by_id(ids.values())
    taken = {row[1]: row[2] for row in known}
    new, updates = [], []
    for key, (num_documents, metadata) in chunk.items():
      number = ids[key]
      if number not in taken:
        text = json.dumps(metadata, sort_keys=True)
        new.append(
          (
            next_index + len(new),
            number,
            key,
            num_documents,
            0,
            text,
            ledger.ACTIVE,
          )
        )
        taken[number] = key
      elif taken[number] == key:
        updates.append((num_documents, number))
      elif taken[number] is None:
        raise errors.UserError(
          f"source {key!r} was erased from {self.path}; it cannot be added "
          "again"
        )
      else:
        raise errors.UserError(
          f"sources {key!r} and {taken[number]!r} have the same 64-bit id "
          f"{number % 2**64:016x}; rename one of them"
        )
    self._connection.executemany(
      f"INSERT INTO sources ({ledger.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
      new,
    )
    self._connection.executemany(
      "UPDATE sources SET num_documents = num_documents + ? "
      "WHERE source_id = ?",
      updates,
    )
    return len(new)

  def add_num_tokens(self, num_tokens: np.ndarray):
    """Add to the tokens of all sources: `int64 [num_sources + 1]`, 0 first."""
    updates = (
      (count, index)
      for index, count in enumerate(num_tokens.tolist())
      if index and count
    )
    with files.disk_errors(self.path), self._connection:
      self._connection.executemany(
        "UPDATE sources SET num_tokens = num_tokens + ? WHERE source_index = ?",
        updates,
      )

  def set_size_classes(self, classes: np.ndarray):
    """Store the size classes of all sources.

    Args:
      classes: `[num_sources + 1]` by index; the first is of no source, and
        not looked at.

    Raises:
      errors.UserError: size classes cannot tell two of the sources apart, or
        the ledger is of the format that has none.
    """
    if not classes[1:].any():
      return
    if self._size_class == "0":
      raise errors.UserError(
        f"{self.path} has the format {ledger.FORMAT_1!r}, without size "
        "classes; prepare the documents again with this version"
      )
    routing.check_distinct(self, self.ids())
    updates = enumerate(classes.tolist())
    with files.disk_errors(self.path), self._connection:
      self._connection.executemany(
        "UPDATE sources SET size_class = ? WHERE source_index = ?",
        ((number, index) for index, number in updates if index and number),
      )

  def erase(self, keys: Iterable[str]):
    """Redact sources: status "erased", no key, no metadata.

    The key's text is then nowhere in the file: deleted content is
    overwritten and the file rewritten. Index, id and counts stay.

    Raises:
      errors.UserError: keys are unknown or already erased; nothing changes.
    """
    sources = self.find(dict.fromkeys(keys))
    with files.disk_errors(self.path):
      redact(self._connection, [source.index for source in sources])
      self._connection.execute("VACUUM")


def redact(connection: sqlite3.Connection, indices: Iterable[int]) -> None:
  """Take key and metadata from sources of an open ledger.

  Their text may still stand in free places of the file until that is
  rewritten, so this alone is no erasure.
  """
  with connection:
    connection.executemany(
      "UPDATE sources SET key = NULL, metadata = '{}', status = 'erased' "
      "WHERE source_index = ?",
      [(index,) for index in indices],
    )
