"""Preparations that many machines share, and their merge.

Owns the folders `OUT.shard-I-of-N`, what must agree between them, and what is
missing. A shard packs neighbouring blocks, and reads only files that they are
in; it waits for no other.

Invariant: merged shards are the dataset, byte for byte, that one `prepare`
with the same tokenizer makes.
"""

import os
import pathlib
import re
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import extension
from nulls_jax.data.preparation import assembly, block, dataset
from nulls_jax.data.preparation import job as job_lib
from nulls_jax.data.preparation import plan as plan_lib
from nulls_jax.data.preparation import prepare as prepare_lib
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.preparation import workers as workers_lib
from nulls_jax.data.reading import contents


def shard_directory(
  out_directory: pathlib.Path, number: int, count: int
) -> pathlib.Path:
  """Return the folder of a shard.

  >>> shard_directory(pathlib.Path("wiki"), 3, 64).name
  'wiki.shard-00003-of-00064'
  """
  return out_directory.with_name(
    f"{out_directory.name}.shard-{number:05d}-of-{count:05d}"
  )


def prepare_shard(
  job: job_lib.Job,
  out_directory: str | os.PathLike,
  shard: tuple[int, int],
  *,
  workers: int = 1,
  progress: assembly.Progress | None = None,
) -> dict[str, Any]:
  """Do one shard of a preparation; the same call again goes on with it.

  Args:
    job: as for `prepare.prepare`, the same for all shards, with a tokenizer
      or a run to extend.
    out_directory: of the dataset; the shard's own folder is beside it.
    shard: its number, from 0, and how many there are.
    workers: see `prepare.prepare`.
    progress: see `prepare.prepare`.

  Returns:
    `directory`, `blocks` of the shard, and its documents in the rows, `out`.

  Raises:
    errors.UserError: as `prepare.prepare`, or there is no tokenizer.
    errors.MachineError: as `prepare.prepare`.
  """
  number, count = shard
  if not 0 <= number < count:
    raise errors.UserError(
      f"--shard {number}/{count}: {count} shards have the numbers 0 to "
      f"{count - 1}"
    )
  if job.tokenizer is None:
    raise errors.UserError(
      "shards need the same tokenizer; make one with `nulls prepare "
      "tokenizer` and give it to each with --tokenizer"
    )
  out_directory = pathlib.Path(os.path.abspath(out_directory))
  work = work_lib.Work(shard_directory(out_directory, number, count))
  model_bytes = job.tokenizer.model_bytes
  with (
    work.at_work(),
    workers_lib.Workers(workers) as pool,
  ):
    plan = job.start(work, wanted=f"shard of {count}", shard=shard)
    numbers = plan.shard(number, count)
    found = work_lib.read_json(work.shard)
    if found is None:
      work_lib.write(work.tokenizer, lambda file: file.write(model_bytes))
      job_lib.pack(
        work, plan, model_bytes, numbers, pool, progress or prepare_lib.silent
      )
      job.check_unchanged(work)
      found = _finish(work, numbers)
  return {"directory": str(work.directory)} | found


def _finish(work: work_lib.Work, numbers: range) -> dict[str, Any]:
  """Write down that a shard is complete, and what its inputs must tell."""
  out, first = 0, {}
  for number in numbers:
    values = work_lib.read_json(work.summary(number))
    tally = block.Tally.from_dict(values)
    out += tally.out
    # The merge may run where the inputs are not, and cannot count lines.
    if not tally.refused.counts.keys() <= first.keys():
      for reason, message in tally.refused.first.items():
        first.setdefault(reason, [number, message])
  found = {
    "blocks": len(numbers),
    "out": out,
    "first_refusals": first,
    "clusters": files.sha256(work.clusters) if work.clusters.exists() else None,
  }
  work_lib.write_json(work.shard, found)
  return found


def merge(
  out_directory: str | os.PathLike,
  *,
  workers: int = 1,
  progress: assembly.Progress | None = None,
) -> dict[str, Any]:
  """Make one dataset of the shards beside its place; return the manifest.

  The shards stay. The same call again finds the dataset, or goes on.

  Args:
    out_directory: the dataset's place, as it was given to the shards.
    workers: processes that write rows.
    progress: called with the stage, what of it is done, and all of it.

  Raises:
    errors.UserError: shards are missing, unfinished or of different
      preparations, all of them named; or as `prepare`.
    errors.MachineError: the disk is full, or a worker was killed.
  """
  out_directory = pathlib.Path(os.path.abspath(out_directory))
  shards = _find(out_directory)
  plans = [work_lib.read_json(shard.plan) for shard in shards]
  identity = _identity(shards, plans)
  inputs = files.json_sha256(identity)
  if dataset.has_dataset(out_directory):
    return dataset.find_reusable(out_directory, inputs)
  work = work_lib.Work.beside(out_directory)
  with (
    work.at_work(),
    workers_lib.Workers(workers) as pool,
  ):
    wanted = f"dataset of {len(shards)} shards"
    job_lib.begin(work, {"identity": identity, "wanted": wanted}, {})
    manifest = assembly.Blocks(
      places={
        number: shard.directory
        for shard, plan in zip(shards, plans, strict=True)
        for number in range(*plan["share"])
      },
      work=work,
      config=data_config.DataConfig(**identity["config"]),
      base=_base(plans[0]),
      exclude=frozenset(identity["exclude"]),
      inputs=inputs,
      shares=identity.get("held_out"),
      model_bytes=shards[0].tokenizer.read_bytes(),
      training=None,
      progress=progress or prepare_lib.silent,
      first_refusals=_first_refusals(shards),
    ).put_together(pool)
    work.publish(out_directory)
  return manifest


def _find(out_directory: pathlib.Path) -> list[work_lib.Work]:
  """Return all shards in their order; raises `UserError` if some lack."""
  pattern = re.compile(
    re.escape(out_directory.name) + r"\.shard-(\d{5,})-of-(\d{5,})"
  )
  found = {}
  if out_directory.parent.is_dir():
    for path in out_directory.parent.iterdir():
      match = pattern.fullmatch(path.name)
      if match:
        found[int(match[1]), int(match[2])] = work_lib.Work(path)
  if not found:
    raise errors.UserError(
      f"there is no shard of {out_directory}; make them with `nulls prepare "
      "--shard 0/N ...` and give the same --out"
    )
  counts = sorted({count for _, count in found})
  if len(counts) > 1:
    raise errors.UserError(
      f"{out_directory} has shards of {errors.listing(counts)}; delete those "
      "that are not wanted"
    )
  wanted = range(counts[0])
  missing = [each for each in wanted if (each, counts[0]) not in found]
  unfinished = [
    number
    for number in wanted
    if number not in missing and not found[number, counts[0]].shard.exists()
  ]
  if missing or unfinished:
    parts = []
    if missing:
      parts.append(f"missing: {errors.listing(missing)}")
    if unfinished:
      parts.append(f"unfinished: {errors.listing(unfinished)}")
    raise errors.UserError(
      f"not all {counts[0]} shards of {out_directory} are there "
      f"({'; '.join(parts)}); start `nulls prepare --shard I/{counts[0]}` "
      "for these, again with the same flags"
    )
  return [found[number, counts[0]] for number in wanted]


def _identity(
  shards: list[work_lib.Work], plans: list[dict[str, Any]]
) -> dict[str, Any]:
  """Return the identity of the preparation that all shards are of.

  Raises:
    errors.UserError: they are of different ones, or a file has changed from
      one shard to the next.
  """
  facts, wrong = [], []
  for number, (shard, plan) in enumerate(zip(shards, plans, strict=True)):
    clusters = work_lib.read_json(shard.shard)["clusters"]
    # What a shard has read of the documents is compared file by file.
    facts.append(plan["identity"] | {"clusters": clusters, "documents": None})
    found = plan_lib.differences(facts[0], facts[number])
    if found:
      wrong.append(f"{number}: other {errors.listing(found)}")
  if wrong:
    raise errors.UserError(
      f"shards differ from shard 0 in {shards[0].directory}: "
      f"{errors.listing(wrong)}; delete those that are wrong and start them "
      "again, all with the same flags"
    )
  blocks = [number for plan in plans for number in range(*plan["share"])]
  if blocks != list(range(plans[0]["blocks"])):
    raise errors.UserError(
      f"the shards in {shards[0].directory.parent} do not have each block "
      "once: different versions of this program made them; delete them and "
      "start them again"
    )
  identity = plans[0]["identity"] | {"documents": _documents(plans)}
  del identity["files"]
  return identity


def _documents(plans: list[dict[str, Any]]) -> list[str]:
  """Return the digests of all parts of the input, put together.

  Raises:
    errors.UserError: shards have read different files of one name.
  """
  by_shard = [plan["identity"]["documents"] for plan in plans]
  digests, wrong = [], []
  for of_part in zip(*by_shard, strict=True):
    # Shards are in the order of the files.
    sha256: dict[str, str] = {}
    readers: dict[str, int] = {}
    for number, content in enumerate(of_part):
      for name, value in content["sha256"].items():
        first = readers.setdefault(name, number)
        if sha256.setdefault(name, value) != value:
          wrong.append(f"{name} (shards {first} and {number})")
    whole = contents.Content(of_part[0]["is_file"], sha256)
    digests.append(whole.digest())
  if wrong:
    raise errors.UserError(
      f"shards have read different contents of {errors.listing(wrong)}; "
      "delete those that read the wrong one and start them again"
    )
  return digests


def _base(plan: dict[str, Any]) -> extension.Base | None:
  """Read the run that is to learn more; it must be as it was."""
  if plan["extends"] is None:
    return None
  base = extension.read(plan["extends"])
  if files.sha256(base.ledger_path) != plan["identity"]["extends"]:
    raise errors.UserError(
      f"the ledger of {plan['extends']} has changed since the shards were "
      "made; delete them and prepare them again"
    )
  return base


def _first_refusals(shards: list[work_lib.Work]) -> dict[str, str]:
  """Return by reason the message of the first block that has one."""
  first = {}
  for shard in shards:
    found = work_lib.read_json(shard.shard)["first_refusals"]
    for reason, (number, message) in found.items():
      first[reason] = min(
        first.get(reason, (number, message)), (number, message)
      )
  return {reason: message for reason, (_, message) in first.items()}
