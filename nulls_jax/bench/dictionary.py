"""A generated dictionary: short articles, each a source of its own.

Owns the articles' form. Every headword is a word of its own; definitions are
drawn from words with the frequencies of natural text (`corpus`), name other
headwords, and hold one number that no other article tells.

Invariant: a function of the number of articles and of the seed.
"""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from nulls_jax import errors, files
from nulls_jax.bench import corpus

_KINDS = ("noun", "verb", "adjective", "adverb")
# Of a definition; with the rest an article has some 150 to 300 bytes.
_FEWEST_WORDS, _MOST_WORDS = 16, 36
_AT_ONCE = 10_000


def write(path: pathlib.Path, count: int, seed: int = 0) -> int:
  """Write the articles as JSON Lines; return their size in bytes.

  Raises:
    errors.UserError: the file exists, or there are too few or too many.
    errors.MachineError: the disk is full.
  """
  if not 2 <= count <= corpus.MAX_OWN_WORDS:
    raise errors.UserError(
      f"--sources {count}: give 2 to {corpus.MAX_OWN_WORDS:,}"
    )
  if path.exists():
    raise errors.UserError(f"{path} exists; give another --out, or delete it")
  with files.disk_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
      for one in articles(count, seed):
        file.write(json.dumps(one) + "\n")
  return path.stat().st_size


def articles(count: int, seed: int = 0) -> Iterator[dict[str, str]]:
  """Yield the articles in the order of their numbers."""
  draw = np.random.default_rng([seed, 4])
  for first in range(1, count + 1, _AT_ONCE):
    numbers = range(first, min(first + _AT_ONCE, count + 1))
    lengths = draw.integers(_FEWEST_WORDS, _MOST_WORDS + 1, len(numbers))
    ranks = corpus.draw_words(draw, lengths.sum())
    words = list(map(corpus.word, ranks.tolist()))
    others = draw.integers(1, count + 1, (len(numbers), 2)).tolist()
    kinds = draw.integers(0, len(_KINDS), len(numbers)).tolist()
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends]
    for place, number in enumerate(numbers):
      head = corpus.own_word(number)
      definition = " ".join(words[starts[place] : ends[place]])
      also = " and ".join(map(corpus.own_word, others[place]))
      yield {
        "source": f"entry/{head}",
        "text": (
          f"{head.capitalize()}, {_KINDS[kinds[place]]} {number}: "
          f"{definition}. See {also}."
        ),
      }
