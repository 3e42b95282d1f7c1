"""Commands that measure time and memory, on data that they make themselves."""

import dataclasses
import sys

from nulls_jax.bench import settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchSearch(settings.SearchSettings):
  """Time the search for sources in a ledger of millions."""

  def run(self) -> None:
    from nulls_jax.bench import search

    print(search.run(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchForecast(settings.ForecastSettings):
  """Time and memory of a forecast over millions of sources."""

  def run(self) -> None:
    from nulls_jax.bench import forecast

    for line in forecast.run(self):
      print(line, flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchScale(settings.ScaleSettings):
  """Ledger, routing, forecast and input with millions of sources."""

  def run(self) -> None:
    from nulls_jax.bench import scale

    print(scale.run(self, _say))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchPrepare(settings.PrepareSettings):
  """Time and memory of preparing documents, by number of workers."""

  def run(self) -> None:
    from nulls_jax.bench import prepare

    print(prepare.show(prepare.measure(self, _say)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchDictionary(settings.DictionarySettings):
  """Write a generated dictionary: many sources, a short article each."""

  def run(self) -> None:
    from nulls_jax.bench import dictionary

    size = dictionary.write(self.out, self.sources, self.seed)
    print(f"{self.out}: {self.sources:,} articles, {size / 1e6:,.1f} MB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchRedact(settings.RedactSettings):
  """Time and memory of erase and verify, over what the disk itself takes."""

  def run(self) -> None:
    from nulls_jax.bench import redact

    print(redact.show(redact.measure(self)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench(settings.ThroughputSettings):
  """Time training and generation against dense transformers.

  Every variant is timed in turn in one process; ratios are over the dense
  transformer of equal active width.
  """

  def run(self) -> None:
    from nulls_jax.bench import throughput

    print(throughput.run(self, _say))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchInput(settings.InputSettings):
  """Time reading batches from prepared rows, on the cores it may use."""

  def run(self) -> None:
    from nulls_jax.bench import input as input_lib

    print(input_lib.run(self, _say))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchSweep(settings.SweepSettings):
  """Time the step over pool size, sources a row, sources or length."""

  def run(self) -> None:
    from nulls_jax.bench import sweeps

    print(sweeps.run(self, _say))


def _say(text: str) -> None:
  """Say what goes on, apart from the table."""
  print(text, file=sys.stderr, flush=True)
