"""A tiny corpus and tiny runs: trained for a few steps, erased, dense."""

import dataclasses
import pathlib

import pytest

from nulls_jax import config as run_config
from nulls_jax.data import encyclopedia
from nulls_jax.data.preparation import job, prepare
from nulls_jax.training import loop
from nulls_jax.unlearning.erasure import erase

CONFIG = run_config.RunConfig(
  model=run_config.ModelConfig(
    d_model=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_size=8,
    backbone_width=16,
  ),
  sinks=run_config.SinkConfig(pool_size=64, sinks_per_source=8),
  data=run_config.DataConfig(row_length=256, tile=64, vocab_size=600),
  optimizer=run_config.OptimizerConfig(
    learning_rate=1e-2, sink_learning_rate_scale=3.0
  ),
  training=run_config.TrainingConfig(batch_size=8, num_steps=6),
)


@dataclasses.dataclass(frozen=True)
class Files:
  """Paths of the corpus and of runs by name."""

  documents: pathlib.Path
  held_out: pathlib.Path
  probes: pathlib.Path
  forget: tuple[str, ...]
  runs: dict[str, pathlib.Path]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
  """Twenty-four people of whom three are erased; six are never trained."""
  root = tmp_path_factory.mktemp("study")
  corpus = encyclopedia.Encyclopedia(
    seed=0, num_sources=24, num_held_out=6, num_versions=2
  )
  paths = corpus.write(root)
  keys = sorted({line["source"] for line in corpus.documents()})
  forget = tuple(keys[3:6])
  prepare.prepare(job.Job(paths["documents"], CONFIG.data), root / "data")
  runs = {}
  for name, kind in (("trained", "dedicated"), ("dense", "none")):
    sinks = dataclasses.replace(CONFIG.sinks, kind=kind)
    runs[name] = root / name
    loop.train(
      dataclasses.replace(CONFIG, sinks=sinks), root / "data", runs[name]
    )
  runs["erased"] = root / "erased"
  erase.erase(runs["trained"], runs["erased"], forget)
  return Files(
    documents=paths["documents"],
    held_out=paths["held_out"],
    probes=paths["probes"],
    forget=forget,
    runs=runs,
  )
