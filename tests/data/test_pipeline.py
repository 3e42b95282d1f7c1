"""The pipeline: data order is a pure function of (seed, step)."""

import itertools

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import config as data_config
from nulls_jax.data import encyclopedia, ledger, pipeline, prepare
from nulls_jax.sinks import assignment

FIELDS = {
  "tokens": ("int32", (8, 96)),
  "targets": ("int32", (8, 96)),
  "weights": ("float32", (8, 96)),
  "segments": ("int32", (8, 96)),
  "positions": ("int32", (8, 96)),
  "sources": ("uint32", (8, 3, 2)),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  directory = tmp_path_factory.mktemp("data")
  book = encyclopedia.Encyclopedia(
    seed=0, num_sources=50, num_held_out=0, num_versions=2
  )
  path = book.write(directory / "corpus")["documents"]
  config = data_config.DataConfig(row_length=96, tile=32, vocab_size=1500)
  prepare.prepare(path, directory / "set", config)
  return prepare.Prepared.open(directory / "set")


@pytest.fixture(scope="module")
def table(prepared):
  with ledger.Ledger.open(prepared.ledger_path) as book:
    return book.routing_table(assignment.SinkConfig())


def _batches(prepared, table, count, **changes):
  arguments = {"batch_size": 8, "seed": 1, "off_share": 0.0} | changes
  found = pipeline.batches(prepared, table, **arguments)
  return list(itertools.islice(found, count))


def _assert_equal(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def _row_keys(batches):
  return [row.tobytes() for batch in batches for row in batch["tokens"]]


def test_fields(prepared, table):
  (batch,) = _batches(prepared, table, 1)
  assert {
    name: (str(value.dtype), value.shape) for name, value in batch.items()
  } == FIELDS
  known = {tuple(words) for words in table.tolist()}
  assert {tuple(w) for w in batch["sources"].reshape(-1, 2).tolist()} <= known
  # Off share 0: every tile with text has a source, every other one none.
  has_text = batch["segments"].reshape(8, 3, 32).any(-1)
  np.testing.assert_array_equal(batch["sources"].any(-1), has_text)


def test_sources_are_those_of_the_text(prepared, table):
  """The tokens of a person's name stand in the tiles of that person."""
  by_tokens = {}
  for batch in _batches(prepared, table, 30):
    for row, sources in zip(batch["tokens"], batch["sources"], strict=True):
      words = by_tokens.setdefault(row.tobytes(), sources.tolist())
      assert words == sources.tolist()
  owners = [words[0] for words in map(tuple, by_tokens.values())]
  assert len({tuple(words) for words in owners}) == 50


def test_any_step_alone_equals_the_straight_run(prepared, table):
  straight = _batches(prepared, table, 40, off_share=0.3)
  for start in (0, 1, 17, 39):
    resumed = _batches(
      prepared, table, 40 - start, off_share=0.3, start_step=start
    )
    _assert_equal(resumed, straight[start:])


def test_seed_decides(prepared, table):
  first = _batches(prepared, table, 5)
  _assert_equal(first, _batches(prepared, table, 5))
  other = _batches(prepared, table, 5, seed=2)
  assert _row_keys(first) != _row_keys(other)


def test_each_row_once_an_epoch_in_another_order(prepared, table):
  rows = prepared.manifest["counts"]["rows"]
  assert rows % 8, "batches must cross the ends of epochs"
  keys = _row_keys(_batches(prepared, table, -(-3 * rows // 8)))
  epochs = [keys[i * rows : (i + 1) * rows] for i in range(3)]
  assert len(set(epochs[0])) == rows
  assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize("process_count", [2, 4, 8])
def test_processes_share_the_same_batches(prepared, table, process_count):
  whole = _batches(prepared, table, 20, off_share=0.4)
  parts = [
    _batches(
      prepared,
      table,
      20,
      off_share=0.4,
      process_index=index,
      process_count=process_count,
    )
    for index in range(process_count)
  ]
  joined = [
    {name: np.concatenate([part[name] for part in step]) for name in step[0]}
    for step in zip(*parts, strict=True)
  ]
  _assert_equal(joined, whole)


def test_a_process_reads_only_its_own_rows(prepared, table, monkeypatch):
  reads = []

  # A class of its own: threads of other tests may still be reading ahead.
  class Recording(pipeline.grain.sources.ArrayRecordDataSource):
    def __getitem__(self, index):
      reads.append(index)
      return super().__getitem__(index)

  monkeypatch.setattr(
    pipeline.grain.sources, "ArrayRecordDataSource", Recording
  )
  found = pipeline.batches(
    prepared,
    table,
    batch_size=8,
    seed=1,
    off_share=0.0,
    num_steps=3,
    process_index=1,
    process_count=4,
  )
  assert len(list(found)) == 3
  assert len(reads) == 3 * 2


def test_off_share_of_visits(prepared, table):
  on = _batches(prepared, table, 200)
  drawn = _batches(prepared, table, 200, off_share=0.25)
  visits = off = 0
  choices = {}
  for whole, batch in zip(on, drawn, strict=True):
    for name in FIELDS.keys() - {"sources"}:
      np.testing.assert_array_equal(whole[name], batch[name])
    was_on, is_on = whole["sources"].any(-1), batch["sources"].any(-1)
    np.testing.assert_array_equal(
      batch["sources"], np.where(is_on[..., None], whole["sources"], 0)
    )
    documents = whole["segments"].reshape(8, 3, 32).max(-1)
    for row in range(8):
      for number in range(1, documents[row].max() + 1):
        mine = (documents[row] == number) & was_on[row]
        # All tiles of a document share its draw.
        (state,) = set(is_on[row][mine].tolist())
        visits += 1
        off += not state
        key = whole["tokens"][row].tobytes()
        choices.setdefault((key, number), set()).add(state)
  deviation = (0.25 * 0.75 / visits) ** 0.5
  assert abs(off / visits - 0.25) < 4 * deviation
  # Drawn anew at each visit: nearly every document was seen both ways.
  assert sum(len(c) == 2 for c in choices.values()) > 0.9 * len(choices)


def test_all_off(prepared, table):
  (batch,) = _batches(prepared, table, 1, off_share=1.0)
  assert not batch["sources"].any()


def test_draws_are_uniform_and_unrelated():
  place, document = np.arange(50_000)[:, None], np.arange(1, 3)[None]
  draw = pipeline.off_draw(5, place, document)
  assert draw.shape == (50_000, 2)
  counts, _ = np.histogram(draw, bins=20, range=(0, 1))
  # Chi-squared with 19 degrees of freedom: mean 19, deviation 6.2.
  assert ((counts - 5000) ** 2 / 5000).sum() < 19 + 5 * 6.2
  for one, other in (
    (draw[:, 0], draw[:, 1]),
    (draw[1:, 0], draw[:-1, 0]),
    (draw[:, 0], pipeline.off_draw(6, place, document)[:, 0]),
  ):
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 50_000**0.5


def test_number_of_steps(prepared, table):
  for start, count in ((0, 3), (5, 2), (4, 0)):
    found = pipeline.batches(
      prepared,
      table,
      batch_size=4,
      seed=0,
      off_share=0.0,
      start_step=start,
      num_steps=count,
    )
    assert len(list(found)) == count


def test_erased_sources_are_never_active(prepared, table):
  erased = table.copy()
  erased[7] = 0
  for before, after in zip(
    _batches(prepared, table, 30), _batches(prepared, erased, 30), strict=True
  ):
    gone = (before["sources"] == table[7]).all(-1)
    assert not after["sources"][gone].any()
    np.testing.assert_array_equal(
      after["sources"][~gone], before["sources"][~gone]
    )


def test_bad_arguments(prepared, table):
  with pytest.raises(errors.UserError, match="batch_size=8 does not divide"):
    _batches(prepared, table, 1, process_count=3)
  with pytest.raises(errors.UserError, match=r"off_share=1\.5"):
    _batches(prepared, table, 1, off_share=1.5)
  with pytest.raises(errors.UserError, match="seed=-1"):
    _batches(prepared, table, 1, seed=-1)
  with pytest.raises(errors.UserError, match=r"49 sources but .* has 50"):
    _batches(prepared, table[:-1], 1)
