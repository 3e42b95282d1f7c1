"""What erasing sources would cost the others; changes nothing.

Owns the forecast as it is reported: the exact loss of every surviving source,
the formulas beside it, how far the pool is from a stated loss, the advice.
`forecast_survey` says what a request touches, `forecast_count` counts,
`forecast_law` has the formulas.

Invariant: every figure called exact is of all surviving sources of the
ledger, never of a sample.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import advice as forecast_advice
from nulls_jax.unlearning.forecasting import count as forecast_count
from nulls_jax.unlearning.forecasting import law as forecast_law
from nulls_jax.unlearning.forecasting import survey as forecast_survey

_NUM_WORST = 10
# Points of the curves, and the mean loss at which they end.
_CURVE_POINTS, _CURVE_END = 60, 0.98


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
  """The share of its sinks that each surviving source loses.

  Attributes:
    exact: of all that survive: what is gone after the request, earlier ones
      included.
    exact_by_request: of all that survive: what goes by this request alone.
    expected: the law for the number of erased sources (of each size),
      whichever they are.
    expected_given_rows: the law given the zero rows of every stratum.
    blocks_of_a_source: blocks that a source owns in all layers and strata; of
      the largest size class, if there are several. Numbers of lost blocks
      are out of these for every source: for one that owns half as many, each
      counts twice.
    sources_by_blocks_lost: pairs (blocks lost after the request, sources);
      the whole exact distribution.
    expected_sources_by_blocks_lost: the same by the law for the number of
      erased sources, where it expects half a source or more.
  """

  exact: forecast_law.Figures
  exact_by_request: forecast_law.Figures
  expected: forecast_law.Figures
  expected_given_rows: forecast_law.Figures
  blocks_of_a_source: int
  sources_by_blocks_lost: list[tuple[int, int]]
  expected_sources_by_blocks_lost: list[tuple[int, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hit:
  """A surviving source that loses much.

  Attributes:
    key: its key.
    index: its number in the ledger.
    share: of its sinks, gone after the request.
    share_by_request: the part of it that goes by this request.
  """

  key: str
  index: int
  share: float
  share_by_request: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
  """Further erasures of sources like any other, after this request.

  Attributes:
    stated_loss: the share that is asked about.
    until_mean: further sources until the mean survivor has lost it; None if
      never.
    until_quantile_99: until one survivor of a hundred has lost more.
    erased: numbers of erased sources, earlier ones included, from the first:
      the axis of the curves below.
    mean: expected share that a survivor has lost.
    quantile_99: the share that 99 % of the survivors do not exceed.
    asked_erasures: further erasures that were asked about, or None.
    asked: what survivors have lost after them, or None.
  """

  stated_loss: float
  until_mean: int | None
  until_quantile_99: int | None
  erased: list[int]
  mean: list[float]
  quantile_99: list[float]
  asked_erasures: int | None
  asked: forecast_law.Figures | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
  """The whole forecast; `forecast.json` holds these fields.

  Attributes:
    pool: where the sinks are.
    source_ids: 64-bit ids of the named sources, hexadecimal.
    sources: how many there are of each sort.
    rows: rows that would become zero.
    loss: of the survivors; None if nobody survives.
    worst: the survivors that lose most, worst first.
    outlook: what further erasures would cost.
    advice: what to do.
    seconds: wall time.
  """

  pool: forecast_survey.Pool
  source_ids: list[str]
  sources: forecast_survey.Sources
  rows: forecast_survey.Rows
  loss: Loss | None
  worst: list[Hit]
  outlook: Outlook
  advice: forecast_advice.Advice
  seconds: float


def forecast(
  pool: forecast_survey.Pool,
  keys: Sequence[str],
  *,
  loss: float = 0.1,
  erasures: int | None = None,
  shards: int = 1,
  threads: int | None = None,
  progress: forecast_count.Progress | None = None,
) -> Forecast:
  """Say what erasing the sources would cost.

  Args:
    pool: where the sinks are.
    keys: source keys; erased ones are counted, not refused. May be empty if
      `erasures` is given.
    loss: the share of its sinks whose loss by survivors is asked about.
    erasures: further erasures to ask about, after the named sources.
    shards: devices over which the table is divided.
    threads: for counting; the cores that this process may use by default.
    progress: called with surviving sources counted, and all.

  Raises:
    errors.UserError: nothing is named, keys are unknown, or a number makes no
      sense. Nothing is ever written.
  """
  start = time.monotonic()
  keys = list(dict.fromkeys(keys))
  _check_numbers(keys, loss, erasures)
  with ledger_lib.Ledger.open(pool.ledger) as ledger:
    survey = forecast_survey.Survey(pool, ledger, keys)
    rows = survey.rows(shards)
    before, after = survey.count(threads, progress)
    worst = _worst(ledger, survey, before, after)
  outlook = _outlook(survey, loss, erasures)
  result = _loss(survey, before, after) if after.size else None
  return Forecast(
    pool=survey.pool,
    source_ids=[f"{source.id:016x}" for source in survey.named],
    sources=survey.sources,
    rows=rows,
    loss=result,
    worst=worst,
    outlook=outlook,
    advice=_advice(survey, result, outlook),
    seconds=time.monotonic() - start,
  )


def _check_numbers(keys, loss, erasures) -> None:
  if not keys and erasures is None:
    raise errors.UserError(
      "no source named; give at least one source, or a number of erasures"
    )
  if not 0 < loss < 1:
    raise errors.UserError(
      f"the loss asked about is {loss:g}; give a share between 0 and 1, such "
      "as 0.1"
    )
  if erasures is not None and erasures < 1:
    raise errors.UserError(
      f"the number of erasures is {erasures}; give at least 1"
    )


def _law(survey: forecast_survey.Survey) -> forecast_law.Law:
  return forecast_law.Law(
    survey.pool.config,
    survey.pool.num_layers,
    survey.surviving_sizes,
    survey.sizes,
  )


def _loss(
  survey: forecast_survey.Survey, before: np.ndarray, after: np.ndarray
) -> Loss:
  most, law = survey.num_owned, _law(survey)
  of_counts = forecast_law.Distribution.of_counts
  expected = law.lost(law.after_sizes(law.untouched(), survey.erased_sizes))
  given_rows = law.lost(law.counted(survey.after.sum(axis=2)))
  sources, likely = np.bincount(after), expected.weights * after.size
  return Loss(
    exact=of_counts(after, most).figures(counted=True),
    exact_by_request=of_counts(after - before, most).figures(counted=True),
    expected=expected.figures(counted=False),
    expected_given_rows=given_rows.figures(counted=False),
    blocks_of_a_source=most,
    sources_by_blocks_lost=[
      (lost, int(sources[lost])) for lost in np.flatnonzero(sources).tolist()
    ],
    expected_sources_by_blocks_lost=[
      (lost, float(likely[lost]))
      for lost in np.flatnonzero(likely >= 0.5).tolist()
    ],
  )


def _worst(
  ledger: ledger_lib.Ledger,
  survey: forecast_survey.Survey,
  before: np.ndarray,
  after: np.ndarray,
) -> list[Hit]:
  """Return the survivors that lose most; equals in the ledger's order."""
  order = np.argsort(-after.astype(np.int64), kind="stable")[:_NUM_WORST]
  places = [place for place in order.tolist() if after[place]]
  ids = survey.ids[survey.indices[places]].tolist()
  return [
    Hit(
      key=ledger.find_by_id(source_id).key or "",
      index=int(survey.indices[place]),
      share=int(after[place]) / survey.num_owned,
      share_by_request=int(after[place] - before[place]) / survey.num_owned,
    )
    for place, source_id in zip(places, ids, strict=True)
  ]


def _outlook(
  survey: forecast_survey.Survey, loss: float, erasures: int | None
) -> Outlook:
  config, law = survey.pool.config, _law(survey)
  here = law.counted(survey.after.sum(axis=2))
  expected = functools.partial(
    forecast_law.expected_share, config, sizes=survey.sizes
  )
  erased = _curve(config, survey.num_erased + (erasures or 0), expected)
  states = (law.after(law.untouched(), number) for number in erased)
  asked = law.lost(law.after(here, erasures)) if erasures else None
  return Outlook(
    stated_loss=loss,
    until_mean=law.until(here, lambda lost: lost.mean >= loss),
    until_quantile_99=law.until(here, lambda lost: lost.quantile(0.99) >= loss),
    erased=erased,
    mean=[expected(number) for number in erased],
    quantile_99=[law.lost(state).quantile(0.99) for state in states],
    asked_erasures=erasures,
    asked=asked.figures(counted=False) if asked else None,
  )


def _curve(
  config: assignment.SinkConfig,
  num_erased: int,
  expected: Callable[[int], float],
) -> list[int]:
  """Return the numbers of erased sources at which the curves are drawn."""
  end = max(10, 2 * num_erased)
  if config.kind == "hashed":
    while expected(end) < _CURVE_END:
      end *= 2
  points = np.geomspace(1, end, _CURVE_POINTS).round().astype(np.int64)
  return np.unique(points).tolist()


def _advice(
  survey: forecast_survey.Survey, loss: Loss | None, outlook: Outlook
) -> forecast_advice.Advice:
  """Advise on the named sources, or else on the erasures asked about."""
  if loss is None:
    return forecast_advice.nobody_left()
  after = loss.exact.mean
  before = after - loss.exact_by_request.mean
  if not survey.named and outlook.asked is not None:
    before, after = after, outlook.asked.mean
  return forecast_advice.advise(survey.pool.config, before, after)
