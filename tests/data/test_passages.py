"""The index of passages: every passage found, none but of these very rows."""

import fcntl
import json
import os
import shutil
import sqlite3

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import config as data_config
from nulls_jax.data import ledger, ledger_writing, passages, phrases
from nulls_jax.data.preparation import dataset, job, prepare
from nulls_jax.data.reading import inputs

CONFIG = data_config.DataConfig(row_length=64, tile=16, vocab_size=400)
LONG = " ".join(f"word{number} and" for number in range(80))
DOCUMENTS = (
  ("fox", "The quick brown fox jumps over the lazy dog. Don't do that!"),
  ("fox", 'Nobody saw "the quick brown fox" again.'),
  ("café", "Zoë's Café in Málaga sells naïve crêpes."),
  ("decomposed", "Cafe\u0301 Ole\u0301 is where she sat."),
  ("tokyo", "東京都に住んでいる人は多い。"),
  ("long", LONG),
  ("", "the lazy dog sleeps where nobody owns it"),
  ("odd", "odd \1 byte, (AND) OR NOT near* ^col:umn"),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  root = tmp_path_factory.mktemp("passages")
  lines = [json.dumps({"source": s, "text": t}) for s, t in DOCUMENTS]
  (root / "documents").write_text("\n".join(lines))
  prepare.prepare(
    job.Job(
      root / "documents", CONFIG, reading=inputs.Settings(allow_no_source=True)
    ),
    root / "set",
  )
  return root / "set"


@pytest.fixture(scope="module")
def built(original):
  prepared = dataset.Prepared.open(original)
  passages.build(prepared)
  return prepared


@pytest.fixture
def own(original, tmp_path):
  """A copy of the dataset without an index, free to be damaged."""
  path = tmp_path / "set"
  names = shutil.ignore_patterns("passages*")
  shutil.copytree(original, path, ignore=names)
  return dataset.Prepared.open(path)


@pytest.fixture
def trigrams(own):
  passages.build(own, kind="trigrams")
  with passages.Index.open(own) as index:
    yield index


@pytest.fixture
def index(built):
  with passages.Index.open(built) as index:
    yield index


def _found(index, text):
  """Return the texts of the passages that have these words in a row."""
  query = phrases.phrase(index.desk.words(text))
  return [index.text(place) for place in index.search(query)]


def test_every_passage_is_found_at_its_place_with_its_source(index, built):
  with ledger.Ledger.open(built.ledger_path) as book:
    numbers = {source.key: source.index for source in book} | {"": 0}
  for key, text in DOCUMENTS[:4]:
    (place,) = index.search(phrases.phrase(index.desk.words(text)))
    assert place.source == numbers[key]
    assert index.text(place).casefold().split() == (
      text.replace("e\u0301", "é").casefold().split()
    )
  assert index.num_passages > len(DOCUMENTS)


def test_a_document_longer_than_a_row_is_several_passages(index):
  parts = [found for n in range(80) for found in _found(index, f"word{n} and")]
  assert len(set(parts)) > 3
  joined = "".join(dict.fromkeys(parts))
  assert "".join(joined.split()) == "".join(LONG.split())


def test_passages_of_no_source(index):
  (place,) = index.search(phrases.phrase(["lazy", "dog", "sleeps"]))
  assert place.source == 0


@pytest.mark.parametrize(
  ("text", "count"),
  [
    ("QUICK brown Fox", 2),
    ("quick, brown; fox", 2),
    ("fox jumps", 1),
    ("jumps fox", 0),
    ("dont do that", 0),
    ("don’t do that", 1),
    ("zoes cafe", 0),
    ("zoe s cafe", 1),
    ("CAFÉ", 2),
    ("cafe\u0301 OLÉ", 1),
    ("malaga sells", 1),
    # Without spaces, a whole sentence is a word.
    ("東京都", 0),
    ("byte, (and) OR not NEAR", 1),
  ],
)
def test_words(index, text, count):
  assert len(_found(index, text)) == count


@pytest.mark.parametrize(
  ("text", "count"),
  [
    ("東京都", 1),
    ("でいる人", 1),
    ("uick BROWN fo", 2),
    ("quick, brown", 0),
    ("Cafe\u0301 Ol", 1),
    ('"the qui', 1),
    ("AND) OR NOT near* ^col:um", 1),
  ],
)
def test_trigrams(trigrams, text, count):
  assert trigrams.kind == "trigrams"
  assert len(_found(trigrams, text)) == count


def test_the_text_is_not_stored_again(built):
  content = (built.directory / passages.FILE).read_bytes()
  assert b"quick" in content, "positive control: its words are"
  assert b"quick brown" not in content


def test_frequencies(index, own, monkeypatch):
  counts = {word: index.frequency(word) for word in ("the", "fox", "xyz")}
  assert counts == {"the": 3, "fox": 2, "xyz": 0}
  # The same where words are counted as common ones.
  monkeypatch.setattr(passages, "_COMMON_AT_LEAST", 1)
  path = passages.build(own)
  connection = sqlite3.connect(path)
  common = dict(connection.execute("SELECT word, passages FROM common"))
  connection.close()
  assert (common["the"], common["fox"]) == (3, 2)
  assert "sleeps" not in common
  with passages.Index.open(own) as other:
    assert {word: other.frequency(word) for word in counts} == counts


def test_an_index_that_is_there_is_kept_another_kind_replaced(own):
  path = passages.build(own)
  before = path.stat()
  assert passages.build(own) == path
  assert path.stat().st_mtime_ns == before.st_mtime_ns
  passages.build(own, kind="trigrams")
  with passages.Index.open(own) as index:
    assert index.kind == "trigrams"
  path.write_bytes(b"no database")
  passages.build(own)
  with passages.Index.open(own) as index:
    assert index.kind == "words"
  with pytest.raises(errors.UserError, match="'letters' is neither"):
    passages.build(own, kind="letters")


@pytest.mark.parametrize("name", ["rows_sha256", "tokenizer_fingerprint"])
def test_an_index_of_other_rows_is_refused(own, name):
  passages.build(own)
  stale = dict(own.manifest, **{name: "0" * 64})
  (own.directory / "manifest.json").write_text(json.dumps(stale))
  prepared = dataset.Prepared.open(own.directory)
  with pytest.raises(errors.UserError, match=r"is of other rows.*nulls index"):
    passages.Index.open(prepared)


def test_no_index_or_none_of_ours(own):
  with pytest.raises(errors.UserError, match=r"does not exist.*nulls index"):
    passages.Index.open(own)
  path = own.directory / passages.FILE
  path.write_bytes(b"junk" * 100)
  with pytest.raises(errors.UserError, match="is no index of format"):
    passages.Index.open(own)


def test_nothing_half_written_is_left(own):
  def stop(*_):
    raise KeyboardInterrupt("stop here")

  before = sorted(path.name for path in own.directory.iterdir())
  with pytest.raises(KeyboardInterrupt, match="stop here"):
    passages.build(own, progress=stop)
  assert sorted(path.name for path in own.directory.iterdir()) == before
  # What a killed builder left is in nobody's way.
  (own.directory / "passages.sqlite.partial").write_bytes(b"half")
  passages.build(own)
  assert not (own.directory / "passages.sqlite.partial").exists()


def test_a_full_disk(own, monkeypatch):
  small = passages._SCHEMA.replace(
    "PRAGMA synchronous = OFF;", "PRAGMA max_page_count = 5;"
  )
  assert small != passages._SCHEMA
  monkeypatch.setattr(passages, "_SCHEMA", small)
  with pytest.raises(errors.MachineError, match="disk is full while writing"):
    passages.build(own)
  assert not list(own.directory.glob("passages*"))


def test_two_builders_at_once(own):
  other = os.open(own.directory, os.O_RDONLY)
  fcntl.flock(other, fcntl.LOCK_SH)
  with pytest.raises(errors.UserError, match="another program is writing"):
    passages.build(own)
  os.close(other)
  passages.build(own)


def test_damaged_rows(own):
  (path,) = own.row_files
  content = bytearray(path.read_bytes())
  place = content.index(np.array([1], "<u4").tobytes())
  content[place : place + 40] = bytes(40)
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match="is damaged"):
    passages.build(own)


def test_an_sqlite_without_full_text(own, monkeypatch):
  monkeypatch.setitem(phrases.TOKENIZE, "words", "absent")
  with pytest.raises(errors.MachineError, match="cannot search text"):
    passages.build(own)


def test_check_sources(index, built, tmp_path):
  with ledger.Ledger.open(built.ledger_path) as book:
    index.check_sources(book, [1, 3])
    keys = [source.key for source in book]
  # The ledger of a run in which a source was erased.
  shutil.copyfile(built.ledger_path, tmp_path / "run")
  with ledger_writing.Writer.open(tmp_path / "run") as book:
    book.erase(["fox"])
    index.check_sources(book, [1, 3])
  for name, others in {
    "same": keys[:1] + keys[2:3] + keys[1:2] + keys[3:],
    "more": [*keys, "new"],
  }.items():
    with ledger_writing.Writer.create(tmp_path / name) as book:
      book.add_documents((key, 1, {}) for key in others)
      with pytest.raises(errors.UserError, match="is not the ledger of"):
        index.check_sources(book, [1, 2])
