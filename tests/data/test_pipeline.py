"""The pipeline: data order is a pure function of (seed, step)."""

import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from array_record.python import array_record_module

from nulls_jax import errors
from nulls_jax.data import config as data_config
from nulls_jax.data import encyclopedia, ledger, pipeline, routing, stored_rows
from nulls_jax.data.preparation import dataset, job, prepare
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
  prepare.prepare(job.Job(path, config), directory / "set")
  return dataset.Prepared.open(directory / "set")


@pytest.fixture(scope="module")
def table(prepared):
  with ledger.Ledger.open(prepared.ledger_path) as book:
    return routing.table(assignment.SinkConfig(), book)


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


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_set):
  """A dataset of a hundred short documents, written by hand."""
  keys = [f"key {n % 9}" for n in range(100)] + [""] * 5
  made = make_set(tmp_path_factory.mktemp("written") / "set", keys, start=300)
  return dataset.Prepared.open(made.path)


@pytest.fixture(scope="module")
def in_files(written, tmp_path_factory):
  """The same rows in five files, one of them empty."""
  reader = array_record_module.ArrayRecordReader(str(written.row_files[0]))
  records = reader.read(0, reader.num_records())
  reader.close()
  directory = tmp_path_factory.mktemp("files")
  paths = []
  for number, (start, end) in enumerate(
    itertools.pairwise((0, 1, 40, 40, 55, len(records)))
  ):
    paths.append(directory / f"rows-{number}")
    writer = array_record_module.ArrayRecordWriter(
      str(paths[-1]), "group_size:1"
    )
    for record in records[start:end]:
      writer.write(record)
    writer.close()
  return dataclasses.replace(written, row_files=tuple(paths))


def _own_table(prepared):
  with ledger.Ledger.open(prepared.ledger_path) as book:
    return routing.table(assignment.SinkConfig(), book)


# Made by the pipeline of the first release (8b72955), with this function.
GOLDEN = (
  (
    {"seed": 1, "off_share": 0.3},
    "51a931aafd8536af75d5cbd442ee5b84da6cbf8e36eef5f5da0c20fb09487cd5",
  ),
  (
    {"seed": 2**32 - 1, "off_share": 0.0, "start_step": 1000},
    "b7b88a72cee583f76e3e9cb26f09a3acaa23c6d993c618638a41fef040c6f930",
  ),
  (
    {"seed": 7, "off_share": 0.5, "process_index": 1, "process_count": 4},
    "8f2f7c94b41a1db3abfe10e3c0475f2ad1f23ab5f330e7a71d6470482c17574f",
  ),
)


@pytest.mark.parametrize(("arguments", "expected"), GOLDEN)
def test_golden_batches(written, arguments, expected):
  """A run that was started with an earlier release goes on with its data."""
  digest = hashlib.sha256()
  for batch in _batches(written, _own_table(written), 40, **arguments):
    for name in sorted(batch):
      value = batch[name]
      digest.update(f"{name} {value.dtype} {value.shape}".encode())
      digest.update(np.ascontiguousarray(value).tobytes())
  assert digest.hexdigest() == expected


def test_files_of_rows_are_one_after_the_other(written, in_files):
  own = _own_table(written)
  _assert_equal(
    _batches(in_files, own, 30, off_share=0.2),
    _batches(written, own, 30, off_share=0.2),
  )
  with stored_rows.Rows(written) as one, stored_rows.Rows(in_files) as several:
    assert one.num_rows == several.num_rows == 73
    for numbers in (np.arange(73), np.arange(38, 60), np.array([0, 41, 72])):
      for first, second in zip(
        one.read(numbers), several.read(numbers), strict=True
      ):
        np.testing.assert_array_equal(first, second)


def test_any_batch_on_any_number_of_processes(in_files):
  """Property: resumed anywhere on any hosts, the global batch is the same."""
  draw = np.random.default_rng(0)
  own = _own_table(in_files)
  for _ in range(8):
    before, after = draw.choice([1, 2, 4, 8], 2).tolist()
    arguments = {
      "batch_size": 8 * int(draw.integers(1, 4)),
      "seed": int(draw.integers(2**32)),
      "off_share": 0.3,
    }
    # Far into the run, in the middle of an epoch and of a file.
    first = int(draw.integers(10**6))
    moved = int(draw.integers(6))

    def joined(count, start, arguments=arguments, end=first + 6):
      parts = [
        _batches(
          in_files,
          own,
          end - start,
          start_step=start,
          process_index=index,
          process_count=count,
          **arguments,
        )
        for index in range(count)
      ]
      return [
        {name: np.concatenate([one[name] for one in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
      ]

    _assert_equal(joined(after, first + moved), joined(before, first)[moved:])


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
