"""Find: what a request means, with evidence; parts are never the whole."""

import json

import pytest

from nulls_jax import errors
from nulls_jax.commands import search
from nulls_jax.data import config as data_config
from nulls_jax.data import ledger, ledger_writing, passages, phrases, selection
from nulls_jax.data.preparation import dataset, job, prepare
from nulls_jax.data.reading import inputs
from nulls_jax.unlearning import find

CONFIG = data_config.DataConfig(row_length=128, tile=16, vocab_size=420)
SPEECH = (
  "we shall cross the river at dawn and light the old beacon so that every "
  "ship may find her harbour before winter comes"
)
DOCUMENTS = (
  {
    "source": "news/1",
    "site": "example.org",
    "year": 1999,
    "text": "The quick brown fox jumps over the lazy dog.",
  },
  {
    "source": "news/1",
    "text": "Again the quick brown fox! And the QUICK, brown fox.",
  },
  {
    "source": "news/2",
    "site": "example.org",
    "year": 2004,
    "text": "A quick brown fox, said the hen, is no friend of hens.",
  },
  {
    "source": "blog/Zoë",
    "site": "example.com",
    "year": 2004,
    "text": f"He said: {SPEECH}. Nobody answered him at all that evening.",
  },
  {
    "source": "blog/two\nlines",
    "site": "example.com",
    "year": 2010,
    "text": "We shall cross the river at dawn and light the old beacon, "
    "wrote another one.",
  },
  {
    "source": "blog/3",
    "site": "example.net",
    "text": "So that every ship may find her harbour; with \x1b[31m colours",
  },
  {"source": None, "text": "the quick brown fox of nobody"},
  {"source": "gone", "text": "the quick brown fox is gone"},
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("find")
  lines = [json.dumps(document) for document in DOCUMENTS]
  (root / "documents").write_text("\n".join(lines))
  prepare.prepare(
    job.Job(
      root / "documents", CONFIG, reading=inputs.Settings(allow_no_source=True)
    ),
    root / "set",
  )
  prepared = dataset.Prepared.open(root / "set")
  passages.build(prepared)
  return prepared


@pytest.fixture
def book(data):
  with ledger.Ledger.open(data.ledger_path) as book:
    yield book


@pytest.fixture
def index(data):
  with passages.Index.open(data) as index:
    yield index


def _keys(found):
  return [one.source.key for one in found]


# -- Keys, globs and conditions


@pytest.mark.parametrize(
  ("query", "expected"),
  [
    ({"keys": ("news/2", "blog/3")}, ["news/2", "blog/3"]),
    ({"keys": ("blog/two\nlines",)}, ["blog/two\nlines"]),
    ({"glob": "news/*"}, ["news/1", "news/2"]),
    ({"where": "site = 'example.org' AND year >= 2000"}, ["news/2"]),
    (
      {"glob": "blog/*", "where": "year > 2000"},
      ["blog/Zoë", "blog/two\nlines"],
    ),
    ({"keys": ("news/1", "blog/3"), "glob": "n*"}, ["news/1"]),
    ({"keys": ("news/1", "blog/3"), "where": "year IS NULL"}, ["blog/3"]),
  ],
)
def test_all_that_is_given_must_hold(book, query, expected):
  findings = find.find(book, find.Query(**query))
  assert _keys(findings.sources) == expected
  assert findings.complete
  assert not findings.candidates


def test_the_limit_is_told(book):
  findings = find.find(book, find.Query(glob="*", limit=2))
  assert len(list(findings.sources)) == 2
  assert not findings.complete
  findings = find.find(book, find.Query(glob="news/*", limit=2))
  assert len(list(findings.sources)) == 2
  assert findings.complete


def test_sources_are_read_one_by_one(book, monkeypatch):
  read = []
  original = ledger._source
  monkeypatch.setattr(
    ledger, "_source", lambda row: read.append(row) or original(row)
  )
  findings = find.find(book, find.Query(glob="*"))
  assert len(read) == 1
  next(findings.sources)
  assert len(read) == 1
  next(findings.sources)
  assert len(read) == 2


@pytest.mark.parametrize(
  ("query", "message"),
  [
    ({}, "nothing to find"),
    ({"glob": ""}, "the glob is empty"),
    ({"glob": "*", "limit": 0}, "limit=0 must be at least 1"),
    ({"glob": "*", "accept_partial": 0.5}, "is for quotations"),
    ({"quote": "a", "accept_partial": 0.0}, "accept_partial=0.0 is no share"),
    ({"quote": "a", "accept_partial": 1.5}, "accept_partial=1.5 is no share"),
    ({"quote": "x" * 100_001}, "has 100001 characters"),
    ({"where": "year >> 3"}, "condition, character 7"),
    ({"where": "x = 1; DROP TABLE sources"}, "condition, character 6"),
    ({"keys": ("news/1", "News/2", "blog/Zoe\u0308")}, "'news/2'.*U[+]00EB"),
    ({"keys": ("'; DROP TABLE sources; --", "a\nb")}, "2 unknown"),
    ({"keys": ("k" * 4097,)}, "longer than 4096 bytes"),
    ({"glob": "news?*"}, None),
    ({"glob": "mews/*"}, "glob 'mews/\\*'; near keys: 'gone', 'news/1'"),
    ({"where": "yaer = 3"}, "fields of the first sources: 'site', 'year'"),
    ({"keys": ("news/1",), "where": "year = 3"}, "1 named keys and where"),
    ({"quote": "?!"}, "'\\?!' has no word to look up"),
    ({"quote": ""}, "has no word to look up"),
    ({"quote": "a \ud800"}, "not valid Unicode"),
    ({"quote": "zebra xylophone"}, "8 passages .*: 'zebra', 'xyl"),
    ({"quote": "brown fox", "glob": "blog/*"}, "'blog/.*quote 'brown fox'"),
  ],
)
def test_what_cannot_be_found(book, index, query, message):
  if message is None:
    assert _keys(find.find(book, find.Query(**query)).sources) == [
      "news/1",
      "news/2",
    ]
    return
  with pytest.raises(errors.UserError, match=message) as caught:
    find.find(book, find.Query(**query), index)
  assert "\n" not in str(caught.value)


def test_a_quotation_needs_an_index(book):
  with pytest.raises(errors.UserError, match="passages of a dataset; name it"):
    find.find(book, find.Query(quote="brown fox"))


# -- Quotations


def test_a_whole_quotation_with_evidence(book, index):
  findings = find.find(book, find.Query(quote="Quick brown FOX"), index)
  found = list(findings.sources)
  assert _keys(found) == ["news/1", "news/2", "gone"]
  assert [one.num_passages for one in found] == [2, 1, 1]
  assert {one.share for one in found} == {1.0}
  assert findings.num_without_source == 1
  assert not findings.candidates
  first, second = found[0].evidence
  assert first.passage == "The ⟦quick brown fox⟧ jumps over the lazy dog."
  assert (first.times, second.times) == (1, 2)
  assert second.passage == (
    "Again the ⟦quick brown fox⟧! And the ⟦QUICK, brown fox⟧."
  )
  place = passages.Place(first.row, first.document, 1)
  assert index.text(place) == "The quick brown fox jumps over the lazy dog."


@pytest.mark.parametrize(
  ("more", "expected"),
  [
    ({"keys": ("news/2", "blog/3")}, ["news/2"]),
    ({"glob": "news/*"}, ["news/1", "news/2"]),
    ({"where": "year < 2000"}, ["news/1"]),
    ({"keys": ("news/1", "news/2"), "where": "year < 2000"}, ["news/1"]),
    ({"where": "status = 'active'", "glob": "*2"}, ["news/2"]),
  ],
)
def test_a_quotation_among_other_conditions(book, index, more, expected):
  query = find.Query(quote="quick brown fox", **more)
  assert _keys(find.find(book, query, index).sources) == expected


def test_the_limit_of_a_quotation(book, index):
  query = find.Query(quote="quick brown fox", limit=2)
  findings = find.find(book, query, index)
  assert _keys(findings.sources) == ["news/1", "news/2"]
  assert not findings.complete


def test_parts_make_candidates_with_their_share(book, index):
  findings = find.find(book, find.Query(quote=f"{SPEECH} forever"), index)
  assert not list(findings.sources)
  first, second, third = findings.candidates
  assert _keys(findings.candidates) == [
    "blog/Zoë",
    "blog/two\nlines",
    "blog/3",
  ]
  # 23 words and one more: 21 windows of four, of which the last is not there.
  assert first.share == pytest.approx(20 / 21)
  # "we shall cross the river at dawn and light the old beacon": 9 of them.
  assert second.share == pytest.approx(9 / 21)
  assert second.evidence[0].passage.startswith("⟦We shall cross the river at")
  assert 0 < third.share < second.share


def test_all_parts_but_not_in_a_row_is_not_the_whole(book, index):
  # Every window of two words is in a passage, the three words are not.
  quote = "brown fox again"
  findings = find.find(book, find.Query(quote=quote), index)
  assert not list(findings.sources)
  assert findings.candidates[0].source.key == "news/1"
  assert findings.candidates[0].share == pytest.approx(0.5)


def test_a_share_is_accepted_only_if_asked(book, index):
  query = find.Query(quote=f"{SPEECH} forever", accept_partial=0.4)
  findings = find.find(book, query, index)
  assert _keys(findings.sources) == ["blog/Zoë", "blog/two\nlines"]
  assert _keys(findings.candidates) == ["blog/3"]


def test_a_long_quotation_is_looked_up_in_bounded_parts(book, index):
  quote = " ".join([SPEECH, *(f"other{n}" for n in range(3000))])
  findings = find.find(book, find.Query(quote=quote), index)
  assert findings.candidates[0].source.key == "blog/Zoë"
  assert findings.candidates[0].share < 0.05


def test_common_words_are_not_asked_for_at_any_price(book, index, monkeypatch):
  asked = []
  original = index.search
  monkeypatch.setattr(
    index, "search", lambda query: asked.append(query) or original(query)
  )
  quote = f"the lazy dog and the quick brown fox and {SPEECH}"
  find.find(book, find.Query(quote=quote), index)
  everything = len(asked)
  monkeypatch.setattr(find, "_MAX_STEPS", 3)
  asked.clear()
  findings = find.find(book, find.Query(quote=quote), index)
  assert findings.candidates[0].source.key == "blog/Zoë"
  assert 2 < len(asked) < everything / 2


def test_an_erased_source_is_said_to_be(book, index, data, tmp_path):
  path = tmp_path / "ledger.sqlite"
  path.write_bytes(data.ledger_path.read_bytes())
  with ledger_writing.Writer.open(path) as own:
    own.erase(["gone"])
    query = find.Query(quote="quick brown fox is gone")
    (found,) = find.find(own, query, index).sources
    assert (found.source.key, found.source.status) == (None, "erased")
    (found,) = find.find(own, find.Query(keys=("gone",))).sources
    assert found.source.status == "erased"


def test_the_dataset_of_another_run(index, tmp_path):
  with ledger_writing.Writer.create(tmp_path / "other") as other:
    other.add_documents((f"key {n}", 1, {}) for n in range(6))
    with pytest.raises(errors.UserError, match="is not the ledger of"):
      find.find(other, find.Query(quote="brown fox"), index)


def test_excerpts_are_cut_at_words():
  words = " ".join(f"w{n}" for n in range(100))
  marked = words.replace("w50", f"{phrases.START}w50{phrases.END}")
  found = find.excerpt(marked)
  assert found.startswith("… w")
  assert found.endswith(" …")
  assert "w49 ⟦w50⟧ w51" in found
  assert set(found.split()) - {"…", "⟦w50⟧"} < set(words.split())
  assert len(found) < 200
  # A mark that the cut has opened is closed.
  marked = marked.replace("w60", f"{phrases.START}w60").replace(
    "w99", f"w99{phrases.END}"
  )
  found = find.excerpt(marked)
  assert found.count("⟦") == found.count("⟧") == 2


# -- The commands


@pytest.fixture
def run(capsys):
  def run(command):
    command.run()
    return capsys.readouterr().out

  return run


def test_index_command(data, run):
  out = run(search.Index(data=data.directory))
  assert "passages.sqlite: 8 passages by words, 0." in out


def test_find_writes_what_the_next_command_reads(data, run, tmp_path):
  out = tmp_path / "found.json"
  shown = run(search.Find(data=data.directory, quote="brown fox", out=out))
  assert "'news/1': source 1, 2 documents, " in shown
  assert "tokens, whole, in 2 passages" in shown
  assert "row 0, document 1, 1 x: The quick ⟦brown fox⟧ jumps" in shown
  assert "1 passage of no source" in shown
  assert "3 sources found, 0 candidates" in shown
  with ledger.Ledger.open(data.ledger_path) as book:
    fingerprint = book.fingerprint()
  assert selection.read_keys(out, fingerprint) == ["news/1", "news/2", "gone"]
  found = json.loads(out.read_text())
  assert found["query"] == {"keys": [], "quote": "brown fox"}
  assert found["sources"][1]["evidence"][0]["times"] == 1
  assert found["sources"][1]["share"] == 1.0
  shown = run(
    search.Find(ledger=data.directory, sources_file=out, where="year > 2000")
  )
  assert "'news/2': source 2, 1 document" in shown
  assert '"year": 2004' in shown
  assert "1 source found" in shown


def test_find_lists_candidates_apart(data, run, tmp_path):
  out = tmp_path / "found.json"
  flags = {"data": data.directory, "quote": f"{SPEECH} forever", "out": out}
  shown = run(search.Find(**flags))
  head, tail = shown.split("CANDIDATES")
  assert "blog" not in head
  assert "'blog/two\\nlines': source 4" in tail
  assert "43% of the parts, in 1 passage" in tail
  assert "0 sources found, 3 candidates" in tail
  found = json.loads(out.read_text())
  assert (found["sources"], len(found["candidates"])) == ([], 3)
  with pytest.raises(errors.UserError, match="only 3 candidates"):
    selection.read_keys(out)
  out.unlink()
  run(search.Find(accept_partial=0.4, **flags))
  assert selection.read_keys(out) == ["blog/Zoë", "blog/two\nlines"]


def test_find_keeps_control_characters_off_the_terminal(data, run):
  shown = run(search.Find(data=data.directory, quote="with 31m colours"))
  assert "\x1b" not in shown
  assert "⟦with \ufffd[31m colours⟧" in shown


def test_find_shows_a_few_and_counts_the_rest(data, run, monkeypatch, tmp_path):
  monkeypatch.setattr(search, "_SHOWN_SOURCES", 2)
  shown = run(search.Find(ledger=data.ledger_path, glob="*", limit=5))
  assert "... and 3 more; give --out FILE to have them" in shown
  assert "5 sources found" in shown
  assert "THERE ARE MORE SOURCES" in shown
  out = tmp_path / "all.json"
  run(search.Find(ledger=data.ledger_path, glob="*", out=out))
  assert len(selection.read_keys(out)) == 6


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"source": ("news/1",)}, "no ledger named"),
    ({"quote": "a b"}, "--quote needs --data"),
    ({"ledger": "absent", "glob": "*"}, "absent does not exist"),
    ({"ledger": "SET"}, "nothing to find"),
    ({"ledger": "SET", "glob": "*", "out": "SET"}, "exists, and a selection"),
    ({"data": "nowhere", "quote": "a"}, "nowhere does not exist"),
  ],
)
def test_wrong_flags(data, flags, message, monkeypatch):
  import pathlib

  monkeypatch.chdir(data.directory.parent)
  for name in {"ledger", "data", "out"} & flags.keys():
    flags = {**flags, name: pathlib.Path(flags[name].lower())}
  with pytest.raises(errors.UserError, match=message):
    search.Find(**flags).run()


def test_a_selection_from_another_ledger_is_refused(data, tmp_path):
  with ledger_writing.Writer.create(tmp_path / "other.sqlite") as other:
    other.add_documents([("news/1", 1, {})])
  out = tmp_path / "found.json"
  search.Find(ledger=tmp_path / "other.sqlite", glob="*", out=out).run()
  with pytest.raises(errors.UserError, match="made from another ledger"):
    search.Find(ledger=data.directory, sources_file=out).run()
