"""Plots of a study as PNG, on white cards that fit light and dark pages.

Owns colours and marks; what they show comes from figures and columns.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

from nulls_jax import plot_style
from nulls_jax.evaluation import probes
from nulls_jax.study import columns as columns_lib
from nulls_jax.study import tables, verdicts

# Okabe and Ito's colours, distinct to all kinds of colour vision.
_COLOURS = {
  "on": "#0072B2",
  "off": "#999999",
  "nearest": "#E69F00",
  "erased": "#D55E00",
  "erased_nearest": "#F0C060",
  "retrained": "#009E73",
  "dense": "#444444",
  "held_out": "#CC79A7",
}
_SHORT_NAMES = {
  "on": "Sink-On",
  "off": "backbone only",
  "nearest": "nearest source",
  "erased": "erased",
  "retrained": "retrained",
  "dense": "dense",
}
_WIDTH = 9.6


def _panels(count: int, height: float):
  """Return a figure of `count` panels beside each other."""
  drawn = matplotlib.figure.Figure(
    figsize=(_WIDTH, height), layout="constrained", facecolor="white"
  )
  return drawn, drawn.subplots(1, count, squeeze=False)[0]


def _png(drawn) -> str:
  """Return a figure as a data URL."""
  coded = base64.b64encode(plot_style.png(drawn)).decode("ascii")
  return f"data:image/png;base64,{coded}"


def draw(
  summary: Mapping[str, Any],
  results: columns_lib.Results,
  curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, str]:
  """Return the plots by name, as data URLs; those that have data.

  Args:
    summary: what `summary.json` holds.
    results: the evaluation files.
    curves: the logged steps of a training, by run.
  """
  kinds = summary["kinds"]
  with matplotlib.rc_context(plot_style.STYLE):
    if summary["corpus"]["generated"]:
      made = {
        "accuracy": _accuracy(summary["figures"], kinds),
        "support": _support(summary["figures"], kinds),
        "recall": _recall(results, kinds),
        "truth_ratio": _truth_ratio(results, kinds),
      }
    else:
      made = {
        "losses": _losses(summary["figures"], kinds),
        "articles": _articles(results, kinds),
      }
    made["curves"] = _curves(curves)
  return {name: url for name, url in made.items() if url is not None}


def _accuracy(figures, kinds) -> str:
  """Accuracy by condition: own facts beside shared facts."""
  many = verdicts.MANY
  facts = {
    "unique": "own facts",
    f"shared_in_context.support_{many}": f"shared by {many}+,\nin context",
    f"shared_bare.support_{many}": f"shared by {many}+,\nbare",
  }
  conditions = ("on", "off", "nearest", "erased", "retrained")
  drawn, axes = _panels(len(kinds), 3.6)
  for axis, kind in zip(axes, kinds, strict=True):
    bars = {name: f"{kind}.forget.{{}}.{name}.accuracy" for name in conditions}
    bars["dense"] = "dense.forget.{}.off.accuracy"
    _grouped_bars(axis, figures, bars, facts, scale=100)
    axis.set_title(tables.MODEL_NAMES[kind])
    axis.set_ylim(0, 105)
  axes[0].set_ylabel("accuracy, %")
  _legend_below(drawn, axes[0])
  return _png(drawn)


def _grouped_bars(axis, figures, bars, groups, scale):
  """Draw bars side by side in groups, with standard errors.

  Args:
    axis: where to draw.
    figures: by dotted name.
    bars: by condition, the figures' names with a place for the group.
    groups: labels of the groups by what their figures are called.
    scale: factor of all values.
  """
  width = 0.8 / len(bars)
  for place, (name, pattern) in enumerate(bars.items()):
    found = [
      (at, figures[pattern.format(group)])
      for at, group in enumerate(groups)
      if pattern.format(group) in figures
    ]
    offset = (place - (len(bars) - 1) / 2) * width
    axis.bar(
      [at + offset for at, _ in found],
      [scale * one["value"] for _, one in found],
      width * 0.92,
      yerr=[scale * (one["standard_error"] or 0) for _, one in found],
      color=_COLOURS[name],
      error_kw={"elinewidth": 1, "ecolor": "#222222"},
      label=_SHORT_NAMES[name],
    )
  axis.set_xticks(range(len(groups)), list(groups.values()))
  axis.grid(axis="x", visible=False)


def _legend_below(drawn, axis):
  handles, labels = axis.get_legend_handles_labels()
  drawn.legend(
    handles, labels, loc="outside lower center", ncols=max(1, len(labels))
  )


def _support(figures, kinds) -> str | None:
  """Accuracy on shared facts over the number of supporting sources."""
  edges = probes.SUPPORT_EDGES
  drawn, axes = _panels(2, 3.6)
  lines = 0
  panels = (("shared_in_context", "in context"), ("shared_bare", "bare"))
  for axis, (fact, title) in zip(axes, panels, strict=True):
    for model in (*kinds, "dense"):
      conditions = ("off",) if model == "dense" else ("on", "off")
      for condition in conditions:
        points = [
          (place, figures[name])
          for place, edge in enumerate(edges)
          if (
            name := f"{model}.retained.{fact}.support_{edge}.{condition}"
            ".accuracy"
          )
          in figures
        ]
        if not points:
          continue
        lines += 1
        dense = model == "dense"
        axis.errorbar(
          [place for place, _ in points],
          [100 * one["value"] for _, one in points],
          yerr=[100 * (one["standard_error"] or 0) for _, one in points],
          color=_COLOURS["dense" if dense else condition],
          linestyle="--" if model == "dedicated" else "-",
          marker="s" if dense else "o",
          markersize=4,
          capsize=2,
          label="dense" if dense else f"{model}, {_SHORT_NAMES[condition]}",
        )
    axis.set_title(f"asked {title}")
    axis.set_xticks(
      range(len(edges)), [probes.bin_name(edge) for edge in edges]
    )
    axis.set_xlabel("trained sources that state the fact")
    axis.set_ylim(-3, 105)
  axes[0].set_ylabel("accuracy, %")
  if not lines:
    return None
  _legend_below(drawn, axes[0])
  return _png(drawn)


def by_source(columns: columns_lib.Columns) -> np.ndarray:
  """Return the accuracy of each source (of each seed), 0 to 1."""
  keys = np.char.add(
    columns["seed"].astype(str), np.char.add("/", columns["source"])
  )
  _, place = np.unique(keys, return_inverse=True)
  return np.bincount(place, columns["greedy"]) / np.bincount(place)


def _recall(results, kinds) -> str | None:
  """How many of its own facts are known of each source, before and after."""
  drawn, axes = _panels(2 * len(kinds), 3.2)
  bins = np.linspace(0, 1, 15)
  drawn_any = False
  for number, kind in enumerate(kinds):
    sides = (
      ("forget", "erased", "erased"),
      ("retained", "retained", "on"),
    )
    for side, (population, title, after_mode) in enumerate(sides):
      axis = axes[2 * number + side]
      for name, run, mode in (
        ("on", kind, "on"),
        ("erased", f"{kind}-erased", after_mode),
      ):
        columns = results.probes(run, population, mode, "unique")
        if columns is None:
          continue
        drawn_any = True
        shares = by_source(columns)
        axis.hist(
          100 * shares,
          100 * bins,
          weights=np.full(len(shares), 100 / len(shares)),
          color=_COLOURS[name],
          alpha=0.65,
          label="before" if name == "on" else "after erasing",
        )
      axis.set_title(f"{kind},\n{title} sources")
      axis.set_xlabel("own facts known, %")
      axis.set_ylim(0, 105)
      axis.grid(axis="x", visible=False)
  axes[0].set_ylabel("% of the sources")
  if not drawn_any:
    return None
  _legend_below(drawn, axes[0])
  return _png(drawn)


def _truth_ratio(results, kinds) -> str | None:
  """Distributions of the log truth ratio by mode."""
  drawn, axes = _panels(len(kinds), 3.6)
  drawn_any = False
  for axis, kind in zip(axes, kinds, strict=True):
    places = (
      ("on", kind, "forget", "on", "Sink-On"),
      ("nearest", kind, "forget", "nearest", "nearest source"),
      ("erased", f"{kind}-erased", "forget", "erased", "erased"),
      ("retrained", f"{kind}-retrained", "forget", "off", "retrained"),
      ("held_out", kind, "held_out", "off", "never trained"),
      ("dense", "dense", "forget", "off", "dense"),
    )
    shown = []
    for name, run, population, mode, label in places:
      columns = results.probes(run, population, mode, "unique")
      if columns is None:
        continue
      ratios = columns["log_truth_ratio"]
      ratios = ratios[~np.isnan(ratios)]
      if ratios.size:
        shown.append((name, label, ratios))
    if not shown:
      continue
    drawn_any = True
    boxes = axis.boxplot(
      [ratios for _, _, ratios in reversed(shown)],
      orientation="horizontal",
      widths=0.6,
      patch_artist=True,
      showfliers=False,
      whis=(5, 95),
      medianprops={"color": "#111111"},
    )
    for box, (name, _, _) in zip(boxes["boxes"], reversed(shown), strict=True):
      box.set_facecolor(_COLOURS[name])
      box.set_alpha(0.75)
    axis.set_yticks(
      range(1, len(shown) + 1), [label for _, label, _ in reversed(shown)]
    )
    axis.axvline(0, color="#111111", linewidth=1)
    axis.set_title(tables.MODEL_NAMES[kind])
    axis.set_xlabel("log truth ratio of own facts, nats")
    axis.grid(axis="y", visible=False)
  return _png(drawn) if drawn_any else None


def _curves(curves) -> str | None:
  """Training loss with sinks, without, and of the dense model."""
  kinds = [run for run in curves if run != "dense"]
  drawn, axes = _panels(len(kinds), 3.3)
  for axis, kind in zip(axes, kinds, strict=True):
    lines = (
      (kind, "loss_on", "on", "with sinks"),
      (kind, "loss_off", "off", "backbone only"),
      ("dense", "loss", "dense", "dense"),
    )
    for run, name, colour, label in lines:
      points = [
        (line["step"], line[name])
        for line in curves.get(run, ())
        if line.get(name) is not None
      ]
      if points:
        steps, values = np.array(points).T
        axis.plot(steps, _smooth(values), color=_COLOURS[colour], label=label)
    axis.set_title(tables.MODEL_NAMES.get(kind, kind))
    axis.set_xlabel("step")
  axes[0].set_ylabel("training loss, nats a token")
  _legend_below(drawn, axes[0])
  return _png(drawn)


def _smooth(values: np.ndarray, window: int = 5) -> np.ndarray:
  """Return the mean of each value and the few before it."""
  sums = np.cumsum(np.concatenate([[0.0], values]))
  places = np.arange(1, len(values) + 1)
  first = np.maximum(places - window, 0)
  return (sums[places] - sums[first]) / (places - first)


def _losses(figures, kinds) -> str:
  """Mean loss of erased, retained and never-trained texts by condition."""
  texts = {
    "forget": "erased\narticles",
    "retained": "retained\narticles",
    "held_out": "never-trained\narticles",
  }
  drawn, axes = _panels(len(kinds), 3.4)
  for axis, kind in zip(axes, kinds, strict=True):
    bars = {
      name: f"{kind}.{{}}.text.{name}.loss"
      for name in ("on", "off", "erased", "retrained")
    }
    bars["dense"] = "dense.{}.text.off.loss"
    _grouped_bars(axis, figures, bars, texts, scale=1)
    axis.set_title(tables.MODEL_NAMES[kind])
  axes[0].set_ylabel("loss, nats a token")
  _legend_below(drawn, axes[0])
  return _png(drawn)


def _articles(results, kinds) -> str | None:
  """Each erased article: its loss here over its loss when retrained."""
  drawn, axes = _panels(len(kinds), 4.0)
  drawn_any = False
  for axis, kind in zip(axes, kinds, strict=True):
    gold = results.documents(f"{kind}-retrained", "forget", "off")
    low, high = np.inf, -np.inf
    for name, run, mode in (
      ("on", kind, "on"),
      ("erased", f"{kind}-erased", "erased"),
    ):
      both = columns_lib.pair(
        results.documents(run, "forget", mode), gold, "source"
      )
      if both is None:
        continue
      drawn_any = True
      here, there = (side["loss"] / side["num_targets"] for side in both)
      axis.scatter(
        there, here, s=18, color=_COLOURS[name], label=_SHORT_NAMES[name]
      )
      low = min(low, here.min(), there.min())
      high = max(high, here.max(), there.max())
    if np.isfinite([low, high]).all():
      axis.plot([low, high], [low, high], color="#888888", linewidth=1)
    axis.set_title(tables.MODEL_NAMES[kind])
    axis.set_xlabel("loss in the retrained model, nats a token")
  axes[0].set_ylabel("loss here, nats a token")
  if not drawn_any:
    return None
  _legend_below(drawn, axes[0])
  return _png(drawn)
