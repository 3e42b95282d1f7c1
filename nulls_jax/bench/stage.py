"""A stage that `nulls bench scale` measures, and what it has done.

Owns where the stages find the generated ledger.
"""

import dataclasses
import pathlib
from collections.abc import Callable

from nulls_jax.bench import alone
from nulls_jax.bench.settings import ScaleSettings
from nulls_jax.data import ledger as ledger_lib

LEDGER = "ledger.sqlite"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """What a stage has done.

  Attributes:
    taken: time of what the stage is named after.
    count: how many things it did then.
    unit: what they are.
    facts: other numbers, by name.
  """

  taken: alone.Taken
  count: int
  unit: str = "sources"
  facts: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
  """What stages read and none of them writes.

  Attributes:
    name: in the plural or with an article, to say what is being written.
    file: in the folder; there when all of it is.
    write: makes it; picklable.
  """

  name: str
  file: str
  write: Callable[[ScaleSettings], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One line of the table.

  Attributes:
    action: from settings to `Done`; picklable.
    once: whether it is too long, or changes too much, to be repeated.
    needs: what it reads beside the ledger and what earlier stages wrote.
  """

  action: Callable[[ScaleSettings], Done]
  once: bool = False
  needs: Made | None = None


def ledger_path(settings: ScaleSettings) -> pathlib.Path:
  """Return where the ledger is."""
  return settings.out / LEDGER


def opened(settings: ScaleSettings) -> ledger_lib.Ledger:
  """Open the ledger."""
  return ledger_lib.Ledger.open(ledger_path(settings))
