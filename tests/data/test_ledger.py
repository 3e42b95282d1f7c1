"""The ledger: stable indices, honest look-ups, erasure that leaves no key."""

import hashlib
import itertools
import json
import sqlite3

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import conditions, ledger, ledger_writing, routing
from nulls_jax.sinks import assignment


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "ledger.sqlite"
  with ledger_writing.Writer.create(path) as book:
    book.add_documents(
      [
        ("Mira Tolden", 1, {"title": "Mira, a life"}),
        ("Zoë 東京", 1, {}),
        ("Mira Tolden", 1, {"title": "ignored"}),
        ("third", 1, {"odd": "\ud800"}),
      ]
    )
    book.add_documents([("third", 2, {}), ("fourth", 1, {})])
    book.add_num_tokens(np.array([9, 10, 20, 30, 40]))
  return path


FORMAT_1 = """
CREATE TABLE info (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (
  source_index INTEGER PRIMARY KEY,
  source_id INTEGER NOT NULL UNIQUE,
  key TEXT UNIQUE,
  num_documents INTEGER NOT NULL,
  num_tokens INTEGER NOT NULL,
  metadata TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('active', 'erased'))
);
INSERT INTO info VALUES ('format', 'nulls ledger 1');
"""


def test_ids_and_classes_are_read_in_parts(path, monkeypatch):
  with ledger_writing.Writer.open(path) as book:
    book.set_size_classes(np.array([0, 2, 0, 15, 1]))
    expected = book.fingerprint()
    monkeypatch.setattr(ledger, "_PAIRS", 3)
    assert book.ids().tolist() == [0, *(source.id for source in book)]
    assert book.size_classes().tolist() == [0, 2, 0, 15, 1]
    assert book.fingerprint() == expected


def test_size_classes_are_kept_by_erasure(path):
  with ledger_writing.Writer.open(path) as book:
    without = book.fingerprint()
    book.set_size_classes(np.array([0, 2, 0, 15, 1]))
    expected = book.fingerprint()
    assert expected != without
    book.erase(["third"])
  with ledger.Ledger.open(path) as book:
    assert book.size_classes().tolist() == [0, 2, 0, 15, 1]
    assert [source.size_class for source in book] == [2, 0, 15, 1]
    assert book.erased()[0].size_class == 15
    assert book.fingerprint() == expected
    # Of the ids, and of the classes after them.
    content = book.ids().astype("<u8").tobytes() + bytes([0, 2, 0, 15, 1])
    assert expected == hashlib.sha256(content).hexdigest()


def test_a_ledger_of_the_format_before_has_no_size_classes(path, tmp_path):
  old = tmp_path / "old.sqlite"
  connection = sqlite3.connect(old)
  connection.executescript(FORMAT_1)
  with ledger.Ledger.open(path) as book:
    rows = [
      (s.index, s.id - 2**64 if s.id >= 2**63 else s.id, s.key, 1, 5, "{}")
      for s in book
    ]
    expected = book.fingerprint()
  connection.executemany(
    "INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, 'active')", rows
  )
  connection.commit()
  connection.close()
  with ledger_writing.Writer.open(old) as book:
    assert book.fingerprint() == expected
    assert book.size_classes().tolist() == [0] * 5
    book.add_documents([("fifth", 1, {}), ("third", 1, {})])
    book.erase(["Zoë 東京"])
    found = book.find(["Mira Tolden", "third", "fifth"])
    assert [one.size_class for one in found] == [0, 0, 0]
    assert [one.num_documents for one in found] == [1, 2, 1]
    book.set_size_classes(np.zeros(6, int))
    with pytest.raises(
      errors.UserError, match="'nulls ledger 1', without size classes; prep"
    ):
      book.set_size_classes(np.array([0, 1, 0, 0, 0, 0]))


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
  with ledger_writing.Writer.create(tmp_path / "many") as book:
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
  with ledger_writing.Writer.open(path) as book:
    before = routing.table(config, book)
    sources = list(book)
    book.erase(["third"])
    after = routing.table(config, book)
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
  with ledger_writing.Writer.open(path) as book:
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
  with ledger_writing.Writer.open(path) as book:
    book.add_documents([("big", 1, {"text": secret})])
    assert secret[:700].encode() in path.read_bytes()
    book.erase(["big"])
  assert b"SECRET-" not in path.read_bytes()


def test_erase_is_all_or_nothing(path):
  before = path.read_bytes()
  with ledger_writing.Writer.open(path) as book:
    with pytest.raises(errors.UserError, match="1 unknown"):
      book.erase(["third", "nobody"])
    assert book.find(["third"])[0].status == "active"
  assert path.read_bytes() == before


def test_an_erased_source_cannot_come_back(path):
  with ledger_writing.Writer.open(path) as book:
    book.erase(["third"])
    with pytest.raises(errors.UserError, match="'third' was erased"):
      book.add_documents([("new", 1, {}), ("third", 1, {})])
    assert book.num_sources == 4


def test_two_keys_with_one_id(path, monkeypatch):
  monkeypatch.setattr(assignment, "source_id", lambda key: 77)
  with ledger_writing.Writer.open(path) as book:
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
  with ledger_writing.Writer.open(path) as book:
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
    ledger_writing.Writer.create(path)


def test_read_only_means_it(path):
  before = path.read_bytes()
  with (
    ledger.Ledger.open(path) as book,
    pytest.raises(sqlite3.OperationalError, match="readonly"),
  ):
    ledger_writing.redact(book._connection, [3])
  assert path.read_bytes() == before


def test_full_disk_is_the_machines_failure(path):
  with ledger_writing.Writer.open(path) as book:
    (pages,) = book._connection.execute("PRAGMA page_count").fetchone()
    book._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.MachineError, match="disk is full while writing"):
      book.add_documents([("big", 1, {"text": "x" * 100_000})])
    assert book.num_sources == 4


def test_metadata_is_json(path):
  connection = sqlite3.connect(path)
  rows = connection.execute("SELECT metadata FROM sources").fetchall()
  connection.close()
  assert all(isinstance(json.loads(text), dict) for (text,) in rows)


ODD_KEYS = (
  "'; DROP TABLE sources; --",
  'key"; DELETE FROM sources WHERE ("1"="1',
  "two\nlines",
  "tab\tand\r\nend\n",
  " outer spaces ",
  "%_*?[a-z]",
  "null\0inside",
  "k" * 4096,
  "é" * 2048,
)


def test_odd_keys_are_keys(tmp_path):
  with ledger_writing.Writer.create(tmp_path / "odd") as book:
    book.add_documents((key, 1, {}) for key in ODD_KEYS)
    assert [s.key for s in book.find(ODD_KEYS)] == list(ODD_KEYS)
    assert [s.key for s in book] == list(ODD_KEYS)
    book.erase(ODD_KEYS[:3])
    assert book.num_sources == len(ODD_KEYS)
    kept = book.find(ODD_KEYS[3:])
    assert [s.index for s in kept] == list(range(4, len(ODD_KEYS) + 1))


def test_odd_unknown_keys_make_one_short_line(path):
  keys = ["'; DROP TABLE sources; --", "a\nb", "x" * 4096, "third"]
  with (
    ledger.Ledger.open(path) as book,
    pytest.raises(errors.UserError, match="3 unknown") as caught,
  ):
    book.find(keys)
  message = str(caught.value)
  assert "\n" not in message
  assert "'a\\nb'" in message
  assert 'DROP TABLE sources; --"' in message
  assert "... (4096 characters)" in message
  assert len(message) < 600


COMPOSED, DECOMPOSED = "Caf\u00e9", "Cafe\u0301"


def test_keys_are_code_points(tmp_path):
  with ledger_writing.Writer.create(tmp_path / "both") as book:
    book.add_documents([(COMPOSED, 1, {}), (DECOMPOSED, 2, {})])
    assert [s.num_documents for s in book.find([DECOMPOSED, COMPOSED])] == [
      2,
      1,
    ]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
  ("stored", "asked", "hint"),
  [
    (
      COMPOSED,
      DECOMPOSED,
      "stored composed: U+00E9 where you gave U+0065 U+0301",
    ),
    (
      DECOMPOSED,
      COMPOSED,
      "stored decomposed: U+0065 U+0301 where you gave U+00E9",
    ),
    ("file", "\ufb01le", "did you mean 'file'?"),
    ("Straße", "straße", "did you mean 'Straße'?"),
    ("key", "  key\n", "did you mean 'key'?"),
    ("article/123", "artcle/123", "did you mean 'article/123'?"),
    ("article/123", "article/1234", "did you mean 'article/123'?"),
  ],
)
def test_near_keys(tmp_path, monkeypatch, small, stored, asked, hint):
  if not small:
    monkeypatch.setattr(ledger, "_MAX_SOURCES_TO_SCAN", 3)
  with ledger_writing.Writer.create(tmp_path / "book") as book:
    book.add_documents((f"other {i}", 1, {}) for i in range(100))
    book.add_documents([(stored, 1, {})])
    with pytest.raises(errors.UserError, match="1 unknown") as caught:
      book.find([asked])
  assert hint in str(caught.value)


def test_a_key_that_no_form_gives_back(tmp_path):
  # Ångström's own sign, which every form turns into a letter.
  with ledger_writing.Writer.create(tmp_path / "book") as book:
    book.add_documents([("10 \u212b", 1, {})])
    with pytest.raises(errors.UserError, match=r"code points: U\+212B where"):
      book.find(["10 \u00c5"])


def test_many_unknown_keys_are_quick(tmp_path):
  # difflib on all of 5,000 keys for each would take seconds.
  with ledger_writing.Writer.create(tmp_path / "book") as book:
    book.add_documents((f"article/{i:07d}", 1, {}) for i in range(5000))
    with pytest.raises(errors.UserError, match="'article/0000019'") as caught:
      book.find(f"articel/{i:07d}" for i in range(20))
  assert str(caught.value).count("did you mean 'article/00000") == 20


@pytest.fixture
def library(tmp_path):
  """A ledger with metadata of many kinds, one source erased."""
  path = tmp_path / "library.sqlite"
  rows = {
    "a/1": {"site": "example.org", "year": 1999, "größe": 3},
    "a/2": {"site": "example.org", "year": 2001.5, "tags": ["x"]},
    "a/3": {"site": "example.com", "year": "1999", "deep": {"er": "yes"}},
    "b/1": {"year": 5, "key": "own", "odd name": True, "a.b": 1},
    "b/2": {"site": None, "bad": "\ud800", "back\\slash": 1},
    "b/3": {"site": "example.org", "year": 2005},
  }
  with ledger_writing.Writer.create(path) as book:
    book.add_documents(
      (key, number, fields)
      for number, (key, fields) in enumerate(rows.items(), start=1)
    )
    book.add_num_tokens(np.arange(7) * 10)
    book.erase(["b/3"])
  with ledger.Ledger.open(path) as book:
    yield book


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("site = 'example.org' AND year >= 1999", "a/1 a/2"),
    ("site == 'example.org' and not year < 2000", "a/2"),
    ("site != 'example.org'", "a/3"),
    ("NOT site = 'example.org'", "a/3 b/1 b/2 None"),
    ("site <> 'example.com' OR year = 5", "a/1 a/2 b/1"),
    # Texts and numbers have no order between them.
    ("year > 0", "a/1 a/2 b/1"),
    ("year > '0'", "a/3"),
    ("year = '1999'", "a/3"),
    ("year IN (1999, '1999', 7)", "a/1 a/3"),
    ("year NOT IN (1999, '1999')", "a/2 b/1"),
    ("site IS NULL", "b/1 b/2 None"),
    ("site IS NOT NULL AND year <= 1.9990e3", "a/1"),
    ("site GLOB '*.COM'", ""),
    ("site LIKE '%.COM'", "a/3"),
    ("site NOT LIKE '%.com'", "a/1 a/2"),
    ("key GLOB 'a/*' AND index > 1", "a/2 a/3"),
    ("key NOT GLOB 'a/*'", "b/1 b/2"),
    ("NOT key GLOB 'a/*'", "b/1 b/2 None"),
    ("key = 'a/2' OR key > 'b/1'", "a/2 b/2"),
    ("key IS NULL", "None"),
    ("status = 'erased'", "None"),
    ("status = 'active' AND num_tokens < 30", "a/1 a/2"),
    ("NOT num_tokens < 30 AND NOT index > 4", "a/3 b/1"),
    ("num_documents > 3 AND (num_tokens = 40 OR index = 5)", "b/1 b/2"),
    ("metadata.key = 'own'", "b/1"),
    ('"odd name" = TRUE', "b/1"),
    ("deep.er = 'yes'", "a/3"),
    ('"a.b" = 1', "b/1"),
    ("größe = 3", "a/1"),
    ('"back\\slash" = 1', "b/2"),
    ("bad != 'x' OR tags LIKE '%x%'", "a/2 b/2"),
    ("year = -1 OR year = +5", "b/1"),
    ("site = 'x'' OR 1=1 --' OR index = 1", "a/1"),
  ],
)
def test_select(library, text, expected):
  found = [str(s.key) for s in library.select(conditions.parse(text))]
  assert " ".join(found) == expected


def test_select_is_by_index_not_by_key(tmp_path):
  with ledger_writing.Writer.create(tmp_path / "book") as book:
    book.add_documents((key, 1, {}) for key in ("k3", "k1", "x", "k2"))
    found = [s.key for s in book.select(conditions.glob("k*"))]
  assert found == ["k3", "k1", "k2"]


def test_select_among_indices_by_index(library):
  everything = conditions.Condition()
  found = library.select(everything, [5, 1, 5, 99])
  assert [s.key for s in found] == ["a/1", "b/2"]
  assert not list(library.select(everything, []))
  assert len(list(library.select(everything, range(1, 2000)))) == 6
  where = conditions.parse("year > 0") & conditions.glob("[ab]/1")
  assert [s.key for s in library.select(where)] == ["a/1", "b/1"]
  assert [s.key for s in library.select(where, [4, 5])] == ["b/1"]


@pytest.mark.parametrize("text", ["key GLOB 'b/*'", "key = 'b/1'"])
def test_keys_are_looked_up_not_read_through(library, text):
  where = conditions.parse(text)
  plan = library._connection.execute(
    f"EXPLAIN QUERY PLAN SELECT key FROM sources WHERE {where.sql}",
    where.parameters,
  ).fetchall()
  assert "SEARCH sources USING" in plan[0][3]
  assert "key>?" in plan[0][3] or "key=?" in plan[0][3]


def test_select_reads_on_as_the_caller_does(tmp_path):
  steps = itertools.count()
  with ledger_writing.Writer.create(tmp_path / "book") as book:
    book.add_documents((f"key {i}", 1, {}) for i in range(5000))
    book._connection.set_progress_handler(lambda: next(steps) and None, 100)
    first = next(book.select(conditions.parse("num_documents = 1")))
    assert first.index == 1
    few = next(steps)
    assert sum(1 for _ in book.select(conditions.Condition())) == 5000
  assert next(steps) - few > 50 * (few + 1)


def test_patterns_that_are_too_long_for_sqlite(library):
  library._connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50)
  with pytest.raises(errors.UserError, match="pattern too complex"):
    list(library.select(conditions.glob("*" + "b" * 60)))


def test_neighbours(library):
  assert library.neighbours("a/2x") == ["a/2", "a/3"]
  assert library.neighbours("b/1") == ["a/3", "b/1"]
  assert library.neighbours("z") == ["b/2"]


def test_fingerprint_is_of_the_ids_in_order(path):
  keys = ["Mira Tolden", "Zoë 東京", "third", "fourth"]
  ids = [0, *map(assignment.source_id, keys)]
  expected = hashlib.sha256(np.array(ids, "<u8").tobytes()).hexdigest()
  with ledger_writing.Writer.open(path) as book:
    assert book.fingerprint() == expected
    book.erase(["third"])
    assert book.fingerprint() == expected
    book.add_documents([("fifth", 1, {})])
    assert book.fingerprint() != expected
