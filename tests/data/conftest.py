"""Prepared datasets written by hand: small, quick, every document known."""

import collections
import dataclasses
import json
import pathlib

import numpy as np
import pytest
from array_record.python import array_record_module

from nulls_jax import files
from nulls_jax.data import config as data_config
from nulls_jax.data import ledger, ledger_writing, packing, routing
from nulls_jax.data.preparation import dataset
from nulls_jax.sinks import assignment

ROW_LENGTH, TILE = 32, 8
_FIRST, _BASE = 4, 50
_A_KEYS = [f"a{n % 20}" for n in range(60)]
_B_KEYS = [f"b{n % 11}" for n in range(30)] + ["a3", "a3", "a5"]
_C_KEYS = [""] * 15 + [f"c{n}" for n in range(10)]


@dataclasses.dataclass(frozen=True)
class Document:
  """One document: its tokens say its number."""

  number: int
  key: str
  tokens: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Made:
  """A dataset and what it was made of."""

  path: pathlib.Path
  documents: tuple[Document, ...]

  @property
  def keys(self) -> list[str]:
    """Its sources, each once."""
    return list(dict.fromkeys(d.key for d in self.documents if d.key))


def _document(number: int, key: str, draw) -> Document:
  digits = [_FIRST + number // _BASE, _FIRST + number % _BASE]
  filler = draw.integers(_FIRST, _FIRST + _BASE, draw.integers(0, 26))
  return Document(number, key, (1, *digits, *filler.tolist(), 2))


def write_rows(path, rows):
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for row in rows:
    writer.write(row.to_bytes())
  writer.close()


def write_set(path, keys, *, start=0, seed=0, tokenizer=b"one", **config):
  """Write a dataset with a document for each key ("" is no source)."""
  path.mkdir(parents=True)
  draw = np.random.default_rng([seed, start])
  documents = [
    _document(start + place, key, draw) for place, key in enumerate(keys)
  ]
  settings = data_config.DataConfig(
    **({"row_length": ROW_LENGTH, "tile": TILE} | config)
  )
  with ledger_writing.Writer.create(path / "ledger.sqlite") as book:
    book.add_documents((d.key, 1, {}) for d in documents if d.key)
    numbers = {source.key: source.index for source in book} | {"": 0}
    tokens = np.zeros(len(numbers), np.int64)
    for document in documents:
      tokens[numbers[document.key]] += len(document.tokens)
    book.add_num_tokens(tokens)
    book.set_size_classes(settings.size_classes(tokens))
  rows = list(
    packing.pack(
      [(np.array(d.tokens), numbers[d.key]) for d in documents],
      settings.row_length,
      settings.tile,
    )
  )
  write_rows(path / dataset.ROWS, rows)
  (path / "tokenizer.model").write_bytes(tokenizer)
  names = (dataset.TOKENIZER, dataset.LEDGER, dataset.ROWS)
  manifest = {
    "format": dataset.FORMAT,
    "config": settings.to_dict(),
    "counts": {"sources": len(numbers) - 1, "rows": len(rows)},
    "vocab_size": _FIRST + _BASE,
    "tokenizer_fingerprint": files.sha256(path / dataset.TOKENIZER),
    "rows_sha256": files.sha256(path / dataset.ROWS),
    "inputs_sha256": "",
    "files": {name: (path / name).stat().st_size for name in names},
  }
  (path / dataset.MANIFEST).write_text(json.dumps(manifest))
  return Made(path, tuple(documents))


@pytest.fixture(scope="session")
def make_set():
  return write_set


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
  """Three datasets: of own sources, of those and others, partly of none."""
  root = tmp_path_factory.mktemp("sets")
  return {
    "a": write_set(root / "a", _A_KEYS),
    "b": write_set(root / "b", _B_KEYS, start=1000),
    "c": write_set(root / "c", _C_KEYS, start=2000),
  }


@pytest.fixture(scope="session")
def read_back():
  """Return a function that counts visits of documents in batches.

  It gives visits by (number of the document, key of the source that is on),
  and checks that every other position has no weight.
  """

  def count(prepared, batches):
    with ledger.Ledger.open(prepared.ledger_path) as book:
      table = routing.table(assignment.SinkConfig(), book)
      keys = {tuple(table[source.index]): source.key for source in book}
    seen = collections.Counter()
    for batch in batches:
      for row in range(len(batch["tokens"])):
        _count_row({name: batch[name][row] for name in batch}, keys, seen)
    return seen

  return count


def _count_row(row, keys, seen):
  text = row["segments"] > 0
  assert not row["tokens"][~text].any()
  assert not row["weights"][~text].any()
  for segment in np.unique(row["segments"][text]):
    mine = row["segments"] == segment
    tokens, weights = row["tokens"][mine], row["weights"][mine]
    assert (tokens[0], tokens[-1]) == (1, 2)
    assert weights.tolist() == [1.0] * (len(tokens) - 1) + [0.0]
    tiles = mine.reshape(-1, TILE).any(-1)
    (words,) = {tuple(pair) for pair in row["sources"][tiles].tolist()}
    number = (int(tokens[1]) - _FIRST) * _BASE + int(tokens[2]) - _FIRST
    seen[number, keys.get(words, "")] += 1
  assert not row["sources"][~text.reshape(-1, TILE).any(-1)].any()
