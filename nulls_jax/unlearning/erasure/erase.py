"""Physical erasure: a new run directory in which named sources' rows are zero.

Owns the order of the work, from the request to the receipt. Runs offline on
one CPU host, whatever machine wrote the checkpoint, chunk by chunk in bounded
memory, and imports neither JAX nor the model.

Invariant: the output directory appears under its name only when it is whole
and has been read back: every named row zero in the parameters and in every
optimiser moment, every other stored byte equal to the source's.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import time
from collections.abc import Iterable

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.erasure import checklist, ledger_copy, output, rewrite
from nulls_jax.unlearning.erasure import mentions as mentions_lib
from nulls_jax.unlearning.erasure import step as step_lib
from nulls_jax.unlearning.receipts import receipt as receipt_lib
from nulls_jax.unlearning.receipts import signing
from nulls_jax.unlearning.revocation import revocation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErasureSummary:
  """What an erasure did.

  Attributes:
    out_dir: the new run directory.
    receipt: the statement in it.
    steps: the checkpoints that were read, and written there.
    source_ids: 64-bit ids of the named sources, in the order they were named.
    already_erased: those of them that an earlier erasure had erased.
    rows_zeroed: rows of the named sources, `[layers][strata]`, which are zero
      now in each table.
    arrays_edited: names of the parameters and moments that were edited.
    num_arrays_untouched: arrays that are byte for byte the source's, in all
      steps.
    num_arrays_dropped: arrays that the output does not have, in all steps.
    num_chunks_rewritten: stored values that were encoded anew.
    num_values: stored values in all.
    not_reached: what may still hold the sources, a line each.
    seconds: wall time.
  """

  out_dir: pathlib.Path
  receipt: pathlib.Path
  steps: tuple[int, ...]
  source_ids: tuple[int, ...]
  already_erased: tuple[int, ...]
  rows_zeroed: tuple[tuple[int, ...], ...]
  arrays_edited: tuple[str, ...]
  num_arrays_untouched: int
  num_arrays_dropped: int
  num_chunks_rewritten: int
  num_values: int
  not_reached: tuple[str, ...]
  seconds: float

  @property
  def step(self) -> int:
    """The newest checkpoint that was written."""
    return self.steps[-1]


def erase(
  run_dir: str | os.PathLike,
  out_dir: str | os.PathLike,
  keys: Iterable[str | int],
  *,
  step: int | None = None,
  all_steps: bool = False,
  drop_optimizer: bool = False,
  reference: str | None = None,
  name_keys: bool = False,
  signing_key: pathlib.Path | None = None,
  progress: rewrite.Progress | None = None,
) -> ErasureSummary:
  """Write a run directory without the named sources' sinks.

  Checkpoints of the run go to `out_dir` with the config, the tokenizer, the
  ledger (the sources erased there too), the revocation list and the receipts,
  one more than before. The source run is only read. Rows of sources that were
  erased before stay zero; naming such a source again is no error.

  Args:
    run_dir: a run directory, or the output of an earlier erasure.
    out_dir: does not exist yet; its parents are made.
    keys: source keys; an integer is a source's 64-bit id. None may be unknown.
    step: the checkpoint to take, the newest by default.
    all_steps: take every kept checkpoint instead.
    drop_optimizer: leave all but the parameters and the step's number out.
    reference: the requester's, for the receipt.
    name_keys: put the keys into the receipt, which else has ids only.
    signing_key: file of a private key to sign the receipt with.
    progress: called with "copy" or "check", stored values done, and all.

  Raises:
    UserError: the input is wrong or the checkpoint holds something that is
      not accounted for; nothing is written.
    MachineError: the disk is full or gives back other bytes than were
      written; nothing is left behind.
  """
  start = time.monotonic()
  run_dir, out_dir = pathlib.Path(run_dir), pathlib.Path(out_dir).absolute()
  with output.file_errors(out_dir):
    request = _read_request(run_dir, keys, step, all_steps, drop_optimizer)
    if not name_keys:
      _check_reference(reference, request.keys.values())
    if signing_key is not None:
      signing.read_private_key(signing_key)
    with output.whole_or_absent(
      out_dir, request.inputs, request.needed
    ) as partial:
      done = _write(request, partial, progress)
      facts = _facts(request, done, reference=reference, name_keys=name_keys)
      path = receipt_lib.write(
        partial, facts, previous=run_dir, signing_key=signing_key
      )
  arrays = [array for record in done.records for array in record.arrays]
  return ErasureSummary(
    out_dir=out_dir,
    receipt=out_dir / path.relative_to(partial),
    steps=tuple(record.step for record in done.records),
    source_ids=tuple(source.id for source in request.sources),
    already_erased=tuple(
      source.id for source in request.sources if source.key is None
    ),
    rows_zeroed=done.records[-1].rows_zeroed,
    arrays_edited=done.records[-1].edited,
    num_arrays_untouched=sum(array.before == array.after for array in arrays),
    num_arrays_dropped=sum(array.after is None for array in arrays),
    num_chunks_rewritten=done.num_rewritten,
    num_values=sum(job.edit.num_values for job in request.jobs),
    not_reached=facts.not_reached,
    seconds=time.monotonic() - start,
  )


# -- What is asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
  """Everything that is known before anything is written.

  Attributes:
    run_dir: the run.
    steps_left: its steps that are not taken.
    jobs: the steps to write.
    sources: the named sources, each once; their key is None if erased before.
    keys: their keys as far as they are known, by id.
    fingerprint: the ledger's.
    drop_optimizer: as asked for.
  """

  run_dir: pathlib.Path
  steps_left: tuple[int, ...]
  jobs: tuple[step_lib.Job, ...]
  sources: tuple[ledger_lib.Source, ...]
  keys: dict[int, str]
  fingerprint: str
  drop_optimizer: bool

  @property
  def inputs(self) -> list[pathlib.Path]:
    """The directories that may be links to anywhere, too."""
    root = self.run_dir / plan.CHECKPOINTS
    return [
      self.run_dir,
      root,
      *(root / str(number) for number in self.steps_left),
      *(job.directory for job in self.jobs),
    ]

  @property
  def needed(self) -> int:
    """Bytes of the output, about."""
    ledger = output.size_of(self.run_dir / plan.LEDGER_FILE)
    items = (output.size_of(job.database.directory) for job in self.jobs)
    # The ledger is copied twice.
    return sum(items) + 2 * ledger


def _read_request(run_dir, keys, step, all_steps, drop_optimizer) -> _Request:
  """Read all that can refuse the erasure, before anything is written."""
  steps = plan.find_steps(run_dir)
  chosen = steps if all_steps else [plan.find_step(run_dir, step)]
  if all_steps and step is not None:
    raise errors.UserError(
      f"step {step} and all steps are asked for; choose one of them"
    )
  receipt_lib.chain(run_dir)
  revocation.read(run_dir)
  with ledger_lib.Ledger.open(run_dir / plan.LEDGER_FILE) as ledger:
    fingerprints = [
      plan.check_ledger(path / plan.STEP_FILE, ledger) for path in chosen
    ]
    sources, known = _find_sources(ledger, keys)
    erased = ledger.erased()
  jobs = tuple(
    step_lib.prepare(path, run_dir, sources, erased, drop_optimizer)
    for path in chosen
  )
  differing = [job.number for job in jobs if job.config != jobs[-1].config]
  if differing:
    raise errors.UserError(
      f"{run_dir}: steps {errors.listing(differing)} have another assignment "
      f"than step {jobs[-1].number}; erase them one by one"
    )
  return _Request(
    run_dir=run_dir,
    steps_left=tuple(int(path.name) for path in steps if path not in chosen),
    jobs=jobs,
    sources=tuple(sources),
    keys=known,
    fingerprint=fingerprints[0],
    drop_optimizer=drop_optimizer,
  )


def _find_sources(
  ledger: ledger_lib.Ledger, keys: Iterable[str | int]
) -> tuple[list[ledger_lib.Source], dict[int, str]]:
  """Return the sources, each once, and the keys that are known, by id."""
  keys = list(dict.fromkeys(keys))
  if not keys:
    raise errors.UserError("no source keys given; name at least one source")
  texts = [key for key in keys if isinstance(key, str)]
  found = dict(zip(texts, ledger.find(texts, allow_erased=True), strict=True))
  sources = [
    found[key] if key in found else ledger.find_by_id(key) for key in keys
  ]
  sources = list({source.id: source for source in sources}.values())
  known = {source.id: source.key for source in sources if source.key}
  return sources, known | {found[key].id: key for key in texts}


def _check_reference(reference: str | None, keys: Iterable[str]) -> None:
  if reference and mentions_lib.Mentions(keys).mentioned(reference):
    raise errors.UserError(
      f"the reference {reference!r} mentions the key of a source, and would "
      "stand in the receipt; give a case number, or ask for keys in receipts"
    )


# -- What is written


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Done:
  """What was written: the steps, and where words equal to keys were left."""

  records: tuple[receipt_lib.StepRecord, ...]
  num_rewritten: int
  kept_mentions: tuple[str, ...]


def _write(
  request: _Request,
  partial: pathlib.Path,
  progress: rewrite.Progress | None,
) -> _Done:
  """Write the run directory, all but its receipts."""
  mentions = mentions_lib.Mentions(request.keys.values())
  total = sum(job.edit.num_values for job in request.jobs)
  records, before, num_rewritten = [], 0, 0
  for job in request.jobs:

    def report(stage, done, _, before=before):
      if progress is not None:
        progress(stage, before + done, total)

    target = partial / plan.CHECKPOINTS / job.directory.name
    record, count = step_lib.write(job, target, mentions, report)
    records.append(record)
    num_rewritten += count
    before += job.edit.num_values
  ledger_copy.write(
    request.run_dir / plan.LEDGER_FILE,
    partial / plan.LEDGER_FILE,
    request.sources,
  )
  names = (plan.TOKENIZER_FILE, revocation.FILE)
  output.copy_files(request.run_dir, partial, names)
  _write_config(request.run_dir, partial, mentions)
  return _Done(
    records=tuple(records),
    num_rewritten=num_rewritten,
    kept_mentions=tuple(mentions.kept),
  )


def _write_config(run_dir, partial, mentions) -> None:
  content = output.read_json(run_dir / plan.CONFIG_FILE)
  redacted = mentions.redact(content, plan.CONFIG_FILE)
  if redacted == content:
    output.copy_files(run_dir, partial, (plan.CONFIG_FILE,))
    return
  # As training writes it.
  text = json.dumps(redacted, indent=2) + "\n"
  output.write_text(partial / plan.CONFIG_FILE, text)


def _facts(
  request: _Request, done: _Done, *, reference: str | None, name_keys: bool
) -> receipt_lib.Facts:
  config = request.jobs[-1].config
  columns = {
    column.name
    for job in request.jobs
    for column, _ in job.edit.sinks.column_statistics
  }
  return receipt_lib.Facts(
    action="erase",
    steps=done.records,
    assignment={**dataclasses.asdict(config), "version": assignment.VERSION},
    sources=tuple(
      receipt_lib.SourceRecord(
        id=source.id,
        index=source.index,
        key=request.keys.get(source.id) if name_keys else None,
        was_erased=source.key is None,
      )
      for source in request.sources
    ),
    optimizer="dropped" if request.drop_optimizer else "kept",
    ledger_fingerprint=request.fingerprint,
    reference=reference,
    time=datetime.datetime.now(datetime.UTC),
    not_reached=checklist.not_reached(
      steps_left=request.steps_left,
      column_statistics=sorted(columns),
      kept_mentions=done.kept_mentions,
      is_grown=(request.run_dir / plan.GROWN_FILE).exists(),
    ),
  )
