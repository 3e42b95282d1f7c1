"""What each benchmark takes; light, so that `--help` answers at once."""

import dataclasses
import pathlib

from nulls_jax.config import MeshConfig


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
class PrepareSettings:
  """Preparing generated documents, whole runs of the command in turn.

  Attributes:
    megabytes: of text.
    workers: that count, one measurement for each number, each on as many
      cores; the first is what the others are compared with.
    rounds: in each, every number of workers is timed once.
    vocab_size: of the tokenizer that each run trains.
    out: folder for documents and datasets, removed afterwards; needs three
      times the size. A temporary one by default.
    seed: of everything drawn.
  """

  megabytes: float = 200.0
  workers: tuple[int, ...] = (1, 2)
  rounds: int = 3
  vocab_size: int = 16_384
  out: pathlib.Path | None = None
  seed: int = 0


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSettings:
  """Reading batches from prepared rows.

  Attributes:
    lengths: tokens of a row, one measurement for each number.
    tile: tokens that share a source.
    batch: rows that a process reads for one step.
    tokens: in each generated dataset.
    repeats: of each measurement.
    seconds: least length of one measurement.
    out: folder for the JSON file.
    seed: of tokens, sources and order.
  """

  lengths: tuple[int, ...] = (256, 1024, 4096)
  tile: int = 64
  batch: int = 64
  tokens: int = 16_000_000
  repeats: int = 7
  seconds: float = 2.0
  out: pathlib.Path = pathlib.Path("bench")
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleSettings:
  """Ledger, routing, forecast and input with millions of sources.

  Attributes:
    out: folder of the generated ledger and rows; what is there is used again.
    sources: in the ledger.
    rows: of eight sources each, evenly spread over the ledger; 0 gives every
      source a place in one.
    erase: sources erased, one forecast and one copy for each number.
    suspend: sources on the revocation list.
    hosts: that share a batch, one measurement of the input for each number.
    batch: rows of all hosts.
    seconds: least length of one measurement of the input.
    repeats: of each stage that can be repeated.
    threads: that count.
    only: stages whose names contain one of these; all by default.
    seed: of everything drawn.
  """

  out: pathlib.Path
  sources: int = 6_400_000
  rows: int = 0
  erase: tuple[int, ...] = (1, 100, 10_000)
  suspend: int = 100_000
  hosts: tuple[int, ...] = (1, 64)
  batch: int = 512
  seconds: float = 5.0
  repeats: int = 3
  threads: int = 2
  only: tuple[str, ...] = ()
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DictionarySettings:
  """A generated dictionary for `nulls prepare`: many short articles.

  Attributes:
    out: JSON Lines file of the articles.
    sources: articles, each a source of its own.
    seed: of everything drawn.
  """

  out: pathlib.Path
  sources: int = 145_000
  seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimingSettings:
  """What is timed, how long, and where the figures go.

  Attributes:
    geometry: size of the model: small (a CPU, about a minute), 1b-layer (two
      layers of the paper's), 1b (all of it), tiny (shows that it runs).
    repeats: rounds; in each, every variant is timed once.
    seconds: least length of one timing; short steps are repeated to fill it.
    layers: decoder layers; 0 takes the geometry's.
    rows: of one step and device with rows of its own; 0 takes the geometry's.
    tile: tokens that share a source; 0 takes the geometry's.
    out: folder for the JSON file and the plot.
    seed: of tokens and sources.
    mesh: arrangement of the devices.
  """

  geometry: str = "small"
  repeats: int = 5
  seconds: float = 0.25
  layers: int = 0
  rows: int = 0
  tile: int = 0
  out: pathlib.Path = pathlib.Path("bench")
  seed: int = 0
  mesh: MeshConfig = MeshConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThroughputSettings(TimingSettings):
  """Sinks against dense transformers, side by side.

  Attributes:
    only: variants to measure, dense-active always among them: dense-active,
      dense-total, masked, gather, gather-4, dedicated; all if none is named.
    length: tokens of a row; 0 takes the geometry's.
  """

  only: tuple[str, ...] = ()
  length: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSettings(TimingSettings):
  """One size after the other, everything else equal.

  Attributes:
    over: pool (sinks a layer), sources-a-row, sources (of a dedicated
      table) or length (tokens of a row).
    values: ascending sizes; those of the documentation if none is given.
  """

  over: str
  values: tuple[int, ...] = ()
