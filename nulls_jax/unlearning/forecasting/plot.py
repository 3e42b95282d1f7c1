"""The plot of a forecast: what survivors lose now, and as erasures go on.

Owns colours and marks; every value comes from the forecast.
"""

import io
import math

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from nulls_jax import plot_style
from nulls_jax.unlearning.forecasting import advice
from nulls_jax.unlearning.forecasting import forecast as forecast_lib

# Okabe and Ito's colours, distinct to all kinds of colour vision.
_EXACT, _LAW, _TAIL, _STATED = "#0072B2", "#222222", "#D55E00", "#009E73"
_ZONES = (
  (0, advice.REPAIR_FROM, "#ffffff", "erase"),
  (advice.REPAIR_FROM, advice.RETRAIN_FROM, "#f4f4f4", "erase and repair"),
  (advice.RETRAIN_FROM, 1.05, "#e9e9e9", "retrain"),
)
_STYLE = {
  **plot_style.STYLE,
  "grid.color": "#e0e0e0",
  # The same forecast gives the same file.
  "svg.hashsalt": "nulls forecast",
}
_MAX_BINS = 48
_LEAST_SPAN = 0.05
_PERCENT = matplotlib.ticker.FuncFormatter(
  lambda share, _: f"{100 * share:.3g} %"
)


def draw(forecast: forecast_lib.Forecast) -> str:
  """Return the plot as SVG."""
  with matplotlib.rc_context(_STYLE):
    drawn = matplotlib.figure.Figure(
      figsize=(9.6, 4.0), layout="constrained", facecolor="white"
    )
    left, right = drawn.subplots(1, 2)
    _draw_survivors(left, forecast)
    _draw_outlook(right, forecast)
    content = io.StringIO()
    drawn.savefig(content, format="svg", metadata={"Date": None})
  return content.getvalue()


def _draw_survivors(axis, forecast: forecast_lib.Forecast) -> None:
  """How many survivors lose how much: counted, and expected."""
  loss = forecast.loss
  axis.set_title(f"After this request: {_sources(forecast)}")
  axis.set_xlabel("share of its sinks that a survivor has lost")
  axis.set_ylabel("surviving sources")
  if loss is None:
    axis.text(0.5, 0.5, "no source survives", ha="center", va="center")
    return
  counted, expected = (
    np.array(pairs, float).reshape(-1, 2)
    for pairs in (
      loss.sources_by_blocks_lost,
      loss.expected_sources_by_blocks_lost,
    )
  )
  edges = _edges(np.concatenate([counted[:, 0], expected[:, 0]]), loss)
  most = loss.blocks_of_a_source
  numbers, likely = (
    np.histogram(pairs[:, 0] / most, edges, weights=pairs[:, 1])[0]
    for pairs in (counted, expected)
  )
  axis.stairs(
    numbers, edges, fill=True, color=_EXACT, alpha=0.6, label="counted"
  )
  axis.stairs(likely, edges, color=_LAW, linewidth=1.2, label="by formula")
  axis.axvline(loss.exact.mean, color=_EXACT, linewidth=1, label="mean")
  axis.set_xlim(edges[0], edges[-1])
  axis.set_ylim(0, 1.25 * max(numbers.max(), likely.max()))
  axis.xaxis.set_major_formatter(_PERCENT)
  axis.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
  axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6))
  side = "left" if loss.exact.mean > edges.mean() + 0.1 * np.ptp(edges) else ""
  axis.legend(loc=f"upper {side or 'right'}")


def _edges(blocks: np.ndarray, loss: forecast_lib.Loss) -> np.ndarray:
  """Return edges of bins of equally many whole blocks, over all of `blocks`.

  They span 5 % of a source's sinks at least, inside 0 to 100 %.
  """
  low, high, most = blocks.min(), blocks.max(), loss.blocks_of_a_source
  span = max(high - low + 1, _LEAST_SPAN * most)
  width = math.ceil(span / _MAX_BINS)
  number = math.ceil(span / width)
  start = (low + high + 1 - number * width) // 2
  start = max(0, min(start, most + 1 - number * width))
  return (start + width * np.arange(number + 1) - 0.5) / most


def _sources(forecast: forecast_lib.Forecast) -> str:
  number = forecast.sources.erased_before + forecast.sources.to_erase
  return f"{number:,} of {forecast.sources.in_ledger:,} erased"


def _draw_outlook(axis, forecast: forecast_lib.Forecast) -> None:
  """The law over the number of erased sources, and where this request is."""
  outlook = forecast.outlook
  axis.set_title("As erasures go on")
  axis.set_xlabel("sources erased, earlier requests included")
  axis.set_ylabel("share of its sinks that a survivor has lost")
  axis.set_xscale("log")
  axis.set_xlim(1, outlook.erased[-1])
  axis.set_ylim(-0.01, 1.05)
  if forecast.pool.config.kind == "hashed":
    _draw_zones(axis)
  axis.plot(
    outlook.erased, outlook.quantile_99, color=_TAIL, label="99 % lose at most"
  )
  axis.plot(outlook.erased, outlook.mean, color=_LAW, label="expected mean")
  axis.axhline(
    outlook.stated_loss,
    color=_STATED,
    linestyle="--",
    linewidth=1,
    label=f"stated loss, {100 * outlook.stated_loss:.3g} %",
  )
  _draw_marks(axis, forecast)
  axis.xaxis.set_major_formatter(
    matplotlib.ticker.FuncFormatter(lambda number, _: f"{number:,.0f}")
  )
  axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
  axis.yaxis.set_major_formatter(_PERCENT)
  axis.legend(
    loc="upper left",
    fontsize=8.5,
    frameon=True,
    facecolor="white",
    edgecolor="none",
    framealpha=0.75,
  )


def _draw_zones(axis) -> None:
  """Shade what the advice calls for."""
  for low, high, colour, name in _ZONES:
    axis.axhspan(low, high, color=colour, zorder=0, linewidth=0)
    place = (low + min(high, 1)) / 2
    axis.annotate(
      name,
      (1, place),
      xytext=(4, 0),
      xycoords=("axes fraction", "data"),
      textcoords="offset points",
      va="center",
      fontsize=8,
      color="#666666",
      annotation_clip=False,
    )


def _draw_marks(axis, forecast: forecast_lib.Forecast) -> None:
  """Mark the earlier requests, this one, and the erasures asked about."""
  outlook, sources = forecast.outlook, forecast.sources
  before = sources.erased_before
  number = before + sources.to_erase
  if before and number > before:
    axis.axvline(before, color="#888888", linewidth=1, label="erased before")
  if number:
    axis.axvline(number, color=_EXACT, linewidth=1)
    if forecast.loss is not None:
      axis.plot(
        [number, number],
        [forecast.loss.exact.mean, forecast.loss.exact.quantile_99],
        "o",
        color=_EXACT,
        markersize=5,
        label="this request, counted",
      )
  if outlook.asked is not None:
    axis.plot(
      [number + outlook.asked_erasures],
      [outlook.asked.mean],
      "D",
      color=_LAW,
      markersize=5,
      label=f"{outlook.asked_erasures:,} further",
    )
