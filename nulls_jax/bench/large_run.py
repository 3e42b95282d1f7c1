"""Runs with random content, for measurements.

Owns their geometries and their layout on the disk, which Orbax writes. JAX is
imported in the process that `write` starts, and nowhere else.
"""

import json
import math
import multiprocessing
import os
import pathlib

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import ledger_writing
from nulls_jax.model.config import ModelConfig
from nulls_jax.sinks.assignment import SinkConfig
from nulls_jax.training.config import MeshConfig

STEP = 1000
NUM_SOURCES = 20_000

_MESH = MeshConfig(data=1, fsdp=4, tensor=2)
_LAYERS = 2
_HEAD_SIZE = 64
# Of the parameters, what the sink tables should take.
_SINK_SHARE = 0.6
# Parameters and two moments, four bytes each.
_BYTES_A_PARAMETER = 12


def geometry(gigabytes: float) -> run_config.RunConfig:
  """Return the settings of a run whose state has about so many GB.

  It is at d_model 960 (a small one at 64) on eight devices.
  """
  parameters = gigabytes * 1e9 / _BYTES_A_PARAMETER
  width = 960 if gigabytes >= 0.5 else 64
  rows = _SINK_SHARE * parameters / (_LAYERS * 3 * width)
  pool = 2 ** max(4, math.floor(math.log2(max(rows, 1))))
  # The tensor axis divides the heads.
  heads = width // _HEAD_SIZE // 2 * 2 or 2
  layer = 4 * width * heads * _HEAD_SIZE + 3 * width * 2 * width + 2 * width
  rest = parameters - _LAYERS * (3 * width * pool + layer)
  vocabulary = max(300, round(rest / (2 * width)) // 8 * 8)
  return run_config.RunConfig(
    model=ModelConfig(
      vocab_size=vocabulary,
      d_model=width,
      num_layers=_LAYERS,
      num_heads=heads,
      num_kv_heads=heads,
      head_size=_HEAD_SIZE,
      backbone_width=2 * width,
    ),
    sinks=SinkConfig(
      kind="hashed", pool_size=pool, sinks_per_source=2, strata=2
    ),
    mesh=_MESH,
  )


def narrow(sinks: SinkConfig, num_layers: int) -> run_config.RunConfig:
  """Return the settings of a run with this pool, of sinks 24 values wide."""
  return run_config.RunConfig(
    model=ModelConfig(
      vocab_size=300,
      d_model=8,
      num_layers=num_layers,
      num_heads=1,
      num_kv_heads=1,
      head_size=8,
      backbone_width=16,
    ),
    sinks=sinks,
  )


def key(number: int) -> str:
  """Return the key of a source of a run that has its own ledger, from 0."""
  return f"https://example.org/article/{number:07d}"


def write(
  run_dir: pathlib.Path,
  config: run_config.RunConfig,
  chunk_bytes: int | None = None,
  ledger: pathlib.Path | None = None,
) -> None:
  """Write a run in a process of its own, so that this one stays small.

  Args:
    run_dir: does not exist.
    config: its settings.
    chunk_bytes: as Orbax's `chunk_byte_size`; None for a chunk a shard.
    ledger: of its sources, which it gets a link to; None gives it a ledger
      of `NUM_SOURCES`.

  Raises:
    errors.MachineError: that process failed.
  """
  process = multiprocessing.get_context("spawn").Process(
    target=_start, args=(run_dir, config, chunk_bytes, ledger)
  )
  process.start()
  process.join()
  if process.exitcode:
    raise errors.MachineError(
      f"{run_dir}: the run could not be written (exit {process.exitcode}); "
      "its reason stands above"
    )


def _start(run_dir, config, *arguments):
  import jax

  mesh = config.mesh
  jax.config.update("jax_platforms", "cpu")
  jax.config.update(
    "jax_num_cpu_devices", max(mesh.data, 1) * mesh.fsdp * mesh.tensor
  )
  write_here(run_dir, config, *arguments)


def write_here(run_dir, config, chunk_bytes=None, ledger=None) -> None:
  """Do what `write` does in this process, on the devices that it has."""
  import jax
  from orbax.checkpoint import v1 as ocp

  from nulls_jax.training import checkpoint, partitioning, state

  run_dir.mkdir(parents=True)
  path = run_dir / "ledger.sqlite"
  if ledger is not None:
    os.link(ledger, path)
  else:
    with ledger_writing.Writer.create(path) as book:
      book.add_documents((key(n), 1, {}) for n in range(NUM_SOURCES))
  with ledger_lib.Ledger.open(path) as book:
    fingerprint = book.fingerprint()
  mesh = partitioning.make_mesh(config.mesh)
  content = jax.tree.map(_random, state.abstract(config, mesh))
  metadata = checkpoint.metadata(config, "0" * 64, fingerprint)
  metadata["checksums"] = checkpoint.checksums(content)
  context = ocp.Context()
  context.array.saving.storage_options.chunk_byte_size = chunk_bytes
  root = run_dir.absolute() / checkpoint.FOLDER
  with context, ocp.training.Checkpointer(root) as checkpointer:
    checkpointer.save_checkpointables(
      STEP, {"state": content}, custom_metadata=metadata
    )
  (run_dir / "tokenizer.model").write_bytes(b"of no run")
  text = json.dumps(run_config.to_dict(config), indent=2)
  (run_dir / "config.json").write_text(text)


def _random(leaf):
  import jax
  import numpy as np

  def draw(index):
    if not leaf.shape:
      return np.asarray(STEP, leaf.dtype)
    parts = zip(index, leaf.shape, strict=True)
    shape = [len(range(*part.indices(size))) for part, size in parts]
    seed = [math.prod(leaf.shape), *(part.start or 0 for part in index)]
    generator = np.random.default_rng(seed)
    return generator.standard_normal(shape, np.float32).astype(leaf.dtype)

  return jax.make_array_from_callback(leaf.shape, leaf.sharding, draw)
