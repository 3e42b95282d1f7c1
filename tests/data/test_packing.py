"""Packing: literal rows, and that no piece is lost or predicted twice."""

import doctest

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import packing


def _random_documents(seed, count, row_length):
  rng = np.random.default_rng(seed)
  documents = []
  for index in range(count):
    pieces = rng.integers(3, 1000, rng.integers(0, 2 * row_length)).tolist()
    for part in packing.cut(pieces, row_length, 1, 2):
      documents.append((part.tolist(), index % 7 + 1))
  return documents


def test_examples_in_docstrings():
  result = doctest.testmod(packing)
  assert result.attempted >= 7
  assert result.failed == 0


def test_record_round_trip():
  row = packing.Row(
    np.array([1, 2**32 - 1, 2, 0], np.uint32),
    np.array([1, 0], np.uint32),
    np.array([70000, 0], np.uint32),
  )
  record = row.to_bytes()
  assert len(record) == 4 * (4 + 2 * 2)
  # Little-endian whatever the machine: a part of the file format.
  assert record[16:24] == bytes([1, 0, 0, 0, 0, 0, 0, 0])
  again = packing.Row.from_bytes(record, 4)
  np.testing.assert_array_equal(again.tokens, row.tokens)
  np.testing.assert_array_equal(again.tile_documents, row.tile_documents)
  np.testing.assert_array_equal(again.tile_sources, row.tile_sources)


@pytest.mark.parametrize("length", [0, 1, 5, 6, 7, 8, 100])
def test_cut_keeps_every_piece_once(length):
  pieces = list(range(3, 3 + length))
  parts = packing.cut(pieces, 8, bos=1, eos=2)
  assert [token for part in parts for token in part[1:]] == [*pieces, 2]
  assert all(part[0] == 1 and 2 <= len(part) <= 8 for part in parts)


def test_pack_keeps_every_document_whole():
  documents = _random_documents(0, 300, 32)
  found = []
  for row in packing.pack(documents, row_length=32, tile=8, open_rows=5):
    for number in range(1, row.tile_documents.max() + 1):
      tiles = np.flatnonzero(row.tile_documents == number)
      np.testing.assert_array_equal(np.diff(tiles), 1)
      (source,) = set(row.tile_sources[tiles].tolist())
      tokens = row.tokens.reshape(-1, 8)[tiles].ravel()
      found.append((tokens[tokens != 0].tolist(), source))
    padding = row.tile_documents == 0
    assert not row.tokens.reshape(-1, 8)[padding].any()
    assert not row.tile_sources[padding].any()
  assert sorted(found) == sorted(documents)


def test_pack_is_deterministic_and_fills_rows():
  documents = _random_documents(1, 500, 64)
  first = [row.to_bytes() for row in packing.pack(documents, 64, 4)]
  second = [row.to_bytes() for row in packing.pack(iter(documents), 64, 4)]
  assert first == second
  tiles = sum(-(-len(tokens) // 4) for tokens, _ in documents)
  assert tiles / (16 * len(first)) > 0.95


def test_pack_prefers_the_fullest_row_that_fits():
  documents = [([1] * 6, 1), ([1] * 4, 2), ([1] * 5, 3), ([1] * 2, 4)]
  rows = list(packing.pack(documents, row_length=8, tile=1))
  sources = {tuple(np.unique(row.tile_sources).tolist()) for row in rows}
  assert sources == {(1, 4), (0, 2), (0, 3)}


def test_pack_refuses_what_is_longer_than_a_row():
  with pytest.raises(ValueError, match="9 tokens does not fit a row of 8"):
    list(packing.pack([([1] * 9, 1)], 8, 2))


def test_each_piece_is_a_target_once():
  documents = _random_documents(2, 100, 32)
  targets = []
  for row in packing.pack(documents, row_length=32, tile=8):
    example = packing.to_example(row)
    targets.extend(example["targets"][example["weights"] > 0].tolist())
    assert not example["targets"][example["weights"] == 0].any()
  expected = [token for tokens, _ in documents for token in tokens[1:]]
  assert sorted(targets) == sorted(expected)


def test_fields_of_neighbouring_documents_do_not_touch():
  example = packing.example_from_documents(
    [([1, 5, 6, 2], 3), ([1, 7, 2], 0)], row_length=12, tile=4
  )
  expected = {
    "tokens": [1, 5, 6, 2, 1, 7, 2, 0, 0, 0, 0, 0],
    "targets": [5, 6, 2, 0, 7, 2, 0, 0, 0, 0, 0, 0],
    "weights": [1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0],
    "segments": [1, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0],
    "positions": [0, 1, 2, 3, 0, 1, 2, 0, 0, 0, 0, 0],
    "tile_documents": [1, 2, 0],
    "tile_sources": [3, 0, 0],
  }
  assert {name: value.tolist() for name, value in example.items()} == expected
  assert example["weights"].dtype == np.float32
  assert example["tokens"].dtype == example["positions"].dtype == np.int32


def test_too_many_documents_for_one_row():
  with pytest.raises(errors.UserError, match="2 documents need 16 tokens"):
    packing.example_from_documents([([1] * 5, 1), ([1] * 5, 1)], 12, 4)
