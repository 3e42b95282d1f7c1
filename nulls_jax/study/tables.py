"""Tables of a summary, for the page and for the terminal.

Owns which figures stand together; the renderers own how they look. Leak,
held-out loss and shared facts are columns of one table, never apart.

Invariant: a cell without a figure is a dash, never a number.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nulls_jax.evaluation import probes
from nulls_jax.study import verdicts

NOTHING = "–"
MODEL_NAMES = {
  "hashed": "hashed sinks",
  "dedicated": "dedicated sinks",
  "dense": "dense model",
}
CONDITION_NAMES = {
  "on": "Sink-On (own sinks)",
  "off": "backbone only",
  "nearest": "nearest surviving source",
  "erased": "erased",
  "erased_nearest": "erased, nearest source",
  "retrained": "retrained without them",
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A figure as text: value, standard error or nothing, number of items."""

  value: str
  error: str = ""
  n: int = 0

  @property
  def text(self) -> str:
    """Value and error in one line."""
    return f"{self.value} ± {self.error}" if self.error else self.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Rows in named groups.

  Attributes:
    title: one line.
    caption: what to see.
    columns: headings, the rows' labels not counted.
    groups: name of the group ("" for none) and its rows: label and cells.
  """

  title: str
  caption: str
  columns: tuple[str, ...]
  groups: tuple[tuple[str, tuple[tuple[str, tuple[Cell, ...]], ...]], ...]


def cell(figure: Mapping[str, Any] | None, unit: str) -> Cell:
  """Format a figure.

  Args:
    figure: with "value" and "standard_error", or None.
    unit: "share" and "points" are shown in percent, "nats", "loss" and
      "ratio" plain, "exact" with three digits and no error.

  >>> cell({"value": 0.9738, "standard_error": 0.008, "n": 420}, "share").text
  '97.4 ± 0.8'
  """
  if figure is None or figure["value"] is None:
    return Cell(NOTHING)
  value, error = figure["value"], figure["standard_error"]
  if unit == "exact":
    small = 0 < abs(value) < 0.01
    return Cell(f"{value:.1e}" if small else f"{value:.3g}", "", figure["n"])
  scale = 100 if unit in ("share", "points") else 1
  digits = {"share": 1, "points": 1, "nats": 2}.get(unit, 3)
  sign = "+" if unit == "points" else ""
  return Cell(
    f"{scale * value:{sign}.{digits}f}",
    "" if error is None else f"{scale * error:.{digits}f}",
    figure["n"],
  )


def of_summary(summary: Mapping[str, Any]) -> dict[str, Table]:
  """Return the tables of a summary by name."""
  figures, kinds = summary["figures"], summary["kinds"]
  if summary["corpus"]["generated"]:
    return {
      "modes": _modes(figures, kinds),
      "together": _together(figures, kinds),
      "support": _support(figures, kinds),
      "cost": _cost(figures, kinds, True),
    }
  return {
    "texts": _texts(figures, kinds),
    "text_together": _text_together(figures, kinds),
    "cost": _cost(figures, kinds, False),
  }


def _row(figures, label, names) -> tuple[str, tuple[Cell, ...]]:
  return label, tuple(
    cell(figures.get(name), unit) if name else Cell(NOTHING)
    for name, unit in names
  )


def _groups(groups):
  """Drop rows without any figure, and groups without rows."""
  kept = []
  for name, rows in groups:
    rows = tuple(
      row for row in rows if any(one.value != NOTHING for one in row[1])
    )
    if rows:
      kept.append((name, rows))
  return tuple(kept)


def _modes(figures, kinds) -> Table:
  many = verdicts.MANY

  def row(model, condition, label):
    place = f"{model}.forget"
    return _row(
      figures,
      label,
      [
        (f"{place}.unique.{condition}.accuracy", "share"),
        (f"{place}.unique.{condition}.log_truth_ratio", "nats"),
        (
          f"{place}.shared_in_context.support_{many}.{condition}.accuracy",
          "share",
        ),
        (f"{place}.shared_bare.support_{many}.{condition}.accuracy", "share"),
        (f"{place}.text.{condition}.loss", "loss"),
      ],
    )

  groups = [
    (
      MODEL_NAMES[kind],
      [row(kind, name, label) for name, label in CONDITION_NAMES.items()],
    )
    for kind in kinds
  ]
  groups.append(
    (MODEL_NAMES["dense"], [row("dense", "off", "no sinks; nothing erased")])
  )
  return Table(
    title="The erased sources, asked in every mode",
    caption=(
      "Accuracy in percent ± standard error. Their own facts are there with "
      "their sinks and gone without; what many others state too stays. The "
      "row “erased” routes to the zeroed sinks, and must equal “backbone "
      "only”. “Nearest” lends a deleted source the sinks of the most similar "
      "survivor, and counts only facts that the survivor does not state."
    ),
    columns=(
      "own facts %",
      "log truth ratio",
      f"shared by {many}+, in context %",
      f"shared by {many}+, bare %",
      "loss, nats",
    ),
    groups=_groups(groups),
  )


def _together(figures, kinds) -> Table:
  many = verdicts.MANY

  def row(model, condition, label, leak, ratio):
    shared = f"{model}.retained"
    return _row(
      figures,
      label,
      [
        (leak, "nats"),
        (f"{model}.held_out.text.{condition}.loss", "loss"),
        (ratio, "ratio"),
        (
          f"{shared}.shared_in_context.support_{many}.off.accuracy",
          "share",
        ),
        (f"{shared}.shared_bare.support_{many}.off.accuracy", "share"),
      ],
    )

  rows = [
    row(
      kind,
      "erased",
      f"{MODEL_NAMES[kind]}, erased",
      f"{kind}.leak",
      f"{kind}.held_out_over_dense",
    )
    for kind in kinds
  ]
  rows.append(row("dense", "off", MODEL_NAMES["dense"], "dense.leak", ""))
  return Table(
    title="The backbone alone: leak, new text, shared facts",
    caption=(
      "The three belong together: a backbone that knows nothing leaks "
      "nothing. Leak: log-odds of unique facts, trained minus never-trained "
      "sources, 0 is none. New text: loss on articles of sources that no "
      "model saw. The dense model has as many active neurons, and nothing "
      "can be erased from it."
    ),
    columns=(
      "leak, nats",
      "new text, nats",
      "over dense",
      f"shared by {many}+, in context %",
      f"shared by {many}+, bare %",
    ),
    groups=_groups([("", rows)]),
  )


def _support(figures, kinds) -> Table:
  edges = probes.SUPPORT_EDGES
  groups = []
  contexts = (("shared_in_context", "in context"), ("shared_bare", "bare"))
  for fact, context in contexts:
    rows = []
    for model in (*kinds, "dense"):
      conditions = ("off",) if model == "dense" else ("on", "off")
      for condition in conditions:
        label = MODEL_NAMES[model]
        if model != "dense":
          label += ", Sink-On" if condition == "on" else ", backbone only"
        rows.append(
          _row(
            figures,
            label,
            [
              (
                f"{model}.retained.{fact}.support_{edge}.{condition}.accuracy",
                "share",
              )
              for edge in edges
            ],
          )
        )
    groups.append((f"asked {context}", rows))
  return Table(
    title="Shared facts by the number of sources that state them",
    caption=(
      "Accuracy in percent ± standard error on retained sources' shared "
      "facts. The backbone keeps what enough sources support; with one or two "
      "supporters a fact lives in their sinks, and goes with them."
    ),
    columns=tuple(
      f"{probes.bin_name(edge)} source{'' if edge == 1 else 's'}"
      for edge in edges
    ),
    groups=_groups(groups),
  )


def _cost(figures, kinds, generated) -> Table:
  """Retained sources before and after: facts, or losses of real text."""
  if generated:
    place, measure, unit = "unique", "accuracy", "share"
    change = ("retained_accuracy_change", "points")
    headings = ("own facts before %", "after %", "change, points")
  else:
    place, measure, unit = "text", "loss", "loss"
    change = ("retained_loss_change", "loss")
    headings = ("loss before", "after", "change")
  rows = [
    _row(
      figures,
      MODEL_NAMES[kind],
      [
        (f"{kind}.sinks_lost", "share"),
        (f"{kind}.retained.{place}.on.{measure}", unit),
        (f"{kind}.retained.{place}.erased.{measure}", unit),
        (f"{kind}.{change[0]}", change[1]),
        (f"{kind}.identical_sources", "share"),
        (f"{kind}.max_loss_difference", "exact"),
      ],
    )
    for kind in kinds
  ]
  return Table(
    title="What erasing costs everyone else",
    caption=(
      "Retained sources with their own sinks. Hashed sources share sinks, so "
      "each loses the few that an erased source owned too; dedicated sources "
      "share none, and their logits are the same bits as before. The last "
      "columns: sources with the very same logits, and the largest change of "
      "any document's loss."
    ),
    columns=("sinks lost %", *headings, "same bits %", "largest change, nats"),
    groups=_groups([("", rows)]),
  )


def _texts(figures, kinds) -> Table:
  def row(model, condition, label):
    return _row(
      figures,
      label,
      [
        (f"{model}.{population}.text.{condition}.loss", "loss")
        for population in ("forget", "retained", "held_out")
      ],
    )

  groups = [
    (
      MODEL_NAMES[kind],
      [row(kind, name, label) for name, label in CONDITION_NAMES.items()],
    )
    for kind in kinds
  ]
  groups.append(
    (MODEL_NAMES["dense"], [row("dense", "off", "no sinks; nothing erased")])
  )
  return Table(
    title="Loss by mode, nats a token",
    caption=(
      "Mean loss ± standard error over articles. Erased articles must go from "
      "Sink-On to the level of the retrained model; retained articles are read "
      "with their own sinks except in “backbone only”; never-trained articles "
      "have none."
    ),
    columns=("erased articles", "retained articles", "never-trained articles"),
    groups=_groups(groups),
  )


def _text_together(figures: Mapping[str, Any], kinds: Sequence[str]) -> Table:
  rows = [
    _row(
      figures,
      MODEL_NAMES[kind],
      [
        (f"{kind}.gap_closed", "ratio"),
        (f"{kind}.text_leak", "nats"),
        (f"{kind}.text_leak_stand_in", "nats"),
        (f"{kind}.held_out.text.erased.loss", "loss"),
        (f"{kind}.held_out_over_dense", "ratio"),
      ],
    )
    for kind in kinds
  ]
  return Table(
    title="Gap closed, leak and new text, side by side",
    caption=(
      "Gap closed: (erased − Sink-On) / (retrained − Sink-On) on the erased "
      "articles, 1 is retraining; it flatters a bad backbone, so it never "
      "stands alone. Leak: how much less the erased articles surprise this "
      "model than a retrained one; the stand-in compares with never-trained "
      "articles inside the same model instead, other texts, so coarser."
    ),
    columns=(
      "gap closed",
      "leak, nats",
      "stand-in leak",
      "new text, nats",
      "over dense",
    ),
    groups=_groups([("", rows)]),
  )
