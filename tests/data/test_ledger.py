"""The ledger: stable indices, honest look-ups, erasure that leaves no key."""

import json
import sqlite3

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import ledger
from nulls_jax.sinks import assignment


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "ledger.sqlite"
  with ledger.Ledger.create(path) as book:
    book.add_documents(
      [
        ("Mira Tolden", 1, {"title": "Mira, a life"}),
        ("Zoë 東京", 1, {}),
        ("Mira Tolden", 1, {"title": "ignored"}),
        ("third", 1, {"odd": "\ud800"}),
      ]
    )
    book.add_documents([("third", 2, {}), ("fourth", 1, {})])
    book.set_num_tokens(np.array([9, 10, 20, 30, 40]))
  return path


def test_sources_in_order_of_first_appearance(path):
  with ledger.Ledger.open(path) as book:
    sources = list(book)
    assert book.num_sources == 4
  assert [s.index for s in sources] == [1, 2, 3, 4]
  assert [s.key for s in sources][:2] == ["Mira Tolden", "Zoë 東京"]
  assert [s.num_documents for s in sources] == [2, 1, 3, 1]
  assert [s.num_tokens for s in sources] == [10, 20, 30, 40]
  assert sources[0].metadata == {"title": "Mira, a life"}
  assert sources[2].metadata == {"odd": "\ud800"}
  assert [s.id for s in sources] == [
    assignment.source_id(s.key) for s in sources
  ]
  # Both halves of the signed range occur, so the conversion is exercised.
  assert len({s.id >= 2**63 for s in sources}) == 2


def test_many_sources_over_chunks(tmp_path):
  entries = [(f"key {i % 1700}", 1, {}) for i in range(4000)]
  with ledger.Ledger.create(tmp_path / "many") as book:
    book.add_documents(iter(entries))
    assert book.num_sources == 1700
    (source,) = book.find(["key 599"])
    assert (source.index, source.num_documents) == (600, 3)
    assert sum(s.num_documents for s in book) == 4000
    found = book.find(f"key {i}" for i in range(1699, -1, -1))
    assert [s.index for s in found] == list(range(1700, 0, -1))


def test_find_lists_all_unknown_keys(path):
  keys = ["Mira Tolben", "third", *(f"unknown {i}" for i in range(30))]
  with (
    ledger.Ledger.open(path) as book,
    pytest.raises(errors.UserError, match="31 unknown") as caught,
  ):
    book.find(keys)
  message = str(caught.value)
  assert "'Mira Tolben' (did you mean 'Mira Tolden'?)" in message
  assert "'unknown 18'" in message
  assert "unknown 20" not in message
  assert "and 11 more" in message
  assert "'third'" not in message


def test_find_by_id(path):
  with ledger.Ledger.open(path) as book:
    assert book.find_by_id(assignment.source_id("third")).index == 3
    with pytest.raises(errors.UserError, match=r"no source with the id 0*5"):
      book.find_by_id(5)


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_routing_table(path, kind):
  config = assignment.SinkConfig(kind=kind, num_sources=4)
  with ledger.Ledger.open(path, read_only=False) as book:
    before = book.routing_table(config)
    sources = list(book)
    book.erase(["third"])
    after = book.routing_table(config)
  assert before.shape == (5, 2)
  assert before.dtype == np.uint32
  assert before[0].tolist() == [0, 0]
  for source in sources:
    expected = (
      (0, source.index) if kind == "dedicated" else divmod(source.id, 2**32)
    )
    assert tuple(before[source.index].tolist()) == expected
  assert after[3].tolist() == [0, 0]
  np.testing.assert_array_equal(after[[0, 1, 2, 4]], before[[0, 1, 2, 4]])


def test_erase_leaves_no_trace_of_the_key(path):
  needles = [b"Mira Tolden", b"Mira, a life", "Zoë".encode()]
  content = path.read_bytes()
  assert all(needle in content for needle in needles), "positive control"
  with ledger.Ledger.open(path, read_only=False) as book:
    book.erase(["Zoë 東京", "Mira Tolden"])
  assert [p.name for p in path.parent.iterdir()] == ["ledger.sqlite"]
  content = path.read_bytes()
  assert not any(needle in content for needle in needles)
  assert b"third" in content
  with ledger.Ledger.open(path) as book:
    source = book.find_by_id(assignment.source_id("Mira Tolden"))
    assert (source.key, source.metadata) == (None, {})
    assert (source.index, source.status) == (1, "erased")
    assert (source.num_documents, source.num_tokens) == (2, 10)
    with pytest.raises(errors.UserError, match="1 already erased: 'Mira Told"):
      book.find(["Mira Tolden", "third"])


def test_large_metadata_is_erased_from_overflow_pages(path):
  secret = "SECRET-" * 3000
  with ledger.Ledger.open(path, read_only=False) as book:
    book.add_documents([("big", 1, {"text": secret})])
    assert secret[:700].encode() in path.read_bytes()
    book.erase(["big"])
  assert b"SECRET-" not in path.read_bytes()


def test_erase_is_all_or_nothing(path):
  before = path.read_bytes()
  with ledger.Ledger.open(path, read_only=False) as book:
    with pytest.raises(errors.UserError, match="1 unknown"):
      book.erase(["third", "nobody"])
    assert book.find(["third"])[0].status == "active"
  assert path.read_bytes() == before


def test_an_erased_source_cannot_come_back(path):
  with ledger.Ledger.open(path, read_only=False) as book:
    book.erase(["third"])
    with pytest.raises(errors.UserError, match="'third' was erased"):
      book.add_documents([("new", 1, {}), ("third", 1, {})])
    assert book.num_sources == 4


def test_two_keys_with_one_id(path, monkeypatch):
  monkeypatch.setattr(assignment, "source_id", lambda key: 77)
  with ledger.Ledger.open(path, read_only=False) as book:
    with pytest.raises(errors.UserError, match="'b' and 'a' have the same 64"):
      book.add_documents([("a", 1, {}), ("b", 1, {})])
    assert book.num_sources == 4
    book.add_documents([("a", 1, {})])
    with pytest.raises(errors.UserError, match="'b' and 'a' have the same 64"):
      book.add_documents([("b", 1, {})])
    with pytest.raises(errors.UserError, match="1 unknown"):
      book.find(["b"])


@pytest.mark.parametrize("key", ["", "k" * 4097, "\ud800"])
def test_impossible_keys(path, key):
  with ledger.Ledger.open(path, read_only=False) as book:
    with pytest.raises(errors.UserError, match="source key is"):
      book.add_documents([(key, 1, {})])
    with pytest.raises(errors.UserError, match="source key is"):
      book.find([key])


def test_open_what_is_no_ledger(tmp_path):
  with pytest.raises(errors.UserError, match="does not exist"):
    ledger.Ledger.open(tmp_path / "absent")
  junk = tmp_path / "junk"
  junk.write_bytes(b"no database at all" * 100)
  with pytest.raises(errors.UserError, match="is no ledger"):
    ledger.Ledger.open(junk)
  other = tmp_path / "other"
  connection = sqlite3.connect(other)
  connection.executescript(
    "CREATE TABLE info (key, value); INSERT INTO info VALUES ('format', 'x 9')"
  )
  connection.close()
  with pytest.raises(errors.UserError, match="a ledger of format 'x 9'"):
    ledger.Ledger.open(other)


def test_create_never_overwrites(path):
  with pytest.raises(errors.UserError, match="exists"):
    ledger.Ledger.create(path)


def test_read_only_means_it(path):
  before = path.read_bytes()
  with (
    ledger.Ledger.open(path) as book,
    pytest.raises(errors.UserError, match="cannot be written"),
  ):
    book.erase(["third"])
  assert path.read_bytes() == before


def test_full_disk_is_the_machines_failure(path):
  with ledger.Ledger.open(path, read_only=False) as book:
    (pages,) = book._connection.execute("PRAGMA page_count").fetchone()
    book._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.MachineError, match="disk is full while writing"):
      book.add_documents([("big", 1, {"text": "x" * 100_000})])
    assert book.num_sources == 4


def test_disk_errors_of_files(tmp_path):
  with (
    pytest.raises(errors.MachineError, match="disk is full while writing here"),
    ledger.disk_errors("here"),
    open("/dev/full", "wb") as file,
  ):
    file.write(b"x")
  (tmp_path / "file").write_bytes(b"")
  with (
    pytest.raises(errors.UserError, match="here cannot be written: Not a dir"),
    ledger.disk_errors("here"),
  ):
    (tmp_path / "file" / "below").mkdir()


def test_metadata_is_json(path):
  connection = sqlite3.connect(path)
  rows = connection.execute("SELECT metadata FROM sources").fetchall()
  connection.close()
  assert all(isinstance(json.loads(text), dict) for (text,) in rows)
