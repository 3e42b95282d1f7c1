"""What a repair works on, and the refusal of all that does not fit together.

Owns the checks before anything is read of the arrays, and the settings that a
repair puts in the place of the run's. Writes nothing.

Invariant: a `Job` exists only for a hashed run of which something was erased,
with its own tokenizer and ledger and a dataset of that tokenizer.
"""

import dataclasses
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data import ledger, mixture, tokenizer
from nulls_jax.data.preparation import dataset
from nulls_jax.training import (
  checkpoint,
  partitioning,
  repair_step,
  state,
  survivors,
)
from nulls_jax.training.config import RepairConfig
from nulls_jax.unlearning.checkpoint import plan

# Share of the updates with a rising rate, and the peak rate over the run's.
_WARMUP = 0.05
_RATE_OF_RUN = 1 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """An erased run, a dataset and the devices.

  Attributes:
    run_dir: the erased run.
    step: its checkpoint.
    metadata: the checkpoint's custom metadata.
    config: the run's settings with those of the repair in their place.
    prepared: the dataset.
    who: whose rows are erased, frozen and trained.
    mesh: of the devices.
    abstract: the parameters as `ShapeDtypeStruct`s with shardings.
  """

  run_dir: pathlib.Path
  step: int
  metadata: dict[str, Any]
  config: run_config.RunConfig
  prepared: dataset.Prepared
  who: survivors.Survivors
  mesh: jax.sharding.Mesh
  abstract: Any

  @property
  def new_step(self) -> int:
    return self.step + self.config.training.num_steps

  def place(self, marks: np.ndarray):
    """Put marks of rows where the rows are."""
    return repair_step.place_marks(marks, self.abstract)


def open_job(
  run_dir: pathlib.Path,
  data_dir: str | os.PathLike,
  settings: RepairConfig,
  step: int | None,
) -> Job:
  """Read all that can refuse a repair but the arrays.

  Args:
    run_dir: the erased run.
    data_dir: the prepared dataset.
    settings: of the repair; 0 takes the run's.
    step: the checkpoint, the newest by default.

  Raises:
    errors.UserError: see `repair.repair`.
  """
  if jax.process_count() > 1:
    raise errors.UserError(
      f"repair runs in one process, on all of its devices, not in "
      f"{jax.process_count()}; start it on one host"
    )
  plan.find_step(run_dir, step)
  step = checkpoint.newest(run_dir, step)
  metadata = checkpoint.read_metadata(run_dir, step)
  where = f"{run_dir}/{checkpoint.FOLDER}/{step}"
  config = run_config.from_dict(metadata["config"], where)
  kind = config.sinks.kind
  if kind != "hashed":
    reason = {
      "none": "is a dense model: it has no sinks",
      "dedicated": "has dedicated sinks: no other source lost any",
    }[kind]
    raise errors.UserError(f"{run_dir} {reason}; there is nothing to repair")
  prepared = mixture.open_dataset(data_dir)
  _check_fingerprints(run_dir, where, metadata, prepared)
  who = survivors.find(
    run_dir, config.sinks, config.model.num_layers, prepared.ledger_path
  )
  config = _settle(config, settings, prepared)
  mesh = partitioning.make_mesh(config.mesh)
  training = config.training
  mixture.check_steps(prepared, training.num_steps, training.batch_size)
  partitioning.check_batch(training.batch_size, training.accumulation, mesh)
  return Job(
    run_dir=run_dir,
    step=step,
    metadata=metadata,
    config=config,
    prepared=prepared,
    who=who,
    mesh=mesh,
    abstract=state.abstract(config, mesh)["params"],
  )


def _check_fingerprints(run_dir, where, metadata, prepared):
  """Refuse the tokenizer or the ledger of another run."""
  own = metadata["tokenizer_fingerprint"]
  model = tokenizer.Tokenizer.load(run_dir / plan.TOKENIZER_FILE)
  if model.fingerprint != own:
    raise errors.UserError(
      f"{run_dir}/{plan.TOKENIZER_FILE}: not the tokenizer of {where}; put "
      "the run's own file back"
    )
  found = tokenizer.Tokenizer.load(prepared.tokenizer_path).fingerprint
  if found != own:
    raise errors.UserError(
      f"{prepared.directory} was prepared with another tokenizer (fingerprint "
      f"{found[:12]}, the run has {own[:12]}); prepare the documents with "
      f"--tokenizer {run_dir / plan.TOKENIZER_FILE}"
    )
  with ledger.Ledger.open(run_dir / plan.LEDGER_FILE) as book:
    found = book.fingerprint()
  expected = str(metadata.get("ledger_fingerprint"))
  if found != expected:
    raise errors.UserError(
      f"{run_dir}/{plan.LEDGER_FILE}: not the ledger of {where} (fingerprint "
      f"{found[:12]}, expected {expected[:12]}); put the run's own file back"
    )


def _settle(config, settings, prepared) -> run_config.RunConfig:
  """Put the settings of the repair in the place of the run's."""
  optimizer, training = config.optimizer, config.training
  batch_size = settings.batch_size or training.batch_size
  num_steps = settings.num_steps or math.ceil(
    settings.epochs * prepared.manifest["counts"]["rows"] / batch_size
  )
  of_run = optimizer.learning_rate * optimizer.sink_learning_rate_scale
  decay = settings.weight_decay
  if decay is None:
    decay = optimizer.sink_weight_decay
  return dataclasses.replace(
    config,
    optimizer=dataclasses.replace(
      optimizer,
      learning_rate=settings.learning_rate or _RATE_OF_RUN * of_run,
      warmup_fraction=_WARMUP,
      final_fraction=0.0,
      sink_weight_decay=decay,
    ),
    training=dataclasses.replace(
      training,
      batch_size=batch_size,
      accumulation=settings.accumulation or training.accumulation,
      epochs=settings.epochs,
      num_steps=num_steps,
      off_share=0.0,
    ),
    mesh=settings.mesh,
  )
