"""The copy of a ledger in which sources are erased.

Owns the copying; `data.ledger_writing` owns what an erased source looks like.

Invariant: the copy is a function of the sources and of which are erased, byte
for byte, in whatever order and grouping they were erased.
"""

import contextlib
import pathlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import ledger_writing


def write(
  source: pathlib.Path,
  target: pathlib.Path,
  sources: Iterable[ledger_lib.Source],
) -> None:
  """Copy a ledger with these sources erased, nothing of them left behind.

  Only the last of these two copies is laid out anew, row after row, so that
  neither free pages nor the order of erasures show in it.

  Args:
    source: the ledger; nobody writes it.
    target: does not exist; not synced to the disk.
    sources: those erased before are passed over.

  Raises:
    UserError: the ledger is damaged.
    MachineError: the disk is full or fails.
    OSError: the ledger cannot be read.
  """
  working = target.with_name(f"{target.name}.working")
  shutil.copyfile(source, working)
  with _copying(source, target), _opened(working) as connection:
    ledger_writing.redact(
      connection, [entry.index for entry in sources if entry.key is not None]
    )
    # Copying counts this up; the number of erasures must not show.
    connection.execute("PRAGMA schema_version = 1")
    connection.execute("VACUUM INTO ?", (str(target),))
  working.unlink()


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
  """Open a ledger that is thrown away, so that it needs to survive nothing."""
  with contextlib.closing(sqlite3.connect(path)) as connection:
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    yield connection


@contextlib.contextmanager
def _copying(source: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except sqlite3.OperationalError as error:
    raise errors.MachineError(
      f"copying {source} to {target} failed: {error}; check the disk"
    ) from error
  except sqlite3.DatabaseError as error:
    raise errors.UserError(
      f"{source} is damaged: {error}; use a backup of it"
    ) from error
