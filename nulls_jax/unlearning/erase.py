"""Physical erasure: a new run directory in which named sources' rows are zero.

Owns the output directory, the record of what was done, and the order of the
work. Runs offline on one CPU host, whatever machine wrote the checkpoint,
chunk by chunk in bounded memory, and imports neither JAX nor the model.

Invariant: the output directory appears under its name only when it is whole
and has been read back: every named row zero in the parameters and in every
optimiser moment, every other stored byte equal to the source's.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import pathlib
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator

from nulls_jax import errors, version
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning import arrays as arrays_lib
from nulls_jax.unlearning import plan, rewrite, storage

RECORD_FORMAT = 1
RECORD_FILE = "erasure.json"

# Of every array before and after, by name.
Digests = dict[str, tuple[arrays_lib.Digest, arrays_lib.Digest]]

# Refusals of the file system that another path or permission mends.
_USER_ERRNOS = frozenset(
  {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
  }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErasureSummary:
  """What an erasure did.

  Attributes:
    out_dir: the new run directory.
    step: the checkpoint that was read, and written there.
    source_ids: 64-bit ids of the erased sources, in the order they were named.
    rows_zeroed: rows that are zero now, `[layers][strata]`, in each array.
    arrays_edited: names of the parameters and moments that were edited.
    num_arrays_untouched: arrays that are byte for byte the source's.
    num_chunks_rewritten: stored values that were decoded and encoded anew.
    num_values: stored values in all.
    seconds: wall time.
  """

  out_dir: pathlib.Path
  step: int
  source_ids: tuple[int, ...]
  rows_zeroed: tuple[tuple[int, ...], ...]
  arrays_edited: tuple[str, ...]
  num_arrays_untouched: int
  num_chunks_rewritten: int
  num_values: int
  seconds: float


def erase(
  run_dir: str | os.PathLike,
  out_dir: str | os.PathLike,
  keys: Iterable[str],
  *,
  step: int | None = None,
  progress: rewrite.Progress | None = None,
) -> ErasureSummary:
  """Write a run directory without the named sources' sinks.

  One checkpoint of the run goes to `out_dir` with the config, the tokenizer,
  the ledger (the sources erased there too) and `erasure.json`. The source
  run is only read.

  Args:
    run_dir: a run directory, or the output of an earlier erasure.
    out_dir: does not exist yet; its parents are made.
    keys: source keys; none may be unknown or already erased.
    step: the checkpoint to take, the newest by default.
    progress: called with "copy" or "check", stored values done, and all.

  Raises:
    UserError: the input is wrong or the checkpoint holds something that is
      not accounted for; nothing is written.
    MachineError: the disk is full or gives back other bytes than were
      written; nothing is left behind.
  """
  start = time.monotonic()
  run_dir, out_dir = pathlib.Path(run_dir), pathlib.Path(out_dir).absolute()
  keys = list(dict.fromkeys(keys))
  progress = progress or (lambda stage, done, total: None)
  with _file_errors(out_dir):
    step_dir = plan.find_step(run_dir, step)
    _check_output(run_dir, out_dir)
    config, sources, database, edit = _prepare(run_dir, step_dir, keys)
    with _whole_or_absent(out_dir, database.directory) as partial:
      target = partial / plan.CHECKPOINTS / step_dir.name
      item = target / plan.ITEM
      item.mkdir(parents=True)
      num_rewritten = rewrite.write(edit, database, item, progress)
      digests = rewrite.check(edit, database, item, progress)
      _copy_files(database.directory, item, plan.ITEM_FILES)
      _copy_files(step_dir, target, plan.STEP_FILES - {plan.STEP_FILE})
      _copy_step_file(step_dir, target, digests)
      _erase_in_ledger(run_dir, partial, keys)
      _write_json(
        partial / RECORD_FILE,
        _record(config, sources, int(step_dir.name), edit, digests),
      )
      # The config comes last: without it no program takes this for a run.
      _copy_files(run_dir, partial, (plan.TOKENIZER_FILE, plan.CONFIG_FILE))
  return ErasureSummary(
    out_dir=out_dir,
    step=int(step_dir.name),
    source_ids=tuple(source.id for source in sources),
    rows_zeroed=edit.rows.counts(),
    arrays_edited=tuple(table.name for table in edit.tables),
    num_arrays_untouched=len(edit.arrays) - len(edit.tables),
    num_chunks_rewritten=num_rewritten,
    num_values=edit.num_values,
    seconds=time.monotonic() - start,
  )


def _prepare(
  run_dir: pathlib.Path, step_dir: pathlib.Path, keys: list[str]
) -> tuple[
  assignment.SinkConfig,
  list[ledger_lib.Source],
  storage.Database,
  rewrite.Edit,
]:
  """Read all that can refuse the erasure, before anything is written."""
  if not keys:
    raise errors.UserError("no source keys given; name at least one source")
  config = plan.read_assignment(step_dir / plan.STEP_FILE)
  with ledger_lib.Ledger.open(run_dir / plan.LEDGER_FILE) as ledger:
    sources = ledger.find(keys)
  plan.check_files(step_dir)
  database = storage.Database.open(step_dir / plan.ITEM)
  arrays = arrays_lib.read_arrays(database)
  tables = plan.sink_tables(database.directory, arrays, config)
  rows = plan.rows_to_zero(config, sources, tables[0].shape[0], run_dir)
  edit = rewrite.Edit(arrays=arrays, tables=tables, rows=rows)
  return config, sources, database, edit


def _check_output(run_dir: pathlib.Path, out_dir: pathlib.Path) -> None:
  if os.path.lexists(out_dir):
    raise errors.UserError(
      f"{out_dir} exists; an erasure is written into a new directory only: "
      "give another one, or remove it"
    )
  if out_dir.resolve().is_relative_to(run_dir.resolve()):
    raise errors.UserError(
      f"{out_dir} lies inside the run {run_dir}, which still holds the "
      "sources; give a directory outside of it"
    )


# -- The directory around them


@contextlib.contextmanager
def _file_errors(out_dir: pathlib.Path) -> Iterator[None]:
  """Turn failures of the file system into one clear line."""
  try:
    yield
  except OSError as error:
    where = error.filename or out_dir
    if error.errno in _USER_ERRNOS:
      raise errors.UserError(
        f"{where}: {error.strerror}; mend the path or its permissions"
      ) from error
    raise errors.MachineError(
      f"{where}: {error.strerror or error}; {out_dir} was not written"
    ) from error


@contextlib.contextmanager
def _whole_or_absent(
  out_dir: pathlib.Path, item: pathlib.Path
) -> Iterator[pathlib.Path]:
  """Give a temporary sibling that becomes `out_dir` when all went well."""
  partial = out_dir.parent / f".{out_dir.name}.partial-{os.getpid()}"
  try:
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    if partial.exists():  # Of a killed process that had our number.
      shutil.rmtree(partial)
    partial.mkdir()
    _check_space(partial, item)
    yield partial
    for directory, _, _ in os.walk(partial):
      _sync(directory)
    # A directory cannot replace one that holds something.
    os.rename(partial, out_dir)
    _sync(out_dir.parent)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _check_space(directory: pathlib.Path, item: pathlib.Path) -> None:
  needed = sum(
    path.stat().st_size for path in item.rglob("*") if path.is_file()
  )
  free = shutil.disk_usage(directory).free
  if free < needed:
    raise errors.MachineError(
      f"{directory.parent} has {free / 1e9:.3g} GB free, the checkpoint needs "
      f"{needed / 1e9:.3g} GB; free space or write elsewhere"
    )


def _sync(path: str | os.PathLike) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _copy_files(
  source: pathlib.Path, target: pathlib.Path, names: Iterable[str]
) -> None:
  """Copy these files and directories of files, where they exist."""
  for name in names:
    if (source / name).is_dir():
      (target / name).mkdir()
      inner = sorted(path.name for path in (source / name).iterdir())
      _copy_files(source / name, target / name, inner)
    elif (source / name).exists():
      shutil.copyfile(source / name, target / name)
      _sync(target / name)


def _copy_step_file(
  source: pathlib.Path, target: pathlib.Path, digests: Digests
) -> None:
  """Copy a step's metadata, with the checksums of what was edited.

  Raises:
    UserError: the source's arrays are not what their checksums say.
  """
  content = json.loads((source / plan.STEP_FILE).read_text("utf-8"))
  checksums = content["custom_metadata"].get("checksums")
  if checksums is None:
    _copy_files(source, target, (plan.STEP_FILE,))
    return
  wrong = [
    name
    for name, (before, _) in digests.items()
    if checksums.get(name) != before.checksum
  ]
  if wrong:
    raise errors.UserError(
      f"{source} is damaged: {errors.listing(wrong)}: other values than were "
      "saved; use another step or a backup of the checkpoint"
    )
  for name, (_, after) in digests.items():
    checksums[name] = after.checksum
  _write_json(target / plan.STEP_FILE, content)


def _erase_in_ledger(
  run_dir: pathlib.Path, partial: pathlib.Path, keys: list[str]
) -> None:
  """Copy the ledger, free pages left behind, and erase the sources in it."""
  source, target = (path / plan.LEDGER_FILE for path in (run_dir, partial))
  connection = sqlite3.connect(
    f"{source.absolute().as_uri()}?mode=ro", uri=True
  )
  try:
    connection.execute("VACUUM INTO ?", (str(target),))
  except sqlite3.OperationalError as error:
    raise errors.MachineError(
      f"copying {source} to {target} failed: {error}; check the disk"
    ) from error
  except sqlite3.DatabaseError as error:
    raise errors.UserError(
      f"{source} is damaged: {error}; use a backup of it"
    ) from error
  finally:
    connection.close()
  with ledger_lib.Ledger.open(target, read_only=False) as ledger:
    ledger.erase(keys)
  _sync(target)


def _record(
  config: assignment.SinkConfig,
  sources: list[ledger_lib.Source],
  step: int,
  edit: rewrite.Edit,
  digests: Digests,
) -> dict:
  """Return the machine-readable record of what was done."""
  edited = {table.name for table in edit.tables}
  now = datetime.datetime.now(datetime.UTC)
  return {
    "format": RECORD_FORMAT,
    "tool": {"name": "nulls_jax", "version": version.__version__},
    "time": now.isoformat(timespec="seconds"),
    "step": step,
    "assignment": {**dataclasses.asdict(config), "version": assignment.VERSION},
    "source_ids": [f"{source.id:016x}" for source in sources],
    "source_indices": [source.index for source in sources],
    "rows_zeroed": edit.rows.counts(),
    "arrays_edited": sorted(edited),
    "num_arrays_untouched": sum(
      before.hexdigest() == after.hexdigest()
      for name, (before, after) in digests.items()
      if name not in edited
    ),
    # `arrays.Digest` says what is hashed.
    "arrays": {
      array.name: {
        "shape": array.shape,
        "data_type": array.data_type,
        "sha256_before": digests[array.name][0].hexdigest(),
        "sha256_after": digests[array.name][1].hexdigest(),
      }
      for array in edit.arrays
    },
  }


def _write_json(path: pathlib.Path, content: dict) -> None:
  with path.open("w", encoding="utf-8") as file:
    json.dump(content, file, indent=2)
    file.write("\n")
    file.flush()
    os.fsync(file.fileno())
