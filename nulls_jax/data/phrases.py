"""Words in a row: how texts are split into words, quoted, found and marked.

Owns the queries to FTS5 and the kinds of words: "words" are compared without
capitals and accents, "trigrams" are every three characters. Knows texts, and
neither datasets nor files.

Invariant: what is split here is split as an index of the same kind does it,
because SQLite does both.
"""

import contextlib
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence

from nulls_jax import errors

WORDS, TRIGRAMS = "words", "trigrams"
# Marks of matches: code points that no text has.
START, END = "\ufdd0", "\ufdd1"

TOKENIZE = {WORDS: "unicode61 remove_diacritics 2", TRIGRAMS: "trigram"}


def phrase(words: Sequence[str]) -> str:
  """Return the FTS5 query for words that follow each other.

  >>> phrase(["say", '"ah"'])
  '"say" + \"\"\"ah\"\"\"'
  """
  return " + ".join('"' + word.replace('"', '""') + '"' for word in words)


def any_of(queries: Iterable[str]) -> str:
  """Return the FTS5 query for one or several of these."""
  return " OR ".join(f"({query})" for query in queries)


class Desk:
  """A few texts, split and searched by the rules of an index; in memory."""

  def __init__(self, kind: str):
    self._connection = sqlite3.connect(":memory:")
    with fts5_needed():
      self._connection.executescript(
        "CREATE VIRTUAL TABLE texts USING fts5"
        f"(text, tokenize = '{TOKENIZE[kind]}');"
        "CREATE VIRTUAL TABLE words USING fts5vocab(texts, instance);"
      )

  def put(self, texts: Iterable[str]):
    """Lay these texts on the desk, in place of the ones before."""
    self._connection.execute("DELETE FROM texts")
    self._connection.executemany(
      "INSERT INTO texts (rowid, text) VALUES (?, ?)",
      enumerate(map(normalised, texts)),
    )

  def words(self, text: str) -> list[str]:
    """Return the words of a text as the index has them, in order."""
    self.put([text])
    query = "SELECT term FROM words ORDER BY offset"
    return [row[0] for row in self._connection.execute(query)]

  def matching(self, query: str) -> set[int]:
    """Return the numbers, from 0, of the texts that match."""
    sql = "SELECT rowid FROM texts WHERE texts MATCH ?"
    return {row[0] for row in self._connection.execute(sql, (query,))}

  def marked(self, query: str) -> dict[int, str]:
    """Return the matching texts, matches between START and END, by number."""
    sql = "SELECT rowid, highlight(texts, 0, ?, ?) FROM texts(?)"
    return dict(self._connection.execute(sql, (START, END, query)))


def normalised(text: str) -> str:
  """Compose accents, for trigrams; NUL would end the text for SQLite."""
  return unicodedata.normalize("NFC", text).replace("\0", " ")


@contextlib.contextmanager
def fts5_needed():
  """Turn a missing FTS5 into one line.

  Raises:
    errors.MachineError: SQLite has no FTS5, or an old one.
  """
  try:
    yield
  except sqlite3.OperationalError as error:
    if "no such module" in str(error) or "no such tokenizer" in str(error):
      raise errors.MachineError(
        f"the SQLite {sqlite3.sqlite_version} of this Python cannot search "
        f"text ({error}); FTS5 of 3.34 or later is needed"
      ) from error
    raise
