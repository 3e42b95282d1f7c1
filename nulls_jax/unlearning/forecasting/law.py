"""What erasing any number of sources costs a survivor, by formula.

Owns the law of the share of its sinks that a surviving source has lost, for
hashed pools, with no ledger at hand; and `Distribution`, in which exact
counts and laws have the same figures. Knows neither keys nor checkpoints.

The law. A stratum has B blocks and a source owns k of them, drawn without
replacement and independently of every other source, stratum and layer. After
n other sources were erased, one block is lost with probability

  1 - (1 - k / B) ** n,

which is the expected share that a survivor has lost. In one stratum of one
layer, the chance that exactly i of its k blocks are left is

  C(k, i) * sum over l = 0 .. k - i of
    (-1)**l * C(k - i, l) * (C(B - i - l, k) / C(B, k)) ** n,

since i + l given blocks are all missed by one erased source with probability
C(B - i - l, k) / C(B, k). The signs cancel badly in floating point, so the
same law is computed as a chain: with y blocks left, one more erased source
takes j of them with the hypergeometric probability

  C(y, j) * C(B - y, k - j) / C(B, k).

The blocks lost over all layers and strata are a sum of independent terms.
Where the lost blocks of each stratum have been counted (D of B), the chain
starts from the hypergeometric law of k draws instead of from k blocks left.
With a dedicated table nobody ever loses a block.

With size classes, a source of class c owns 2**c times as many blocks as one
of class 0. The chain then has a start for every class of survivors and a step
for every class of erased sources; where it is not known who will be erased,
one step is the mean of the classes' steps, weighted by how many sources each
has, and in the first formula k is the mean of the classes' k. A share of its
sinks means the same for survivors of all sizes, so that their laws are summed
by share.

Invariant: probabilities are never negative and sum to 1.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nulls_jax.sinks import assignment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
  """What is reported of a distribution: shares of a source's sinks, 0 to 1.

  Attributes:
    mean: over sources.
    standard_deviation: over sources.
    median: half of the sources lose at most this.
    quantile_95: 95 % of the sources lose at most this.
    quantile_99: 99 % of the sources lose at most this.
    maximum: of all sources; None for a law, which has none.
  """

  mean: float
  standard_deviation: float
  median: float
  quantile_95: float
  quantile_99: float
  maximum: float | None


class Distribution:
  """How many of its blocks a source has lost: probabilities or shares."""

  def __init__(self, weights: np.ndarray):
    """Take the weight of each number of lost blocks, from 0 to all."""
    self.weights = np.asarray(weights, np.float64) / np.sum(weights)
    self.shares = np.arange(len(weights)) / max(1, len(weights) - 1)

  @classmethod
  def of_counts(cls, counts: np.ndarray, most: int) -> "Distribution":
    """Take the lost blocks of each source; `most` is what a source owns."""
    return cls(np.bincount(counts, minlength=most + 1))

  @property
  def mean(self) -> float:
    """The mean share."""
    return float(self.weights @ self.shares)

  def quantile(self, part: float) -> float:
    """Return the least share that `part` of the sources do not exceed."""
    # A sum of many small numbers may fall short of `part` by rounding.
    sums = np.cumsum(self.weights) + 1e-12
    return float(self.shares[np.searchsorted(sums, part)])

  def figures(self, *, counted: bool) -> Figures:
    """Return the figures; only what was counted has a maximum."""
    deviation = math.sqrt(self.weights @ (self.shares - self.mean) ** 2)
    largest = float(self.shares[np.flatnonzero(self.weights)[-1]])
    return Figures(
      mean=self.mean,
      standard_deviation=deviation,
      median=self.quantile(0.5),
      quantile_95=self.quantile(0.95),
      quantile_99=self.quantile(0.99),
      maximum=largest if counted else None,
    )


def expected_share(
  config: assignment.SinkConfig, num_erased: int, sizes: Sequence[int] = (1,)
) -> float:
  """Return the mean share that a survivor has lost: 1 - (1 - k / B)**n.

  Args:
    config: the settings of the pool.
    num_erased: n, sources drawn at random.
    sizes: how many sources there are of each size class to draw from.
  """
  if config.kind != "hashed":
    return 0.0
  owned = config.blocks_per_share << np.arange(len(sizes))
  hit = np.average(owned, weights=sizes) / config.blocks_per_stratum
  if hit == 1:
    return float(num_erased > 0)
  return -math.expm1(num_erased * math.log1p(-hit))


class Law:
  """The law of one pool; see the module's text for the formulas.

  A state is, for each size class of survivors, the probabilities of 0 .. k
  blocks left in each stratum of each layer, `float64 [layers * strata, k + 1]`.
  """

  def __init__(
    self,
    config: assignment.SinkConfig,
    num_layers: int,
    surviving: Sequence[int] = (1,),
    sizes: Sequence[int] = (1,),
  ):
    """Take the pool, and how many sources there are of each size class.

    Args:
      config: the settings of the sinks.
      num_layers: layers, each with a pool of its own.
      surviving: survivors of each size class.
      sizes: sources of each size class, of which others will be erased.
    """
    self._shared = config.kind == "hashed"
    self._blocks = config.blocks_per_stratum
    self._num_cells = num_layers * config.strata
    self._sizes = np.asarray(sizes) / np.sum(sizes)
    if not np.any(surviving):
      surviving = sizes
    number = np.flatnonzero(surviving)
    self._weights = np.asarray(surviving)[number] / np.sum(surviving)
    self._owned = (config.blocks_per_share << number).tolist()
    self._drawn = (config.blocks_per_share << np.arange(len(sizes))).tolist()
    self._most = config.blocks_per_source
    self._powers: dict[tuple[int, Any], list[np.ndarray]] = {}

  def untouched(self) -> list[np.ndarray]:
    """Return the state of a pool of which nothing was erased."""
    state = [np.zeros((self._num_cells, owned + 1)) for owned in self._owned]
    for part in state:
      part[:, -1] = 1
    return state

  def counted(self, lost_N: np.ndarray) -> list[np.ndarray]:
    """Return the state given the lost blocks of each stratum."""
    if not self._shared:
      return self.untouched()
    kept = self._blocks - np.asarray(lost_N).reshape(-1, 1)
    return [
      _hypergeometric(self._blocks, kept, owned, np.arange(owned + 1))
      for owned in self._owned
    ]

  def after(self, state: list[np.ndarray], num_erased: int) -> list[np.ndarray]:
    """Return the state when so many further sources were erased."""
    known = np.flatnonzero(self._sizes)
    what = int(known[0]) if len(known) == 1 else "any"
    return self._after(state, what, num_erased)

  def after_sizes(
    self, state: list[np.ndarray], erased: Sequence[int]
  ) -> list[np.ndarray]:
    """Return the state when so many of each size class were erased."""
    for size_class, number in enumerate(erased):
      state = self._after(state, size_class, int(number))
    return state

  def _after(self, state, what, num_erased):
    place = 0
    while self._shared and num_erased >> place:
      if num_erased >> place & 1:
        state = [
          part @ self._power(owned, what, place)
          for owned, part in zip(self._owned, state, strict=True)
        ]
      place += 1
    return state

  def _power(self, owned: int, what: int | str, place: int) -> np.ndarray:
    """Return what 2**place erasures do: from blocks left to blocks left.

    Args:
      owned: blocks of the survivor.
      what: size class of the erased sources, or "any".
      place: of the power.
    """
    powers = self._powers.setdefault((owned, what), [])
    if not powers:
      if what == "any":
        powers.append(
          sum(
            share * self._power(owned, number, 0)
            for number, share in enumerate(self._sizes)
            if share
          )
        )
      else:
        before = np.arange(owned + 1)[:, None]
        taken = before - np.arange(owned + 1)
        powers.append(
          _hypergeometric(self._blocks, before, self._drawn[what], taken)
        )
    while len(powers) <= place:
      powers.append(powers[-1] @ powers[-1])
    return powers[place]

  def lost(self, state: list[np.ndarray]) -> Distribution:
    """Return the law of the blocks that a survivor lost in all.

    Of `blocks_per_source` blocks in every stratum: one that a source of half
    the largest size has lost counts twice.
    """
    weights = np.zeros(self._num_cells * self._most + 1)
    for owned, share, part in zip(
      self._owned, self._weights, state, strict=True
    ):
      weights[:: self._most // owned] += share * self._lost(owned, part)
    return Distribution(weights)

  def _lost(self, owned: int, part: np.ndarray) -> np.ndarray:
    most = self._num_cells * owned
    size = 1 << most.bit_length()
    product = np.ones(size // 2 + 1, np.complex128)
    # Equal strata are common, and one transform serves them all.
    rows, numbers = np.unique(part[:, ::-1], axis=0, return_counts=True)
    for row, number in zip(rows, numbers, strict=True):
      product *= np.fft.rfft(row, size) ** int(number)
    weights = np.fft.irfft(product, size)[: most + 1]
    # The transform's rounding errors lie about 0.
    return np.where(weights > 1e-13, weights, 0)

  def until(
    self, state: list[np.ndarray], reached: Callable[[Distribution], bool]
  ) -> int | None:
    """Return how many further erasures it takes; None if none would do.

    Args:
      state: where to start.
      reached: false, then true for good, as more is lost.
    """
    most = 1
    if reached(self.lost(state)):
      return 0
    if not self._shared:
      return None
    while not reached(self.lost(self.after(state, most))):
      most *= 2
    least = most // 2
    while most - least > 1:
      middle = (least + most) // 2
      if reached(self.lost(self.after(state, middle))):
        most = middle
      else:
        least = middle
    return most


def _log_factorial(numbers: np.ndarray) -> np.ndarray:
  unique, places = np.unique(numbers, return_inverse=True)
  values = np.array([math.lgamma(number + 1) for number in unique.tolist()])
  return values[places].reshape(np.shape(numbers))


def _hypergeometric(population, marked, drawn, found) -> np.ndarray:
  """Return the chance that `found` of `drawn` are among the `marked`."""
  marked, found = np.broadcast_arrays(marked, found)
  other, rest = population - marked, drawn - found
  possible = (found >= 0) & (found <= marked) & (rest >= 0) & (rest <= other)
  found, rest = np.where(possible, found, 0), np.where(possible, rest, 0)
  exponent = sum(
    _log_factorial(of) - _log_factorial(part) - _log_factorial(of - part)
    for of, part in ((marked, found), (other, rest))
  )
  # The rows sum to 1 by Vandermonde; dividing undoes what rounding added.
  top = np.max(np.where(possible, exponent, -np.inf), axis=-1, keepdims=True)
  weights = np.where(possible, np.exp(np.minimum(exponent - top, 0)), 0)
  return weights / weights.sum(axis=-1, keepdims=True)
