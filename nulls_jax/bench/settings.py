"""What each benchmark takes; light, so that `--help` answers at once."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
  """Finding sources by key, pattern, metadata and quotation.

  Attributes:
    out: folder of the generated dataset; one that is there is used again.
    sources: in the dataset, each with one passage.
    repeats: of every query, each with another target.
    seed: of everything drawn.
  """

  out: pathlib.Path
  sources: int = 6_400_000
  repeats: int = 11
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForecastSettings:
  """A forecast over millions of sources.

  Attributes:
    ledger: path of a ledger; made with generated keys if missing.
    sources: that the ledger has or gets.
    erase: sources named, one measurement for each number.
    repeats: of each measurement.
    threads: that count.
  """

  ledger: pathlib.Path
  sources: int = 6_400_000
  erase: tuple[int, ...] = (1000, 60)
  repeats: int = 3
  threads: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RedactSettings:
  """Erasures and their check on a large run.

  Attributes:
    gigabytes: of the training state.
    sources: erased at once, one measurement for each number.
    repeats: of each measurement.
    out: folder for the runs, removed afterwards; needs three times the size.
      A temporary one by default.
  """

  gigabytes: float = 2.0
  sources: tuple[int, ...] = (1, 10_000)
  repeats: int = 3
  out: pathlib.Path | None = None
