"""A generated dataset of any number of sources, one passage each, untrained.

Owns its words, which have the frequencies of natural text (Zipf's law), its
rows, and its ledger, whose numbers of documents and tokens are drawn too, like
those of an encyclopedia. Every passage begins with a word of its own.

Invariant: the dataset is a function of its size and seed, and opens as any
prepared dataset does.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
from array_record.python import array_record_module

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import ledger, packing, passages, tokenizer
from nulls_jax.data.preparation import dataset, sources
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.sinks import assignment

_CONFIG = data_config.DataConfig(row_length=1024, tile=128, vocab_size=4096)
_DOCUMENTS = _CONFIG.row_length // _CONFIG.tile
_SYLLABLES = tuple(
  consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"
)
_NUM_WORDS = 100_000
_NUM_PAIRS = len(_SYLLABLES) ** 2
# Odd and prime to the number of pairs of pairs: every passage's own word.
_STRIDE = 7_368_787
MAX_OWN_WORDS = _NUM_PAIRS**2
_NUM_SITES = 20_000
_TOKENIZER_TEXTS = 4000
_ROWS_AT_ONCE = 1024
_SOURCES_A_PART = 20_000


def make(directory: pathlib.Path, count: int, seed: int) -> dict[str, float]:
  """Make what is not there yet; return the seconds that each part took.

  Raises:
    errors.UserError: the folder has a dataset of another size.
  """
  directory.mkdir(parents=True, exist_ok=True)
  seconds = {}

  def timed(name: str, action: Callable):
    start = time.perf_counter()
    action()
    seconds[name] = round(time.perf_counter() - start, 2)

  path = directory / dataset.LEDGER
  if not path.exists():
    timed("ledger", lambda: make_ledger(path, count, seed))
  with ledger.Ledger.open(path) as book:
    if book.num_sources != count:
      raise errors.UserError(
        f"{path} has {book.num_sources} sources, not {count}; choose another "
        "folder"
      )
  if not (directory / dataset.MANIFEST).exists():
    timed("rows", lambda: make_rows(directory, count, seed))
  prepared = dataset.Prepared.open(directory)
  if not (directory / passages.FILE).exists():
    timed("index", lambda: passages.build(prepared))
  return seconds


def make_ledger(path: pathlib.Path, count: int, seed: int = 0) -> None:
  """Write a ledger of generated sources, `article/0000001` and so on.

  Metadata: `site`, of which few have many sources, and `year`.
  """
  partial = path.with_name(f"{path.name}.partial")
  partial.unlink(missing_ok=True)
  folder = path.with_name(f"{path.name}.parts")
  with files.disk_errors(path):
    merge_ledger(partial, write_parts(folder, count, seed))
    shutil.rmtree(folder)
    os.replace(partial, path)


def write_parts(
  folder: pathlib.Path,
  count: int,
  seed: int = 0,
  key: Callable[[int], str] | None = None,
) -> work_lib.Work:
  """Write the sources as the blocks of `nulls prepare` leave them, no rows.

  Args:
    folder: for the parts; what is in it is deleted.
    count: sources.
    seed: of what is drawn.
    key: of a source, from 1; `article` by default.
  """
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  work = work_lib.Work(folder)
  work.prepare()
  draw = np.random.default_rng(seed)
  sites = (draw.pareto(0.9, count) * 20).astype(np.int64)
  sites = np.minimum(sites, _NUM_SITES - 1)
  years = 1995 + draw.integers(0, 30, count)
  documents = 1 + np.minimum(draw.geometric(0.5, count) - 1, 20)
  tokens = draw.lognormal(6, 1.2, count).astype(np.int64) + 8
  tokens = np.minimum(tokens, 2_000_000)
  for block, start in enumerate(range(0, count, _SOURCES_A_PART)):
    some = slice(start, start + _SOURCES_A_PART)
    keys = [(key or article)(n + 1) for n in range(count)[some]]
    metadata = [
      f'{{"site": "{site_name(site)}", "year": {year}}}'.encode()
      for site, year in zip(
        sites[some].tolist(), years[some].tolist(), strict=True
      )
    ]
    # In front of all is no source.
    joined = work_lib.pack_texts([b"", *map(str.encode, keys)])
    described = work_lib.pack_texts([b"{}", *metadata])
    work_lib.write_arrays(
      work.part(block, 0),
      {
        "ids": np.array([0, *map(assignment.source_id, keys)], np.uint64),
        "num_documents": np.append(0, documents[some]),
        "num_tokens": np.append(0, tokens[some]),
        "keys": joined["bytes"],
        "key_ends": joined["ends"],
        "metadata": described["bytes"],
        "metadata_ends": described["ends"],
      },
    )
  return work


def merge_ledger(path: pathlib.Path, work: work_lib.Work) -> None:
  """Write the ledger of written parts, as `nulls prepare` does."""
  blocks = len(list(work.part(0, 0).parent.glob("*.npz")))
  parts = [(block, 0) for block in range(blocks)]
  sources.merge(path, None, parts, lambda _: work, work, lambda _: None)


def article(index: int) -> str:
  """Return the key of a source."""
  return f"article/{index:07d}"


def title(index: int) -> str:
  """Return another key of a source, in no order, as titles are."""
  return f"Article {index * _STRIDE % _NUM_PAIRS**2:08d}"


def site_name(number: int) -> str:
  """Return a site; number 0 has the most sources."""
  return f"site-{number:05d}.example.org"


def word(rank: int) -> str:
  """Return a word of one to three syllables; rank 0 is the commonest."""
  syllables = []
  number = rank + 1
  while number:
    number, place = divmod(number, len(_SYLLABLES))
    syllables.append(_SYLLABLES[place])
  return "".join(syllables)


def _pair(number: int) -> str:
  first, second = divmod(number, len(_SYLLABLES))
  return _SYLLABLES[first] + _SYLLABLES[second]


def _own_numbers(indices: np.ndarray) -> np.ndarray:
  """Return the two pairs of syllables of passages' own words: `[n, 2]`."""
  numbers = indices.astype(np.int64) * _STRIDE % _NUM_PAIRS**2
  return np.stack(np.divmod(numbers, _NUM_PAIRS), axis=-1)


def own_word(index: int) -> str:
  """Return the word that only the passage of this source has."""
  return "".join(map(_pair, _own_numbers(np.array([index]))[0].tolist()))


class _Vocabulary:
  """Words by rank, then pairs of syllables that begin and that end words."""

  def __init__(self, model: tokenizer.Tokenizer):
    entries = [model.encode(word(rank)) for rank in range(_NUM_WORDS)]
    pairs = [_pair(number) for number in range(_NUM_PAIRS)]
    entries += map(model.encode, pairs)
    entries += map(model.encode_continuation, pairs)
    self.lengths = np.array([len(entry) for entry in entries])
    self.starts = np.cumsum(self.lengths) - self.lengths
    self.pieces = np.fromiter(
      itertools.chain.from_iterable(entries), np.uint32, self.lengths.sum()
    )

  def tokens(self, indices: np.ndarray, draw: np.random.Generator):
    """Return the passages of these sources: `uint32 [n, tile]`."""
    counts = draw.integers(24, 72, len(indices)) + 2
    firsts = np.cumsum(counts) - counts
    entries = draw_words(draw, counts.sum())
    own = _own_numbers(indices)
    own += np.array([_NUM_WORDS, _NUM_WORDS + _NUM_PAIRS])[None]
    entries[firsts], entries[firsts + 1] = own.T
    lengths = self.lengths[entries]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    pieces = self.pieces[np.repeat(self.starts[entries], lengths) + within]
    passage = np.repeat(np.repeat(np.arange(len(indices)), counts), lengths)
    place = 1 + np.arange(ends[-1]) - (ends - lengths)[firsts][passage]
    result = np.zeros((len(indices), _CONFIG.tile + 1), np.uint32)
    fits = place < _CONFIG.tile - 1
    result[passage[fits], place[fits]] = pieces[fits]
    result[:, 0] = tokenizer.BOS_ID
    last = np.count_nonzero(result, axis=1)
    result[np.arange(len(indices)), last] = tokenizer.EOS_ID
    return result[:, : _CONFIG.tile]


def draw_words(draw: np.random.Generator, count: int) -> np.ndarray:
  """Return ranks by Zipf's law (with Mandelbrot's shift of 2.7)."""
  share = np.cumsum(1 / (np.arange(_NUM_WORDS) + 2.7))
  return np.searchsorted(share, draw.random(count) * share[-1])


def make_rows(
  directory: pathlib.Path, count: int, seed: int, num_rows: int | None = None
) -> None:
  """Write tokenizer, rows and manifest; eight passages a row, in order.

  Args:
    directory: with the ledger.
    count: its sources.
    seed: of what is drawn.
    num_rows: with passages of sources that are evenly spread over the
      ledger; None gives every source one.
  """
  draw = np.random.default_rng([seed, 1])

  def texts():
    draw = np.random.default_rng([seed, 2])
    for source in range(_TOKENIZER_TEXTS):
      ranks = draw_words(draw, 48).tolist()
      yield source % 400 + 1, " ".join(map(word, ranks))

  model_bytes, _ = tokenizer.train_tokenizer(
    texts, vocab_size=_CONFIG.vocab_size
  )
  (directory / dataset.TOKENIZER).write_bytes(model_bytes)
  model = tokenizer.Tokenizer(model_bytes)
  vocabulary = _Vocabulary(model)
  path = directory / dataset.ROWS
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  enough = -(-count // _DOCUMENTS)
  num_rows = min(num_rows or enough, enough)
  passages_in_all = min(count, num_rows * _DOCUMENTS)
  at_once = _ROWS_AT_ONCE * _DOCUMENTS
  for first in range(0, passages_in_all, at_once):
    numbers = np.arange(first, min(first + at_once, passages_in_all))
    indices = 1 + numbers * count // passages_in_all
    for row in _packed(indices, vocabulary.tokens(indices, draw)):
      writer.write(row.to_bytes())
  writer.close()
  names = (dataset.TOKENIZER, dataset.LEDGER, dataset.ROWS)
  manifest = {
    "format": dataset.FORMAT,
    "config": dataclasses.asdict(_CONFIG),
    "counts": {"sources": count, "rows": num_rows},
    "vocab_size": model.vocab_size,
    "tokenizer_fingerprint": model.fingerprint,
    "rows_sha256": files.sha256(path),
    "files": {name: (directory / name).stat().st_size for name in names},
  }
  files.write_whole(directory / dataset.MANIFEST, json.dumps(manifest))


def _packed(indices: np.ndarray, tokens: np.ndarray) -> Iterator[packing.Row]:
  short = -len(indices) % _DOCUMENTS
  sources = np.pad(indices, (0, short)).reshape(-1, _DOCUMENTS)
  tokens = np.pad(tokens, ((0, short), (0, 0)))
  numbers = np.arange(1, _DOCUMENTS + 1)
  for of_row, text in zip(
    sources, tokens.reshape(-1, _CONFIG.row_length), strict=True
  ):
    yield packing.Row(text, np.where(of_row, numbers, 0), of_row)


def place(index: int) -> passages.Place:
  """Return where the passage of a source is."""
  row, document = divmod(index - 1, _DOCUMENTS)
  return passages.Place(row, document + 1, index)
