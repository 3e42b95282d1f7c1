"""A run from its first step to its last: set-up, resume, steps, saves.

Invariant: a run that was killed anywhere and started again ends with the
same parameters, bit for bit, as one that was not (same devices): the state
comes from the newest whole checkpoint, and the data order is a function of
the step. Several processes that train one run end alike: all of them have
finished it, saved the same step, or been told what failed.
"""

import dataclasses
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from nulls_jax import config as run_config
from nulls_jax import errors, files
from nulls_jax.cluster import member as member_lib
from nulls_jax.data import (
  ledger,
  mixture,
  pipeline,
  routing,
  tokenizer,
)
from nulls_jax.data.preparation import dataset
from nulls_jax.training import (
  checkpoint,
  growth,
  metrics,
  opening,
  partitioning,
  state,
  storage,
)
from nulls_jax.training import step as train_step
from nulls_jax.version import __version__


def resolve(
  config: run_config.RunConfig, prepared: dataset.Prepared
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
  mixture.check_steps(prepared, num_steps, training.batch_size)
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
  member: member_lib.Member = member_lib.ALONE,
) -> dict[str, Any]:
  """Train a run to its end, taking it up where it stands.

  Args:
    config: the settings; what the dataset decides may be 0.
    data_dir: a prepared dataset or a mixture of several.
    run_dir: where the run is or will be, a folder or a URI, see `storage`.
    grow_from: an old run that a new one starts from, see `growth`.
    grow_step: its step; the newest where it is None.
    member: which process of the run this is, and its line to the others.

  Returns:
    `{"step", "resumed_from"}`: the last step, and the step this process
    started from (0 for a new run).

  Raises:
    errors.UserError: settings, dataset and run do not fit together.
    errors.MachineError: a write failed, or a loss is not finite; the last
      good checkpoint is kept.
    errors.StartAgain: told to end; the last step is saved.
  """
  prepared = mixture.open_dataset(data_dir)
  if grow_from is not None and storage.is_remote(run_dir):
    raise errors.UserError(
      f"{run_dir}: a run that grows from another is written to a folder; give "
      "a folder that all hosts share as --run"
    )
  with storage.opened(run_dir) as place:
    if member.rank == 0:
      place.fetch()
    origin = growth.find(place.local, grow_from, grow_step, config, prepared)
    config = resolve(growth.lay_out(origin, config, prepared), prepared)
    first_step = _train(config, prepared, place, origin, member)
  return {"step": config.training.num_steps, "resumed_from": first_step}


def _train(config, prepared, place, origin, member) -> int:
  """Open the run, train it to its end; return the step it was taken up at."""
  mesh = partitioning.make_mesh(config.mesh)
  partitioning.check_batch(
    config.training.batch_size, config.training.accumulation, mesh
  )
  fingerprint = tokenizer.Tokenizer.load(prepared.tokenizer_path).fingerprint
  with ledger.Ledger.open(prepared.ledger_path) as sources:
    # Without sinks their documents would teach the backbone.
    opening.check_erased(sources.path, sources.erased(), origin)
    ledger_fingerprint = sources.fingerprint()
  facts = _facts(config, prepared, fingerprint, ledger_fingerprint, origin)
  member.check_same("settings", facts)
  if member.rank == 0:
    opening.open_run(place.local, config, prepared, fingerprint, origin)
    place.publish()
  member.meet("opened")
  num_steps = config.training.num_steps
  with (
    checkpoint.Checkpoints(
      place.root, config.checkpoint, num_steps, member.fail
    ) as saves,
    member.telling(),
    partitioning.context(mesh),
  ):
    first_step = saves.latest_step or 0
    member.check_same(
      "storage",
      {
        f"{place.root}/config.json": _digest(place.root / "config.json"),
        "newest checkpoint": first_step,
      },
    )
    if first_step == num_steps:
      return first_step
    if first_step:
      current = saves.restore(first_step, state.abstract(config, mesh))
    elif origin is not None:
      current = growth.create(origin, config, mesh)
    else:
      current = state.create(config, mesh)
    metadata = checkpoint.metadata(config, fingerprint, ledger_fingerprint)
    _run_steps(
      config,
      mesh,
      prepared,
      current,
      first_step,
      saves,
      metadata,
      place,
      member,
    )
  return first_step


def _facts(config, prepared, tokenizer_fingerprint, ledger_fingerprint, origin):
  """Return what all processes of a run must have alike."""
  settings = files.json_sha256(run_config.to_dict(config))
  return {
    "nulls_jax": __version__,
    "jax": jax.__version__,
    "the digest of the settings": settings[:16],
    "the dataset's rows": prepared.manifest["counts"]["rows"],
    "the dataset's tokenizer": tokenizer_fingerprint[:16],
    "the dataset's ledger": ledger_fingerprint[:16],
    "the step it is grown from": origin and origin.metadata_sha256[:16],
  }


def _digest(path: pathlib.Path) -> str | None:
  return files.sha256(path)[:16] if path.exists() else None


def _run_steps(
  config,
  mesh,
  prepared,
  current,
  first_step,
  saves,
  custom_metadata,
  place,
  member,
):
  training, run_dir = config.training, place.local
  update = train_step.make(config, mesh)
  # The dataset's ledger has the ids of the run's, see `opening`.
  with ledger.Ledger.open(prepared.ledger_path) as sources:
    routing_table = routing.table(config.sinks, sources)
  part = partitioning.batch_part(mesh, training.batch_size)
  batches = pipeline.batches(
    prepared,
    routing_table,
    batch_size=training.batch_size,
    seed=training.seed,
    off_share=0.0 if config.sinks.kind == "none" else training.off_share,
    start_step=first_step,
    num_steps=training.num_steps - first_step,
    process_index=part[0],
    process_count=part[1],
  )
  if member.notice.reached(first_step):
    raise _told_to_end(run_dir, first_step)
  with metrics.Writer(run_dir, config, first_step) as writer:
    pending: list[tuple[int, dict]] = []
    for number, batch in enumerate(batches, start=first_step + 1):
      batch = partitioning.to_devices(mesh, batch, part)
      if number == first_step + 1 and member.count > 1:
        # On CPUs collectives wait only some seconds for a slow compiler.
        update = update.lower(current, batch).compile()
        member.meet("compiled")
      current, values = update(current, batch)
      # Figures are fetched a step late, so that the host never waits for the
      # step that it has just started.
      if (number - 1) % training.log_every == 0:
        _log(writer, pending, run_dir)
        pending = []
      pending.append((number, values))
      ends = member.notice.reached(number) and number < training.num_steps
      if ends or _saves_at(config, number):
        _log(writer, pending, run_dir)
        pending = []
        _check_finite(number, current["params"], run_dir)
        if member.rank == 0:
          place.publish()
        saves.save(number, current, custom_metadata, force=ends)
      if ends:
        saves.wait()
        raise _told_to_end(run_dir, number)
    _log(writer, pending, run_dir)


def _told_to_end(run_dir, number):
  what = f"step {number} is saved" if number else "nothing is to be saved yet"
  return errors.agreed(
    errors.StartAgain(
      f"{run_dir}: told to end; {what}; start the same command again to go on"
    )
  )


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
  # Of sums over all devices: every process finds it.
  return errors.agreed(
    errors.MachineError(
      f"{run_dir}: step {number} gave {what}; nothing of it was saved, earlier "
      "checkpoints are kept; start another --run with a lower "
      "optimizer.learning_rate"
    )
  )
