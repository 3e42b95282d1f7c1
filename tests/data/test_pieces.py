"""Counts of sources by piece: the same however the texts are split."""

import numpy as np
import pytest

from nulls_jax.data import pieces


def _texts(seed):
  """Return (source, ids); ids near 0 are common, source 0 is none."""
  draw = np.random.default_rng(seed)
  return [
    (int(draw.integers(0, 12)) if draw.random() < 0.9 else 0, ids)
    for ids in (
      np.minimum(draw.geometric(0.06, draw.integers(1, 30)), 79)
      for _ in range(60)
    )
  ]


def _exact(texts, min_sources):
  """Count with sets."""
  counts = np.zeros(80, int)
  for piece in range(80):
    sources = {source for source, ids in texts if piece in ids}
    counts[piece] = min_sources if 0 in sources else len(sources)
  return np.minimum(counts, min_sources)


@pytest.mark.parametrize("min_sources", [1, 2, 5])
@pytest.mark.parametrize("num_blocks", [1, 3, 60])
def test_merged_blocks_are_one_pass(min_sources, num_blocks):
  texts = _texts(num_blocks)
  whole = pieces.PieceUsage(80, min_sources)
  for start in range(num_blocks):
    part = pieces.PieceUsage(80, min_sources)
    for source, ids in texts[start::num_blocks]:
      part.add(source, ids)
    whole.merge(part.to_arrays())
  expected = _exact(texts, min_sources)
  np.testing.assert_array_equal(whole.counts, expected)
  np.testing.assert_array_equal(
    whole.below, (expected > 0) & (expected < min_sources)
  )


class _Letters:
  """A tokenizer: a letter a piece."""

  num_pieces = 80

  def encode_words(self, words):
    ids = [ord(letter) - 48 for word in words for letter in word]
    ends = np.cumsum([len(word) for word in words], dtype=np.int64)
    return np.array(ids, np.uint32), ends


@pytest.mark.parametrize("min_sources", [1, 2, 5])
def test_words_have_the_sources_of_their_texts(min_sources):
  texts = _texts(7)
  documents = []
  for source, ids in texts:
    letters = "".join(chr(48 + number) for number in ids)
    documents.append((source, f"{letters[:4]} {letters[4:9]} {letters[9:]}"))
  use = pieces.WordUse(documents, min_sources)
  np.testing.assert_array_equal(
    use.of_pieces(_Letters()), _exact(texts, min_sources)
  )
