"""One preparation: what is asked for, and its stages over the blocks.

Owns the plan that is written into the folder of work, and what a second start
finds there. Puts nothing together: `assembly` does.

Invariant: work that was begun with other documents or settings is never gone
on with.
"""

import dataclasses
import os
from collections.abc import Collection, Sequence
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import extension
from nulls_jax.data import splits as splits_lib
from nulls_jax.data import tokenizer as tokenizer_lib
from nulls_jax.data.preparation import assembly, block, sample
from nulls_jax.data.preparation import plan as plan_lib
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.preparation import workers as workers_lib
from nulls_jax.data.reading import clustering
from nulls_jax.data.reading import inputs as inputs_lib


class Job:
  """What is to be prepared, checked.

  Attributes:
    inputs: the documents' files.
    config: how documents become rows.
    base: the run that is to learn more.
    tokenizer: the one that is given, None if one is to be trained.
    exclude: keys to leave out.
  """

  def __init__(
    self,
    documents: str | os.PathLike | Sequence[str | os.PathLike],
    config: data_config.DataConfig,
    *,
    reading: inputs_lib.Settings | None = None,
    tokenizer_path: str | os.PathLike | None = None,
    extends: str | os.PathLike | None = None,
    exclude: Collection[str] = frozenset(),
    on_error: str = "stop",
    splits: splits_lib.Splits | None = None,
  ):
    """Check what is cheap to check; read no text.

    Args:
      documents: one or several inputs, see `reading.inputs`.
      config: how documents become rows.
      reading: how the inputs are read, and what their sources are.
      tokenizer_path: use this tokenizer instead of training one.
      extends: a run that is to learn more: take its tokenizer, and begin the
        ledger with its sources, see `extension`. Documents of sources that
        were erased from it are refused and counted. Documents and tokens of
        its other sources are added to what its ledger says.
      exclude: keys of sources to leave out, also from tokenizer training.
      on_error: "stop" at the first bad record, or "refuse" it: count it in
        the manifest and go on.
      splits: what is held out, also of the tokenizer's training.

    Raises:
      errors.UserError: they are wrong.
    """
    if on_error not in ("stop", "refuse"):
      raise errors.UserError(
        f"on_error={on_error!r} is neither 'stop' nor 'refuse'"
      )
    if extends is not None and tokenizer_path is not None:
      raise errors.UserError(
        f"the run {extends} goes on with its own tokenizer; leave --tokenizer "
        "out"
      )
    if isinstance(documents, str | os.PathLike):
      documents = [documents]
    self.config = config
    self.base = None if extends is None else extension.read(extends)
    self._extends = None if extends is None else os.path.abspath(extends)
    self.tokenizer = self.base.tokenizer if self.base else None
    if tokenizer_path is not None:
      self.tokenizer = tokenizer_lib.Tokenizer.load(tokenizer_path)
    self.exclude = frozenset(exclude)
    self._refuse = on_error == "refuse"
    self._splits = splits or splits_lib.Splits()
    self.inputs = inputs_lib.open(documents, reading)

  def plan(self) -> plan_lib.Plan:
    """Split the inputs, and read all of them for their digests."""
    return self._split().with_documents(documents=self.inputs.digests())

  def _split(self) -> plan_lib.Plan:
    return plan_lib.make(
      self.inputs,
      self.config,
      tokenizer=self.tokenizer and self.tokenizer.fingerprint,
      extends=self.base and files.sha256(self.base.ledger_path),
      erased=self.base.erased if self.base else frozenset(),
      exclude=self.exclude,
      refuse=self._refuse,
      splits=self._splits,
    )

  def start(
    self,
    work: work_lib.Work,
    wanted: str,
    shard: tuple[int, int] | None = None,
  ) -> plan_lib.Plan:
    """Begin work, or take up what is there; return the plan.

    Args:
      work: its place, locked.
      wanted: what is made; a second start must want the same.
      shard: its number and how many there are. It reads only files that its
        blocks are in, and the plan has their digests by part and name.

    Raises:
      work.UnfinishedError: other work is there.
    """
    known = work_lib.read_json(work.plan) or {}
    stamp = self.inputs.stamp()
    plan = self._split()
    numbers = plan.shard(*shard or (0, 1))
    if known.get("stamp") == stamp:
      # Files as they were have the digests that they had.
      documents = known["identity"]["documents"]
    elif shard:
      pieces = (piece for number in numbers for piece in plan.blocks[number])
      documents = [
        dataclasses.asdict(content) for content in self.inputs.contents(pieces)
      ]
    else:
      documents = self.inputs.digests()
    found = {"documents": documents}
    if shard:
      found["files"] = self.inputs.stamp(times=False)
    plan = plan.with_documents(**found)
    begin(
      work,
      {"identity": plan.identity, "wanted": wanted},
      {
        "blocks": len(plan.blocks),
        "share": [numbers.start, numbers.stop],
        "stamp": stamp,
        "extends": self._extends,
      },
    )
    if self.inputs.num_clusters:
      if not work.clusters.exists():
        clustering.fit(self.inputs).save(work.clusters)
      plan = plan.with_clusters(work.clusters)
    return plan

  def check_unchanged(self, work: work_lib.Work) -> None:
    """Raise `errors.UserError` if an input has changed since the start."""
    if work_lib.read_json(work.plan)["stamp"] != self.inputs.stamp():
      raise errors.UserError(
        "a file of the documents has changed while it was read; repeat when "
        "nobody writes them"
      )


def begin(
  work: work_lib.Work, facts: dict[str, Any], more: dict[str, Any]
) -> None:
  """Write down what is being made; other work may not be there.

  Args:
    work: its place, locked.
    facts: that a second start must have too.
    more: that it need not have: the last start's are kept.

  Raises:
    work.UnfinishedError: other work is there.
  """
  known = work_lib.read_json(work.plan)
  if known and any(known.get(name) != facts[name] for name in facts):
    wrong = ["result"]
    if known["wanted"] == facts["wanted"]:
      wrong = plan_lib.differences(known["identity"], facts["identity"])
    raise work_lib.UnfinishedError(
      f"{work.directory} holds an unfinished preparation with another "
      f"{errors.listing(wrong)}; start that one again, delete it, or choose "
      "another --out"
    )
  if known != facts | more:
    work_lib.write_json(work.plan, facts | more)
  work.prepare()


def trained_tokenizer(
  work: work_lib.Work,
  plan: plan_lib.Plan,
  pool: workers_lib.Workers,
  progress: assembly.Progress,
) -> tuple[bytes, dict[str, Any]]:
  """Train the tokenizer, unless that is done; return it and how it was."""
  training = work_lib.read_json(work.training)
  if training is None:
    numbers = [
      number
      for number in range(len(plan.blocks))
      if not work.sample(number).exists()
    ]
    task = sample.Task(plan, work.directory)
    _do(pool, task, numbers, plan, "sample", progress)
    progress("tokenizer", 0, 1)
    model_bytes, training = sample.train(plan, work)
    work_lib.write(work.tokenizer, lambda file: file.write(model_bytes))
    work_lib.write_json(work.training, training)
    progress("tokenizer", 1, 1)
  for path in (work.directory / "samples").iterdir():
    path.unlink()
  return work.tokenizer.read_bytes(), training


def pack(
  work: work_lib.Work,
  plan: plan_lib.Plan,
  model_bytes: bytes,
  numbers: Sequence[int],
  pool: workers_lib.Workers,
  progress: assembly.Progress,
) -> None:
  """Pack those of some blocks that are not done yet."""
  left = [number for number in numbers if not work.summary(number).exists()]
  task = block.Task(plan, work.directory, model_bytes)
  all_bytes = sum(map(plan.block_bytes, numbers))
  _do(pool, task, left, plan, "documents", progress, all_bytes)


def _do(pool, task, numbers, plan, stage, progress, all_bytes=None) -> None:
  """Do a task on blocks; the progress is in bytes of the input."""
  total = plan.inputs.num_bytes if all_bytes is None else all_bytes
  done = total - sum(map(plan.block_bytes, numbers))
  progress(stage, done, total)
  for number in pool.do(task, numbers):
    done += plan.block_bytes(number)
    progress(stage, done, total)
