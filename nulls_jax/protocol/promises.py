"""What an evaluation promises: bounds on figures.

Owns the project's promises (`PROMISES`) and what a protocol may ask for
instead. How they are judged is `verdicts`' own.

Invariant: a promise names its bound before anything is measured; only
`noise` widens it, by what retrained seeds differ among themselves.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from nulls_jax import errors
from nulls_jax.evaluation import probes

Direction = Literal["at least", "at most", "within"]
Group = Literal["forgotten", "attacks", "kept", "capability"]
Asks = Literal["facts", "texts", "any"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promise:
  """A bound on the worst of some figures.

  Attributes:
    name: stable.
    title: the promise in words.
    figures: dotted names; all must be there.
    more: dotted names that count, too, if they are there.
    threshold: the bound; of "within" on the absolute value.
    direction: of the bound.
    unit: of the figures, where none of them was measured.
    group: what kind of promise.
    asks: whether it is about facts or texts.
    exact: whether its figures have no interval because they are counted.
    noise: a figure whose spread over seeds (two standard deviations) the
      bound may be as wide as; "" for none.
  """

  name: str
  title: str
  figures: tuple[str, ...]
  threshold: float
  direction: Direction
  unit: str
  more: tuple[str, ...] = ()
  group: Group = "forgotten"
  asks: Asks = "any"
  exact: bool = False
  noise: str = ""


_MANY = probes.SUPPORT_EDGES[-1]
_SCORES = ("loss", "zlib", "min_k", "min_k_plus")
_RELEARNED = "relearning.forgotten.{}.erased_over_retrained.{}_area"
_BEST = "relearning.forgotten.{}.erased_over_best_baseline.log_odds_area"

PROMISES = (
  Promise(
    name="erased_runs",
    title="Every run given as erased is erased",
    figures=("evaluation.erased_runs",),
    threshold=1.0,
    direction="at least",
    unit="share",
    exact=True,
  ),
  Promise(
    name="comparable_runs",
    title="Retrained models are built as the unlearned ones",
    figures=("evaluation.comparable_runs",),
    threshold=1.0,
    direction="at least",
    unit="share",
    exact=True,
  ),
  Promise(
    name="reference",
    title="The retrained models know the deleted facts no better than facts "
    "of never-trained sources",
    figures=("forget.unique.retrained_over_control.accuracy",),
    threshold=0.04,
    direction="within",
    unit="points",
    asks="facts",
  ),
  Promise(
    name="like_retrained",
    title="Erased sources' own facts are as gone as in models retrained "
    "without them",
    figures=("forget.unique.erased_over_retrained.accuracy",),
    threshold=0.04,
    direction="at most",
    unit="points",
    asks="facts",
  ),
  Promise(
    name="texts_like_retrained",
    title="Erased texts surprise the model nearly as much as retrained models",
    figures=("forget.text.erased_over_retrained.loss",),
    threshold=-0.3,
    direction="at least",
    unit="nats a token",
    asks="texts",
  ),
  Promise(
    name="gap_closed",
    title="Erasing closes the gap from Sink-On to retrained",
    figures=("forget.text.gap_closed",),
    threshold=0.9,
    direction="at least",
    unit="ratio",
  ),
  Promise(
    name="relearning",
    title="Relearning some of the erased brings back no more than it does in "
    "retrained models",
    figures=tuple(
      _RELEARNED.format(group, "log_odds")
      for group in ("same_sources", "other_sources")
    ),
    threshold=0.25,
    direction="at most",
    unit="nats",
    group="attacks",
    asks="facts",
    noise="relearning.forgotten.same_sources.retrained.log_odds_area",
  ),
  Promise(
    name="texts_relearning",
    title="Relearning some of the erased texts brings back no more than it "
    "does in retrained models",
    figures=(_RELEARNED.format("same_sources", "minus_loss"),),
    # Not where a single source was erased.
    more=(_RELEARNED.format("other_sources", "minus_loss"),),
    threshold=0.3,
    direction="at most",
    unit="nats a token",
    group="attacks",
    asks="texts",
    noise="relearning.forgotten.same_sources.retrained.minus_loss_area",
  ),
  Promise(
    name="relearning_below_baselines",
    title="Relearning brings back less than after the best other method",
    figures=tuple(
      _BEST.format(group) for group in ("same_sources", "other_sources")
    ),
    threshold=0.0,
    direction="at most",
    unit="nats",
    group="attacks",
    asks="facts",
  ),
  Promise(
    name="membership",
    title="Membership inference finds erased texts as little as in retrained "
    "models",
    figures=tuple(
      f"membership.erased_minus_retrained.{score}.auc" for score in _SCORES
    ),
    more=("membership.erased_minus_retrained.reference.auc",),
    threshold=0.05,
    direction="within",
    unit="auc",
    group="attacks",
  ),
  Promise(
    name="reenabling_after_erasing",
    title="Whoever re-enables an erased source finds no more than in "
    "retrained models",
    figures=("reenabling.erased_over_retrained.accuracy",),
    threshold=0.04,
    direction="at most",
    unit="points",
    group="attacks",
    asks="facts",
  ),
  Promise(
    name="rows_are_zero",
    title="The rows that an erased source is re-enabled with are all zero",
    figures=("reenabling.erased.zero_rows",),
    threshold=1.0,
    direction="at least",
    unit="share",
    group="attacks",
    exact=True,
  ),
  Promise(
    name="reenabling_after_suspending",
    title="Whoever re-enables a suspended source gets everything back: "
    "suspending hides, and is reversible",
    figures=("reenabling.suspended_over_on.accuracy",),
    threshold=-0.02,
    direction="at least",
    unit="points",
    group="kept",
    asks="facts",
  ),
  Promise(
    name="shared",
    title=f"What {_MANY} or more sources state survives as in retrained "
    "models, in context",
    figures=(
      f"forget.shared_in_context.support_{_MANY}.erased_over_retrained"
      ".accuracy",
    ),
    threshold=-0.05,
    direction="at least",
    unit="points",
    group="kept",
    asks="facts",
  ),
  Promise(
    name="retained",
    title="Erasing costs retained sources little of their own facts",
    figures=("retained.unique.erased_over_on.accuracy",),
    threshold=-0.05,
    direction="at least",
    unit="points",
    group="kept",
    asks="facts",
  ),
  Promise(
    name="capability",
    title="The backbone alone reads new text as well as a dense model of its "
    "active width",
    figures=("held_out.text.backbone_over_dense.loss",),
    threshold=1.02,
    direction="at most",
    unit="ratio",
    group="capability",
  ),
)


def chosen(given: Sequence[Any] | None) -> tuple[Promise, ...]:
  """Return the promises that a protocol asks for.

  Args:
    given: names of `PROMISES`, or objects with the fields of `Promise`;
      None for all of `PROMISES`.

  Raises:
    errors.UserError: an unknown name, or an object that is no promise; all
      of them in one line.
  """
  if given is None:
    return PROMISES
  known = {promise.name: promise for promise in PROMISES}
  found, wrong = [], []
  for place, one in enumerate(given):
    if isinstance(one, str) and one in known:
      found.append(known[one])
    elif isinstance(one, Mapping):
      complaint = _complaint(one)
      if complaint:
        wrong.append(f"promises[{place}] {complaint}")
      else:
        found.append(_built(one))
    else:
      wrong.append(f"promises[{place}] is {one!r}, not a known name")
  names = [promise.name for promise in found]
  wrong += [
    f"{name!r} is there twice" for name in set(names) if names.count(name) > 1
  ]
  if wrong:
    raise errors.UserError(
      f"promises: {errors.listing(wrong)}; there are {', '.join(known)}, or "
      "give objects with name, title, figures, threshold, direction and unit"
    )
  return tuple(found)


def _complaint(one: Mapping[str, Any]) -> str | None:
  fields = {field.name: field for field in dataclasses.fields(Promise)}
  unknown = sorted(set(one) - set(fields))
  if unknown:
    return f"has no field {', '.join(map(repr, unknown))}"
  needed = [
    name
    for name, field in fields.items()
    if field.default is dataclasses.MISSING and name not in one
  ]
  if needed:
    return f"lacks {', '.join(needed)}"
  for name, choices in (
    ("direction", get_args(Direction)),
    ("group", get_args(Group)),
    ("asks", get_args(Asks)),
  ):
    if one.get(name, choices[0]) not in choices:
      return f"has {name} {one[name]!r}, not one of {', '.join(choices)}"
  for name in ("figures", "more"):
    value = one.get(name, ["-"])
    if not isinstance(value, list | tuple) or not all(
      isinstance(figure, str) and figure for figure in value
    ):
      return f"has {name} that are no list of dotted names"
  if not one["figures"]:
    return "has no figures"
  if isinstance(one["threshold"], bool) or not isinstance(
    one["threshold"], int | float
  ):
    return "has a threshold that is no number"
  for name in ("name", "title", "unit"):
    if not isinstance(one[name], str) or not one[name]:
      return f"has no text {name!r}"
  return None


def _built(one: Mapping[str, Any]) -> Promise:
  lists = {
    name: tuple(one[name]) for name in ("figures", "more") if name in one
  }
  return Promise(**{**one, **lists})
