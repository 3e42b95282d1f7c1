"""The sources of all parts, numbered, into one ledger.

Owns the order: a source's index follows from its first document. Streams: a
part at a time, and SQLite, not memory, knows the sources that came before.

Invariant: a function of the parts and their order alone.
"""

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import extension, ledger_writing
from nulls_jax.data.preparation import block as block_lib
from nulls_jax.data.preparation import work as work_lib

# Pages of the ledger in memory while it is written.
_CACHE_KIB = 200_000

_NEEDED = (
  *("ids", "num_documents", "num_tokens"),
  *("keys", "key_ends", "metadata", "metadata_ends"),
)

Part = tuple[int, int]


def merge(
  ledger_path: pathlib.Path,
  base: extension.Base | None,
  parts: Sequence[Part],
  place: Callable[[int], work_lib.Work],
  work: work_lib.Work,
  progress: Callable[[int], None],
) -> None:
  """Write a ledger of the sources of all parts, without size classes.

  Args:
    ledger_path: its place; must not exist.
    base: the run whose sources come first.
    parts: numbers of block and part, in order.
    place: by block, the work that has its parts.
    work: takes the indices of the parts' sources.
    progress: called with the number of parts done.

  Raises:
    errors.UserError: two keys have one id, or a source was erased.
    errors.MachineError: the disk is full.
  """
  if base:
    ledger_writing.Writer.copy(ledger_path, base.ledger_path).close()
  else:
    ledger_writing.Writer.create(ledger_path).close()
  (work.directory / "indices").mkdir(exist_ok=True)
  with _opened(ledger_path) as connection:
    query = "SELECT COALESCE(MAX(source_index), 0) FROM sources"
    count = connection.execute(query).fetchone()[0]
    for number, (block, part) in enumerate(parts, start=1):
      path = place(block).part(block, part)
      arrays = work_lib.read_arrays(path, *_NEEDED)
      indices = _merge_part(connection, arrays, count)
      count = max(count, int(indices.max()))
      work_lib.write_array(work.indices(block, part), indices)
      progress(number)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
  """Open a ledger that nobody else has: a killed merge begins anew."""
  with files.disk_errors(path):
    connection = sqlite3.connect(path, isolation_level=None)
    try:
      connection.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
        f"PRAGMA cache_size = -{_CACHE_KIB}; PRAGMA temp_store = MEMORY; "
        "CREATE TEMP TABLE part (number INTEGER PRIMARY KEY, id INTEGER);"
        "BEGIN;"
      )
      yield connection
      connection.execute("COMMIT")
    finally:
      connection.close()
    with open(path, "rb") as file:
      os.fsync(file.fileno())


def _merge_part(connection, arrays, count: int) -> np.ndarray:
  """Add the sources of a part; return their indices, `uint32 [sources + 1]`."""
  ids = arrays["ids"].view(np.int64).tolist()
  keys = list(work_lib.unpack_texts(arrays["keys"], arrays["key_ends"]))
  documents = arrays["num_documents"].tolist()
  tokens = arrays["num_tokens"].tolist()
  indices = [0] * len(ids)
  connection.execute("DELETE FROM part")
  connection.executemany(
    "INSERT INTO part VALUES (?, ?)", list(enumerate(ids))[1:]
  )
  known = connection.execute(
    "SELECT part.number, source_index, key FROM part JOIN sources "
    "ON source_id = part.id"
  ).fetchall()
  updates = []
  for number, index, key in known:
    _check_key(keys[number].decode("utf-8"), key, ids[number])
    indices[number] = index
    updates.append((documents[number], tokens[number], index))
  connection.executemany(
    "UPDATE sources SET num_documents = num_documents + ?, "
    "num_tokens = num_tokens + ? WHERE source_index = ?",
    updates,
  )
  new = [number for number, index in enumerate(indices) if number and not index]
  for index, number in enumerate(new, start=count + 1):
    indices[number] = index
  metadata = list(
    work_lib.unpack_texts(arrays["metadata"], arrays["metadata_ends"])
  )
  connection.executemany(
    "INSERT INTO sources (source_index, source_id, key, num_documents, "
    "num_tokens, metadata, status) VALUES (?, ?, ?, ?, ?, ?, 'active')",
    (
      (
        indices[number],
        ids[number],
        keys[number].decode("utf-8"),
        documents[number],
        tokens[number],
        metadata[number].decode("utf-8"),
      )
      for number in new
    ),
  )
  return np.array(indices, np.uint32)


def _check_key(key: str, known: str | None, number: int) -> None:
  if known is None:
    raise errors.UserError(
      f"source {key!r} was erased from the run; it cannot be added again"
    )
  if key != known:
    raise block_lib.same_id(key, known, number % 2**64)


def num_tokens(
  num_sources: int,
  parts: Sequence[Part],
  place: Callable[[int], work_lib.Work],
  work: work_lib.Work,
) -> np.ndarray:
  """Return the tokens of the parts by source: `int64 [num_sources + 1]`."""
  total = np.zeros(num_sources + 1, np.int64)
  for block, part in parts:
    path = place(block).part(block, part)
    arrays = work_lib.read_arrays(path, "num_tokens")
    # A part has each of its sources once.
    total[np.load(work.indices(block, part))] += arrays["num_tokens"]
  return total
