"""Blocks that are done, of one machine or of many shards, to one dataset.

Owns the order of the last steps: ledger, rows, manifest. Reads no document.

Invariant: documents in = out + excluded + refused + held out, and the
manifest is written when every other file is whole.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import extension, ledger_writing, pieces
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import tokenizer as tokenizer_lib
from nulls_jax.data.preparation import block as block_lib
from nulls_jax.data.preparation import dataset, held_out, rows, sources
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.preparation import workers as workers_lib

# Called with the name of a stage, what of it is done, and all of it.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
  """What is put together.

  Attributes:
    places: by block, in order, the folder of work that has it.
    work: where the dataset is put together.
    config: how documents became rows.
    base: the run that is to learn more.
    exclude: keys that were to be left out.
    inputs: the digest of all that decides the result.
    model_bytes: the tokenizer.
    training: how it was trained, None if it was given.
    progress: told what goes on.
    shares: what is held out, by `splits.Splits`, if anything.
    first_refusals: messages by reason; None makes them from the inputs.
  """

  places: Mapping[int, pathlib.Path]
  work: work_lib.Work
  config: data_config.DataConfig
  base: extension.Base | None
  exclude: frozenset[str]
  inputs: str
  model_bytes: bytes
  training: dict[str, Any] | None
  progress: Progress
  shares: dict[str, float] | None = None
  first_refusals: dict[str, str] | None = None

  def put_together(self, workers: workers_lib.Workers) -> dict[str, Any]:
    """Write the dataset into `work.final`; return the manifest.

    Raises:
      errors.UserError: no document is left, an excluded key is in none, or
        sources are in each other's way.
      errors.MachineError: the disk is full or fails.
    """
    tokenizer = tokenizer_lib.Tokenizer(self.model_bytes)
    tally, part_rows, usage = self._read_summaries(tokenizer)
    self._check(tally)
    parts = [
      (block, part)
      for block, numbers in enumerate(part_rows)
      for part in range(len(numbers))
    ]
    model_path = self.work.final / dataset.TOKENIZER
    work_lib.write(model_path, lambda file: file.write(self.model_bytes))
    num_tokens, size_classes = self._write_ledger(parts)
    row_files = self._write_rows(part_rows, workers)
    held = self._write_held_out()
    facts = row_files | {
      name: {
        "bytes": (self.work.final / name).stat().st_size,
        "sha256": files.sha256(self.work.final / name),
      }
      for name in (dataset.TOKENIZER, dataset.LEDGER, *held.files)
    }
    digests = {name: each["sha256"] for name, each in sorted(facts.items())}
    manifest = {
      "format": dataset.FORMAT,
      "config": self.config.to_dict(),
      "counts": {
        **self._document_counts(tally),
        "sources": len(num_tokens) - 1,
        "tokens": int(num_tokens.sum()),
        "rows": sum(map(sum, part_rows)),
      },
      "sources_by_size_class": np.bincount(size_classes[1:]).tolist(),
      "vocab_size": tokenizer.vocab_size,
      "tokenizer_fingerprint": tokenizer.fingerprint,
      "tokenizer_training": self.training,
      "pieces_used": int((usage.counts > 0).sum()),
      "pieces_below_min_sources": int(usage.below.sum()),
      "rows_sha256": dataset.rows_digest(digests),
      "inputs_sha256": self.inputs,
      "files": {name: each["bytes"] for name, each in sorted(facts.items())},
      "sha256": digests,
    }
    if self.shares:
      manifest["held_out"] = {"shares": self.shares, "documents": held.counts}
    if self.base:
      manifest["extends"] = self.base.facts(num_tokens)
    work_lib.write_json(self.work.final / dataset.MANIFEST, manifest)
    return manifest

  def _read_summaries(self, tokenizer):
    """Return counts, rows by block and part, and the use of pieces."""
    tally, part_rows = block_lib.Tally(), []
    usage = pieces.PieceUsage(
      tokenizer.vocab_size, self.config.min_piece_sources
    )
    for block, place in self.places.items():
      work = work_lib.Work(place)
      values = work_lib.read_json(work.summary(block))
      tally.merge(block_lib.Tally.from_dict(values))
      part_rows.append(values["part_rows"])
      usage.merge(work_lib.read_arrays(work.usage(block)))
    return tally, part_rows, usage

  def _check(self, tally: block_lib.Tally) -> None:
    absent = sorted(self.exclude - tally.excluded.keys())
    if absent:
      raise errors.UserError(
        f"{len(absent)} excluded source keys are in no document: "
        f"{errors.listing(map(repr, absent))}; correct the list"
      )
    if not tally.out:
      raise tally.nothing_left(self.first_refusals)

  def _first_refusals(self, tally: block_lib.Tally) -> dict[str, str]:
    if self.first_refusals is None:
      return tally.refused.first
    return {
      reason: self.first_refusals[reason] for reason in tally.refused.counts
    }

  def _document_counts(self, tally: block_lib.Tally) -> dict[str, Any]:
    excluded, held = tally.excluded.total(), tally.held_out.total()
    return {
      "documents_in": tally.out + excluded + tally.refused.total + held,
      "documents_out": tally.out,
      **({"documents_held_out": held} if self.shares else {}),
      "documents_excluded": excluded,
      "documents_refused": tally.refused.total,
      "refusals": dict(tally.refused.counts),
      "first_refusals": self._first_refusals(tally),
    }

  def _write_ledger(self, parts) -> tuple[np.ndarray, np.ndarray]:
    """Write the ledger; return tokens and size classes by source.

    A ledger that is there is whole, and so are the indices of its sources.
    """
    path = self.work.final / dataset.LEDGER
    place = self._place
    partial = self.work.directory / "ledger.unfinished"
    if not path.exists():
      partial.unlink(missing_ok=True)
      sources.merge(
        partial,
        self.base,
        parts,
        place,
        self.work,
        lambda done: self.progress("ledger", done, len(parts)),
      )
    is_whole = path.exists()
    with (
      ledger_lib.Ledger.open(path)
      if is_whole
      else ledger_writing.Writer.open(partial)
    ) as ledger:
      num_tokens = sources.num_tokens(
        ledger.num_sources, parts, place, self.work
      )
      size_classes = self.config.size_classes(num_tokens)
      if self.base:
        known = slice(self.base.num_sources + 1)
        size_classes[known] = ledger.size_classes()[known]
      if not is_whole:
        ledger.set_size_classes(size_classes)
    if not is_whole:
      with files.disk_errors(path), open(partial, "rb") as file:
        os.fsync(file.fileno())
        os.replace(partial, path)
    return num_tokens, size_classes

  def _write_held_out(self) -> held_out.Written:
    if not self.shares:
      return held_out.Written()
    paths = [self._place(block).held_out(block) for block in self.places]
    with ledger_lib.Ledger.open(self.work.final / dataset.LEDGER) as ledger:
      return held_out.put_together(paths, ledger.ids(), self.work.final)

  def _place(self, block: int) -> work_lib.Work:
    return work_lib.Work(self.places[block])

  def _write_rows(self, part_rows, workers) -> dict[str, dict[str, Any]]:
    """Write the files of rows; return size and digest by name."""
    groups = rows.group(part_rows)
    task = rows.Task(groups, self.places, self.work.directory)
    left = [
      number for number in range(len(groups)) if not task.facts(number).exists()
    ]
    for done, _ in enumerate(workers.do(task, left), start=1):
      count = len(groups) - len(left) + done
      self.progress("rows", count, len(groups))
    return {
      task.path(number).name: work_lib.read_json(task.facts(number))
      for number in range(len(groups))
    }
