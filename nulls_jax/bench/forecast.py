"""Time and memory of a forecast over millions of sources.

`nulls bench forecast --ledger PATH` makes the ledger if it is not there, erases
nothing, and prints the median of the repeats, each a process of its own, so
that its peak is its own. The pool is that of `configs/wiki_1b.py`: 32 layers,
8,192 sinks each, 96 a source, 8 strata. How much there is to count depends on
the request: with 1,000 erased sources hardly a block of such a pool is left,
and the complement is counted; with 60, half of them are, and every source's
blocks are drawn.
"""

import multiprocessing
import resource
import statistics
import sys
from collections.abc import Iterator

import numpy as np

from nulls_jax import errors
from nulls_jax.bench import corpus
from nulls_jax.bench.settings import ForecastSettings
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import forecast
from nulls_jax.unlearning.forecasting import survey as forecast_survey

_CONFIG = assignment.SinkConfig(
  kind="hashed", pool_size=8192, sinks_per_source=96, strata=8
)
_NUM_LAYERS = 32


def measure(
  settings: ForecastSettings, num_erased: int
) -> tuple[float, float, float]:
  """Return seconds, peak memory in bytes and mean loss of one forecast."""
  with ledger_lib.Ledger.open(settings.ledger) as ledger:
    indices = np.linspace(1, ledger.num_sources, num_erased).astype(np.int64)
    ids = ledger.ids()[indices]
    keys = [ledger.find_by_id(number).key for number in ids.tolist()]
  pool = forecast_survey.Pool(
    config=_CONFIG, num_layers=_NUM_LAYERS, ledger=settings.ledger
  )
  done = forecast.forecast(pool, keys, threads=settings.threads)
  kilobyte = 1 if sys.platform == "darwin" else 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
  return done.seconds, peak, done.loss.exact.mean


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
  yield (f"{found:,} sources, {settings.threads} threads, {_CONFIG}")
  context = multiprocessing.get_context("spawn")
  for num_erased in settings.erase:
    results = []
    for _ in range(settings.repeats):
      with context.Pool(1) as process:
        results.append(process.apply(measure, (settings, num_erased)))
    seconds, peaks, losses = zip(*results, strict=True)
    yield (
      f"{num_erased:,} to erase: median {statistics.median(seconds):.1f} s of "
      f"{', '.join(f'{one:.1f}' for one in seconds)}; peak "
      f"{max(peaks) / 1e6:,.0f} MB; survivors lose {losses[0]:.2%} on average"
    )
