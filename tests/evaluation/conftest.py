"""A tiny corpus and tiny runs: trained for a few steps, erased, dense."""

import dataclasses
import pathlib

import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax.data import encyclopedia, prepare
from nulls_jax.evaluation import columns, figures, jobs, verdicts
from nulls_jax.evaluation import summary as circumstances
from nulls_jax.training import loop
from nulls_jax.unlearning import erase

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
  prepare.prepare(paths["documents"], root / "data", CONFIG.data)
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


def _probe_group(population, mode, kind, context, sources, right):
  """One group: four facts a source, `right` of them answered."""
  items = {
    name: []
    for name in (
      "probe",
      "source",
      "cluster",
      "support",
      "greedy",
      "log_probability",
      "num_tokens",
      "log_truth_ratio",
    )
  }
  for source in sources:
    for fact in range(4):
      known = fact < right
      items["probe"].append(len(items["probe"]))
      items["source"].append(source)
      items["cluster"].append(source)
      items["support"].append(20 if kind == "shared" and fact < 3 else 1)
      items["greedy"].append(int(known))
      items["log_probability"].append(-0.1 if known else -3.0)
      items["num_tokens"].append(1)
      items["log_truth_ratio"].append(2.0 if known else -0.5)
  return {
    "population": population,
    "mode": mode,
    "kind": kind,
    "context": context,
    "items": items,
  }


def _evaluation(run, with_facts):
  """What `evaluate` writes, of three sources a population."""
  kind, _, part = run.partition("-")
  places = [("forget", "off"), ("retained", "off"), ("held_out", "off")]
  if kind != "dense":
    places.append(("retained", "on"))
    if part != "retrained":
      own = "erased" if part == "erased" else "on"
      places += [("forget", own), ("forget", "nearest")]
  documents, probes = [], []
  for population, mode in places:
    sources = [f"{population}/{number}" for number in range(3)]
    remembered = mode == "on"
    shift = 0.1 if part == "erased" and kind == "hashed" else 0.0
    items = {
      "source": sources,
      "loss": [(1.0 if remembered else 2.0) * 10 + shift] * 3,
      "num_targets": [10] * 3,
    }
    if population == "retained":
      items["digest"] = [f"{mode}{shift}{number}" for number in range(3)]
    documents.append({"population": population, "mode": mode, "items": items})
    if with_facts:
      probes += [
        _probe_group(
          population, mode, "unique", "bare", sources, 4 * remembered
        ),
        _probe_group(population, mode, "shared", "bare", sources, 3),
        _probe_group(population, mode, "shared", "in_context", sources, 4),
      ]
  return {
    "head_digest": "same",
    "documents": documents,
    "probes": probes,
    "examples": [
      {
        "source": "forget/<0>",
        "prompt": "<b>Ann</b> was born in",
        "truth": " Oslo",
        "completions": {"off": " Lima & more"},
      }
    ],
  }


@pytest.fixture
def make_outcome():
  """Return a function that makes results, figures and a whole summary."""

  def make(with_facts=True, seeds=1, kinds=("hashed", "dedicated")):
    runs = [
      *(f"{kind}{part}" for part in ("", "-retrained") for kind in kinds),
      "dense",
      *(f"{kind}-erased" for kind in kinds),
    ]
    results = columns.Results(
      [{run: _evaluation(run, with_facts) for run in runs}] * seeds
    )
    found = figures.compute(
      results, kinds, dict.fromkeys(kinds, np.array([0.0, 0.1, 0.2]))
    )
    record = jobs.Record(
      name="train-hashed-seed0",
      command="nulls train --run OUT/runs/<x>",
      started=0.0,
      seconds=90.0,
      processor_seconds=80.0,
      peak_memory_bytes=2**29,
      peak_total_bytes=2**30,
    )
    summary = {
      "kinds": list(kinds),
      "seeds": seeds,
      "corpus": {
        "generated": with_facts,
        "name": "generated encyclopedia" if with_facts else "texts.jsonl",
        "sources": 6,
        "erased": 3,
        "never_trained": 3,
        "documents": 6,
        "tokens": 1234,
        "vocab_size": 300,
      },
      "figures": found,
      "verdicts": [
        one.to_dict() for one in verdicts.judge(found, kinds, with_facts)
      ],
      **circumstances.circumstances({"a": record}, pathlib.Path("/study")),
      "config_file": "configs/tiny.py",
      "config": run_config.to_dict(CONFIG),
    }
    curves = {
      run: [
        {"step": step, "loss": 3 / step, "loss_on": 2 / step, "loss_off": None}
        for step in range(1, 9)
      ]
      for run in (*kinds, "dense")
    }
    return summary, results, curves

  return make
