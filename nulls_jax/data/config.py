"""Settings of a prepared dataset; written into its manifest."""

import dataclasses

from nulls_jax import errors


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
  """

  row_length: int = 1024
  tile: int = 32
  vocab_size: int = 2048
  min_piece_sources: int = 2

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
