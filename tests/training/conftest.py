"""A small prepared dataset for the tests of training."""

import pytest

from nulls_jax.data import encyclopedia
from nulls_jax.data.config import DataConfig
from nulls_jax.data.preparation import job, prepare


@pytest.fixture(scope="session")
def prepared_dir(tmp_path_factory):
  """Forty people, one article each, several documents a row."""
  root = tmp_path_factory.mktemp("corpus")
  corpus = encyclopedia.Encyclopedia(
    seed=0, num_sources=40, num_held_out=2, num_versions=1
  )
  paths = corpus.write(root)
  prepare.prepare(
    job.Job(
      paths["documents"], DataConfig(row_length=256, tile=64, vocab_size=600)
    ),
    root / "prepared",
  )
  return root / "prepared"
