"""The copy of a ledger in which sources are erased.

Owns the copying; `data.ledger` owns what an erased source looks like.

Invariant: the copy is a function of the sources and of which are erased, byte
for byte, in whatever order and grouping they were erased.
"""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib


def write(
  source: pathlib.Path,
  target: pathlib.Path,
  sources: Iterable[ledger_lib.Source],
) -> None:
  """Copy a ledger, free pages left behind, with these sources erased.

  Raises:
    UserError: the ledger is damaged.
    MachineError: the disk is full or fails.
  """
  working = target.with_name(f"{target.name}.working")
  with _copying(source, target):
    _vacuum(source, working)
    active = [entry.key for entry in sources if entry.key is not None]
    if active:
      with ledger_lib.Ledger.open(working, read_only=False) as ledger:
        ledger.erase(active)
    # Every vacuum counts this up; the number of erasures must not show.
    with contextlib.closing(sqlite3.connect(working)) as connection:
      connection.execute("PRAGMA schema_version = 1")
    _vacuum(working, target)
  working.unlink()


def _vacuum(source: pathlib.Path, target: pathlib.Path) -> None:
  uri = f"{source.absolute().as_uri()}?mode=ro"
  with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
    connection.execute(ledger_lib.REWRITE)
    connection.execute("VACUUM INTO ?", (str(target),))


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
