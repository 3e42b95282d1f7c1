"""Documents of tokens into rows of fixed length, and rows into model input.

Owns the record format of packed rows and the fields that the model reads off
them. Pure functions of their arguments; knows neither files nor routing.

Invariant: a document starts at a multiple of `tile` tokens and stays in one
row, so that each tile has at most one source, and every piece of every
document is a target exactly once.

Dimensions: B batch, L row length, T tiles.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nulls_jax import errors

PAD = 0
# Rows that wait for small documents to fill them.
OPEN_ROWS = 256
_RECORD_TYPE = np.dtype("<u4")


@dataclasses.dataclass(frozen=True)
class Row:
  """One packed row.

  Attributes:
    tokens: `uint32 [L]`, 0 is padding.
    tile_documents: `uint32 [T]`, number of the tile's document in this row,
      counted from 1; 0 is a tile of padding.
    tile_sources: `uint32 [T]`, the source's index in the ledger, counted
      from 1; 0 is no source.
  """

  tokens: np.ndarray
  tile_documents: np.ndarray
  tile_sources: np.ndarray

  def to_bytes(self) -> bytes:
    """Return the record: tokens, documents, sources as little-endian."""
    return (
      np.concatenate([self.tokens, self.tile_documents, self.tile_sources])
      .astype(_RECORD_TYPE)
      .tobytes()
    )

  @classmethod
  def from_bytes(cls, record: bytes, row_length: int) -> "Row":
    """Return the row of a record of `4 * (L + 2 * T)` bytes."""
    tokens, documents, sources = split_records([record], row_length)
    return cls(tokens[0], documents[0], sources[0])


def split_records(
  records: Sequence[bytes], row_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return tokens `[B, L]`, tile documents and sources `[B, T]`, uint32."""
  words = np.frombuffer(b"".join(records), _RECORD_TYPE)
  words_BxW = words.reshape(len(records), -1)
  num_tiles = (words_BxW.shape[1] - row_length) // 2
  return (
    words_BxW[:, :row_length],
    words_BxW[:, row_length : row_length + num_tiles],
    words_BxW[:, row_length + num_tiles :],
  )


def cut(
  pieces: Sequence[int] | np.ndarray, row_length: int, bos: int, eos: int
) -> list[np.ndarray]:
  """Return the parts of one document, each of at most `row_length` tokens.

  Each part starts with `bos`, so that every piece is predicted once; the
  last part ends with `eos`.

  >>> [part.tolist() for part in cut([5, 6], 6, bos=1, eos=2)]
  [[1, 5, 6, 2]]
  >>> [part.tolist() for part in cut([5, 6, 7, 8, 9], 4, bos=1, eos=2)]
  [[1, 5, 6, 7], [1, 8, 9, 2]]
  >>> [part.tolist() for part in cut([5, 6, 7], 4, bos=1, eos=2)]
  [[1, 5, 6, 7], [1, 2]]
  """
  size = row_length - 1
  parts = []
  for start in range(0, len(pieces) + 1, size):
    body = pieces[start : start + size]
    part = np.empty(1 + min(size, len(body) + 1), np.uint32)
    part[0] = bos
    part[1 : 1 + len(body)] = body
    if len(body) < size:
      part[-1] = eos
    parts.append(part)
  return parts


class _OpenRow:
  """A row that is being filled."""

  def __init__(self, row_length: int, tile: int):
    self.tile = tile
    self.tokens = np.zeros(row_length, np.uint32)
    self.documents = np.zeros(row_length // tile, np.uint32)
    self.sources = np.zeros(row_length // tile, np.uint32)
    self.used = 0
    self.count = 0

  def add(self, tokens: Sequence[int], source_index: int, num_tiles: int):
    start = self.used * self.tile
    self.tokens[start : start + len(tokens)] = tokens
    self.count += 1
    tiles = slice(self.used, self.used + num_tiles)
    self.documents[tiles] = self.count
    self.sources[tiles] = source_index
    self.used += num_tiles

  def close(self) -> Row:
    return Row(self.tokens, self.documents, self.sources)


def pack(
  documents: Iterable[tuple[Sequence[int], int]],
  row_length: int,
  tile: int,
  open_rows: int = OPEN_ROWS,
) -> Iterator[Row]:
  """Pack documents into rows: each into the fullest open row that holds it.

  A function of the documents and their order alone. When `open_rows` rows
  are open and none has room, the fullest (of those, the oldest) is closed.

  >>> rows = list(
  ...   pack(
  ...     [([1, 5, 2], 1), ([1, 6, 7, 8, 2], 2), ([1, 2], 3)],
  ...     row_length=8,
  ...     tile=2,
  ...   )
  ... )
  >>> for row in rows:
  ...   print(row.tokens, row.tile_documents, row.tile_sources)
  [1 6 7 8 2 0 1 2] [1 1 1 2] [2 2 2 3]
  [1 5 2 0 0 0 0 0] [1 1 0 0] [1 1 0 0]

  Args:
    documents: pairs of token ids (with bos and eos, at most `row_length`)
      and the source's index in the ledger, 0 for no source.
    row_length: tokens a row.
    tile: documents start at multiples of this.
    open_rows: rows kept open.

  Raises:
    ValueError: a document is empty or longer than a row (see `cut`).
  """
  packer = Packer(row_length, tile, open_rows)
  for tokens, source_index in documents:
    yield from packer.add(tokens, source_index)
  yield from packer.close()


class Packer:
  """Packs documents as `pack` does, one at a time."""

  def __init__(self, row_length: int, tile: int, open_rows: int = OPEN_ROWS):
    self._row_length, self._tile = row_length, tile
    self._capacity = row_length // tile
    # [u]: open rows with u tiles used, oldest first; bit u of `_holding` says
    # that there are any.
    self._by_used: list[list[_OpenRow]] = [[] for _ in range(self._capacity)]
    self._holding = 0
    self._room = open_rows

  def add(self, tokens: Sequence[int], source_index: int) -> list[Row]:
    """Add a document; return the rows that this completes.

    Raises:
      ValueError: it is empty or longer than a row.
    """
    if not 0 < len(tokens) <= self._row_length:
      raise ValueError(
        f"a document of {len(tokens)} tokens does not fit a row of "
        f"{self._row_length}; cut it first"
      )
    done = []
    num_tiles = -(-len(tokens) // self._tile)
    with_room = self._holding & ((2 << (self._capacity - num_tiles)) - 1)
    if with_room:
      row = self._take(with_room.bit_length() - 1)
    else:
      if not self._room:
        done.append(self._take(self._holding.bit_length() - 1).close())
        self._room += 1
      row = _OpenRow(self._row_length, self._tile)
      self._room -= 1
    row.add(tokens, source_index, num_tiles)
    if row.used == self._capacity:
      self._room += 1
      done.append(row.close())
    else:
      self._by_used[row.used].append(row)
      self._holding |= 1 << row.used
    return done

  def close(self) -> list[Row]:
    """Return the rows that are left, the fullest first."""
    rows = []
    while self._holding:
      rows.append(self._take(self._holding.bit_length() - 1).close())
    return rows

  def _take(self, used: int) -> "_OpenRow":
    """Take the oldest of the open rows with so many tiles."""
    row = self._by_used[used].pop(0)
    if not self._by_used[used]:
      self._holding ^= 1 << used
    return row


def token_fields(
  tokens: np.ndarray, tile_documents: np.ndarray
) -> dict[str, np.ndarray]:
  """Return the fields of a batch that do not depend on routing.

  Tokens 0 are padding: they belong to no segment and are no target. The
  last token of a document predicts nothing.

  >>> fields = token_fields(
  ...   np.array([[1, 5, 2, 0, 1, 6, 7, 2]], np.uint32),
  ...   np.array([[1, 1, 2, 2]], np.uint32),
  ... )
  >>> for name, value in fields.items():
  ...   print(name, value[0])
  tokens [1 5 2 0 1 6 7 2]
  targets [5 2 0 0 6 7 2 0]
  weights [1. 1. 0. 0. 1. 1. 1. 0.]
  segments [1 1 1 0 2 2 2 2]
  positions [0 1 2 0 0 1 2 3]

  Args:
    tokens: `[B, L]`.
    tile_documents: `[B, T]`.

  Returns:
    int32 `[B, L]` tokens, targets, segments and positions, float32 `[B, L]`
    weights.
  """
  row_length = tokens.shape[-1]
  tile = row_length // tile_documents.shape[-1]
  tokens = tokens.astype(np.int32)
  is_text = tokens != PAD
  segments = np.repeat(tile_documents, tile, axis=-1).astype(np.int32)
  segments = segments * is_text
  starts = np.ones_like(is_text)
  starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
  place = np.arange(row_length, dtype=np.int32)
  first = np.maximum.accumulate(np.where(starts, place, 0), axis=-1)
  positions = (place - first).astype(np.int32) * is_text
  counts = np.zeros_like(is_text)
  counts[:, :-1] = ~starts[:, 1:] & is_text[:, :-1]
  targets = np.zeros_like(tokens)
  targets[:, :-1] = tokens[:, 1:]
  return {
    "tokens": tokens,
    "targets": targets * counts,
    "weights": counts.astype(np.float32),
    "segments": segments,
    "positions": positions,
  }


def to_example(row: Row) -> dict[str, np.ndarray]:
  """Return one row's fields `[L]` with its tiles' documents and sources."""
  fields = token_fields(row.tokens[None], row.tile_documents[None])
  example = {name: value[0] for name, value in fields.items()}
  example["tile_documents"] = row.tile_documents
  example["tile_sources"] = row.tile_sources
  return example


def example_from_documents(
  documents: Sequence[tuple[Sequence[int], int]], row_length: int, tile: int
) -> dict[str, np.ndarray]:
  """Return one row that holds these documents in order, as `to_example`.

  Args:
    documents: pairs of token ids and the source's index in the ledger.
    row_length: tokens of the row.
    tile: documents start at multiples of this.

  Raises:
    errors.UserError: the documents do not fit one row.
  """
  row = _OpenRow(row_length, tile)
  need = sum(-(-len(tokens) // tile) for tokens, _ in documents) * tile
  if need > row_length:
    raise errors.UserError(
      f"{len(documents)} documents need {need} tokens in tiles of {tile}, but "
      f"a row holds {row_length}; shorten them or use longer rows"
    )
  for tokens, source_index in documents:
    row.add(tokens, source_index, -(-len(tokens) // tile))
  return to_example(row.close())
