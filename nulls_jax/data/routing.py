"""The routing words of a ledger's sources: whose rows are whose, by name.

Owns what `sinks.assignment` needs to know of a ledger: ids, size classes and,
for dedicated tables, the shares that the sources before one own. Reads the
ledger and no weights. NumPy only.

Invariant: words lead to the rows of one source of the ledger, never to two
sources' and never beyond the table.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment


class NoRoomError(errors.UserError):
  """A dedicated table has fewer rows than the sources own."""


def lay_out(
  config: assignment.SinkConfig, book: ledger_lib.Ledger
) -> assignment.SinkConfig:
  """Lay the rows of a dedicated table out for a ledger; others stay.

  Fills in `num_sources` and, with size classes, `num_shares` where they are
  0. More than the ledger has leaves rows for sources to come: with size
  classes one share for each of them, unless `num_shares` says otherwise.

  Raises:
    NoRoomError: the table has fewer rows than the sources own.
  """
  if config.kind != "dedicated":
    return config
  num_sources = book.num_sources
  needed = num_sources
  if config.size_classes > 1:
    needed = int(assignment.shares(config, book.size_classes()[1:]).sum())
  laid_out = dataclasses.replace(
    config, num_sources=config.num_sources or num_sources
  )
  if config.size_classes > 1 and config.num_shares == 0:
    num_shares = needed + laid_out.num_sources - num_sources
    laid_out = dataclasses.replace(laid_out, num_shares=max(1, num_shares))
  if min(laid_out.num_sources - num_sources, laid_out.shares - needed) < 0:
    own, rows = "", laid_out.num_sources
    if config.size_classes > 1 or config.num_shares:
      own, rows = f" that own {needed} shares", laid_out.shares
    raise NoRoomError(
      f"{book.path} has {num_sources} sources{own}, the table rows for {rows}"
    )
  return laid_out


def words(
  config: assignment.SinkConfig,
  book: ledger_lib.Ledger,
  sources: Sequence[ledger_lib.Source],
) -> np.ndarray:
  """Return the routing words of some sources, erased or not.

  Args:
    config: the sink settings, a dedicated table's rows laid out.
    book: the ledger.
    sources: of this ledger.

  Returns:
    `uint32 [sources, 2]`, in their order.

  Raises:
    errors.UserError: a dedicated table has no rows for one of them.
  """
  return Router(config).words(book, sources)


def all_words(
  config: assignment.SinkConfig, book: ledger_lib.Ledger
) -> np.ndarray:
  """Return the routing words by index, erased sources' too.

  Returns:
    `uint32 [num_sources + 1, 2]`; (0, 0), no source, first.

  Raises:
    errors.UserError: size classes cannot tell two sources apart.
  """
  ids, classes = book.ids(), book.size_classes()
  if config.kind == "hashed" and config.size_classes > 1:
    check_distinct(book, ids)
  firsts = assignment.first_shares(config, classes)
  return assignment.routing_words(config, ids, firsts, classes)


def table(config: assignment.SinkConfig, book: ledger_lib.Ledger) -> np.ndarray:
  """Return the routing words by index, of those that may be activated.

  Returns:
    `uint32 [num_sources + 1, 2]`. Row 0, no source, is (0, 0); so are the
    rows of erased sources, which can therefore not be activated.

  Raises:
    errors.UserError: as `all_words`.
  """
  found = all_words(config, book)
  found[[source.index for source in book.erased()]] = 0
  found[0] = 0
  return found


def check_distinct(book: ledger_lib.Ledger, ids: np.ndarray) -> None:
  """Refuse sources whose ids agree in what size classes leave of them.

  Args:
    book: the ledger.
    ids: `uint64 [num_sources + 1]`, its ids.

  Raises:
    errors.UserError: two do, named; or one is left with the id of no source.
  """
  same = assignment.same_words(ids)
  if same is None:
    return
  names = ["no source", "no source"]
  for number, place in enumerate(same):
    if place:
      key = book.find_by_id(int(ids[place])).key
      names[number] = f"erased source {place}" if key is None else repr(key)
  raise errors.UserError(
    f"{book.path}: {names[0]} and {names[1]} have ids that agree in the 60 "
    "bits which size classes leave; rename one of them, or do without size "
    "classes"
  )


class Router:
  """Finds the words of sources, and the source of words, again and again.

  What is read of a whole ledger is read once: always ask with the same one.
  It never changes, unlike the sources' status.
  """

  def __init__(self, config: assignment.SinkConfig):
    self._config = config
    self._known_firsts: np.ndarray | None = None
    self._known_ids: np.ndarray | None = None

  def _firsts(self, book) -> np.ndarray:
    """Return the first shares by index, of a dedicated table."""
    if self._known_firsts is None:
      classes = book.size_classes()
      self._known_firsts = assignment.first_shares(self._config, classes)
    return self._known_firsts

  def words(
    self,
    book: ledger_lib.Ledger,
    sources: Sequence[ledger_lib.Source],
  ) -> np.ndarray:
    """Return what the function `words` does."""
    config = self._config
    ids = np.array([source.id for source in sources], np.uint64)
    firsts = np.array([source.index for source in sources], np.int64)
    classes = np.array([source.size_class for source in sources], np.int64)
    if config.kind == "dedicated":
      if config.size_classes > 1:
        firsts = self._firsts(book)[firsts]
      lasts = firsts + assignment.shares(config, classes) - 1
      if len(sources) and lasts.max() > config.shares:
        source = sources[int(lasts.argmax())]
        raise errors.UserError(
          f"{book.path} has a source {source.index} that owns share "
          f"{lasts.max()}, the table rows for {config.shares}; this is another "
          "run's ledger"
        )
    return assignment.routing_words(config, ids, firsts, classes)

  def owner(
    self, book: ledger_lib.Ledger, pair: np.ndarray
  ) -> "ledger_lib.Source | None":
    """Return the source of words `uint32 [2]`; None if they are nobody's."""
    for source_id in self._candidates(book, pair):
      try:
        source = book.find_by_id(source_id)
      except errors.UserError:
        continue
      # Words that are almost a source's would reach the rows of another.
      if np.array_equal(self.words(book, [source])[0], pair):
        return source
    return None

  def _candidates(self, book, pair) -> list[int]:
    if self._config.kind == "hashed":
      return assignment.possible_ids(self._config, pair)
    if self._known_ids is None:
      self._known_ids = book.ids()
    index = int(np.searchsorted(self._firsts(book), int(pair[1])))
    known = 0 < index < len(self._known_ids)
    return [int(self._known_ids[index])] if known else []
