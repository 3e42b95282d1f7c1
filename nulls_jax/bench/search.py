"""How long `nulls find` takes: a generated dataset, then medians of queries.

Owns the queries and how they are timed; `bench.corpus` makes the dataset.

    python -m nulls_jax.bench.search --sources 6400000 --out DIR

Invariant: what is measured is what the command does: opening the ledger, the
dataset and the index, searching, and decoding the evidence.
"""

import itertools
import json
import os
import pathlib
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from nulls_jax import errors, files
from nulls_jax.bench import corpus
from nulls_jax.bench.settings import SearchSettings
from nulls_jax.data import ledger, passages
from nulls_jax.data.preparation import dataset
from nulls_jax.unlearning import find

REPORT = "search.json"


def run(settings: SearchSettings) -> str:
  """Make the dataset if need be, measure, write and return the table."""
  made = corpus.make(settings.out, settings.sources, settings.seed)
  if (settings.out / REPORT).exists():
    earlier = json.loads((settings.out / REPORT).read_text("utf-8"))
    made = earlier["made_seconds"] | made
  report = {
    "sources": settings.sources,
    "made_seconds": made,
    "bytes": {
      path.name: path.stat().st_size
      for path in sorted(settings.out.iterdir())
      if path.name != REPORT
    },
    "milliseconds": measure(settings.out, settings.repeats, settings.seed),
    "peak_memory_bytes": 1024
    * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
  }
  files.write_whole(settings.out / REPORT, json.dumps(report, indent=2) + "\n")
  return _table(report)


def measure(
  directory: pathlib.Path, repeats: int, seed: int = 0
) -> dict[str, dict[str, float]]:
  """Time the queries, each with files in memory and with files on disk.

  Returns:
    By query: median, least and most milliseconds, the median after the files
    have been dropped from the page cache, and the number of sources found.
  """
  result = {}
  with ledger.Ledger.open(directory / dataset.LEDGER) as book:
    count = book.num_sources
  draw = np.random.default_rng([seed, 3])
  texts = _texts(directory, draw.integers(1, count + 1, 2 * repeats))
  for name, make_query in _queries(texts, count, draw).items():
    queries = [make_query(number) for number in range(2 * repeats)]
    found = []
    warm = [_timed(directory, query, found) for query in queries[:repeats]]
    numbers = statistics.median_low(found)
    cold = []
    for query in queries[repeats:]:
      _drop_from_cache(directory)
      cold.append(_timed(directory, query, found))
    result[name] = {
      "median": statistics.median(warm),
      "least": min(warm),
      "most": max(warm),
      "cold_median": statistics.median(cold),
      "cold_most": max(cold),
      "sources": numbers,
    }
  return result


def _texts(directory: pathlib.Path, indices: np.ndarray) -> list[list[str]]:
  """Return the words of the passages of these sources."""
  prepared = dataset.Prepared.open(directory)
  with passages.Index.open(prepared) as index:
    result = []
    for source in indices.tolist():
      result.append(index.text(corpus.place(source)).split())
  return result


def _queries(
  texts: list[list[str]], count: int, draw: np.random.Generator
) -> dict[str, Callable[[int], find.Query]]:
  """Return, by name, functions that make a query from its number."""
  indices = draw.integers(1, count + 1, (len(texts), 1000))

  def changed(number: int) -> str:
    """Return forty words of which every seventh is not the text's."""
    words = list(texts[number][1:41])
    words[6::7] = itertools.repeat("umgeschrieben", len(words[6::7]))
    return " ".join(words)

  def common(number: int) -> str:
    """Return seven of the ten commonest words, in some order."""
    ranks = np.random.default_rng(number).permutation(10)[:7]
    return " ".join(map(corpus.word, ranks.tolist()))

  return {
    "1 key": lambda n: find.Query(keys=(corpus.article(int(indices[n, 0])),)),
    "1,000 keys": lambda n: find.Query(
      keys=tuple(map(corpus.article, indices[n].tolist()))
    ),
    "a key that is unknown": lambda n: find.Query(
      keys=(corpus.article(int(indices[n, 0])).replace("article", "artcle"),)
    ),
    "glob of 100 keys": lambda n: find.Query(
      glob=f"{corpus.article(int(indices[n, 0]))[:-2]}*"
    ),
    "where, the whole ledger read": lambda n: find.Query(
      where=f"site = '{corpus.site_name(50 + n)}' AND year >= 1999"
    ),
    "quotation of 8 words": lambda n: find.Query(
      quote=" ".join(texts[n][3:11])
    ),
    "quotation of 1 rare word": lambda n: find.Query(quote=texts[n][0]),
    "quotation of 2 commonest words": lambda n: find.Query(
      quote=f"{corpus.word(n % 3)} {corpus.word(n % 5)}"
    ),
    "7 of the commonest words": lambda n: find.Query(quote=common(n)),
    "40 words, every 7th changed": lambda n: find.Query(quote=changed(n)),
  }


def _timed(directory: pathlib.Path, query: find.Query, found: list) -> float:
  """Return the milliseconds of a query with all that it needs opened."""
  start = time.perf_counter()
  with ledger.Ledger.open(directory / dataset.LEDGER) as book:
    try:
      if query.quote is None:
        number = sum(1 for _ in find.find(book, query).sources)
      else:
        prepared = dataset.Prepared.open(directory)
        with passages.Index.open(prepared) as index:
          findings = find.find(book, query, index)
          number = len(findings.candidates) + sum(1 for _ in findings.sources)
    except errors.UserError:
      number = 0  # found nothing
  found.append(number)
  return round(1000 * (time.perf_counter() - start), 2)


def _drop_from_cache(directory: pathlib.Path) -> None:
  """Ask the system to read the files from the disk the next time."""
  for path in directory.iterdir():
    if path.is_file():
      descriptor = os.open(path, os.O_RDONLY)
      os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
      os.close(descriptor)


def _table(report: dict) -> str:
  lines = [
    f"{report['sources']:,} sources; made in seconds: {report['made_seconds']}",
    f"{'milliseconds':32}{'median':>9}{'least':>9}{'most':>9}"
    f"{'from disk':>11}{'most':>9}{'sources':>9}",
  ]
  for name, one in report["milliseconds"].items():
    lines.append(
      f"{name:32}{one['median']:9.1f}{one['least']:9.1f}{one['most']:9.1f}"
      f"{one['cold_median']:11.1f}{one['cold_most']:9.1f}{one['sources']:9,}"
    )
  lines.append(f"peak memory {report['peak_memory_bytes'] / 2**20:,.0f} MiB")
  return "\n".join(lines)
