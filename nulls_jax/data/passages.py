"""The full-text index of a prepared dataset: which passage has which words.

Owns `passages.sqlite` beside the packed rows: an SQLite FTS5 index of what
was trained on, the rows decoded with the dataset's own tokenizer. A passage
is one document of one row: a document longer than a row is several. The text
itself is not stored again; it is decoded from its row when it is shown.

THE INDEX HOLDS THE WORDS OF THE SOURCES, IN ORDER: who has it can put most
of the text together again. Delete it when the dataset is deleted.

Words are compared without capitals and accents, composed or not; what stands
between them does not count. Languages without spaces between words need the
index of "trigrams", in which every three characters are a word; capitals do
not count there, all else does.

Invariant: an index at its place is whole, and belongs to the very rows and
tokenizer whose digests it carries; `Index.open` refuses any other.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import (
  conditions,
  ledger,
  phrases,
  stored_rows,
  tokenizer,
)
from nulls_jax.data.preparation import dataset

FILE = "passages.sqlite"
FORMAT = "nulls passages 1"

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
CREATE TABLE info (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE places (passage INTEGER PRIMARY KEY, source INTEGER NOT NULL);
CREATE TABLE common (word TEXT PRIMARY KEY, passages INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE VIRTUAL TABLE passages USING fts5(
  text, content = '', columnsize = 0, tokenize = '{tokenize}'
);
INSERT INTO passages (passages, rank) VALUES ('automerge', 0);
INSERT INTO passages (passages, rank) VALUES ('hashsize', 67108864);
"""
_VOCABULARY = (
  "CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, passages, row)"
)
_ROWS_AT_ONCE = 256
_MAPPED_BYTES = 2**31 - 2**16
# Words of more passages than this share, and this many, are counted once
# and for all: counting them takes reading all their places.
_COMMON_SHARE = 0.005
_COMMON_AT_LEAST = 1000

# Called with the name of the stage, and rows done and in all.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, order=True)
class Place:
  """Where a passage is.

  Attributes:
    row: number of its row in the dataset, from 0.
    document: its number in the row, from 1.
    source: the source's index in the ledger, 0 for none.
  """

  row: int
  document: int
  source: int


class _Rows:
  """The packed rows of a dataset, read and decoded."""

  def __init__(self, prepared: dataset.Prepared):
    self._config = prepared.config
    self._tokenizer = tokenizer.Tokenizer.load(prepared.tokenizer_path)
    self._tokenizer.check_fingerprint(
      prepared.manifest["tokenizer_fingerprint"],
      f"dataset {prepared.directory}",
    )
    self._stored = stored_rows.Rows(prepared)
    self.num_rows = self._stored.num_rows

  def passages(
    self, row: int, count: int = 1, only: int | None = None
  ) -> Iterator[tuple[Place, str]]:
    """Yield the passages of `count` rows from `row` on, or one of each."""
    tokens_BxL, documents_BxT, sources_BxT = self._stored.read(
      np.arange(row, row + count)
    )
    tile = self._config.tile
    used_BxT = np.count_nonzero(
      tokens_BxL.reshape(*documents_BxT.shape, tile), axis=-1
    )
    for number, tokens in enumerate(tokens_BxL.tolist()):
      starts = {}
      for place, document in enumerate(documents_BxT[number].tolist()):
        starts.setdefault(document, place)
      lengths = np.bincount(documents_BxT[number], used_BxT[number])
      for document, first in starts.items():
        if document and only in (None, document):
          start = first * tile
          end = start + int(lengths[document])
          source = int(sources_BxT[number, first])
          text = self._tokenizer.decode(tokens[start:end])
          yield Place(row + number, document, source), phrases.normalised(text)

  def close(self):
    self._stored.close()


def build(
  prepared: dataset.Prepared,
  *,
  kind: str = phrases.WORDS,
  progress: Progress | None = None,
) -> pathlib.Path:
  """Write the index of a dataset; one that is there already is kept.

  Args:
    prepared: the dataset.
    kind: "words" or "trigrams".
    progress: called with the stage, and rows done and in all.

  Returns:
    The index. One of other rows or of the other kind is replaced.

  Raises:
    errors.UserError: the rows are damaged, the place cannot be written, or
      another program is writing the index.
    errors.MachineError: the disk is full, or SQLite has no FTS5.
  """
  if kind not in phrases.TOKENIZE:
    raise errors.UserError(f"{kind!r} is neither 'words' nor 'trigrams'")
  path = prepared.directory / FILE
  partial = path.with_name(f"{FILE}.partial")
  with files.disk_errors(path), _locked(prepared.directory):
    if _identity(prepared, kind).items() <= _info(path).items():
      return path
    partial.unlink(missing_ok=True)
    try:
      _write(partial, prepared, kind, progress or (lambda *_: None))
      with open(partial, "rb") as file:
        os.fsync(file.fileno())
      os.replace(partial, path)
    except BaseException:
      partial.unlink(missing_ok=True)
      raise
  return path


@contextlib.contextmanager
def _locked(directory: pathlib.Path):
  """Keep a second builder out; sync the directory at the end."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(
        f"another program is writing the index of {directory}; wait for it"
      ) from None
    yield
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _identity(prepared: dataset.Prepared, kind: str) -> dict[str, str]:
  """Return what tells the index of this dataset from any other."""
  return {
    "format": FORMAT,
    "kind": kind,
    "rows_sha256": prepared.manifest["rows_sha256"],
    "tokenizer_fingerprint": prepared.manifest["tokenizer_fingerprint"],
    "tiles": str(prepared.config.row_length // prepared.config.tile),
  }


def _info(path: pathlib.Path) -> dict[str, str]:
  """Return what the index at a place says it is, {} if there is none."""
  if not path.is_file():
    return {}
  connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
  try:
    return dict(connection.execute("SELECT key, value FROM info"))
  except sqlite3.DatabaseError:
    return {}
  finally:
    connection.close()


def _write(path, prepared, kind, progress: Progress):
  rows = _Rows(prepared)
  connection = sqlite3.connect(path)
  try:
    with phrases.fts5_needed():
      connection.executescript(_SCHEMA.format(tokenize=phrases.TOKENIZE[kind]))
    tiles = prepared.config.row_length // prepared.config.tile
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
      count = min(_ROWS_AT_ONCE, rows.num_rows - start)
      numbers, sources, texts = [], [], []
      for place, text in rows.passages(start, count):
        numbers.append(place.row * tiles + place.document)
        sources.append(place.source)
        texts.append(text)
      connection.executemany(
        "INSERT INTO passages (rowid, text) VALUES (?, ?)",
        zip(numbers, texts, strict=True),
      )
      connection.executemany(
        "INSERT INTO places VALUES (?, ?)", zip(numbers, sources, strict=True)
      )
      progress("index", start + count, rows.num_rows)
    connection.execute("INSERT INTO passages (passages) VALUES ('optimize')")
    connection.execute(_VOCABULARY)
    connection.execute(
      "INSERT INTO common SELECT term, doc FROM vocabulary WHERE doc > "
      "MAX(?, ? * (SELECT COUNT(*) FROM places))",
      (_COMMON_AT_LEAST, _COMMON_SHARE),
    )
    info = _identity(prepared, kind)
    with ledger.Ledger.open(prepared.ledger_path) as book:
      info["ledger_fingerprint"] = book.fingerprint()
    connection.executemany("INSERT INTO info VALUES (?, ?)", info.items())
    connection.commit()
  finally:
    connection.close()
    rows.close()


class Index:
  """An open index; a context manager that closes it.

  Attributes:
    directory: the dataset.
    kind: "words" or "trigrams".
    ledger_fingerprint: of the dataset's ledger when the index was made: the
      dataset's sources never change.
    desk: splits texts as the index does.
  """

  def __init__(
    self,
    prepared: dataset.Prepared,
    connection: sqlite3.Connection,
    info: dict[str, str],
  ):
    self.directory = prepared.directory
    self.kind = info["kind"]
    self.ledger_fingerprint = info["ledger_fingerprint"]
    self.desk = phrases.Desk(self.kind)
    self._ledger_path = prepared.ledger_path
    self._tiles = prepared.config.row_length // prepared.config.tile
    self._rows = _Rows(prepared)
    self._connection = connection
    # Common words have many megabytes of places: half the time of a read.
    connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
    connection.execute(_VOCABULARY)

  @classmethod
  def open(cls, prepared: dataset.Prepared) -> "Index":
    """Open the index of a dataset.

    Raises:
      errors.UserError: there is none, or it is of other rows.
    """
    path = prepared.directory / FILE
    remedy = f"make it with `nulls index --data {prepared.directory}`"
    if not path.is_file():
      raise errors.UserError(f"{path} does not exist; {remedy}")
    info = _info(path)
    kind = info.get("kind")
    known = kind in phrases.TOKENIZE and "ledger_fingerprint" in info
    if not known or info.get("format") != FORMAT:
      raise errors.UserError(
        f"{path} is no index of format {FORMAT!r}; {remedy}"
      )
    if not _identity(prepared, kind).items() <= info.items():
      raise errors.UserError(
        f"{path} is of other rows than {prepared.directory} holds; {remedy}"
      )
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return cls(prepared, sqlite3.connect(uri, uri=True), info)

  def __enter__(self) -> "Index":
    return self

  def __exit__(self, *_):
    self._connection.close()
    self._rows.close()

  @property
  def num_passages(self) -> int:
    """Passages of the dataset, those of no source included."""
    query = "SELECT COUNT(*) FROM places"
    return self._connection.execute(query).fetchone()[0]

  def search(self, query: str) -> Iterator[Place]:
    """Yield where an FTS5 query matches, by row; see `phrases`."""
    rows = self._connection.execute(
      "SELECT passages.rowid, places.source FROM passages JOIN places "
      "ON places.passage = passages.rowid WHERE passages MATCH ? "
      "ORDER BY passages.rowid",
      (query,),
    )
    for number, source in rows:
      row, document = divmod(number - 1, self._tiles)
      yield Place(row, document + 1, source)

  def frequency(self, word: str) -> int:
    """Return the number of passages that have a word of the index."""
    for query in (
      "SELECT passages FROM common WHERE word = ?",
      "SELECT doc FROM vocabulary WHERE term = ?",
    ):
      found = self._connection.execute(query, (word,)).fetchone()
      if found:
        return found[0]
    return 0

  def text(self, place: Place) -> str:
    """Return the text of a passage, decoded from its row."""
    ((_, text),) = self._rows.passages(place.row, only=place.document)
    return text

  def check_sources(self, book: ledger.Ledger, indices: Iterable[int]):
    """Raise unless these indices are the same sources in another ledger.

    Args:
      book: the ledger of a run that was trained on the dataset, or the
        dataset's own.
      indices: of sources.

    Raises:
      errors.UserError: the ledger is of other sources than the dataset.
    """
    indices = list(indices)
    everything = conditions.Condition()
    with ledger.Ledger.open(self._ledger_path) as own:
      same = own.num_sources == book.num_sources and all(
        one.id == other.id
        for one, other in zip(
          own.select(everything, indices),
          book.select(everything, indices),
          strict=True,
        )
      )
    if not same:
      raise errors.UserError(
        f"{book.path} is not the ledger of {self.directory}, nor of a run "
        "that was trained on it; give the dataset of this run"
      )
