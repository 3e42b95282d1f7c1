"""Figures of quantising: is the forgotten back when weights are rounded?

Owns the dotted names below `quantisation`, see `figures`.

Invariant: a level is compared with 32 bits on the same items of the same
seeds.
"""

from collections.abc import Iterator

import numpy as np

from nulls_jax.evaluation import columns as columns_lib
from nulls_jax.evaluation import metrics
from nulls_jax.protocol import attack_figures, comparisons
from nulls_jax.protocol import book as book_lib
from nulls_jax.protocol import scored as scored_lib

_UNROUNDED = 32


def add(book: book_lib.Book, scored: scored_lib.Scored) -> None:
  """Add what forgotten sources are worth at each number of bits."""
  facts = _joined(scored, "facts")
  for (condition, bits), columns in facts.items():
    name = f"quantisation.{condition}.bits_{bits}"
    book.add(
      f"{name}.accuracy",
      book_lib.mean(columns["greedy"], columns),
      "share",
      widen="share",
    )
    log_odds = metrics.log_odds(columns["log_probability"])
    book.add(f"{name}.log_odds", book_lib.mean(log_odds, columns), "nats")
    if bits != _UNROUNDED:
      before = facts.get((condition, _UNROUNDED))
      book.add(
        f"{name}_over_{_UNROUNDED}.accuracy",
        comparisons.change(columns, before, "item", "greedy"),
        "points",
        widen="paired",
      )
  texts = _joined(scored, "documents")
  for (condition, bits), columns in texts.items():
    name = f"quantisation.{condition}.bits_{bits}"
    book.add(
      f"{name}.loss",
      book_lib.ratio(columns["loss"], columns["num_targets"], columns),
      "nats a token",
    )
    if bits != _UNROUNDED:
      before = texts.get((condition, _UNROUNDED))
      book.add(
        f"{name}_over_{_UNROUNDED}.loss",
        comparisons.loss_change(columns, before, "item"),
        "nats a token",
      )


def _joined(
  scored: scored_lib.Scored, what: str
) -> dict[tuple[str, int], columns_lib.Columns]:
  """Return the rows of all seeds by condition and bits."""
  parts: dict[tuple[str, int], list[columns_lib.Columns]] = {}
  for condition, level, seed in _levels(scored):
    for group in level[what]:
      if not _is_asked(group, what):
        continue
      columns = columns_lib.of_items(group["items"], seed)
      # Levels pair up within a seed, not over seeds.
      names = columns["probe" if what == "facts" else "source"]
      columns["item"] = np.array([f"{seed} {name}" for name in names])
      key = condition(group["mode"]), level["bits"]
      parts.setdefault(key, []).append(columns)
  found = {
    key: columns_lib.without(columns_lib.join(some), scored.excluded)
    for key, some in parts.items()
  }
  return {key: one for key, one in found.items() if one is not None}


def _is_asked(group, what: str) -> bool:
  if what == "facts" and (group["kind"], group["context"]) != (
    "unique",
    "bare",
  ):
    return False
  return group["population"] == "forget"


def _levels(scored) -> Iterator:
  """Yield (condition of a mode, level, seed) of every run and level."""
  for role, seed, result in attack_figures.found(scored, "quantisation"):

    def condition(mode, role=role):
      return (
        attack_figures.condition_of(role, mode) or attack_figures.SERVED[role]
      )

    for level in result["levels"]:
      yield condition, level, seed
