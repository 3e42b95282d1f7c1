"""Who is left after an erasure where sources own sinks by their size."""

import numpy as np

from nulls_jax.data import ledger_writing, routing
from nulls_jax.sinks import assignment
from nulls_jax.training import survivors

CONFIG = assignment.SinkConfig(
  pool_size=128, sinks_per_source=4, strata=2, size_classes=3
)
KEYS = tuple("abcdef")
SIZES = np.array([0, 2, 0, 1, 2, 0, 1])


def _ledger(path, keys, sizes):
  with ledger_writing.Writer.create(path) as book:
    book.add_documents((key, 1, {}) for key in keys)
    book.set_size_classes(sizes)
    return routing.table(CONFIG, book)


def _rows(words):
  """The rows of one source as (layer, stratum, row), drawn as a small one."""
  found = {
    (layer, stratum, int(row))
    for layer in range(2)
    for stratum, rows in enumerate(assignment.rows(CONFIG, words, layer))
    for row in rows
  }
  assert len(found) == 2 * 2 * (2 << assignment.size_class(CONFIG, words))
  return found


def test_marks_and_losses_are_of_what_each_source_owns(tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  table = _ledger(run / "ledger.sqlite", KEYS, SIZES)
  with ledger_writing.Writer.open(run / "ledger.sqlite") as book:
    book.erase("a")
  # Another order, a source less, and other sizes: less text was prepared.
  data = tmp_path / "data.sqlite"
  _ledger(data, "bdcfa", np.array([0, 0, 1, 0, 0, 0]))
  found = survivors.find(run, CONFIG, 2, data)
  np.testing.assert_array_equal(found.words, table[[0, 2, 4, 3, 6, 0]])
  erased = _rows(table[1])
  assert set(zip(*np.nonzero(found.is_erased), strict=True)) == erased
  taught = set().union(*(_rows(table[index]) for index in (2, 3, 4, 6)))
  movable = set(zip(*np.nonzero(found.movable), strict=True))
  assert movable == taught - erased
  shares = [len(own & erased) / len(own) for own in map(_rows, table[2:])]
  np.testing.assert_allclose(
    found.sinks_lost, (np.mean(shares), np.max(shares)), rtol=1e-12
  )
  assert (found.num_retained, found.num_taught) == (5, 4)
