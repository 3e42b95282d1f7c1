"""Model sizes that are timed, and the variants of each that are compared.

Owns the named geometries, the run's settings of every variant, and batches
of drawn tokens. Times nothing.

Invariant: the variants of a geometry see the same tokens, documents and
number of rows; only the MLP and what it is routed by differ.

Dimensions: B batch, L length, T tiles.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.config import (
  DataConfig,
  MeshConfig,
  ModelConfig,
  RunConfig,
  SinkConfig,
  TrainingConfig,
)
from nulls_jax.data import packing
from nulls_jax.sinks import assignment

# Updates that the learning rate's schedule is made for: far more than are
# timed, so that the parameters stay where they were drawn.
_NUM_STEPS = 1_000_000

# Tokens below this are control pieces and padding.
_FIRST_TOKEN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
  """One model size.

  Attributes:
    about: what it is, for people.
    model: the decoder with the backbone of the variants that have sinks.
    sinks: the hashed pool.
    data: row length and tile.
    rows: of one step, for each part of the mesh that has rows of its own.
    num_sources: of the dedicated table.
    new_tokens: that one measurement of generation makes.
  """

  about: str
  model: ModelConfig
  sinks: SinkConfig
  data: DataConfig
  rows: int
  num_sources: int
  new_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One way to build the MLP.

  Attributes:
    about: what it is, for people.
    extra: what a dense one has beside the backbone: "active" sinks of a
      source, the whole "pool", or None for one with sinks.
    kind: of the assignment.
    implementation: of the sinks.
    sources_a_row: that each row is divided among.
  """

  about: str
  extra: str | None = None
  kind: str = "none"
  implementation: str = "gather"
  sources_a_row: int = 1


# Every ratio is over this one.
BASE = "dense-active"

VARIANTS = {
  BASE: Variant(
    about="dense, as wide as backbone and active sinks", extra="active"
  ),
  "dense-total": Variant(
    about="dense, as wide as backbone and pool", extra="pool"
  ),
  "masked": Variant(
    about="the whole pool under a mask", kind="hashed", implementation="masked"
  ),
  "gather": Variant(about="a source's rows of the pool", kind="hashed"),
  "gather-4": Variant(
    about="the same, four sources a row", kind="hashed", sources_a_row=4
  ),
  "dedicated": Variant(about="a source's own rows", kind="dedicated"),
}

_PAPER = ModelConfig(
  d_model=960,
  num_heads=15,
  num_kv_heads=5,
  head_size=128,
  backbone_width=512,
)
_PAPER_SINKS = SinkConfig(pool_size=8192, sinks_per_source=96, strata=8)

GEOMETRIES = {
  "small": Geometry(
    about="two layers of 256, a pool of 2,048; for a CPU",
    model=ModelConfig(
      vocab_size=512,
      d_model=256,
      num_layers=2,
      num_heads=4,
      num_kv_heads=4,
      head_size=64,
      backbone_width=256,
    ),
    sinks=SinkConfig(pool_size=2048, sinks_per_source=32),
    data=DataConfig(row_length=512, tile=64),
    rows=4,
    num_sources=1000,
    new_tokens=64,
  ),
  "1b-layer": Geometry(
    about="two of the paper's 32 layers: 960 wide, a pool of 8,192 each",
    # A sixteenth of the vocabulary for a sixteenth of the layers: the output
    # projection keeps its share of the arithmetic, 18 % of the weights.
    model=dataclasses.replace(_PAPER, vocab_size=3072, num_layers=2),
    sinks=_PAPER_SINKS,
    data=DataConfig(row_length=1024, tile=128),
    rows=2,
    num_sources=128,
    new_tokens=32,
  ),
  "1b": Geometry(
    about="the paper's whole model, 1 G parameters; for accelerators",
    model=dataclasses.replace(
      _PAPER, vocab_size=49_152, num_layers=32, remat="full", loss_chunk=128
    ),
    sinks=_PAPER_SINKS,
    data=DataConfig(row_length=1024, tile=128),
    rows=16,
    num_sources=128,
    new_tokens=128,
  ),
  "tiny": Geometry(
    about="shows that the benchmark runs; its figures mean nothing",
    model=ModelConfig(
      vocab_size=300,
      d_model=16,
      num_layers=2,
      num_heads=2,
      num_kv_heads=2,
      head_size=8,
      backbone_width=16,
    ),
    sinks=SinkConfig(pool_size=128, sinks_per_source=8, strata=2),
    data=DataConfig(row_length=64, tile=16, vocab_size=300),
    rows=1,
    num_sources=64,
    new_tokens=4,
  ),
}


def find(name: str, changes: Mapping[str, int] | None = None) -> Geometry:
  """Return a geometry by name.

  Args:
    name: a key of `GEOMETRIES`.
    changes: `layers`, `rows`, `length`, `tile` that replace its own; those
      that are 0 do not.

  Raises:
    errors.UserError: there is no such geometry, or a change does not fit.
  """
  if name not in GEOMETRIES:
    raise errors.UserError(
      f"no geometry {name!r}; there are {', '.join(GEOMETRIES)}"
    )
  found = GEOMETRIES[name]
  changes = {key: value for key, value in (changes or {}).items() if value}
  wrong = [f"--{key} {value}" for key, value in changes.items() if value < 0]
  if wrong:
    raise errors.UserError(
      f"{', '.join(wrong)}: give numbers from 1, or 0 for the geometry's own"
    )
  return dataclasses.replace(
    found,
    model=dataclasses.replace(
      found.model, num_layers=changes.get("layers", found.model.num_layers)
    ),
    data=dataclasses.replace(
      found.data,
      row_length=changes.get("length", found.data.row_length),
      tile=changes.get("tile", found.data.tile),
    ),
    rows=changes.get("rows", found.rows),
  )


def settings(
  geometry: Geometry,
  variant: Variant,
  *,
  rows: int,
  dtype: str,
  mesh: MeshConfig,
) -> RunConfig:
  """Return the settings of a run of a variant, as `nulls train` has them.

  Args:
    geometry: the model's size.
    variant: its MLP.
    rows: of one step, over all devices.
    dtype: of the arithmetic.
    mesh: arrangement of the devices.

  Raises:
    errors.UserError: the sources do not divide a row.
  """
  tiles = geometry.data.row_length // geometry.data.tile
  if tiles % variant.sources_a_row:
    raise errors.UserError(
      f"{variant.sources_a_row} sources do not divide a row of {tiles} tiles "
      f"({geometry.data.row_length} tokens in tiles of {geometry.data.tile}); "
      "change --tile or --length"
    )
  pool = geometry.sinks
  extra = {"active": pool.sinks_per_source, "pool": pool.pool_size, None: 0}
  config = RunConfig(
    model=dataclasses.replace(
      geometry.model,
      backbone_width=geometry.model.backbone_width + extra[variant.extra],
      implementation=variant.implementation,
      compute_dtype=dtype,
    ),
    sinks=dataclasses.replace(
      pool,
      kind=variant.kind,
      num_sources=geometry.num_sources if variant.kind == "dedicated" else 0,
    ),
    data=geometry.data,
    training=TrainingConfig(
      batch_size=rows, num_steps=_NUM_STEPS, off_share=0.0
    ),
    mesh=mesh,
  )
  run_config.validate(config)
  return config


def batch(
  config: RunConfig, sources_a_row: int, seed: int
) -> dict[str, np.ndarray]:
  """Return a batch of drawn tokens, as `data.pipeline` gives batches.

  Every row has `sources_a_row` documents of equal length, each of a source
  of its own; no source comes twice in a batch.

  Args:
    config: the run's settings.
    sources_a_row: divides the tiles of a row.
    seed: of what is drawn.

  Raises:
    errors.UserError: the batch needs more sources than the table has.
  """
  rows, length = config.training.batch_size, config.data.row_length
  tiles = length // config.data.tile
  count = rows * sources_a_row
  draw = np.random.default_rng([seed, 4])
  tokens = draw.integers(_FIRST_TOKEN, config.model.vocab_size, (rows, length))
  documents = np.repeat(np.arange(1, sources_a_row + 1), tiles // sources_a_row)
  fields = packing.token_fields(tokens, np.tile(documents, (rows, 1)))
  ids, indices = _sources(config.sinks, count, draw)
  words = assignment.routing_words(config.sinks, ids, indices)
  of_tile = np.arange(count).reshape(rows, sources_a_row)
  of_tile = np.repeat(of_tile, tiles // sources_a_row, axis=1)
  return {**fields, "sources": words[of_tile]}


def _sources(sinks: SinkConfig, count: int, draw: Any):
  """Draw ids and indices of distinct sources."""
  ids = draw.integers(1, 2**63, count, dtype=np.uint64)
  if sinks.kind != "dedicated":
    return ids, np.zeros(count, np.int64)
  if count > sinks.num_sources:
    raise errors.UserError(
      f"a batch needs {count} sources, and the dedicated table has "
      f"{sinks.num_sources}; lower --rows"
    )
  return ids, 1 + draw.choice(sinks.num_sources, count, replace=False)
