"""What the report draws: distributions, and curves by kind.

Owns which conditions and measurements are drawn; shapes are those of
`report/report.schema.json`, looks the report's.

Invariant: a point of a plot is a figure of the report or is made as one; an
item of a distribution is the mean over seeds, so that plots do not grow with
them.
"""

from typing import Any

import numpy as np

from nulls_jax.evaluation import intervals, membership_scores, probes
from nulls_jax.protocol import (
  attack_figures,
  collateral_figures,
  relearning_figures,
)
from nulls_jax.protocol import book as book_lib
from nulls_jax.protocol import scored as scored_lib

_MOST_VALUES = 2000
# A tuned model may be driven far beyond 1: from there on logarithmic.
_RETRAINED = {"unit": "ratio", "scale": "symlog", "reference": 1}
_LABELS = {
  "on": "with its sinks",
  "backbone": "backbone only",
  "nearest": "nearest source's sinks",
  "placebo": "a far source's sinks",
  "control": "never trained",
  "dense_retrained": "dense, retrained",
}
_ARMS = {
  "forgotten": ("part_of_the_forgotten", "part of the forgotten"),
  "public": ("public_text", "unrelated public text"),
  "retained": ("retained_text", "retained text"),
}
_GROUPS = {
  "same_sources": "other {} of the same sources",
  "other_sources": "{} of other forgotten sources",
}
_DISTRIBUTIONS = {
  "log_truth_ratio": (
    "Truth ratio of unique facts, logarithm",
    {"label": "log truth ratio", "unit": "nats a token", "reference": 0},
  ),
  "log_odds": (
    "Log-odds of the right answer to unique facts",
    {"label": "log-odds", "unit": "nats"},
  ),
}


def label(condition: str) -> str:
  """Return a condition in words."""
  return _LABELS.get(condition, condition)


def distributions(scored: scored_lib.Scored) -> dict[str, Any]:
  """Return the values of the sources to forget, one by one."""
  found = {}
  for column, (title, axis) in _DISTRIBUTIONS.items():
    series = {
      condition: _by_item(scored.facts(place, "unique"), "probe", column)
      for condition, place in scored_lib.FORGET.items()
    }
    found[column] = _distribution(title, axis, series)
  series = {
    condition: _by_item(scored.sources(place), "source", None)
    for condition, place in scored_lib.FORGET.items()
  }
  found["source_loss"] = _distribution(
    "Loss of each source's texts",
    {"label": "loss", "unit": "nats a token"},
    series,
  )
  return {name: shown for name, shown in found.items() if shown is not None}


def _by_item(columns, key, column) -> dict[str, float]:
  """Return each item's mean over seeds; of losses, a token."""
  if columns is None or (column is not None and column not in columns):
    return {}
  values = (
    columns["loss"] / columns["num_targets"]
    if column is None
    else columns[column].astype(np.float64)
  )
  kept = ~np.isnan(values)
  if not kept.any():
    return {}
  keys, place = np.unique(columns[key][kept], return_inverse=True)
  means = np.bincount(place, values[kept]) / np.bincount(place)
  return dict(zip(map(str, keys), means.tolist(), strict=True))


def _distribution(title, axis, series) -> dict[str, Any] | None:
  series = {name: values for name, values in series.items() if values}
  if not series:
    return None
  common = set.intersection(*(set(values) for values in series.values()))
  # A condition that is asked about fewer items would cost the others theirs.
  whole = {
    name: values
    for name, values in series.items()
    if len(values) == max(map(len, series.values()))
  }
  if len(whole) > 1:
    series = whole
    common = set.intersection(*(set(values) for values in whole.values()))
  if not common:
    return None
  items = _at_equal_ranks(sorted(common))
  return {
    "title": title,
    "axis": axis,
    "items": items,
    "series": [
      {
        "label": label(name),
        "condition": name,
        "n": len(values),
        "values": [values[item] for item in items],
      }
      for name, values in series.items()
    ],
  }


def _at_equal_ranks(items):
  if len(items) <= _MOST_VALUES:
    return items
  places = np.linspace(0, len(items) - 1, _MOST_VALUES).round().astype(int)
  return [items[place] for place in places]


def curves(book: book_lib.Book, scored: scored_lib.Scored) -> dict[str, Any]:
  """Return all plots of lines by kind, those that have something to show."""
  found = {
    "relearning": _relearning(book, scored),
    "collateral": _collateral(book, scored),
    "support": _support(book),
    "roc": _roc(book, scored),
    "baselines": _baselines(book, scored),
  }
  return {kind: charts for kind, charts in found.items() if charts}


def _relearning(book, scored) -> dict[str, Any]:
  found = relearning_figures.curves_of(scored)
  charts = {}
  for arm, group in dict.fromkeys((key[0], key[1]) for key in found):
    if group not in _GROUPS:
      continue
    lines, bands = [], []
    for key, columns in found.items():
      if key[:2] != (arm, group):
        continue
      lines.append(_relearning_line(book, key[2], columns))
      if key[2] == "retrained":
        bands += _seed_band(columns)
    name, words = _ARMS.get(arm, (arm, arm))
    facts = columns_unit(found, arm, group)
    asked = _GROUPS[group].format("facts" if facts else "texts")
    charts[name if group == "same_sources" else f"{name}_{group}"] = {
      "title": f"Relearning from {words}: {asked}",
      "x": {"label": "updates", "unit": "steps", "scale": "symlog"},
      "y": {
        "label": "log-odds" if facts else "minus loss",
        "unit": "nats" if facts else "nats a token",
      },
      "lines": lines,
      **({"bands": bands} if bands else {}),
    }
  return charts


def columns_unit(found, arm: str, group: str) -> bool:
  """Return whether an arm's test group asks facts, not texts."""
  columns = next(
    columns for key, columns in found.items() if key[:2] == (arm, group)
  )
  return columns["unit"][0] == "facts"


def _relearning_line(book, condition, columns):
  method = condition.removeprefix("baseline.")
  points = []
  for step in range(columns["curve"].shape[1]):
    sums = relearning_figures.weighted(columns, columns["curve"][:, step])
    interval = intervals.ratio(
      sums.numerators, sums.denominators, sums.clusters, book.settings
    )
    points.append(book_lib.point(interval.to_dict()))
  return {
    "label": method if method != condition else label(condition),
    "condition": "baseline" if method != condition else condition,
    "x": columns["steps"][0].tolist(),
    "points": points,
  }


def _seed_band(columns) -> list[dict[str, Any]]:
  """The spread of retraining over seeds; none with one seed."""
  seeds = np.unique(columns["seed"])
  if len(seeds) < 2:
    return []
  heights = []
  for seed in seeds:
    own = columns["seed"] == seed
    weight = columns["weight"][own]
    heights.append(weight @ columns["curve"][own] / weight.sum())
  return [
    {
      "label": "retrained, all seeds",
      "condition": "retrained",
      "x": columns["steps"][0].tolist(),
      "low": np.min(heights, axis=0).tolist(),
      "high": np.max(heights, axis=0).tolist(),
      "n": len(seeds),
    }
  ]


def _collateral(book, scored) -> dict[str, Any]:
  numbers = list(collateral_figures.by_number(scored))
  charts = {}
  for measure, words, unit in (
    ("accuracy", "accuracy on unique facts", "share"),
    ("loss", "loss", "nats a token"),
    ("lost_sinks", "sinks lost", "share"),
  ):
    names = {k: f"collateral.erased_{k}.{measure}" for k in numbers}
    known = [k for k in numbers if names[k] in book.figures]
    if len(known) < 2:
      continue
    charts[measure] = {
      "title": f"Retained sources by number of erased sources: {words}",
      "x": {"label": "erased sources", "unit": "count", "scale": "symlog"},
      "y": {"label": words, "unit": unit},
      "lines": [
        {
          "label": "measured",
          "condition": "erased",
          "x": known,
          "points": [book_lib.point(book.figures[names[k]]) for k in known],
        }
      ],
    }
  return charts


def _support(book) -> dict[str, Any]:
  charts = {}
  for fact, words in (
    ("shared_in_context", "in context"),
    ("shared_bare", "out of context"),
  ):
    lines = []
    for condition in scored_lib.FORGET:
      names = {
        edge: f"forget.{fact}.support_{edge}.{condition}.accuracy"
        for edge in probes.SUPPORT_EDGES
      }
      known = [edge for edge, name in names.items() if name in book.figures]
      if known:
        lines.append(
          {
            "label": label(condition),
            "condition": condition,
            "x": known,
            "points": [
              book_lib.point(book.figures[names[edge]]) for edge in known
            ],
          }
        )
    if lines:
      charts[fact] = {
        "title": f"Shared facts of the sources to forget, asked {words}",
        "x": {
          "label": "sources that state it, at least",
          "unit": "count",
          "scale": "log",
        },
        "y": {"label": "accuracy", "unit": "share"},
        "lines": lines,
      }
  return charts


def _roc(book, scored) -> dict[str, Any]:
  charts: dict[str, Any] = {}
  for (condition, name), scores in attack_figures.membership(scored).items():
    if name == "length" or condition not in scored_lib.FORGET:
      continue
    first = attack_figures.one_seed(scores, scores.member_seeds.min())
    false, true = membership_scores.roc(first)
    figures = f"membership.{condition}.{name}"
    line = {
      "label": label(condition),
      "condition": condition,
      "false_positive_rate": false.tolist(),
      "true_positive_rate": true.tolist(),
      "auc": book_lib.point(book.figures[f"{figures}.auc"]),
    }
    rate = book.figures.get(f"{figures}.tpr_at_1_percent")
    if rate is not None:
      line["at_1_percent"] = book_lib.point(rate)
    chart = charts.setdefault(
      scored_lib.SUITE_SCORES.get(name, name),
      {
        "title": f"Membership inference by {name.replace('_', ' ')}",
        "caption": "Curves of the first seed; areas of all seeds.",
        "lines": [],
      },
    )
    chart["lines"].append(line)
  return charts


def _baselines(book, scored) -> dict[str, Any]:
  lines = []
  baselines = relearning_figures.Baselines(scored)
  for method, found in baselines.by_method.items():
    points = [
      point
      for one in found[:1]
      for number, curve in enumerate(one["curves"])
      for point in _sweep(one, number, curve)
    ]
    if points:
      lines.append({"label": method, "condition": "baseline", "points": points})
  own = _own_trade_off(book)
  if not lines or own is None:
    return {}
  lines.append({"label": "NULLs", "condition": "erased", "points": [own]})
  return {
    "validation": {
      "title": "What was forgotten, and what was kept",
      "caption": "Validation items of the first seed; 1 and 1 is retraining.",
      "x": {"label": "forgotten", **_RETRAINED},
      "y": {"label": "kept", **_RETRAINED},
      "lines": lines,
    }
  }


def _sweep(result, number, curve):
  """Yield a point for each step of one setting, the start left out."""
  chosen = result["chosen"] or {}
  items = result["groups"]["validation"]
  n = sum(len(group["items"]["item"]) for group in items.values())
  for step, x, y in zip(
    curve["steps"], curve["forgotten"], curve["kept"], strict=True
  ):
    if step == 0 or x is None or y is None:
      continue
    yield {
      "label": f"rate {curve['learning_rate']:g}, step {step}",
      "x": {"value": x, "low": None, "high": None, "n": max(n, 1)},
      "y": {"value": y, "low": None, "high": None, "n": max(n, 1)},
      "chosen": (chosen.get("curve"), chosen.get("step")) == (number, step),
    }


def _own_trade_off(book):
  """Return where erasing sinks lies between knowing and never trained."""
  names = {
    "known": "forget.unique.on.log_odds",
    "gone": "forget.unique.erased.log_odds",
    "strangers": "held_out.unique.control.log_odds",
    "before": "retained.unique.on.log_odds",
    "after": "retained.unique.erased.log_odds",
  }
  if not all(name in book.figures for name in names.values()):
    return None
  value = {key: book.figures[name]["value"] for key, name in names.items()}
  n = book.figures[names["gone"]]["n"]
  scales = (
    value["known"] - value["strangers"],
    value["before"] - value["strangers"],
  )
  if not all(scales):
    return None
  forgotten = (value["known"] - value["gone"]) / scales[0]
  kept = (value["after"] - value["strangers"]) / scales[1]
  return {
    "label": "erased",
    "x": {"value": forgotten, "low": None, "high": None, "n": n},
    "y": {"value": kept, "low": None, "high": None, "n": n},
    "chosen": True,
  }
