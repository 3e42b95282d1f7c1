"""Time and memory of a forecast over millions of sources.

`nulls bench forecast --ledger PATH` makes the ledger if it is not there, erases
nothing, and prints the median of the repeats, each a process of its own, so
that its peak is its own. The pool is that of `configs/wiki_1b.py`: 32 layers,
8,192 sinks each, 96 a source, 8 strata. How much there is to count depends on
the request: with 1,000 erased sources hardly a block of such a pool is left,
and the complement is counted; with 60, half of them are, and every source's
blocks are drawn.
"""

import pathlib
import statistics
from collections.abc import Iterator

import numpy as np

from nulls_jax import errors
from nulls_jax.bench import alone, corpus
from nulls_jax.bench.settings import ForecastSettings
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import forecast
from nulls_jax.unlearning.forecasting import survey as forecast_survey

CONFIG = assignment.SinkConfig(
  kind="hashed", pool_size=8192, sinks_per_source=96, strata=8
)
NUM_LAYERS = 32


def measure(
  path: pathlib.Path, num_erased: int, threads: int
) -> tuple[float, float]:
  """Return seconds and the survivors' mean loss of one forecast.

  Args:
    path: of the ledger.
    num_erased: sources that are named.
    threads: that count.
  """
  with ledger_lib.Ledger.open(path) as ledger:
    keys = spread_keys(ledger, num_erased)
  done = once(path, keys, threads, CONFIG)
  return done.seconds, done.loss.exact.mean


def once(
  path: pathlib.Path,
  keys: list[str],
  threads: int,
  config: assignment.SinkConfig,
) -> forecast.Forecast:
  """Forecast the erasure of sources from a model that is not there."""
  pool = forecast_survey.Pool(config=config, num_layers=NUM_LAYERS, ledger=path)
  return forecast.forecast(pool, keys, threads=threads)


def spread_keys(ledger: ledger_lib.Ledger, count: int) -> list[str]:
  """Return the keys of so many sources, evenly spread over a ledger."""
  indices = np.linspace(1, ledger.num_sources, count).astype(np.int64)
  ids = ledger.ids()[indices]
  return [ledger.find_by_id(number).key for number in ids.tolist()]


def run(settings: ForecastSettings) -> Iterator[str]:
  """Yield a line for each number of erased sources, as it is measured."""
  if not settings.ledger.exists():
    corpus.make_ledger(settings.ledger, settings.sources)
  with ledger_lib.Ledger.open(settings.ledger) as ledger:
    found = ledger.num_sources
  if found != settings.sources:
    raise errors.UserError(
      f"{settings.ledger} has {found:,} sources, not {settings.sources:,}; "
      "give --sources or another --ledger"
    )
  yield (f"{found:,} sources, {settings.threads} threads, {CONFIG}")
  for num_erased in settings.erase:
    seconds, losses, peaks = [], [], []
    for _ in range(settings.repeats):
      (time, loss), peak = alone.run(
        measure, settings.ledger, num_erased, settings.threads
      )
      seconds.append(time)
      losses.append(loss)
      peaks.append(peak)
    yield (
      f"{num_erased:,} to erase: median {statistics.median(seconds):.1f} s of "
      f"{', '.join(f'{one:.1f}' for one in seconds)}; peak "
      f"{max(peaks) / 1e6:,.0f} MB; survivors lose {losses[0]:.2%} on average"
    )
