"""One update: the same on any mesh, in parts, by either implementation."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax.data import ledger, pipeline, routing
from nulls_jax.data.preparation import dataset
from nulls_jax.sinks import assignment
from nulls_jax.training import loop, partitioning, state
from nulls_jax.training import step as train_step
from nulls_jax.training.config import MeshConfig

CONFIG = run_config.RunConfig(
  model=run_config.ModelConfig(
    d_model=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_size=16,
    backbone_width=32,
  ),
  sinks=run_config.SinkConfig(pool_size=256, sinks_per_source=8, strata=4),
  data=run_config.DataConfig(row_length=256, tile=64, vocab_size=600),
  optimizer=run_config.OptimizerConfig(sink_learning_rate_scale=3.0),
  training=run_config.TrainingConfig(batch_size=8, num_steps=20, off_share=0.4),
)


def _losses(config, prepared_dir, mesh, num_steps=20):
  """Train some steps; return the losses and the last state."""
  prepared = dataset.Prepared.open(prepared_dir)
  config = loop.resolve(config, prepared)
  with ledger.Ledger.open(prepared.ledger_path) as sources:
    table = routing.table(config.sinks, sources)
  batches = pipeline.batches(
    prepared,
    table,
    batch_size=config.training.batch_size,
    seed=0,
    off_share=config.training.off_share,
    num_steps=num_steps,
  )
  current = state.create(config, mesh)
  update = train_step.make(config, mesh)
  losses = []
  with partitioning.context(mesh):
    for batch in batches:
      current, metrics = update(current, partitioning.to_devices(mesh, batch))
      losses.append({name: float(value) for name, value in metrics.items()})
  return losses, jax.device_get(current)


@functools.cache
def _one_device(prepared_dir, **_):
  mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  return _losses(CONFIG, prepared_dir, mesh)


def test_eight_devices_give_the_losses_of_one(prepared_dir):
  mesh = partitioning.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  sharded, _ = _losses(CONFIG, prepared_dir, mesh)
  single, _ = _one_device(prepared_dir)
  for name in ("loss", "loss_on", "loss_off"):
    np.testing.assert_allclose(
      [row[name] for row in sharded],
      [row[name] for row in single],
      rtol=0,
      atol=1e-5,
    )
  assert single[0]["loss"] - single[-1]["loss"] > 0.5


def test_masked_trains_like_gather(prepared_dir):
  config = dataclasses.replace(
    CONFIG, model=dataclasses.replace(CONFIG.model, implementation="masked")
  )
  mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  oracle, _ = _losses(config, prepared_dir, mesh)
  ours, _ = _one_device(prepared_dir)
  np.testing.assert_allclose(
    [row["loss"] for row in ours],
    [row["loss"] for row in oracle],
    atol=1e-5,
    rtol=0,
  )


def test_accumulation_is_one_batch(prepared_dir):
  config = dataclasses.replace(
    CONFIG, training=dataclasses.replace(CONFIG.training, accumulation=4)
  )
  mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  parts, _ = _losses(config, prepared_dir, mesh, num_steps=6)
  whole, _ = _one_device(prepared_dir)
  for name in ("loss", "grad_norm", "tokens", "loss_on"):
    np.testing.assert_allclose(
      [row[name] for row in parts],
      [row[name] for row in whole[:6]],
      rtol=1e-4,
    )


def test_only_drawn_rows_of_the_table_move(prepared_dir):
  """Without decay, a sink no source of the data draws stays as it began."""
  config = dataclasses.replace(
    CONFIG,
    sinks=dataclasses.replace(CONFIG.sinks, pool_size=4096),
    training=dataclasses.replace(CONFIG.training, off_share=0.0),
  )
  mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  prepared = dataset.Prepared.open(prepared_dir)
  resolved = loop.resolve(config, prepared)
  before = np.asarray(
    state.create(resolved, mesh)["params"]["layers"]["sinks"]["table"]
  )
  _, after = _losses(config, prepared_dir, mesh, num_steps=3)
  moved = (after["params"]["layers"]["sinks"]["table"] != before).any(axis=-1)
  with ledger.Ledger.open(prepared.ledger_path) as sources:
    words = routing.table(resolved.sinks, sources)[1:]
  drawn = np.zeros_like(moved)
  for layer in range(2):
    rows = assignment.rows(resolved.sinks, words, layer)
    for stratum in range(4):
      drawn[layer, stratum, rows[:, stratum].ravel()] = True
  assert not (moved & ~drawn).any()
  assert moved[drawn].mean() > 0.7


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_losses_are_told_apart_by_sink_mode(prepared_dir, share):
  config = dataclasses.replace(
    CONFIG, training=dataclasses.replace(CONFIG.training, off_share=share)
  )
  mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  rows, _ = _losses(config, prepared_dir, mesh, num_steps=2)
  name, other = ("loss_off", "loss_on") if share else ("loss_on", "loss_off")
  assert rows[0][name] == pytest.approx(rows[0]["loss"], rel=1e-6)
  assert np.isnan(rows[0][other])
