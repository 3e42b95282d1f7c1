"""What a run holds of its sources now: active, suspended, erased, dead rows.

Reads the settings, the ledger, the revocation list and the names of steps and
receipts; opens no checkpoint, so that it answers at once whatever the size of
the run. Writes nothing.

Invariant: every source of the ledger is in exactly one state; an erased one
is erased, whether it was suspended before or not.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import routing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.revocation import revocation
from nulls_jax.unlearning.revocation.record import Revocations

SUSPENDED = "suspended"
RECEIPTS = "receipts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceState:
  """One source that was asked for.

  Attributes:
    key: as it was named.
    id: its 64-bit id.
    index: its number in the ledger.
    state: "active", "suspended" or "erased".
    version: of the line that suspended it, None if it is not suspended.
  """

  key: str
  id: int
  index: int
  state: str
  version: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
  """The state of a run.

  Attributes:
    run_dir: the run directory.
    num_active: sources whose sinks can be activated.
    num_suspended: sources that the revocation list names.
    num_erased: sources whose rows are zero.
    revocations: the list.
    rows_per_stratum: rows of the table in one stratum of one layer.
    dead_rows: rows that belong to erased sources, `[layers][strata]`.
    steps: checkpoints, ascending.
    receipts: names of the files in the folder of receipts, sorted.
    sources: those that were asked for.
  """

  run_dir: pathlib.Path
  num_active: int
  num_suspended: int
  num_erased: int
  revocations: Revocations
  rows_per_stratum: int
  dead_rows: tuple[tuple[int, ...], ...]
  steps: tuple[int, ...]
  receipts: tuple[str, ...]
  sources: tuple[SourceState, ...]

  def to_dict(self) -> dict[str, Any]:
    """Return what `nulls status --json` prints."""
    return {
      "run": str(self.run_dir),
      "num_sources": {
        "active": self.num_active,
        "suspended": self.num_suspended,
        "erased": self.num_erased,
      },
      "revocations": {
        "version": self.revocations.version,
        "head": self.revocations.head,
        "history": [
          {
            "version": entry.version,
            "time": entry.time,
            "action": entry.action,
            "num_sources": len(entry.sources),
            "reference": entry.reference,
            "reason": entry.reason,
          }
          for entry in self.revocations.entries
        ],
      },
      "rows_per_stratum": self.rows_per_stratum,
      "dead_rows": [list(layer) for layer in self.dead_rows],
      "steps": list(self.steps),
      "receipts": list(self.receipts),
      "sources": [
        {**dataclasses.asdict(source), "id": f"{source.id:016x}"}
        for source in self.sources
      ],
    }


def read(
  run_dir: str | os.PathLike,
  keys: Sequence[str] = (),
  *,
  expect_version: int = 0,
) -> Status:
  """Return the state of a run.

  Args:
    run_dir: a run directory, trained or erased.
    keys: source keys whose state is asked for; erased ones may be named.
    expect_version: version that the revocation list is known to have had.

  Raises:
    errors.UserError: no run, unknown keys, or a revocation list that is
      broken or older than expected.
  """
  run_dir = pathlib.Path(run_dir)
  sinks, num_layers = _settings(run_dir)
  revocations = revocation.read(run_dir, at_least=expect_version)
  with ledger_lib.Ledger.open(run_dir / revocation.LEDGER_FILE) as ledger:
    num_sources = ledger.num_sources
    erased = ledger.erased()
    found = ledger.find(keys, allow_erased=True)
    dead_rows = _dead_rows(sinks, num_layers, ledger, erased)
  suspended = revocations.suspended - {source.id for source in erased}
  return Status(
    run_dir=run_dir,
    num_active=num_sources - len(erased) - len(suspended),
    num_suspended=len(suspended),
    num_erased=len(erased),
    revocations=revocations,
    rows_per_stratum=sinks.rows_per_stratum,
    dead_rows=dead_rows,
    steps=_steps(run_dir),
    receipts=_names(run_dir / RECEIPTS),
    sources=tuple(
      _state(key, source, revocations)
      for key, source in zip(keys, found, strict=True)
    ),
  )


def _settings(run_dir: pathlib.Path) -> tuple[assignment.SinkConfig, int]:
  """Return the sink settings and the number of layers."""
  settings = revocation.read_settings(run_dir)
  path = run_dir / revocation.CONFIG_FILE
  try:
    sinks = dict(settings["sinks"])
    sinks.pop("version", None)
    return assignment.SinkConfig(**sinks), int(settings["model"]["num_layers"])
  except (KeyError, TypeError, ValueError) as error:
    raise errors.UserError(
      f"{path} is damaged ({error}); put the run's own file back"
    ) from error


def _dead_rows(
  sinks: assignment.SinkConfig,
  num_layers: int,
  ledger: ledger_lib.Ledger,
  erased: Sequence[ledger_lib.Source],
) -> tuple[tuple[int, ...], ...]:
  if sinks.kind == "none":
    return ()
  words_Sx2 = routing.words(sinks, ledger, erased)
  counts = []
  for layer in range(num_layers):
    rows_SxGxA = assignment.rows(sinks, words_Sx2, layer)
    counts.append(
      tuple(
        len(np.unique(rows_SxGxA[:, stratum]))
        for stratum in range(sinks.strata)
      )
    )
  return tuple(counts)


def _steps(run_dir: pathlib.Path) -> tuple[int, ...]:
  names = _names(run_dir / "checkpoints")
  return tuple(
    sorted(int(name) for name in names if name.isascii() and name.isdigit())
  )


def _names(folder: pathlib.Path) -> tuple[str, ...]:
  with files.disk_errors(folder):
    if not folder.is_dir():
      return ()
    return tuple(sorted(path.name for path in folder.iterdir()))


def _state(
  key: str, source: ledger_lib.Source, revocations: Revocations
) -> SourceState:
  entry = revocations.suspended_by.get(source.id)
  if source.status == ledger_lib.ERASED:
    state, entry = ledger_lib.ERASED, None
  else:
    state = SUSPENDED if entry else ledger_lib.ACTIVE
  return SourceState(
    key=key,
    id=source.id,
    index=source.index,
    state=state,
    version=entry.version if entry else None,
  )
