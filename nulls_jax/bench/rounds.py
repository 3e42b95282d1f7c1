"""Timing in turn: every workload once a round, so that noise hits all alike.

Owns warm-up, the length of a block, the order, and medians and ratios of what
was taken. Knows nothing of models.

Invariant: the ratio of a round compares blocks that ran one after the other.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

# Runs a workload's action that many times and waits for its end.
Action = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
  """A median and how far its samples lie apart."""

  median: float
  least: float
  lower: float
  upper: float
  most: float


def spread(values: Sequence[float]) -> Spread:
  """Return median, extremes and quartiles (of the samples themselves).

  >>> found = spread([4.0, 1.0, 2.0, 3.0, 5.0])
  >>> found.least, found.lower, found.median, found.upper, found.most
  (1.0, 2.0, 3.0, 4.0, 5.0)
  """
  lower = upper = values[0]
  if len(values) > 1:
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
  return Spread(
    median=statistics.median(values),
    least=min(values),
    lower=lower,
    upper=upper,
    most=max(values),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
  """One workload's seconds over another's.

  Attributes:
    of_medians: median over median.
    by_round: spread of the ratios of the rounds.
  """

  of_medians: float
  by_round: Spread


def ratio(seconds: Sequence[float], base: Sequence[float]) -> Ratio:
  """Compare two workloads that were timed in the same rounds.

  >>> ratio([2.0, 4.0, 3.0], [1.0, 4.0, 2.0]).of_medians
  1.5
  """
  return Ratio(
    of_medians=statistics.median(seconds) / statistics.median(base),
    by_round=spread([a / b for a, b in zip(seconds, base, strict=True)]),
  )


def take(
  actions: Mapping[Hashable, Action],
  *,
  rounds: int,
  seconds: float,
  progress: Callable[[str], None],
) -> dict[Hashable, list[float]]:
  """Time actions in turn; return the seconds of one run by round.

  Each is run twice before the first round, and as often in a block as fills
  `seconds`. Each round starts with another action.

  Args:
    actions: by name.
    rounds: blocks of each action.
    seconds: least length of a block.
    progress: told what goes on.
  """
  progress("warming up")
  counts = {}
  for name, action in actions.items():
    action(1)
    counts[name] = max(1, math.ceil(seconds / _timed(action, 1)))
  taken: dict[Hashable, list[float]] = {name: [] for name in actions}
  names = list(actions)
  for number in range(rounds):
    progress(f"round {number + 1} of {rounds}")
    first = number % len(names)
    for name in names[first:] + names[:first]:
      taken[name].append(_timed(actions[name], counts[name]))
  return taken


def _timed(action: Action, count: int) -> float:
  start = time.perf_counter()
  action(count)
  return (time.perf_counter() - start) / count
