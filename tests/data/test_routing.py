"""Routing words of a ledger: sizes, room in a table, and the way back."""

import dataclasses

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import ledger_writing, routing
from nulls_jax.sinks import assignment

KEYS = tuple(f"source {number}" for number in range(6))
# By index. With three classes 1, 4, 2, 4, 1 and 1 shares.
SIZES = np.array([0, 0, 2, 1, 5, 0, 0])
EQUAL = assignment.SinkConfig(
  kind="dedicated", sinks_per_source=4, strata=2, num_sources=6
)
SIZED = dataclasses.replace(EQUAL, size_classes=3, num_shares=13)
HASHED = assignment.SinkConfig(
  pool_size=256, sinks_per_source=4, strata=2, size_classes=3
)


@pytest.fixture
def book(tmp_path):
  with ledger_writing.Writer.create(tmp_path / "ledger.sqlite") as book:
    book.add_documents((key, 1, {}) for key in KEYS)
    book.set_size_classes(SIZES)
    yield book


def test_tables_are_laid_out_for_what_the_sources_own(book):
  def lay_out(config, **changes):
    laid_out = routing.lay_out(dataclasses.replace(config, **changes), book)
    assert laid_out == dataclasses.replace(
      config,
      num_sources=laid_out.num_sources,
      num_shares=laid_out.num_shares,
    )
    return laid_out.num_sources, laid_out.num_shares, laid_out.rows_per_stratum

  assert lay_out(EQUAL, num_sources=0) == (6, 0, 12)
  assert lay_out(EQUAL, num_sources=9) == (9, 0, 18)
  assert lay_out(SIZED, num_sources=0, num_shares=0) == (6, 13, 26)
  assert lay_out(SIZED, num_sources=8, num_shares=0) == (8, 15, 30)
  assert lay_out(SIZED, num_sources=8, num_shares=40) == (8, 40, 80)
  assert routing.lay_out(HASHED, book) is HASHED


@pytest.mark.parametrize(
  ("config", "changes", "message"),
  [
    (EQUAL, {"num_sources": 4}, "has 6 sources, the table rows for 4"),
    (SIZED, {"num_shares": 12}, "6 sources that own 13 shares, .* for 12"),
    (SIZED, {"num_sources": 5, "num_shares": 0}, "own 13 shares, .* for 12"),
  ],
)
def test_tables_without_room_are_refused(config, changes, message, book):
  with pytest.raises(routing.NoRoomError, match=f"ledger.sqlite .*{message}$"):
    routing.lay_out(dataclasses.replace(config, **changes), book)


@pytest.mark.parametrize("config", [EQUAL, SIZED, HASHED])
def test_words_lead_to_their_source_and_back(config, book):
  everything = routing.all_words(config, book)
  sources = list(book)
  chosen = [sources[3], sources[0]]
  np.testing.assert_array_equal(
    routing.words(config, book, chosen), everything[[4, 1]]
  )
  assert not everything[0].any()
  router = routing.Router(config)
  for source, pair in zip(sources, everything[1:], strict=True):
    assert router.owner(book, pair) == source
  assert routing.words(config, book, []).shape == (0, 2)
  book.erase(KEYS[2:3])
  table = routing.table(config, book)
  assert not table[3].any()
  np.testing.assert_array_equal(table[[1, 2, 4]], everything[[1, 2, 4]])
  erased = book.find_by_id(sources[2].id)
  # Who comes after keeps its rows, and the erased source its own.
  np.testing.assert_array_equal(
    routing.words(config, book, [erased, sources[3]]), everything[3:5]
  )


def test_words_that_are_almost_a_sources_are_nobodys(book):
  for config in (EQUAL, SIZED, HASHED):
    router = routing.Router(config)
    for high, low in routing.all_words(config, book)[1:].tolist():
      other = high ^ 1 << 28
      assert router.owner(book, np.array([other, low], np.uint32)) is None
  router = routing.Router(SIZED)
  # Shares in the midst of a source's, of nobody, and of no source.
  for pair in ([2 << 28, 3], [0, 14], [0, 0], [0, 2**32 - 1]):
    assert router.owner(book, np.array(pair, np.uint32)) is None


def test_a_source_beyond_the_table_is_refused(book):
  small = dataclasses.replace(SIZED, num_shares=12)
  with pytest.raises(
    errors.UserError, match=r"source 6 that owns share 13, the table .* for 12"
  ):
    routing.words(small, book, list(book))


def test_sources_that_sizes_cannot_tell_apart_are_named(tmp_path, monkeypatch):
  ids = {"a": 5, "b": (3 << 60) + 5, "c": 1 << 63}
  monkeypatch.setattr(assignment, "source_id", ids.__getitem__)
  for keys, message in (
    ("ab", "'a' and 'b' have ids that agree in the 60 bits .*; rename one"),
    ("c", "no source and 'c' have ids that agree"),
  ):
    with ledger_writing.Writer.create(tmp_path / f"{keys}.sqlite") as book:
      book.add_documents((key, 1, {}) for key in keys)
      with pytest.raises(errors.UserError, match=message):
        book.set_size_classes(np.array([0, 1, 0][: len(keys) + 1]))
      with pytest.raises(errors.UserError, match=message):
        routing.table(HASHED, book)
      # Without sizes all 64 bits count.
      equal = dataclasses.replace(HASHED, size_classes=1)
      assert routing.table(equal, book)[1].any()
