"""An OCDBT database on disk: the map from keys to bytes inside an Orbax item.

Owns opening, reading and writing it through tensorstore, and what
tensorstore's failures mean. Knows nothing of arrays or sinks.

Invariant: a database is only ever written where there was none, so that no
older version of any value exists in it as long as each key is written once.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterable

import tensorstore as ts

from nulls_jax import errors

MANIFEST_FILE = "manifest.ocdbt"
DATA_DIRECTORY = "d"

# OCDBT keeps its nodes here while it is read.
_NODE_CACHE_BYTES = 32 * 2**20

# What Orbax uses: smaller values live in the nodes of the tree.
_MAX_INLINE_BYTES = 1024


@contextlib.contextmanager
def reading(what):
  """Turn tensorstore's failures to read into a `UserError` naming `what`."""
  try:
    yield
  except errors.UserError:
    raise
  except (ValueError, NotImplementedError) as error:
    raise errors.UserError(
      f"{what}: damaged or unreadable ({reason(error)}); use another step or "
      "a backup of the checkpoint"
    ) from error


@contextlib.contextmanager
def writing(what):
  """Turn tensorstore's failures to write into a `MachineError`."""
  try:
    yield
  except errors.UserError:
    raise
  except ValueError as error:
    raise errors.MachineError(
      f"{what}: cannot be written ({reason(error)}); nothing was left behind"
    ) from error


def reason(error: Exception, limit: int = 400) -> str:
  """Return tensorstore's message without the specification that it appends."""
  message = re.split(r" \[\w+='", str(error), maxsplit=1)[0]
  lines = message.splitlines() or [type(error).__name__]
  return lines[0] if len(lines[0]) <= limit else lines[0][:limit] + "..."


class Database:
  """The OCDBT database of an item: a map from keys to encoded values."""

  def __init__(self, directory: pathlib.Path, store: ts.KvStore):
    self.directory = directory
    self._store = store

  @classmethod
  def open(cls, directory: pathlib.Path) -> "Database":
    """Open what Orbax, or `create`, wrote; nothing of it is cached before.

    Raises:
      UserError: there is no database, or its manifest is damaged.
    """
    if not (directory / MANIFEST_FILE).is_file():
      raise errors.UserError(
        f"{directory}: {MANIFEST_FILE} is missing, so this is no whole Orbax "
        "item (OCDBT); use another step or a backup of the checkpoint"
      )
    with reading(directory):
      return cls(directory, _open_store(directory))

  @classmethod
  def create(cls, directory: pathlib.Path) -> "Database":
    """Create a database in a directory that has none (RuntimeError)."""
    for name in (MANIFEST_FILE, DATA_DIRECTORY):
      if (directory / name).exists():
        raise RuntimeError(f"{directory / name} exists; a copy must be fresh")
    with writing(directory):
      return cls(directory, _open_store(directory))

  def keys(self) -> list[str]:
    """Return every key, sorted."""
    with reading(self.directory):
      return sorted(key.decode() for key in self._store.list().result())

  def read(self, keys: Iterable[str]) -> list[bytes]:
    """Return the values of keys; all are in memory at once.

    Raises:
      UserError: a value is missing or cannot be read, naming its key.
    """
    keys = list(keys)
    pending = [self._store.read(key) for key in keys]
    values = []
    for key, future in zip(keys, pending, strict=True):
      with reading(f"{self.directory}: {key}"):
        result = future.result()
      if result.state != "value":
        raise errors.UserError(
          f"{self.directory}: {key} is missing; use another step or a backup "
          "of the checkpoint"
        )
      values.append(result.value)
    return values

  def write(self, items: Iterable[tuple[str, bytes]]) -> None:
    """Write keys in one transaction, synced to disk; each key only once.

    Raises:
      MachineError: the disk is full or does not take it.
    """
    with writing(self.directory), ts.Transaction() as transaction:
      store = self._store.with_transaction(transaction)
      for key, value in items:
        store.write(key, value)


def _open_store(directory: pathlib.Path) -> ts.KvStore:
  context = ts.Context({"cache_pool": {"total_bytes_limit": _NODE_CACHE_BYTES}})
  spec = {
    "driver": "ocdbt",
    "base": {"driver": "file", "path": f"{directory.absolute()}/"},
  }
  if not (directory / MANIFEST_FILE).exists():
    spec["config"] = {"max_inline_value_bytes": _MAX_INLINE_BYTES}
  return ts.KvStore.open(spec, context=context).result()
