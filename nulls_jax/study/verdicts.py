"""What must hold, and whether it does: thresholds on figures.

Owns the promises of the project's main experiment. A verdict compares the
value itself; the standard error stands beside it, so that a reader sees how
narrow it was.

Invariant: a figure that is missing is "not measured", never a pass.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nulls_jax.evaluation import probes

# Facts that this many trained sources state count as shared by many.
MANY = probes.SUPPORT_EDGES[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """One promise and what was found.

  Attributes:
    name: dotted, stable.
    title: the promise in words.
    model: the kind of assignment it is about.
    figure: the dotted name of the figure that decides.
    value: of the figure; None when it was not measured.
    standard_error: of the value, if it has one.
    n: items behind it.
    threshold: the bound.
    direction: whether the value must be at least or at most the bound.
    unit: how values are shown: "share", "points", "nats", "ratio".
    passed: None when not measured.
    note: which of several conditions decided, or what was not measured.
  """

  name: str
  title: str
  model: str
  figure: str
  value: float | None
  standard_error: float | None
  n: int
  threshold: float
  direction: Literal["at least", "at most"]
  unit: str
  passed: bool | None
  note: str = ""

  def to_dict(self) -> dict[str, Any]:
    """Return the fields, as JSON stores them."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Promise:
  """A bound on the worst of some figures of a model."""

  name: str
  title: str
  figures: tuple[str, ...]
  threshold: float
  direction: Literal["at least", "at most"]
  unit: str
  models: tuple[str, ...] = ("hashed", "dedicated")

  def judge(self, model: str, figures: Mapping[str, Any]) -> Verdict:
    """Compare the worst of the figures; all of them must be there."""
    names = [f"{model}.{name}" for name in self.figures]
    missing = [name for name in names if name not in figures]
    common = {
      "name": f"{model}.{self.name}",
      "title": self.title,
      "model": model,
      "threshold": self.threshold,
      "direction": self.direction,
      "unit": self.unit,
    }
    if missing:
      return Verdict(
        **common,
        figure=missing[0],
        value=None,
        standard_error=None,
        n=0,
        passed=None,
        note=f"no figure {missing[0]}",
      )
    at_least = self.direction == "at least"
    worst = (min if at_least else max)(
      names, key=lambda name: figures[name]["value"]
    )
    value = figures[worst]["value"]
    return Verdict(
      **common,
      figure=worst,
      value=value,
      standard_error=figures[worst]["standard_error"],
      n=figures[worst]["n"],
      passed=(value >= self.threshold if at_least else value <= self.threshold),
      note=(
        ""
        if len(names) == 1
        else f"worst of {len(names)} modes: {worst.split('.')[-2]}"
      ),
    )


_SHARED = f"forget.shared_in_context.support_{MANY}"

FACTS = (
  _Promise(
    name="sink_on",
    title="Before: the deleted sources' own facts are known with their sinks",
    figures=("forget.unique.on.accuracy",),
    threshold=0.97,
    direction="at least",
    unit="share",
  ),
  _Promise(
    name="erased",
    title="After erasing, their own facts are gone (chance is 1 in 32)",
    figures=("forget.unique.erased.accuracy",),
    threshold=0.06,
    direction="at most",
    unit="share",
  ),
  _Promise(
    name="like_retrained",
    title="… as gone as in a model retrained without them",
    figures=("accuracy_over_retrained",),
    threshold=0.03,
    direction="at most",
    unit="points",
  ),
  _Promise(
    name="leak",
    title="The backbone leaks little of any trained source",
    figures=("leak",),
    threshold=0.25,
    direction="at most",
    unit="nats",
  ),
  _Promise(
    name="shared",
    title=f"What {MANY} or more sources state is known in every mode, in "
    "context",
    figures=tuple(
      f"{_SHARED}.{condition}.accuracy"
      for condition in ("on", "off", "nearest", "erased")
    ),
    threshold=0.98,
    direction="at least",
    unit="share",
  ),
  _Promise(
    name="held_out",
    title="The backbone alone reads new text as well as a dense model",
    figures=("held_out_over_dense",),
    threshold=1.03,
    direction="at most",
    unit="ratio",
  ),
)
TEXT = (
  _Promise(
    name="gap_closed",
    title="Erasing closes the gap from Sink-On to retrained",
    figures=("gap_closed",),
    threshold=0.88,
    direction="at least",
    unit="ratio",
  ),
  _Promise(
    name="text_leak",
    title="The erased texts surprise the model nearly as much as a retrained "
    "one",
    figures=("text_leak",),
    threshold=0.30,
    direction="at most",
    unit="nats",
  ),
  _Promise(
    name="held_out",
    title="The backbone alone reads new text as well as a dense model",
    figures=("held_out_over_dense",),
    threshold=1.06,
    direction="at most",
    unit="ratio",
  ),
)
ISOLATION = (
  _Promise(
    name="identical",
    title="Every other source's logits are the same bits after erasing",
    figures=("identical_sources",),
    threshold=1.0,
    direction="at least",
    unit="share",
    models=("dedicated",),
  ),
)


def judge(
  figures: Mapping[str, Any], kinds: Sequence[str], with_facts: bool
) -> list[Verdict]:
  """Judge all promises.

  Args:
    figures: by dotted name, see `figures.compute`.
    kinds: kinds of assignment that were trained.
    with_facts: whether probes were asked; otherwise texts decide.
  """
  promises = (FACTS if with_facts else TEXT) + ISOLATION
  return [
    promise.judge(kind, figures)
    for kind in kinds
    for promise in promises
    if kind in promise.models
  ]
