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

# Rows of a stratum: JAX indexes them by int32.
MAX_ROWS = 2**31 - 1

# With size classes, a source's class is the top bits of its first word.
MAX_SIZE_CLASSES = 16
_SHIFT = np.uint32(28)
_ID_BITS = np.uint32(2**28 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkConfig:
  """The pool of sinks of every layer and how sources draw from it.

  Attributes:
    kind: "hashed" (a shared pool, drawn by a keyed bijection), "dedicated"
      (every source owns its rows) or "none" (a dense model).
    pool_size: sinks a layer, `hashed` only; `pool_size / strata /
      block_size` must be a power of two.
    sinks_per_source: sinks a layer that a source of size class 0 owns, all
      strata together: one share.
    size_classes: a source of class c, 0 to size_classes - 1, owns 2 ** c
      shares; the ledger says which class a source has. With 1, every source
      owns one share.
    block_size: sinks that are activated and erased together. Single sinks
      isolate best.
    strata: equal slices of the pool, each holding the same number of every
      source's sinks; the axis that is partitioned over devices.
    num_sources: rows are laid out for this many sources, `dedicated` only;
      0 takes the number from the ledger when training starts, more than
      that leaves room for sources to come.
    num_shares: rows are laid out for this many shares, `dedicated` only; 0
      is one a source, or with size classes takes the number from the
      ledger when training starts.
    seed: key of the bijection, 32 bits; another seed draws other sinks.
  """

  kind: Literal["hashed", "dedicated", "none"] = "hashed"
  pool_size: int = 8192
  sinks_per_source: int = 16
  size_classes: int = 1
  block_size: int = 1
  strata: int = 1
  num_sources: int = 0
  num_shares: int = 0
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
    if not 1 <= self.size_classes <= MAX_SIZE_CLASSES:
      raise errors.UserError(
        f"sinks.size_classes is {self.size_classes}; it must be 1 (all "
        f"sources own alike) to {MAX_SIZE_CLASSES}"
      )
    unit = self.strata * self.block_size
    if self.sinks_per_source % unit:
      raise errors.UserError(
        f"sinks.sinks_per_source={self.sinks_per_source} is not a multiple "
        f"of strata * block_size = {self.strata} * {self.block_size}; every "
        "source owns whole blocks, equally many in each stratum"
      )
    if self.kind == "dedicated" and self.rows_per_stratum > MAX_ROWS:
      raise errors.UserError(
        f"sinks.sinks_per_source={self.sinks_per_source} for {self.shares} "
        f"shares gives {self.rows_per_stratum} rows a stratum; at most "
        f"{MAX_ROWS} can be addressed: use more strata"
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
        largest, lower = "", "sinks_per_source"
        if self.size_classes > 1:
          largest = f" with sinks.size_classes={self.size_classes}"
          lower = "one of these"
        raise errors.UserError(
          f"sinks.sinks_per_source={self.sinks_per_source}{largest} needs "
          f"{self.blocks_per_source} distinct blocks of each stratum, which "
          f"has {blocks}; enlarge pool_size or lower {lower}"
        )

  @property
  def blocks_per_share(self) -> int:
    """Blocks of one share in one stratum of one layer."""
    return self.sinks_per_source // (self.strata * self.block_size)

  @property
  def rows_per_share(self) -> int:
    """Rows of one share in one stratum of one layer."""
    return self.sinks_per_source // self.strata

  @property
  def blocks_per_source(self) -> int:
    """Most blocks that a source owns in one stratum of one layer."""
    return self.blocks_per_share << (self.size_classes - 1)

  @property
  def active_per_stratum(self) -> int:
    """Most rows that a source owns in one stratum of one layer."""
    return self.rows_per_share << (self.size_classes - 1)

  @property
  def shares(self) -> int:
    """Shares that a `dedicated` table has rows for."""
    return self.num_shares or self.num_sources

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
      return self.shares * self.rows_per_share
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


def honoured(config: SinkConfig, classes: np.ndarray) -> np.ndarray:
  """Return the size classes that a pool gives: at most size_classes - 1.

  One ledger serves pools of any number of classes.

  >>> honoured(SinkConfig(size_classes=3), np.array([0, 1, 5])).tolist()
  [0, 1, 2]
  """
  return np.minimum(classes, config.size_classes - 1).astype(np.uint32)


def shares(config: SinkConfig, classes: np.ndarray) -> np.ndarray:
  """Return how many shares sources of these ledger classes own, int64."""
  return np.int64(1) << honoured(config, classes).astype(np.int64)


def first_shares(config: SinkConfig, classes: np.ndarray) -> np.ndarray:
  """Return each source's first share of a `dedicated` table, from 1: int64.

  What the sources before it in the ledger own, so that sources that are
  added later change nothing. With one size class it is the ledger's index.

  Args:
    config: the sink settings.
    classes: `[num_sources + 1]`, the ledger's size classes, 0 first.

  >>> classes = np.array([0, 0, 2, 1, 0])
  >>> first_shares(SinkConfig(size_classes=3), classes).tolist()
  [0, 1, 2, 6, 8]
  """
  firsts = np.zeros(len(classes), np.int64)
  firsts[1:2] = 1
  firsts[2:] = 1 + np.cumsum(shares(config, classes[1:-1]))
  return firsts


def routing_words(
  config: SinkConfig,
  ids: np.ndarray,
  firsts: np.ndarray,
  classes: np.ndarray | None = None,
) -> np.ndarray:
  """Return what a batch carries for sources: `uint32 [..., 2]`.

  `hashed` pools are addressed by the 64-bit id (high, low word), `dedicated`
  tables by the source's first share (0, share). With size classes the top 4
  bits of the first word are the class; of an id the other 60 bits stay.
  (0, 0) is no source in all of them.

  Args:
    config: the sink settings.
    ids: `uint64 [...]`, ids of the sources, 0 for none.
    firsts: integers of the same shape, 0 for none: `first_shares`, which with
      one size class are the ledger's indices.
    classes: integers of the same shape, the ledger's size classes; None is
      class 0 for all.
  """
  if config.kind == "dedicated":
    low = firsts.astype(np.uint32)
    high = np.zeros_like(low)
  else:
    ids = ids.astype(np.uint64)
    high = (ids >> np.uint64(32)).astype(np.uint32)
    low = (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32)
  if config.size_classes > 1:
    high &= _ID_BITS
    if classes is not None:
      high |= honoured(config, classes) << _SHIFT
  return np.stack([high, low], axis=-1)


def size_class(config: SinkConfig, words: np.ndarray) -> np.ndarray:
  """Return the size class that routing words `[..., 2]` carry, int64."""
  if config.size_classes == 1:
    return np.zeros(words.shape[:-1], np.int64)
  return (words[..., 0] >> _SHIFT).astype(np.int64)


def of_class(
  config: SinkConfig, number: int, words: np.ndarray
) -> tuple[SinkConfig, np.ndarray]:
  """Return a `hashed` pool without size classes, and words for it.

  Sources of one size class own the same blocks there; what draws for a pool
  of equal sources so serves each class in turn.

  Args:
    config: the sink settings, with size classes.
    number: the size class.
    words: `uint32 [..., 2]`, routing words of sources of this class.
  """
  equal = dataclasses.replace(
    config, size_classes=1, sinks_per_source=config.sinks_per_source << number
  )
  return equal, words & np.array([_ID_BITS, 2**32 - 1], np.uint32)


def possible_ids(config: SinkConfig, words: np.ndarray) -> list[int]:
  """Return the ids that words `[2]` of a `hashed` pool may be of, 1 or 16."""
  high, low = int(words[0]), int(words[1])
  if config.size_classes == 1:
    return [(high << 32) + low]
  rest = ((high & int(_ID_BITS)) << 32) + low
  return [(top << 60) + rest for top in range(MAX_SIZE_CLASSES)]


def same_words(ids: np.ndarray) -> tuple[int, int] | None:
  """Return the places of two ids that size classes cannot tell apart.

  Args:
    ids: `uint64`, different; 0, no source, may be among them.

  Returns:
    Two ids that agree in the 60 bits that size classes leave; None if none.
  """
  rest = ids & np.uint64(2**60 - 1)
  order = np.argsort(rest, kind="stable")
  same = np.flatnonzero(rest[order][1:] == rest[order][:-1])
  if not len(same):
    return None
  return int(order[same[0]]), int(order[same[0] + 1])


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
    `uint32 [..., strata, blocks_per_source]`. A source of less than the
    largest size class owns the first `blocks_per_share << class` of them,
    which are distinct within a stratum; the others repeat its first block,
    so that as a set they are right as they are (`owned` tells them apart).
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
  if config.size_classes > 1:
    limit = np.uint32(config.blocks_per_share) << (high >> _SHIFT)
    number = number * (number < limit).astype(np.uint32)
    high = high & _ID_BITS
  if config.kind == "dedicated":
    # Share 1 is the first rows; the comparison keeps "no source" in range.
    share = low - np.uint32(1) * (low > np.uint32(0))
    first = share.astype(np.uint32) * np.uint32(config.blocks_per_share)
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
    `uint32 [..., strata, active_per_stratum]`. Those that a source of less
    than the largest size class does not own repeat rows of its first block.
  """
  first = blocks(config, sources, layer) * np.uint32(config.block_size)
  within = _along(range(config.block_size), -1, first.ndim + 1)
  numbers = first[..., None] + within
  return numbers.reshape(*numbers.shape[:-2], config.active_per_stratum)


def owned(config: SinkConfig, sources) -> Any:
  """Return which of the `rows` are the source's own, the same in all strata.

  Args:
    config: the sink settings.
    sources: `uint32 [..., 2]` routing words, NumPy or JAX.

  Returns:
    `bool [..., active_per_stratum]`: the first `rows_per_share << class`;
    none for (0, 0).
  """
  high, low = sources[..., 0, None], sources[..., 1, None]
  position = _along(range(config.active_per_stratum), -1, sources.ndim)
  if config.size_classes > 1:
    limit = np.uint32(config.rows_per_share) << (high >> _SHIFT)
  else:
    limit = np.uint32(config.rows_per_share)
  return ((high | low) != np.uint32(0)) & (position < limit)
