"""Sink settings that the dataset decides: rows, shares, size classes."""

import dataclasses
import pathlib

import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data import ledger_writing
from nulls_jax.data.config import DataConfig
from nulls_jax.data.preparation import dataset
from nulls_jax.sinks.assignment import SinkConfig
from nulls_jax.training import loop

DEDICATED = SinkConfig(kind="dedicated", sinks_per_source=4, strata=2)
SIZED = dataclasses.replace(DEDICATED, size_classes=3)
WITH_SIZES = DataConfig(class_tokens=100)


@pytest.fixture
def prepared(tmp_path):
  """A dataset of three sources that own 1, 4 and 2 shares; no rows."""
  path = tmp_path / "ledger.sqlite"
  with ledger_writing.Writer.create(path) as book:
    book.add_documents((key, 1, {}) for key in "abc")
    book.set_size_classes(np.array([0, 0, 7, 1]))
  return dataset.Prepared(
    directory=pathlib.Path("data"),
    manifest={"counts": {"sources": 3, "rows": 80}, "vocab_size": 400},
    config=WITH_SIZES,
    tokenizer_path=tmp_path / "none",
    ledger_path=path,
    row_files=(),
  )


def _resolve(prepared, sinks, data=WITH_SIZES):
  config = run_config.RunConfig(sinks=sinks, data=data)
  return loop.resolve(config, prepared).sinks


def test_rows_are_laid_out_for_the_dataset_or_more(prepared):
  found = _resolve(prepared, DEDICATED)
  assert (found.num_sources, found.num_shares) == (3, 0)
  found = _resolve(prepared, SIZED)
  assert (found.num_sources, found.num_shares) == (3, 7)
  assert found.rows_per_stratum == 14
  # What was resolved stays so when the run is taken up.
  assert _resolve(prepared, found) == found
  found = _resolve(prepared, dataclasses.replace(SIZED, num_sources=10))
  assert (found.num_sources, found.num_shares) == (10, 14)
  roomy = dataclasses.replace(DEDICATED, num_sources=10)
  assert _resolve(prepared, roomy) == roomy
  hashed = SinkConfig(size_classes=2)
  assert _resolve(prepared, hashed) == hashed


@pytest.mark.parametrize(
  ("sinks", "message"),
  [
    (
      dataclasses.replace(DEDICATED, num_sources=2),
      "has 3 sources, the table rows for 2; leave .* --grow-from OLD_RUN`",
    ),
    (
      dataclasses.replace(SIZED, num_shares=6),
      "own 7 shares, the table rows for 6; leave .* --grow-from OLD_RUN`",
    ),
  ],
)
def test_more_sources_than_rows(sinks, message, prepared):
  with pytest.raises(errors.UserError, match=message):
    _resolve(prepared, sinks)


def test_size_classes_that_the_dataset_does_not_have(prepared):
  without = dataclasses.replace(prepared, config=DataConfig())
  other = DataConfig(class_tokens=50)
  for given, data in ((without, WITH_SIZES), (prepared, other)):
    with pytest.raises(
      errors.UserError, match=r"size_classes=3 with data.class_tokens=.*; prep"
    ):
      _resolve(given, SIZED, data)
  # One class needs nothing, and no settings are those of the dataset.
  assert _resolve(without, DEDICATED, WITH_SIZES).num_shares == 0
  assert _resolve(prepared, SIZED, DataConfig()).num_shares == 7
