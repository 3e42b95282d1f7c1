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

Invariant: probabilities are never negative and sum to 1.
"""

import dataclasses
import math
from collections.abc import Callable

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


def expected_share(config: assignment.SinkConfig, num_erased: int) -> float:
  """Return the mean share that a survivor has lost: 1 - (1 - k / B)**n."""
  if config.kind != "hashed":
    return 0.0
  hit = config.blocks_per_source / config.blocks_per_stratum
  if hit == 1:
    return float(num_erased > 0)
  return -math.expm1(num_erased * math.log1p(-hit))


class Law:
  """The law of one pool; see the module's text for the formulas.

  A state is the probabilities of 0 .. k blocks left in each stratum of each
  layer, `float64 [layers * strata, k + 1]`.
  """

  def __init__(self, config: assignment.SinkConfig, num_layers: int):
    self._shared = config.kind == "hashed"
    self._blocks = config.blocks_per_stratum
    self._owned = config.blocks_per_source
    self._num_cells = num_layers * config.strata
    self._powers: list[np.ndarray] = []

  def untouched(self) -> np.ndarray:
    """Return the state of a pool of which nothing was erased."""
    state = np.zeros((1, self._owned + 1))
    state[0, -1] = 1
    return np.repeat(state, self._num_cells, axis=0)

  def counted(self, lost_N: np.ndarray) -> np.ndarray:
    """Return the state given the lost blocks of each stratum."""
    if not self._shared:
      return self.untouched()
    left = np.arange(self._owned + 1)
    kept = self._blocks - np.asarray(lost_N).reshape(-1, 1)
    return _hypergeometric(self._blocks, kept, self._owned, left)

  def after(self, state: np.ndarray, num_erased: int) -> np.ndarray:
    """Return the state when so many further sources were erased."""
    place = 0
    while self._shared and num_erased >> place:
      if num_erased >> place & 1:
        state = state @ self._power(place)
      place += 1
    return state

  def _power(self, place: int) -> np.ndarray:
    """Return what 2**place erasures do: from blocks left to blocks left."""
    if not self._powers:
      before = np.arange(self._owned + 1)[:, None]
      taken = before - np.arange(self._owned + 1)
      self._powers.append(
        _hypergeometric(self._blocks, before, self._owned, taken)
      )
    while len(self._powers) <= place:
      self._powers.append(self._powers[-1] @ self._powers[-1])
    return self._powers[place]

  def lost(self, state: np.ndarray) -> Distribution:
    """Return the law of the blocks that a survivor lost in all."""
    most = self._num_cells * self._owned
    size = 1 << most.bit_length()
    product = np.ones(size // 2 + 1, np.complex128)
    # Equal strata are common, and one transform serves them all.
    rows, numbers = np.unique(state[:, ::-1], axis=0, return_counts=True)
    for row, number in zip(rows, numbers, strict=True):
      product *= np.fft.rfft(row, size) ** int(number)
    weights = np.fft.irfft(product, size)[: most + 1]
    # The transform's rounding errors lie about 0.
    return Distribution(np.where(weights > 1e-13, weights, 0))

  def until(
    self, state: np.ndarray, reached: Callable[[Distribution], bool]
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
