"""Which pieces of a vocabulary how many sources use.

Owns counting them up to a bound. Knows nothing of SentencePiece.

Invariant: the counts are those of one pass over all texts, however these are
split into batches, blocks or words.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


class PieceUsage:
  """Distinct sources of each piece, counted up to `min_sources`.

  Attributes:
    min_sources: sources that a piece needs.
    counts: `int32 [vocab_size]`.
    sources: `uint64 [vocab_size, min_sources]`, those that were counted; of
      pieces with fewer than needed, all.
  """

  def __init__(self, vocab_size: int, min_sources: int):
    self.min_sources = min_sources
    self.counts = np.zeros(vocab_size, np.int32)
    self.sources = np.zeros((vocab_size, min_sources), np.uint64)

  def add(self, source: int, ids: Sequence[int] | np.ndarray):
    """Count one text's pieces.

    Text of no source, 0, counts like enough sources: nobody can ask to have
    it forgotten.
    """
    ids = np.asarray(ids, np.int64)
    # After the first texts, few pieces are left to be counted.
    pieces = np.unique(ids[self.counts[ids] < self.min_sources])
    if not source:
      self.counts[pieces] = self.min_sources
    elif len(pieces):
      self._count(pieces, np.uint64(source))

  def _count(self, pieces: np.ndarray, source: np.uint64):
    """Count a source for distinct pieces that have too few."""
    new = pieces[~(self.sources[pieces] == source).any(axis=1)]
    self.sources[new, self.counts[new]] = source
    self.counts[new] += 1

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Return what `merge` needs of these texts."""
    few = np.flatnonzero(self.below)
    return {
      "enough": np.flatnonzero(self.counts >= self.min_sources),
      "few": few,
      "few_counts": self.counts[few],
      "few_sources": self.sources[few],
    }

  def merge(self, arrays: Mapping[str, np.ndarray]):
    """Count the texts of another, so that the sum is as if it was one."""
    self.counts[arrays["enough"]] = self.min_sources
    few, numbers = arrays["few"], arrays["few_counts"]
    for place in range(self.min_sources - 1):
      chosen = (numbers > place) & (self.counts[few] < self.min_sources)
      for piece, source in zip(
        few[chosen], arrays["few_sources"][chosen, place], strict=True
      ):
        self._count(np.array([piece]), source)

  def enlarge(self):
    """Make room for twice as many pieces."""
    self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
    self.sources = np.concatenate([self.sources, np.zeros_like(self.sources)])

  @property
  def below(self) -> np.ndarray:
    """`bool [vocab_size]`: pieces that too few sources use, but some do."""
    return (self.counts > 0) & (self.counts < self.min_sources)


class WordUse:
  """The words of a corpus and their sources, for many vocabularies.

  A piece has the sources of the words that hold it. So the texts are read
  once, and each vocabulary encodes every word once.
  """

  def __init__(self, documents: Iterable[tuple[int, str]], min_sources: int):
    """Read the texts; keeps their distinct words in memory.

    Args:
      documents: sources (0 is no source) and texts.
      min_sources: sources that a piece needs.
    """
    self._numbers: dict[str, int] = {}
    self._use = PieceUsage(1024, min_sources)
    numbers = self._numbers
    for source, text in documents:
      words = set(text.split(" "))
      new = words.difference(numbers)
      numbers.update(zip(new, itertools.count(len(numbers)), strict=False))
      while len(numbers) > len(self._use.counts):
        self._use.enlarge()
      found = map(numbers.__getitem__, words)
      self._use.add(source, np.fromiter(found, np.int64, len(words)))

  def of_pieces(self, tokenizer) -> np.ndarray:
    """Count the sources of a tokenizer's pieces, up to `min_sources`.

    Args:
      tokenizer: a `tokenizer.Tokenizer` that `is_by_word`.

    Returns:
      `int64 [pieces]`, the retired ones among them.
    """
    use, min_sources = self._use, self._use.min_sources
    ids, ends = tokenizer.encode_words(list(self._numbers))
    words = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    counts = use.counts[words]
    result = np.zeros(tokenizer.num_pieces, np.int64)
    result[ids[counts >= min_sources]] = min_sources
    open_ = result[ids] < min_sources
    piece_parts, source_parts = [], []
    for place in range(min_sources - 1):
      chosen = open_ & (counts > place)
      piece_parts.append(ids[chosen])
      source_parts.append(use.sources[words[chosen], place])
    if piece_parts:
      distinct = _distinct(
        np.concatenate(piece_parts), np.concatenate(source_parts)
      )
      result += np.bincount(distinct, minlength=len(result))
    return np.minimum(result, min_sources)


def _distinct(pieces: np.ndarray, sources: np.ndarray) -> np.ndarray:
  """Return each piece as often as it has distinct sources."""
  order = np.lexsort((sources, pieces))
  pieces, sources = pieces[order], sources[order]
  is_new = np.ones(len(pieces), bool)
  is_new[1:] = (np.diff(pieces) != 0) | (sources[1:] != sources[:-1])
  return pieces[is_new]
