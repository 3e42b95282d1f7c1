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
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import splits as splits_lib
from nulls_jax.data.preparation import assembly, dataset
from nulls_jax.data.preparation import job as job_lib
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.preparation import workers as workers_lib
from nulls_jax.data.reading import inputs as inputs_lib


def prepare(
  documents: str | os.PathLike | Sequence[str | os.PathLike],
  out_directory: str | os.PathLike,
  config: data_config.DataConfig,
  *,
  reading: inputs_lib.Settings | None = None,
  tokenizer_path: str | os.PathLike | None = None,
  extends: str | os.PathLike | None = None,
  exclude: Collection[str] = frozenset(),
  on_error: str = "stop",
  splits: splits_lib.Splits | None = None,
  workers: int = 1,
  progress: assembly.Progress | None = None,
) -> dict[str, Any]:
  """Prepare documents for training; return the manifest.

  The same call again finds the dataset and returns at once, or goes on where
  it was interrupted. The result does not depend on `workers`.

  Args:
    documents: one or several inputs, see `reading.inputs`.
    out_directory: the dataset's place; must not exist, be empty, or hold a
      dataset of the very same inputs.
    config: how documents become rows.
    reading: how the inputs are read, and what their sources are.
    tokenizer_path: use this tokenizer instead of training one.
    extends: a run that is to learn more: take its tokenizer, and begin the
      ledger with its sources, see `extension`. Documents of sources that
      were erased from it are refused and counted. Documents and tokens of
      its other sources are added to what its ledger says.
    exclude: keys of sources to leave out, also from tokenizer training.
    on_error: "stop" at the first bad record, or "refuse" it: count it in the
      manifest and go on.
    splits: what is held out, also of the tokenizer's training.
    workers: processes that work at a time; one is this process itself.
    progress: called with the stage, what of it is done, and all of it.

  Raises:
    errors.UserError: bad input, no document left, an excluded key that no
      document has, another process at the same place, or an output directory
      that is in the way or cannot be written.
    errors.MachineError: the disk is full, or a worker was killed; what is
      done stays for the next call.
  """
  job = job_lib.Job(
    documents,
    config,
    reading=reading,
    tokenizer_path=tokenizer_path,
    extends=extends,
    exclude=exclude,
    on_error=on_error,
    splits=splits,
  )
  out_directory = pathlib.Path(os.path.abspath(out_directory))
  work = partial_work(out_directory)
  if dataset.has_dataset(out_directory):
    found = dataset.find_reusable(out_directory, job.plan().digest)
    _delete_leftover(work)
    return found
  progress = progress or silent
  with at_work(work), workers_lib.Workers(workers) as pool:
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
      config=config,
      base=job.base,
      exclude=job.exclude,
      inputs=plan.digest,
      shares=plan.identity.get("held_out"),
      model_bytes=model_bytes,
      training=training,
      progress=progress,
    ).put_together(pool)
    assembly.publish(work, out_directory)
  return manifest


def train_tokenizer(
  documents: str | os.PathLike | Sequence[str | os.PathLike],
  out_path: str | os.PathLike,
  config: data_config.DataConfig,
  *,
  reading: inputs_lib.Settings | None = None,
  exclude: Collection[str] = frozenset(),
  on_error: str = "stop",
  splits: splits_lib.Splits | None = None,
  workers: int = 1,
  progress: assembly.Progress | None = None,
) -> dict[str, Any]:
  """Train the tokenizer that `prepare` would; what shards need beforehand.

  The arguments are `prepare`'s, but for the path of the model.

  Returns:
    How it was trained.

  Raises:
    errors.UserError: as `prepare`, or the path exists.
    errors.MachineError: as `prepare`.
  """
  job = job_lib.Job(
    documents,
    config,
    reading=reading,
    tokenizer_path=None,
    extends=None,
    exclude=exclude,
    on_error=on_error,
    splits=splits,
  )
  out_path = pathlib.Path(os.path.abspath(out_path))
  if out_path.exists():
    raise errors.UserError(
      f"{out_path} exists; a tokenizer is never overwritten: choose another "
      "--out"
    )
  work = partial_work(out_path)
  with at_work(work), workers_lib.Workers(workers) as pool:
    plan = job.start(work, wanted="tokenizer")
    model_bytes, training = job_lib.trained_tokenizer(
      work, plan, pool, progress or silent
    )
    work_lib.write(out_path, lambda file: file.write(model_bytes))
    work.delete()
  return training


def partial_work(out: pathlib.Path) -> work_lib.Work:
  """Return the place of what is not finished yet."""
  return work_lib.Work(out.with_name(f"{out.name}.partial"))


def silent(stage: str, done: int, total: int) -> None:
  """Tell nobody."""
  del stage, done, total


def _delete_leftover(work: work_lib.Work) -> None:
  """Delete the work of a dataset that got its name just before a kill."""
  if work.directory.exists():
    with contextlib.suppress(errors.UserError), work.locked():
      work.delete()


@contextlib.contextmanager
def at_work(work: work_lib.Work) -> Iterator[None]:
  """Hold the lock; delete the work when the input is wrong.

  Nothing of it can be used when the input is mended. After any other failure
  it stays.
  """
  with files.disk_errors(work.directory), work.locked():
    try:
      yield
    except job_lib.UnfinishedError:
      raise
    except errors.UserError:
      work.delete()
      raise
