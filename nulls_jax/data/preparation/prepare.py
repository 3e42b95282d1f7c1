"""Documents to a prepared dataset: rows, ledger, tokenizer, manifest.

Owns the order of the stages and what becomes of the work when one fails.
Memory grows with the block, not with the text, and with the sources only by
some words each.

Invariant: a dataset has its name when it is complete. Until then its work is
in `OUT.partial`, and the same call goes on with it.
"""

import contextlib
import os
import pathlib
from typing import Any

from nulls_jax import errors
from nulls_jax.data.preparation import assembly, dataset
from nulls_jax.data.preparation import job as job_lib
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.preparation import workers as workers_lib


def prepare(
  job: job_lib.Job,
  out_directory: str | os.PathLike,
  *,
  workers: int = 1,
  progress: assembly.Progress | None = None,
) -> dict[str, Any]:
  """Prepare documents for training; return the manifest.

  The same call again finds the dataset and returns at once, or goes on where
  it was interrupted. The result does not depend on `workers`.

  Args:
    job: the documents, and what becomes of them.
    out_directory: the dataset's place; must not exist, be empty, or hold a
      dataset of the very same inputs.
    workers: processes that work at a time; one is this process itself.
    progress: called with the stage, what of it is done, and all of it.

  Raises:
    errors.UserError: bad input, no document left, an excluded key that no
      document has, another process at the same place, or an output directory
      that is in the way or cannot be written.
    errors.MachineError: the disk is full, or a worker was killed; what is
      done stays for the next call.
  """
  out_directory = pathlib.Path(os.path.abspath(out_directory))
  work = work_lib.Work.beside(out_directory)
  if dataset.has_dataset(out_directory):
    found = dataset.find_reusable(out_directory, job.plan().digest)
    _delete_leftover(work)
    return found
  progress = progress or silent
  with work.at_work(), workers_lib.Workers(workers) as pool:
    plan = job.start(work, wanted="dataset")
    if job.tokenizer is None:
      model_bytes, training = job_lib.trained_tokenizer(
        work, plan, pool, progress
      )
    else:
      model_bytes, training = job.tokenizer.model_bytes, None
    numbers = range(len(plan.blocks))
    job_lib.pack(work, plan, model_bytes, numbers, pool, progress)
    job.check_unchanged(work)
    manifest = assembly.Blocks(
      places=dict.fromkeys(numbers, work.directory),
      work=work,
      config=job.config,
      base=job.base,
      exclude=job.exclude,
      inputs=plan.digest,
      shares=plan.identity.get("held_out"),
      model_bytes=model_bytes,
      training=training,
      progress=progress,
    ).put_together(pool)
    work.publish(out_directory)
  return manifest


def train_tokenizer(
  job: job_lib.Job,
  out_path: str | os.PathLike,
  *,
  workers: int = 1,
  progress: assembly.Progress | None = None,
) -> dict[str, Any]:
  """Train the tokenizer that `prepare` would; what shards need beforehand.

  Args:
    job: as for `prepare`, without a tokenizer.
    out_path: the model's place; must not exist.
    workers: see `prepare`.
    progress: see `prepare`.

  Returns:
    How it was trained.

  Raises:
    errors.UserError: as `prepare`, or the path exists.
    errors.MachineError: as `prepare`.
    ValueError: the job has a tokenizer.
  """
  if job.tokenizer is not None:
    raise ValueError("the job has a tokenizer; give none, nor a run to extend")
  out_path = pathlib.Path(os.path.abspath(out_path))
  if out_path.exists():
    raise errors.UserError(
      f"{out_path} exists; a tokenizer is never overwritten: choose another "
      "--out"
    )
  work = work_lib.Work.beside(out_path)
  with work.at_work(), workers_lib.Workers(workers) as pool:
    plan = job.start(work, wanted="tokenizer")
    model_bytes, training = job_lib.trained_tokenizer(
      work, plan, pool, progress or silent
    )
    work_lib.write(out_path, lambda file: file.write(model_bytes))
    work.delete()
  return training


def silent(stage: str, done: int, total: int) -> None:
  """Tell nobody."""
  del stage, done, total


def _delete_leftover(work: work_lib.Work) -> None:
  """Delete the work of a dataset that got its name just before a kill."""
  if work.directory.exists():
    with contextlib.suppress(errors.UserError), work.locked():
      work.delete()
