"""Repair after erasures: the surviving sinks learn on, nothing else moves.

Owns the order of the work, the new run directory and the report. Which rows
may move is `survivors`' business, the update `repair_step`'s, all that can be
refused `repair_job`'s.

With a hashed pool an erasure costs the other sources the rows that they
shared. Their other rows take over what those rows did: the table alone is
trained, on documents of retained sources with their sinks active. (Documents
without sinks teach the table nothing, so none are drawn.) Erased rows are
zero in gate, up and down and get no gradient; they are held at zero besides.

Memory on the devices: the parameters once and the sink table three times
more (its gradient and Adam's two moments; what is frozen has neither), and
the activations of a batch. The comparison at the end, when the moments are
gone, holds the parameters twice.

Invariant: the output appears under its name only when it is whole and has
been read back: every other array bit for bit the source's, rows of no taught
source too, rows of every erased source zero.
"""

import json
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax import errors
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import (
  checkpoint,
  partitioning,
  repair_facts,
  repair_job,
  repair_samples,
  repair_step,
)
from nulls_jax.training.config import CheckpointConfig, RepairConfig
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.erasure import output
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.revocation import revocation

FORMAT = "nulls repair 1"
REPORT_FILE = "repair.json"

_COPIED = (
  plan.CONFIG_FILE,
  plan.TOKENIZER_FILE,
  plan.LEDGER_FILE,
  revocation.FILE,
)
_LOG_EVERY = 10

# Called with "repair", the updates done, and all.
Progress = Callable[[str, int, int], None]


def repair(
  run_dir: str | os.PathLike,
  data_dir: str | os.PathLike,
  out_dir: str | os.PathLike,
  settings: RepairConfig | None = None,
  *,
  step: int | None = None,
  reference: str | None = None,
  signing_key: pathlib.Path | None = None,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Write a run directory in which the surviving sinks have learned on.

  Args:
    run_dir: an erased run with a hashed pool.
    data_dir: a prepared dataset of the run's tokenizer: the one that the run
      was trained on, or one prepared without some of its sources.
    out_dir: does not exist yet; its parents are made.
    settings: how it is trained.
    step: the checkpoint to take, the newest by default.
    reference: the requester's, for the receipt.
    signing_key: PEM file of a private Ed25519 key that signs the receipt.
    progress: called with "repair", updates done, and all.

  Returns:
    What `repair.json` of the output holds.

  Raises:
    errors.UserError: there is nothing to repair, or run, dataset and settings
      do not fit together; nothing is written.
    errors.MachineError: a write failed, a loss is not finite, or what was
      written is not what it should be; nothing is left behind.
  """
  start = time.monotonic()
  run_dir, out_dir = pathlib.Path(run_dir), pathlib.Path(out_dir).absolute()
  job = repair_job.open_job(run_dir, data_dir, settings or RepairConfig(), step)
  needed = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(job.abstract)
  )
  with (
    output.whole_or_absent(out_dir, [run_dir], needed) as partial,
    partitioning.context(job.mesh),
  ):
    report = _run(job, partial, progress or (lambda *_: None))
    report["seconds"] = time.monotonic() - start
    output.write_text(
      partial / REPORT_FILE, json.dumps(report, indent=2) + "\n"
    )
    output.copy_files(run_dir, partial, _COPIED)
    facts = repair_facts.collect(
      _item(run_dir, job.step),
      _item(partial, job.new_step),
      job.metadata,
      job.new_step,
      reference,
    )
    receipt.write(partial, facts, previous=run_dir, signing_key=signing_key)
  return report


# -- The work


def _run(
  job: repair_job.Job, partial: pathlib.Path, progress: Progress
) -> dict:
  """Measure, train, save, read back and compare; return the report."""
  who = job.who
  samples = repair_samples.take(job.prepared, who, job.config.training)
  params = checkpoint.load_params(job.run_dir, job.step, job.abstract)
  table, frozen = table_lib.detach(params)
  _check_erased(job, table)
  mean_loss = repair_step.make_mean_loss(job.config, job.mesh)
  before = {
    name: mean_loss(params, sample.batches) for name, sample in samples.items()
  }
  del params
  table, curve = _train(job, table, frozen, progress)
  params = table_lib.attach(table, frozen)
  after = {
    name: mean_loss(params, sample.batches) for name, sample in samples.items()
  }
  _save(job, partial, params)
  del table, frozen, params
  num_moved = _check_written(job, partial)
  report = _report(job, num_moved, curve)
  for name, sample in samples.items():
    report[name] = {
      "sources": sample.num_sources,
      "tokens": sample.num_tokens,
      "loss_before": before[name],
      "loss_after": after[name],
    }
  return report


def _report(job: repair_job.Job, num_moved: int, curve: list) -> dict[str, Any]:
  who, training = job.who, job.config.training
  return {
    "format": FORMAT,
    "step_before": job.step,
    "step": job.new_step,
    "num_steps": training.num_steps,
    "batch_size": training.batch_size,
    "learning_rate": job.config.optimizer.learning_rate,
    "weight_decay": job.config.optimizer.sink_weight_decay,
    "sources": {
      "erased": len(who.erased),
      "retained": who.num_retained,
      "suspended": who.num_suspended,
      "taught": who.num_taught,
    },
    "sinks_lost": dict(zip(("mean", "largest"), who.sinks_lost, strict=True)),
    "rows": {
      "all": who.movable.size,
      "erased": int(who.is_erased.sum()),
      "movable": int(who.movable.sum()),
      "moved": num_moved,
    },
    "training_loss": curve,
  }


def _train(job, table, frozen, progress):
  """Return the trained table and the loss every few steps."""
  start, update = repair_step.make(job.config, job.abstract)
  movable = job.place(job.who.movable)
  opt_state = start(table)
  num_steps = job.config.training.num_steps
  curve, pending = [], []
  batches = repair_samples.training_batches(
    job.prepared, job.who, job.config.training
  )
  for number, batch in enumerate(batches, start=1):
    batch = partitioning.to_devices(job.mesh, batch)
    table, opt_state, values = update(table, opt_state, frozen, movable, batch)
    pending.append(values)
    if number % _LOG_EVERY == 0 or number == num_steps:
      rows = jax.device_get(pending)
      pending = []
      tokens = sum(float(row["tokens"]) for row in rows)
      loss = sum(float(row["loss"] * row["tokens"]) for row in rows)
      if not math.isfinite(sum(row["loss"] + row["grad_norm"] for row in rows)):
        raise _not_finite(job, f"a loss before step {number} is")
      curve.append([job.step + number, loss / max(tokens, 1.0)])
      progress("repair", number, num_steps)
  if not bool(jnp.isfinite(table).all()):
    raise _not_finite(job, "rows after the last step are")
  return table, curve


def _not_finite(job, what) -> errors.MachineError:
  return errors.MachineError(
    f"{job.run_dir}: repair: {what} not finite; nothing was written; give a "
    f"--learning-rate below {job.config.optimizer.learning_rate:g}"
  )


def _save(job, partial, params):
  replicated = partitioning.replicated(job.mesh)
  saved = {
    "step": jax.device_put(np.asarray(job.new_step, np.int32), replicated),
    "params": params,
  }
  metadata = {
    name: value for name, value in job.metadata.items() if name != "checksums"
  }
  policy = CheckpointConfig(every_steps=job.new_step)
  with checkpoint.Checkpoints(partial, policy, job.new_step) as saves:
    saves.save(job.new_step, saved, metadata)


# -- The proof


def _check_erased(job, table):
  """Refuse a checkpoint in which erased sources are not erased."""
  found = repair_step.num_nonzero(table, job.place(job.who.is_erased))
  if found:
    raise errors.UserError(
      f"{job.run_dir}: {found} rows of sources that its ledger calls erased "
      f"are not zero in step {job.step}; give the run that `nulls erase` wrote"
    )


def _check_written(job, partial) -> int:
  """Compare what was written with the source; return the rows that moved."""
  before = checkpoint.load_params(job.run_dir, job.step, job.abstract)
  after = checkpoint.load_params(partial, job.new_step, job.abstract)
  changed, num_moved, num_stray = repair_step.compare(
    before, after, job.place(job.who.movable)
  )
  table, _ = table_lib.detach(after)
  num_back = repair_step.num_nonzero(table, job.place(job.who.is_erased))
  if changed or num_stray or num_back:
    raise errors.MachineError(
      f"{job.run_dir}: repair wrote something else than it should: frozen "
      f"arrays that changed: {errors.listing(changed) or 'none'}, frozen rows "
      f"{num_stray}, erased rows that are not zero {num_back}; nothing was "
      "kept; check memory and disk, and repeat"
    )
  return num_moved


def _item(run_dir: pathlib.Path, step: int) -> pathlib.Path:
  return run_dir / plan.CHECKPOINTS / str(step) / plan.ITEM
