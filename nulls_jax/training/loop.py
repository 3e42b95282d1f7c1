"""A run from its first step to its last: set-up, resume, steps, saves.

Invariant: a run that was killed anywhere and started again ends with the
same parameters, bit for bit, as one that was not (same devices): the state
comes from the newest whole checkpoint, and the data order is a function of
the step.
"""

import dataclasses
import json
import math
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors, files
from nulls_jax.data import ledger, pipeline, prepare, routing, tokenizer
from nulls_jax.training import (
  checkpoint,
  growth,
  metrics,
  partitioning,
  state,
)
from nulls_jax.training import step as train_step
from nulls_jax.unlearning.revocation import revocation

# What a run that was killed while it was being created may have left.
_OPENING_FILES = (
  "tokenizer.model",
  "ledger.sqlite",
  growth.FILE,
  "config.json",
)


def resolve(
  config: run_config.RunConfig, prepared: prepare.Prepared
) -> run_config.RunConfig:
  """Fill in what the dataset decides; raises `UserError` if they disagree.

  Sets `model.vocab_size`, `sinks.num_sources` and `num_shares` (dedicated
  tables), and `training.num_steps`.
  """
  counts = prepared.manifest["counts"]
  vocab_size = prepared.manifest["vocab_size"]
  layout = ("row_length", "tile")
  wrong = [
    f"data.{name} is {getattr(config.data, name)} in the config and "
    f"{getattr(prepared.config, name)} in the dataset"
    for name in layout
    if getattr(config.data, name) != getattr(prepared.config, name)
  ]
  if config.model.vocab_size not in (0, vocab_size):
    wrong.append(
      f"model.vocab_size is {config.model.vocab_size} in the config and "
      f"{vocab_size} in the dataset"
    )
  if wrong:
    raise errors.UserError(
      f"{prepared.directory}: {errors.listing(wrong)}; prepare the documents "
      "with this config, or change the config"
    )
  training = config.training
  num_steps = training.num_steps or math.ceil(
    training.epochs * counts["rows"] / training.batch_size
  )
  resolved = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, vocab_size=vocab_size),
    sinks=_resolve_sinks(config, prepared),
    data=prepared.config,
    training=dataclasses.replace(training, num_steps=num_steps),
  )
  run_config.validate(resolved)
  return resolved


def _resolve_sinks(config, prepared):
  """Lay a dedicated table out for the dataset's sources."""
  sinks = config.sinks
  asked, given = config.data.class_tokens, prepared.config.class_tokens
  has_sizes = sinks.kind != "none" and sinks.size_classes > 1
  if has_sizes and (not given or asked not in (0, given)):
    raise errors.UserError(
      f"sinks.size_classes={sinks.size_classes} with data.class_tokens="
      f"{asked}, but {prepared.directory} was prepared with class_tokens="
      f"{given}; prepare the documents with the class_tokens that you want, "
      "or set size_classes 1"
    )
  try:
    with ledger.Ledger.open(prepared.ledger_path) as book:
      return routing.lay_out(sinks, book)
  except routing.NoRoomError as error:
    raise errors.UserError(
      f"{error}; leave sinks.num_sources and num_shares 0, or make room in a "
      "trained run's table with `nulls train --grow-from OLD_RUN`"
    ) from error


def train(
  config: run_config.RunConfig,
  data_dir: str | os.PathLike,
  run_dir: str | os.PathLike,
  grow_from: str | os.PathLike | None = None,
  grow_step: int | None = None,
) -> dict[str, Any]:
  """Train a run to its end, taking it up where it stands.

  Args:
    config: the settings; what the dataset decides may be 0.
    data_dir: a prepared dataset.
    run_dir: where the run is or will be.
    grow_from: an old run that a new one starts from, see `growth`.
    grow_step: its step; the newest where it is None.

  Returns:
    `{"step", "resumed_from"}`: the last step, and the step this process
    started from (0 for a new run).

  Raises:
    errors.UserError: settings, dataset and run do not fit together.
    errors.MachineError: a write failed, or a loss is not finite; the last
      good checkpoint is kept.
  """
  run_dir = pathlib.Path(run_dir)
  prepared = prepare.Prepared.open(data_dir)
  origin = growth.find(run_dir, grow_from, grow_step, config, prepared)
  config = resolve(growth.lay_out(origin, config, prepared), prepared)
  mesh = partitioning.make_mesh(config.mesh)
  partitioning.check_batch(
    config.training.batch_size, config.training.accumulation, mesh
  )
  fingerprint = tokenizer.Tokenizer.load(prepared.tokenizer_path).fingerprint
  with ledger.Ledger.open(prepared.ledger_path) as sources:
    # Without sinks their documents would teach the backbone.
    _check_erased(sources.path, sources.erased(), origin)
  if jax.process_index() == 0:
    _open_run(run_dir, config, prepared, fingerprint, origin)
  num_steps = config.training.num_steps
  with (
    checkpoint.Checkpoints(run_dir, config.checkpoint, num_steps) as saves,
    partitioning.context(mesh),
  ):
    first_step = saves.latest_step or 0
    if first_step == num_steps:
      return {"step": num_steps, "resumed_from": num_steps}
    if first_step:
      current = saves.restore(first_step, state.abstract(config, mesh))
    elif origin is not None:
      current = growth.create(origin, config, mesh)
    else:
      current = state.create(config, mesh)
    _run_steps(
      config, mesh, prepared, current, first_step, saves, fingerprint, run_dir
    )
  return {"step": num_steps, "resumed_from": first_step}


def _run_steps(
  config, mesh, prepared, current, first_step, saves, fingerprint, run_dir
):
  training = config.training
  update = train_step.make(config, mesh)
  # The dataset's ledger has the ids of the run's, see `_check_run`.
  with ledger.Ledger.open(prepared.ledger_path) as sources:
    routing_table = sources.routing_table(config.sinks)
    custom_metadata = checkpoint.metadata(
      config, fingerprint, sources.fingerprint()
    )
  batches = pipeline.batches(
    prepared,
    routing_table,
    batch_size=training.batch_size,
    seed=training.seed,
    off_share=0.0 if config.sinks.kind == "none" else training.off_share,
    start_step=first_step,
    num_steps=training.num_steps - first_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  with metrics.Writer(run_dir, config, first_step) as writer:
    pending: list[tuple[int, dict]] = []
    for number, batch in enumerate(batches, start=first_step + 1):
      current, values = update(current, partitioning.to_devices(mesh, batch))
      # Figures are fetched a step late, so that the host never waits for the
      # step that it has just started.
      if (number - 1) % training.log_every == 0:
        _log(writer, pending, run_dir)
        pending = []
      pending.append((number, values))
      if _saves_at(config, number):
        _log(writer, pending, run_dir)
        pending = []
        _check_finite(number, current["params"], run_dir)
        saves.save(number, current, custom_metadata)
    _log(writer, pending, run_dir)


def _saves_at(config, number: int) -> bool:
  return (
    number % config.checkpoint.every_steps == 0
    or number == config.training.num_steps
  )


def _log(writer, pending, run_dir):
  """Write the mean over the pending steps, weighted by their targets."""
  if not pending:
    return
  rows = [
    (number, {name: float(value) for name, value in values.items()})
    for number, values in jax.device_get(pending)
  ]
  for number, values in rows:
    loss, grad_norm = values["loss"], values["grad_norm"]
    if not math.isfinite(loss + grad_norm):
      what = f"loss {loss:.4g} and gradient norm {grad_norm:.4g}"
      raise _not_finite(number, what, run_dir)
  means = {
    name: _mean(values[name] for _, values in rows)
    for name in ("loss", "loss_on", "loss_off", "grad_norm")
  }
  tokens = sum(values["tokens"] for _, values in rows)
  writer.write(rows[-1][0], means, tokens)


def _mean(values) -> float:
  values = [value for value in values if not math.isnan(value)]
  return sum(values) / len(values) if values else math.nan


def _check_finite(number, params, run_dir):
  finite = jax.jit(
    lambda tree: jnp.all(
      jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])
    )
  )(params)
  if not bool(finite):
    raise _not_finite(number, "parameters that are not finite", run_dir)


def _not_finite(number, what, run_dir):
  return errors.MachineError(
    f"{run_dir}: step {number} gave {what}; nothing of it was saved, earlier "
    "checkpoints are kept; start another --run with a lower "
    "optimizer.learning_rate"
  )


def _open_run(run_dir, config, prepared, fingerprint, origin):
  """Create the run directory, or check that it is this config's."""
  with files.disk_errors(run_dir):
    path = run_dir / "config.json"
    if path.exists():
      _check_run(run_dir, config, prepared, fingerprint, origin)
    elif run_dir.exists() and (
      not run_dir.is_dir()
      or {entry.name.removesuffix(".partial") for entry in run_dir.iterdir()}
      - set(_OPENING_FILES)
    ):
      raise errors.UserError(
        f"{run_dir}: not empty and not a run; give another --run"
      )
    run_dir.mkdir(parents=True, exist_ok=True)
    for source, name in (
      (prepared.tokenizer_path, "tokenizer.model"),
      (prepared.ledger_path, "ledger.sqlite"),
    ):
      if not (run_dir / name).exists():
        shutil.copyfile(source, run_dir / f"{name}.partial")
        os.replace(run_dir / f"{name}.partial", run_dir / name)
    if origin is not None:
      growth.write(run_dir, origin, config)
    partial = run_dir / "config.json.partial"
    partial.write_text(json.dumps(run_config.to_dict(config), indent=2) + "\n")
    os.replace(partial, path)


def _check_run(run_dir, config, prepared, fingerprint, origin):
  """Refuse to take up a run with another config, tokenizer or ledger."""
  path = run_dir / "ledger.sqlite"
  with ledger.Ledger.open(path) as before:
    _check_erased(path, before.erased(), origin)
  changed = run_config.differences(
    run_config.read(run_dir / "config.json"), config
  )
  if changed:
    raise errors.UserError(
      f"{run_dir}: this run was started with another config: "
      f"{errors.listing(changed)}; give another --run, or that config"
    )
  model = run_dir / "tokenizer.model"
  if tokenizer.Tokenizer.load(model).fingerprint != fingerprint:
    raise errors.UserError(
      f"{run_dir}: its tokenizer is not that of {prepared.directory}; give "
      "the dataset that the run was started with, or another --run"
    )
  with (
    ledger.Ledger.open(path) as before,
    ledger.Ledger.open(prepared.ledger_path) as now,
  ):
    if not np.array_equal(before.ids(), now.ids()):
      raise errors.UserError(
        f"{run_dir}: its {before.num_sources} sources are not the "
        f"{now.num_sources} of {prepared.directory}; give the dataset that "
        "the run was started with, or another --run"
      )
  revocations = revocation.read(run_dir)
  if revocations.suspended:
    raise errors.UserError(
      f"{run_dir}: {len(revocations.suspended)} sources are suspended in this "
      f"run (revocation list version {revocations.version}), and training "
      "would teach it them again; restore them with `nulls restore`, or "
      "prepare the documents with --exclude and give another --run"
    )


def _check_erased(ledger_path, erased, origin):
  """Refuse to teach sources again that were erased.

  Those that a run was grown without have no documents: `prepare --extend`
  refuses them.
  """
  if len(erased) > (origin.num_erased if origin else 0):
    raise errors.UserError(
      f"{ledger_path.parent}: {len(erased)} sources were erased here, and "
      "training would teach them again; prepare the documents with --exclude "
      "and give another --run (`nulls repair` mends what an erasure cost)"
    )
