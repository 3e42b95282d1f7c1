"""Plots of the benchmarks as PNG, on white cards; every value is given.

Owns colours and marks.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure

from nulls_jax import plot_style

# Okabe and Ito's colours, distinct to all kinds of colour vision.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#666666"


def throughput(geometry: str, found: Mapping) -> bytes:
  """Draw `throughput.Row`s: time of the step, rate of generation."""
  with matplotlib.rc_context(plot_style.STYLE):
    drawn, (left, right) = _panels()
    names = list(found)
    places = range(len(names))
    left.set_title(f"{geometry}: training step")
    left.set_xlabel("time over dense of equal active width")
    _ratios(
      left,
      [-0.15 + place for place in places],
      [row.step for row in found.values()],
      _BLUE,
      "whole step",
    )
    _ratios(
      left,
      [0.15 + place for place in places],
      [row.gradients for row in found.values()],
      _ORANGE,
      "forward and backward",
    )
    _scale(left, [row.step.of_medians for row in found.values()])
    left.legend(loc="best", fontsize=8.5)
    right.set_title("generation, one source")
    right.set_xlabel("tokens/s over dense of equal active width")
    written = [
      (place, row.generation)
      for place, row in zip(places, found.values(), strict=True)
      if row.generation is not None
    ]
    if written:
      where, ratios = zip(*written, strict=True)
      _ratios(right, where, ratios, _GREEN, "generation")
    for axis in (left, right):
      axis.axvline(1, color=_GREY, linewidth=1)
      axis.set_yticks(list(places), names)
      axis.set_ylim(len(names) - 0.5, -0.5)
    right.set_xlim(left=0)
    return plot_style.png(drawn)


def sweep(title: str, label: str, found: Sequence) -> bytes:
  """Draw `sweeps.Row`s: time over the first row and over dense, memory."""
  with matplotlib.rc_context(plot_style.STYLE):
    drawn, (left, right) = _panels()
    values = [row.value for row in found]
    left.set_title(title)
    left.set_ylabel("time")
    for ratios, colour, name in (
      ([row.step for row in found], _BLUE, "step, over the first"),
      (
        [row.gradients for row in found],
        _ORANGE,
        "forward and backward, over the first",
      ),
      ([row.over_twin for row in found], _GREEN, "step, over its dense twin"),
    ):
      _lines(left, values, ratios, colour, name)
    left.axhline(1, color=_GREY, linewidth=1)
    left.set_ylim(bottom=0)
    left.legend(loc="lower left", fontsize=8.5)
    right.set_title("Memory of the step")
    right.set_ylabel("MB")
    told = [row for row in found if row.allowed_bytes is not None]
    where = [row.value for row in told]
    for name, colour, style, sizes in (
      ("peak", _BLUE, "o-", [row.figures.bytes.peak for row in told]),
      (
        "parameters, moments and the twin's working set",
        _GREY,
        "x--",
        [row.allowed_bytes for row in told],
      ),
    ):
      right.plot(
        where, [size / 1e6 for size in sizes], style, color=colour, label=name
      )
    if told:
      right.legend(loc="best", fontsize=8.5)
    for axis in (left, right):
      axis.set_xlabel(label)
      axis.set_xscale("log")
      axis.set_xticks(values, [f"{value:,}" for value in values])
      axis.minorticks_off()
    right.set_ylim(bottom=0)
    return plot_style.png(drawn)


def _ratios(axis, places, ratios, colour, label) -> None:
  """Draw medians with quartiles as horizontal marks."""
  middles = [one.by_round.median for one in ratios]
  axis.errorbar(
    middles,
    list(places),
    xerr=_around(middles, ratios),
    fmt="o",
    color=colour,
    capsize=3,
    markersize=5,
    label=label,
  )


def _lines(axis, values, ratios, colour, label) -> None:
  middles = [one.by_round.median for one in ratios]
  axis.errorbar(
    values,
    middles,
    yerr=_around(middles, ratios),
    fmt="o-",
    color=colour,
    capsize=3,
    markersize=4,
    linewidth=1.2,
    label=label,
  )


def _around(middles, ratios):
  """Return the distances of the quartiles from the medians."""
  return [
    [
      middle - one.by_round.lower
      for middle, one in zip(middles, ratios, strict=True)
    ],
    [
      one.by_round.upper - middle
      for middle, one in zip(middles, ratios, strict=True)
    ],
  ]


def _scale(axis, values) -> None:
  """Show far values on a logarithmic axis, with plain numbers."""
  if max(values) > 3:
    axis.set_xscale("log")
    ticks = [
      tick for tick in (0.5, 1, 2, 4, 8, 16, 32) if tick < 2 * max(values)
    ]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _panels():
  drawn = matplotlib.figure.Figure(
    figsize=(9.6, 3.8), layout="constrained", facecolor="white"
  )
  return drawn, drawn.subplots(1, 2)
