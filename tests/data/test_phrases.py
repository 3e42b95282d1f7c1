"""Words in a row: split, quoted and marked as an index does it."""

import sqlite3

import pytest

from nulls_jax.data import phrases


def test_desk_marks_all_matches():
  desk = phrases.Desk(phrases.WORDS)
  desk.put(["one two one two three", "nothing", "Óne, TWO!"])
  query = phrases.any_of([phrases.phrase(["one", "two"])])
  assert desk.matching(query) == {0, 2}
  marked = {
    number: text.replace(phrases.START, "[").replace(phrases.END, "]")
    for number, text in desk.marked(query).items()
  }
  assert marked == {0: "[one two] [one two] three", 2: "[Óne, TWO]!"}
  desk.put([])
  assert desk.matching(query) == set()


@pytest.mark.parametrize(
  ("kind", "text", "words"),
  [
    ("words", "Don't SAY “Zoë”, Zoe\u0308!", ["don", "t", "say", "zoe", "zoe"]),
    ("words", "東京 都", ["東京", "都"]),
    ("words", " ?! ", []),
    ("trigrams", "A\0Bc東", ["a b", " bc", "bc東"]),
    ("trigrams", "e\u0301e\u0301", []),
    ("trigrams", "ab", []),
  ],
)
def test_words_of_a_text(kind, text, words):
  assert phrases.Desk(kind).words(text) == words


@pytest.mark.parametrize(
  "word", ['"', '" OR x', "NEAR(a b)", "a AND b", "*", "text:", "'", "-"]
)
def test_words_are_never_operators(word):
  connection = sqlite3.connect(":memory:")
  connection.execute("CREATE VIRTUAL TABLE t USING fts5(text)")
  connection.execute("INSERT INTO t VALUES ('x a b')")
  query = phrases.any_of([phrases.phrase([word, "zzz"])] * 70)
  found = connection.execute("SELECT * FROM t WHERE t MATCH ?", (query,))
  assert found.fetchall() == []
  connection.close()
