"""Which sinks a source owns: a pure, versioned function of its id.

Owns the sink settings, the source id, and the maps
`(config, source, layer) -> block numbers -> row numbers`. Knows neither
parameters nor devices and needs NumPy only, so that redaction tools can use
it without JAX. The same code runs on NumPy and on (traced) JAX arrays.

Invariant: for one config and version the result never changes, on any
platform, bit for bit; `tests/sinks/test_assignment.py` pins golden vectors.
"""

import dataclasses
import hashlib
from typing import Any, Literal

import numpy as np

from nulls_jax import errors

VERSION = 1

# Of version 1: rounds of the bijection, and the constants of the key words.
NUM_ROUNDS = 4
GOLDEN = np.uint32(0x9E3779B9)
MULTIPLIERS = (np.uint32(0x7FEB352D), np.uint32(0x846CA68B))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkConfig:
  """The pool of sinks of every layer and how sources draw from it.

  Attributes:
    kind: "hashed" (a shared pool, drawn by a keyed bijection), "dedicated"
      (every source owns its rows) or "none" (a dense model).
    pool_size: sinks a layer, `hashed` only; `pool_size / strata /
      block_size` must be a power of two.
    sinks_per_source: sinks a layer that one source activates, all strata
      together.
    block_size: sinks that are activated and erased together. Single sinks
      isolate best.
    strata: equal slices of the pool, each holding the same number of every
      source's sinks; the axis that is partitioned over devices.
    num_sources: rows are laid out for this many sources, `dedicated` only;
      0 takes the number from the ledger when training starts.
    seed: key of the bijection, 32 bits; another seed draws other sinks.
  """

  kind: Literal["hashed", "dedicated", "none"] = "hashed"
  pool_size: int = 8192
  sinks_per_source: int = 16
  block_size: int = 1
  strata: int = 1
  num_sources: int = 0
  seed: int = 0

  def __post_init__(self):
    if self.kind == "none":
      return
    for name in ("pool_size", "sinks_per_source", "block_size", "strata"):
      if getattr(self, name) < 1:
        raise errors.UserError(
          f"sinks.{name} is {getattr(self, name)}; it must be at least 1"
        )
    if not 0 <= self.seed < 2**32:
      raise errors.UserError(
        f"sinks.seed is {self.seed}; it must fit 32 bits (0 to 4294967295)"
      )
    unit = self.strata * self.block_size
    if self.sinks_per_source % unit:
      raise errors.UserError(
        f"sinks.sinks_per_source={self.sinks_per_source} is not a multiple "
        f"of strata * block_size = {self.strata} * {self.block_size}; every "
        "source owns whole blocks, equally many in each stratum"
      )
    if self.kind == "hashed":
      blocks = self.pool_size // unit
      if self.pool_size % unit or blocks & (blocks - 1):
        raise errors.UserError(
          f"sinks.pool_size={self.pool_size} over strata * block_size = "
          f"{self.strata} * {self.block_size} gives "
          f"{self.pool_size / unit:g} blocks a stratum; choose a power of two"
        )
      if self.blocks_per_source > blocks:
        raise errors.UserError(
          f"sinks.sinks_per_source={self.sinks_per_source} needs "
          f"{self.blocks_per_source} distinct blocks of each stratum, which "
          f"has {blocks}; enlarge pool_size or lower sinks_per_source"
        )

  @property
  def blocks_per_source(self) -> int:
    """Blocks of one source in one stratum of one layer."""
    return self.sinks_per_source // (self.strata * self.block_size)

  @property
  def active_per_stratum(self) -> int:
    """Rows that one source activates in one stratum of one layer."""
    return self.sinks_per_source // self.strata

  @property
  def blocks_per_stratum(self) -> int:
    """Blocks that one stratum of one layer holds."""
    return self.rows_per_stratum // self.block_size

  @property
  def rows_per_stratum(self) -> int:
    """Rows of the table in one stratum of one layer."""
    if self.kind == "hashed":
      return self.pool_size // self.strata
    if self.kind == "dedicated":
      return self.num_sources * self.active_per_stratum
    return 0


def source_id(key: str) -> int:
  """Return the 64-bit id of a source key; never 0, which means no source.

  BLAKE2b with its own personalisation string, so that ids of other tools
  that hash the same key do not coincide with ours.
  """
  digest = hashlib.blake2b(
    key.encode("utf-8"), digest_size=8, person=b"nulls source v1"
  ).digest()
  return int.from_bytes(digest, "big") or 1


def split_id(source: int) -> tuple[int, int]:
  """Split a 64-bit id into the two uint32 words that batches carry.

  >>> split_id(0x0000000100000002)
  (1, 2)
  """
  return source >> 32, source & 0xFFFFFFFF


def routing_words(
  config: SinkConfig, ids: np.ndarray, indices: np.ndarray
) -> np.ndarray:
  """Return what a batch carries for sources: `uint32 [..., 2]`.

  `hashed` pools are addressed by the 64-bit id (high, low word), `dedicated`
  tables by the source's index in the ledger, counted from 1 (0, index).
  (0, 0) is no source in both.

  Args:
    config: the sink settings.
    ids: `uint64 [...]`, ids of the sources, 0 for none.
    indices: integers of the same shape, the ledger indices, 0 for none.
  """
  if config.kind == "dedicated":
    low = indices.astype(np.uint32)
    return np.stack([np.zeros_like(low), low], axis=-1)
  ids = ids.astype(np.uint64)
  high = (ids >> np.uint64(32)).astype(np.uint32)
  low = (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32)
  return np.stack([high, low], axis=-1)


def _mix(x):
  """A 32-bit finaliser: every input bit moves every output bit."""
  x = x ^ (x >> np.uint32(16))
  x = x * MULTIPLIERS[0]
  x = x ^ (x >> np.uint32(15))
  x = x * MULTIPLIERS[1]
  return x ^ (x >> np.uint32(16))


def _absorb(state, word):
  return _mix((state ^ word) + GOLDEN)


def _permute(x, key, bits: int):
  """Apply the keyed bijection of `[0, 2 ** bits)` to `x` (uint32)."""
  low = np.uint32(2**bits - 1)
  shift = np.uint32(max(1, bits // 2))
  for round_number in range(NUM_ROUNDS):
    add = _absorb(key, np.uint32(2 * round_number))
    multiply = _absorb(key, np.uint32(2 * round_number + 1))
    x = (x + add) & low
    x = (x * (multiply | np.uint32(1))) & low
    x = x ^ (x >> shift)
  return x


def blocks(config: SinkConfig, sources, layer) -> Any:
  """Return the block numbers of sources in one layer.

  Args:
    config: the sink settings.
    sources: `uint32 [..., 2]` routing words, NumPy or JAX.
    layer: the layer's number, an int or a (traced) integer scalar.

  Returns:
    `uint32 [..., strata, blocks_per_source]`, distinct within a stratum.
    For (0, 0), no source, the numbers are valid but mean nothing: callers
    mask them.
  """
  with np.errstate(over="ignore"):
    return _blocks(config, sources, layer)


def _along(values, axis: int, ndim: int) -> np.ndarray:
  """Shape a vector for broadcasting: its length at `axis` of `ndim`, else 1."""
  shape = [1] * ndim
  shape[axis] = len(values)
  return np.asarray(values, np.uint32).reshape(shape)


def _blocks(config: SinkConfig, sources, layer):
  ndim = sources.ndim + 1
  number = _along(range(config.blocks_per_source), -1, ndim)
  stratum = _along(range(config.strata), -2, ndim)
  high = sources[..., 0, None, None]
  low = sources[..., 1, None, None]
  if config.kind == "dedicated":
    # Source 1 owns the first rows; `max` keeps "no source" in range.
    index = low - np.uint32(1) * (low > np.uint32(0))
    first = index.astype(np.uint32) * np.uint32(config.blocks_per_source)
    return first + number + stratum * np.uint32(0)
  if isinstance(layer, int | np.integer):
    layer = np.asarray(layer, np.uint32)
  else:
    layer = layer.astype(np.uint32)
  state = _mix(np.asarray(config.seed, np.uint32) + np.uint32(VERSION))
  key = _absorb(_absorb(_absorb(_absorb(state, high), low), layer), stratum)
  bits = config.blocks_per_stratum.bit_length() - 1
  return _permute(number, key, bits)


def rows(config: SinkConfig, sources, layer) -> Any:
  """Return the table rows of sources in one layer.

  With blocks of 2, blocks (5, 0) are rows (10, 11, 0, 1).

  Args:
    config: the sink settings.
    sources: `uint32 [..., 2]` routing words, NumPy or JAX.
    layer: the layer's number, an int or a (traced) integer scalar.

  Returns:
    `uint32 [..., strata, active_per_stratum]`.
  """
  first = blocks(config, sources, layer) * np.uint32(config.block_size)
  within = _along(range(config.block_size), -1, first.ndim + 1)
  numbers = first[..., None] + within
  return numbers.reshape(*numbers.shape[:-2], config.active_per_stratum)
