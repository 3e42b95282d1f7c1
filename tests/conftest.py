"""Eight CPU devices, no silent broadcasting, before any JAX call; a tiny run.

The tests of the commands, of the loop and of inference share one run, which
is trained once a session through the command line.
"""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Steps of the tiny run, and what its checkpoint policy leaves on the disk.
NUM_STEPS = 120
KEPT_STEPS = (40, 80, 100, 120)

MODEL_FLAGS = (
  "--model.d-model=16",
  "--model.num-layers=1",
  "--model.num-heads=2",
  "--model.num-kv-heads=2",
  "--model.head-size=8",
  "--model.backbone-width=16",
  "--sinks.pool-size=256",
  "--sinks.sinks-per-source=8",
  "--sinks.strata=2",
  "--data.tile=64",
  "--training.batch-size=8",
)
TRAIN_FLAGS = (
  *MODEL_FLAGS,
  "--data.row-length=256",
  "--optimizer.learning-rate=1e-2",
  "--optimizer.sink-learning-rate-scale=3",
  f"--training.num-steps={NUM_STEPS}",
  "--training.log-every=5",
  "--checkpoint.every-steps=20",
  "--checkpoint.keep-last=2",
  "--checkpoint.keep-every=40",
)


@dataclasses.dataclass(frozen=True)
class TinyRun:
  """Paths of a corpus of forty people and of the run trained on it.

  Attributes:
    documents: JSON Lines.
    data: the prepared dataset.
    path: the run directory.
    keys: source keys, in the order of the ledger.
    flags: of `nulls train`, besides --data and --run.
    num_steps: that it was trained for.
    kept_steps: of which it has checkpoints.
    environment: for real processes to have the same devices.
  """

  documents: pathlib.Path
  data: pathlib.Path
  path: pathlib.Path
  keys: tuple[str, ...]
  flags: tuple[str, ...]
  num_steps: int
  kept_steps: tuple[int, ...]
  environment: dict[str, str]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
  """Compile equal programs once a session; return JAX's settings for it."""
  settings = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  for name, value in settings.items():
    jax.config.update(name, value)
  # Tests that ran before this one have switched the cache off.
  compilation_cache.reset_cache()
  return {name.upper(): str(value) for name, value in settings.items()}


@pytest.fixture(scope="session")
def model_flags():
  """Of a tiny model and its batches, for `nulls train` and `nulls doctor`."""
  return MODEL_FLAGS


@pytest.fixture
def nulls(capsys):
  """Return a function that runs a command in this process.

  It gives the exit status, stdout and stderr. Only reporting a wrong flag
  leaves by `SystemExit`, as tyro does it.
  """
  from nulls_jax import cli

  def run(*arguments):
    capsys.readouterr()
    try:
      status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
      status = stop.code
    return status, *capsys.readouterr()

  return run


@pytest.fixture
def refused(nulls):
  """Return a function that runs a command which must fail in one line."""

  def run(*arguments, status=2):
    found, out, err = nulls(*arguments)
    lines = err.splitlines()
    assert (found, out, len(lines)) == (status, "", 1), (found, out, err)
    assert lines[0].startswith("nulls: ")
    return lines[0]

  return run


@pytest.fixture(scope="session")
def dense_run(tmp_path_factory, tiny_run):
  """A run without sinks: a checkpoint of step 1, all zero, never trained."""
  from nulls_jax import config as run_config
  from nulls_jax.training import checkpoint, partitioning, state

  path = tmp_path_factory.mktemp("dense") / "run"
  path.mkdir()
  for name in ("tokenizer.model", "ledger.sqlite"):
    shutil.copyfile(tiny_run.path / name, path / name)
  config = run_config.read(tiny_run.path / "config.json")
  sinks = dataclasses.replace(config.sinks, kind="none")
  config = dataclasses.replace(config, sinks=sinks)
  (path / "config.json").write_text(json.dumps(run_config.to_dict(config)))
  before = checkpoint.read_metadata(tiny_run.path, tiny_run.num_steps)
  fingerprints = before["tokenizer_fingerprint"], before["ledger_fingerprint"]
  mesh = partitioning.make_mesh(config.mesh)
  zeros = jax.tree.map(
    lambda leaf: jax.device_put(
      np.zeros(leaf.shape, leaf.dtype), leaf.sharding
    ),
    state.abstract(config, mesh),
  )
  with checkpoint.Checkpoints(path, config.checkpoint, 1) as saves:
    saves.save(1, zeros, checkpoint.metadata(config, *fingerprints))
  return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, compiled):
  """Train the tiny run as a person would."""
  from nulls_jax import cli
  from nulls_jax.data import ledger

  root = tmp_path_factory.mktemp("tiny")
  documents = root / "documents.jsonl"
  layout = ("--data.row-length=256", "--data.tile=64", "--data.vocab-size=600")
  for arguments in (
    ("encyclopedia", "--out", root, "--sources=40", "--held-out=2"),
    ("prepare", "--documents", documents, "--out", root / "data", *layout),
    ("train", "--data", root / "data", "--run", root / "run", *TRAIN_FLAGS),
  ):
    assert cli.main([str(argument) for argument in arguments]) == 0
  with ledger.Ledger.open(root / "run" / "ledger.sqlite") as sources:
    keys = tuple(source.key for source in sources)
  return TinyRun(
    documents=documents,
    data=root / "data",
    path=root / "run",
    keys=keys,
    flags=TRAIN_FLAGS,
    num_steps=NUM_STEPS,
    kept_steps=KEPT_STEPS,
    environment={
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "8",
      **compiled,
    },
  )
