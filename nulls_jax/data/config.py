"""Settings of a prepared dataset; written into its manifest."""

import dataclasses
from typing import Any

import numpy as np

from nulls_jax import errors
from nulls_jax.sinks import assignment


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """How documents become rows of tokens.

  Attributes:
    row_length: tokens a packed row.
    tile: documents start at multiples of this many tokens, so that each
      tile has one source.
    vocab_size: entries of the SentencePiece model that is trained when no
      tokenizer is given (an upper bound: a small corpus gives fewer).
    min_piece_sources: pieces that fewer sources use are never emitted; they
      would carry a source's facts around its sinks.
    class_tokens: tokens of a source of size class 0 at most; class c has at
      most 2 ** c times as many, the largest class (15) any number. 0 gives
      every source class 0. `sinks.size_classes` says what classes mean.
  """

  row_length: int = 1024
  tile: int = 32
  vocab_size: int = 2048
  min_piece_sources: int = 2
  class_tokens: int = 0
  tokenizer_bytes: int = 32_000_000
  block_bytes: int = 32_000_000

  def __post_init__(self):
    if self.tile < 1 or self.row_length < self.tile:
      raise errors.UserError(
        f"data.row_length={self.row_length} must hold at least one tile "
        f"(data.tile={self.tile})"
      )
    if self.row_length % self.tile:
      raise errors.UserError(
        f"data.row_length={self.row_length} is not a multiple of "
        f"data.tile={self.tile}"
      )
    if self.vocab_size < 300:
      raise errors.UserError(
        f"data.vocab_size={self.vocab_size} leaves no room beside 256 byte "
        "pieces and 4 control pieces; give at least 300"
      )
    if self.class_tokens < 0:
      raise errors.UserError(
        f"data.class_tokens is {self.class_tokens}; give the tokens of a "
        "source of size class 0 at most, or 0 for no size classes"
      )
    for name in ("tokenizer_bytes", "block_bytes"):
      if getattr(self, name) < 1:
        raise errors.UserError(
          f"data.{name} is {getattr(self, name)}; it must be at least 1"
        )

  def size_classes(self, num_tokens: np.ndarray) -> np.ndarray:
    """Return the size class of sources with so many tokens, int64.

    >>> config = DataConfig(class_tokens=100)
    >>> config.size_classes(np.array([0, 100, 101, 200, 201])).tolist()
    [0, 0, 1, 1, 2]
    """
    if not self.class_tokens:
      return np.zeros(np.shape(num_tokens), np.int64)
    largest = assignment.MAX_SIZE_CLASSES - 1
    most = [min(self.class_tokens << c, 2**62) for c in range(largest)]
    return np.searchsorted(most, num_tokens)

  def to_dict(self) -> dict[str, Any]:
    """Return the fields as a manifest has them.

    Without those that came later and have their defaults: the same settings
    have the same digest as before.
    """
    fields = dataclasses.asdict(self)
    for name in ("class_tokens", "tokenizer_bytes", "block_bytes"):
      if fields[name] == getattr(DataConfig, name):
        del fields[name]
    return fields
