"""The sources that a request means: by key, glob, metadata or quotation.

Owns how these combine (a source must fulfil all of them) and what counts as
evidence. The ledger answers for keys and metadata, the index of passages for
quotations. Changes nothing, and decides nothing: a person reviews.

Invariant: a source is found only for a whole quotation, word by word; what
holds parts of it is a candidate, with the share of the quotation that it
holds.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from nulls_jax import errors
from nulls_jax.data import conditions, ledger, passages, phrases, suggestions

# Sources that a quotation finds, unless the query says otherwise.
QUOTE_LIMIT = 1000
MAX_QUOTE_CHARACTERS = 100_000
OPEN, CLOSE = "⟦", "⟧"

_NO_CONDITION = conditions.Condition()
_EVIDENCE = 3
_MARGIN = 90
_HITS_AT_ONCE = 500
# Parts of a quotation: this many words (or trigrams) in a row.
_WINDOW = {phrases.WORDS: 4, phrases.TRIGRAMS: 12}
_MAX_WINDOWS = 60
# Passages that are weighed, of those that hold the rarest windows. A window
# costs about as many steps as its rarest word has passages.
_MAX_WEIGHED = 200
_MAX_HITS = 5000
_MAX_STEPS = 5_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
  """What to find; a source must fulfil all that is given.

  Attributes:
    keys: any of these keys.
    glob: a pattern that the key matches.
    where: a condition, see `data.conditions`.
    quote: words that a passage of the source has in a row.
    limit: sources at most; None is all, or 1,000 for a quotation.
    accept_partial: take sources that hold at least this share of the
      quotation, where none holds all of it; in (0, 1].
  """

  keys: tuple[str, ...] = ()
  glob: str | None = None
  where: str | None = None
  quote: str | None = None
  limit: int | None = None
  accept_partial: float | None = None

  def __post_init__(self):
    if not (self.keys or self.given()):
      raise errors.UserError(
        "nothing to find; name sources, or give a glob, a condition or a "
        "quotation"
      )
    if self.limit is not None and self.limit < 1:
      raise errors.UserError(f"limit={self.limit} must be at least 1")
    share = self.accept_partial
    if share is not None and not 0 < share <= 1:
      raise errors.UserError(
        f"accept_partial={share} is no share of a quotation, above 0 and up "
        "to 1"
      )
    if share is not None and self.quote is None:
      raise errors.UserError("accept_partial is for quotations; give one")
    if self.quote is not None and len(self.quote) > MAX_QUOTE_CHARACTERS:
      raise errors.UserError(
        f"the quotation has {len(self.quote)} characters; give at most "
        f"{MAX_QUOTE_CHARACTERS}"
      )

  def given(self) -> dict[str, Any]:
    """Return the conditions besides the keys, for messages and records."""
    every = {"glob": self.glob, "where": self.where, "quote": self.quote}
    return {name: value for name, value in every.items() if value is not None}

  def condition(self) -> conditions.Condition:
    """Return glob and where as one."""
    result = _NO_CONDITION
    if self.glob is not None:
      result &= conditions.glob(self.glob)
    if self.where is not None:
      result &= conditions.parse(self.where)
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
  """One passage of a source that holds the quotation or parts of it.

  Attributes:
    row: number of its row in the dataset, from 0.
    document: its number in the row, from 1.
    passage: the text around the first match, matches in ⟦ and ⟧.
    times: matches in the whole passage; neighbouring parts are one match.
  """

  row: int
  document: int
  passage: str
  times: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """A source, and why.

  Attributes:
    source: as the ledger has it.
    evidence: the first passages; empty without a quotation.
    num_passages: passages of the source that were seen to match.
    share: of the quotation's parts that the source holds; 1 is all of it in
      a row, None is no quotation.
  """

  source: ledger.Source
  evidence: tuple[Evidence, ...] = ()
  num_passages: int = 0
  share: float | None = None


class Findings:
  """What was found.

  Attributes:
    sources: an iterator, to be read once.
    candidates: sources that hold parts of the quotation, best first.
    complete: False once `sources` has ended at the limit with more to come.
    num_without_source: passages that match and are of no source.
  """

  def __init__(self):
    self.sources: Iterator[Found] = iter(())
    self.candidates: list[Found] = []
    self.complete = True
    self.num_without_source = 0


def find(
  book: ledger.Ledger, query: Query, index: passages.Index | None = None
) -> Findings:
  """Find sources.

  Args:
    book: the ledger.
    query: what to find.
    index: of the passages, for quotations.

  Raises:
    errors.UserError: keys are unknown, a condition is wrong, the quotation
      has no word, the index is of other sources than the ledger, or nothing
      is found.
  """
  condition = query.condition()
  indices = None
  if query.keys:
    known = book.find(dict.fromkeys(query.keys), allow_erased=True)
    indices = [source.index for source in known]
    if condition != _NO_CONDITION:
      indices = [s.index for s in book.select(condition, indices)]
  result = Findings()
  if query.quote is None:
    sources = map(_plain, book.select(condition, indices))
    result.sources = _up_to(query.limit, sources, result)
  else:
    if index is None:
      raise errors.UserError(
        "a quotation is looked up in the passages of a dataset; name it"
      )
    _Quotation(book, query, index, condition, indices).run(result)
  first = next(result.sources, None)
  if first is None and not result.candidates:
    raise errors.UserError(_nothing(book, query, index, result))
  if first is not None:
    result.sources = itertools.chain([first], result.sources)
  return result


def _plain(source: ledger.Source) -> Found:
  return Found(source=source)


def _up_to(
  limit: int | None, found: Iterator[Found], result: Findings
) -> Iterator[Found]:
  for count, one in enumerate(found):
    if count == limit:
      result.complete = False
      return
    yield one


class _Quotation:
  """One quotation, looked up in one index."""

  def __init__(self, book, query, index, condition, indices):
    self._book = book
    self._index = index
    self._condition = condition
    self._indices = None if indices is None else set(indices)
    self._limit = query.limit or QUOTE_LIMIT
    self._accept = query.accept_partial
    try:
      query.quote.encode("utf-8")
    except UnicodeEncodeError:
      raise errors.UserError(
        "the quotation is not valid Unicode (a lone surrogate)"
      ) from None
    self._words = index.desk.words(query.quote)
    if not self._words:
      need = {
        phrases.WORDS: "no word",
        phrases.TRIGRAMS: "fewer than three characters",
      }[index.kind]
      raise errors.UserError(
        f"the quotation {suggestions.shown(query.quote)} has {need} to look "
        "up; quote more"
      )

  def run(self, result: Findings):
    exact = self._exact(result)
    if exact:
      result.sources = iter(exact)
      return
    partial = self._partial()
    accepted = [
      one for one in partial if self._accept and one.share >= self._accept
    ]
    result.sources = iter(accepted)
    result.candidates = partial[len(accepted) :]

  def _exact(self, result: Findings) -> list[Found]:
    query = phrases.phrase(self._words)
    places = collections.defaultdict(list)
    counts = collections.Counter()
    for place in self._hits(query):
      if not place.source:
        result.num_without_source += 1
        continue
      if place.source not in counts and len(counts) == self._limit:
        result.complete = False
        break
      counts[place.source] += 1
      if len(places[place.source]) < _EVIDENCE:
        places[place.source].append(place)
    return [
      Found(
        source=source,
        evidence=self._evidence(places[source.index], query),
        num_passages=counts[source.index],
        share=1.0,
      )
      for source in self._sources(counts)
    ]

  def _partial(self) -> list[Found]:
    windows = self._windows()
    weighed = self._candidates(windows)
    self._index.desk.put(map(self._index.text, weighed))
    held = collections.defaultdict(set)
    for part, window in enumerate(windows):
      for number in self._index.desk.matching(phrases.phrase(window)):
        held[weighed[number]].add(part)
    by_source = collections.defaultdict(list)
    for place in sorted(held, key=lambda place: (-len(held[place]), place)):
      by_source[place.source].append(place)
    found = []
    for source in self._sources(by_source):
      places = by_source[source.index]
      parts = set().union(*(held[place] for place in places))
      query = phrases.any_of(
        phrases.phrase(windows[part]) for part in sorted(parts)
      )
      found.append(
        Found(
          source=source,
          evidence=self._evidence(places[:_EVIDENCE], query),
          num_passages=len(places),
          # All parts, but not in a row, is still not the whole.
          share=min(len(parts) / len(windows), 0.99),
        )
      )
    found.sort(key=lambda one: (-one.share, one.source.index))
    return found[: self._limit]

  def _windows(self) -> list[tuple[str, ...]]:
    """Return the parts of the quotation, in order."""
    count = len(self._words)
    if count < 3:
      return []
    size = min(_WINDOW[self._index.kind], count - 1)
    stride = -(-(count - size + 1) // _MAX_WINDOWS)
    return [
      tuple(self._words[start : start + size])
      for start in range(0, count - size + 1, stride)
    ]

  def _candidates(
    self, windows: Sequence[tuple[str, ...]]
  ) -> list[passages.Place]:
    """Return the passages with most of the windows, the rarest asked first."""
    frequency = {
      word: self._index.frequency(word)
      for word in set(itertools.chain.from_iterable(windows))
    }
    costs = sorted(
      (min(frequency[word] for word in window), window)
      for window in set(windows)
    )
    scores = collections.Counter()
    steps = 0
    for cost, window in costs:
      if steps > _MAX_STEPS:
        break
      if cost:
        steps += cost
        hits = self._hits(phrases.phrase(window))
        owned = (place for place in hits if place.source)
        scores.update(itertools.islice(owned, _MAX_HITS))
    order = sorted(scores, key=lambda place: (-scores[place], place))
    return order[:_MAX_WEIGHED]

  def _hits(self, query: str) -> Iterator[passages.Place]:
    """Yield the places that match, of sources that fulfil the rest."""
    hits = self._index.search(query)
    if self._indices is not None:
      return (place for place in hits if place.source in self._indices)
    return hits if self._condition == _NO_CONDITION else self._fulfil(hits)

  def _fulfil(self, hits) -> Iterator[passages.Place]:
    while chunk := list(itertools.islice(hits, _HITS_AT_ONCE)):
      indices = {place.source for place in chunk}
      found = self._book.select(self._condition, indices)
      good = {source.index for source in found}
      yield from (place for place in chunk if place.source in good)

  def _sources(self, indices) -> list[ledger.Source]:
    """Return the ledger's sources, checked to be the dataset's."""
    self._index.check_sources(self._book, indices)
    return list(self._book.select(_NO_CONDITION, indices))

  def _evidence(self, places, query: str) -> tuple[Evidence, ...]:
    desk = self._index.desk
    desk.put([self._index.text(place) for place in places])
    marked = desk.marked(query)
    return tuple(
      Evidence(
        row=place.row,
        document=place.document,
        passage=excerpt(marked[number]),
        times=marked[number].count(phrases.START),
      )
      for number, place in enumerate(places)
    )


def excerpt(marked: str) -> str:
  """Cut a marked text around its first match, on one line.

  >>> excerpt("What she said was \\ufdd0never\\ufdd1 again.")
  'What she said was ⟦never⟧ again.'
  """
  first = marked.index(phrases.START)
  last = marked.index(phrases.END, first)
  start, end = max(first - _MARGIN, 0), min(last + _MARGIN, len(marked))
  if start:
    start = marked.find(" ", start, first) + 1 or start
  if end < len(marked):
    end = max(marked.rfind(" ", last + 1, end), 0) or end
  text = marked[start:end]
  if text.count(phrases.START) > text.count(phrases.END):
    text += phrases.END
  text = text.replace(phrases.START, OPEN).replace(phrases.END, CLOSE)
  text = " ".join(text.split())
  before, after = "… " * (start > 0), " …" * (end < len(marked))
  return f"{before}{text}{after}"


def _nothing(book, query: Query, index, result: Findings) -> str:
  """Say in one line what was searched, and what is near."""
  asked = [
    f"{name} {suggestions.shown(value)}"
    for name, value in query.given().items()
  ]
  if query.keys:
    asked.insert(0, f"{len(query.keys)} named keys")
  where = f"the {book.num_sources} sources of {book.path}"
  hints = []
  if query.quote is not None:
    where += f" and {index.num_passages} passages of {index.directory}"
    words = dict.fromkeys(index.desk.words(query.quote))
    absent = [word for word in words if not index.frequency(word)]
    if absent:
      hints.append(f"in no passage: {errors.listing(map(repr, absent), 10)}")
  if result.num_without_source:
    hints.append(
      f"{result.num_without_source} passages of no source have the quotation"
    )
  if query.glob is not None:
    start = re.split(r"[*?[]", query.glob)[0]
    near = map(suggestions.shown, book.neighbours(start))
    hints.append(f"near keys: {errors.listing(near)}")
  if query.where is not None:
    first = itertools.islice(book, 100)
    names = sorted({name for source in first for name in source.metadata})
    listed = errors.listing(map(repr, names)) if names else "none"
    hints.append(f"fields of the first sources: {listed}")
  message = f"nothing found in {where} for {' and '.join(asked)}"
  return "; ".join([message, *hints])
