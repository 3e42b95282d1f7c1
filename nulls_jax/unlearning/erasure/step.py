"""One checkpoint step: what an erasure reads of it, and the step it writes.

Owns the files of a step as a whole: the arrays through `rewrite`, and the
metadata beside them (checksums, mentions of keys, and, without the
optimiser, the item's tree). Knows sources only as rows and keys.

Invariant: everything that can refuse an erasure is read by `prepare`, before
anything is written.
"""

import base64
import dataclasses
import json
import pathlib
from collections.abc import Iterable

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib
from nulls_jax.unlearning.checkpoint import moments, plan, storage
from nulls_jax.unlearning.erasure import mentions as mentions_lib
from nulls_jax.unlearning.erasure import output, rewrite
from nulls_jax.unlearning.receipts import receipt

# Of a step's own words, those that hold no text: names and digests.
_NO_TEXT = frozenset(
  {
    "format",
    "assignment",
    "tokenizer_fingerprint",
    "ledger_fingerprint",
    "checksums",
  }
)
_COMMIT_FILE = "commit_success.txt"
_SHARDING_FILE = "_sharding"
_ARRAY_METADATAS = "array_metadatas"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """The erasure of one step.

  Attributes:
    directory: the step that is read.
    config: its assignment.
    database: its arrays, stored.
    edit: what to do to them.
    named: rows of the named sources, `[layers][strata]`; `edit` has those of
      sources that were erased before too.
  """

  directory: pathlib.Path
  config: assignment.SinkConfig
  database: storage.Database
  edit: rewrite.Edit
  named: tuple[tuple[int, ...], ...]

  @property
  def number(self) -> int:
    return int(self.directory.name)


def prepare(
  step_dir: pathlib.Path,
  run_dir: pathlib.Path,
  named: list[ledger_lib.Source],
  erased: Iterable[ledger_lib.Source],
  drop_optimizer: bool,
) -> Job:
  """Read a step and account for all that is in it.

  Args:
    step_dir: the step.
    run_dir: its run, for the errors.
    named: the sources to erase.
    erased: the sources that were erased before, which stay so.
    drop_optimizer: leave all but the parameters and the step's number out.

  Raises:
    UserError: the step is damaged, or something in it may hold sinks and is
      not known.
  """
  config = plan.read_assignment(step_dir / plan.STEP_FILE)
  plan.check_files(step_dir)
  database = storage.Database.open(step_dir / plan.ITEM)
  kept, dropped = arrays_lib.read_arrays(database), []
  if drop_optimizer:
    dropped = [array for array in kept if not _is_kept(array.path[0])]
    kept = [array for array in kept if _is_kept(array.path[0])]
  sinks = moments.find(database.directory, kept, config)
  num_layers = sinks.tables[0].shape[0]
  everything = {source.index: source for source in (*erased, *named)}
  rows = [
    plan.rows_to_zero(config, sources, num_layers, run_dir)
    for sources in (named, list(everything.values()))
  ]
  return Job(
    directory=step_dir,
    config=config,
    database=database,
    edit=rewrite.Edit(arrays=kept, sinks=sinks, rows=rows[1], dropped=dropped),
    named=rows[0].counts(),
  )


def write(
  job: Job,
  target: pathlib.Path,
  mentions: mentions_lib.Mentions,
  progress: rewrite.Progress,
) -> tuple[receipt.StepRecord, int]:
  """Write the step as a new directory, and read its arrays back.

  Returns:
    What the receipt says of it, and how many values were encoded anew.

  Raises:
    UserError: the source's arrays are damaged.
    MachineError: the disk is full or gives back other bytes than were
      written.
  """
  item = target / plan.ITEM
  item.mkdir(parents=True)
  step_file = output.read_json(job.directory / plan.STEP_FILE)
  written = rewrite.write(job.edit, job.database, item, progress)
  _update_checksums(job.directory, step_file["custom_metadata"], written)
  rewrite.check(job.edit, written, item, progress)
  _write_item_files(job, item)
  _redact(step_file, f"the metadata of step {job.number}", mentions)
  _write_json(target / plan.STEP_FILE, step_file)
  for where, place in ((job.directory, target), (job.database.directory, item)):
    if (where / _COMMIT_FILE).exists():
      text = (where / _COMMIT_FILE).read_text("utf-8", errors="replace")
      output.write_text(place / _COMMIT_FILE, mentions.redact_text(text))
  return _record(job, written), written.num_rewritten


def _record(job: Job, written: rewrite.Written) -> receipt.StepRecord:
  records = []
  for array in (*job.edit.arrays, *job.edit.dropped):
    before, after = written.digests[array.name]
    records.append(
      receipt.ArrayRecord(
        name=array.name,
        shape=array.shape,
        data_type=array.data_type,
        before=before.hexdigest(),
        after=after and after.hexdigest(),
      )
    )
  return receipt.StepRecord(
    step=job.number,
    arrays=tuple(records),
    edited=tuple(array.name for array in job.edit.sinks.edited),
    rows_zeroed=job.named,
  )


def _is_kept(first: str) -> bool:
  return first in moments.WITHOUT_OPTIMIZER


def _write_item_files(job: Job, target: pathlib.Path) -> None:
  """Copy the item's metadata; without the optimiser, of what is kept only."""
  source = job.database.directory
  names = (arrays_lib.TREE_FILE, _SHARDING_FILE, _ARRAY_METADATAS)
  if not job.edit.dropped:
    output.copy_files(source, target, names)
    return
  for name, keep in zip(
    names, (_keep_leaves, _keep_shardings, _keep_metadatas), strict=True
  ):
    path = source / name
    if path.is_dir():
      (target / name).mkdir()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
      if file.exists():
        try:
          content = keep(output.read_json(file))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
          raise errors.UserError(
            f"{file} is damaged ({error}); use another step or a backup of "
            "the checkpoint"
          ) from error
        _write_json(target / file.relative_to(source), content)


def _keep_leaves(content: dict) -> dict:
  leaves = content["tree_metadata"].items()
  kept = {
    name: leaf
    for name, leaf in leaves
    if _is_kept(str(leaf["key_metadata"][0]["key"]))
  }
  return {**content, "tree_metadata": kept}


def _keep_shardings(content: dict) -> dict:
  return {
    name: value
    for name, value in content.items()
    if _is_kept(
      base64.b64decode(name, validate=True).decode().partition(".")[0]
    )
  }


def _keep_metadatas(content: dict) -> dict:
  kept = [
    entry
    for entry in content["array_metadatas"]
    if _is_kept(entry["array_metadata"]["param_name"].partition(".")[0])
  ]
  return {**content, "array_metadatas": kept}


def _update_checksums(
  step_dir: pathlib.Path, custom: dict, written: rewrite.Written
) -> None:
  """Put in the checksums of the copy.

  Raises:
    UserError: the source's arrays are not what their checksums say.
  """
  checksums = custom.get("checksums")
  if checksums is None:
    return
  wrong = [
    name
    for name, (before, _) in written.digests.items()
    if checksums.get(name) != before.checksum
  ]
  if wrong:
    raise errors.UserError(
      f"{step_dir} is damaged: {errors.listing(wrong)}: other values than "
      "were saved; use another step or a backup of the checkpoint"
    )
  custom["checksums"] = {
    name: written.digests[name][1].checksum
    for name in checksums
    if written.digests[name][1] is not None
  }


def _redact(content: dict, place: str, mentions: mentions_lib.Mentions) -> None:
  custom = content["custom_metadata"]
  text = {name: custom[name] for name in custom if name not in _NO_TEXT}
  redacted = mentions.redact(text, place)
  for name in text:
    if name in redacted:
      custom[name] = redacted[name]
    else:
      del custom[name]


def _write_json(path: pathlib.Path, content: dict) -> None:
  # As Orbax writes it, so that what is not changed has the same bytes.
  output.write_text(path, json.dumps(content))
