"""One block of the input, from documents to packed rows; done by a worker.

Owns what a block leaves behind: parts of packed rows with their sources,
numbered within the part, the pieces that it uses, and its counts. Knows
nothing of other blocks.

Invariant: a function of the plan, the tokenizer and the block alone, so that
any worker on any machine leaves the same bytes.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nulls_jax import errors
from nulls_jax.data import packing, splits, words
from nulls_jax.data import pieces as pieces_lib
from nulls_jax.data import tokenizer as tokenizer_lib
from nulls_jax.data.preparation import held_out
from nulls_jax.data.preparation import plan as plan_lib
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.data.reading import documents
from nulls_jax.sinks import assignment

ERASED = "its source was erased from the run"


@dataclasses.dataclass
class Tally:
  """Counts of the documents of one or more blocks.

  Attributes:
    out: those that are in the rows.
    excluded: those that were to be left out, by key.
    refused: those that are no documents, or of erased sources.
    held_out: those that are not trained on, by `splits.Splits.of`.
  """

  out: int = 0
  excluded: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  refused: documents.Refusals = dataclasses.field(
    default_factory=documents.Refusals
  )
  held_out: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  def merge(self, later: "Tally") -> None:
    """Add those of a later block."""
    self.out += later.out
    self.excluded.update(later.excluded)
    self.refused.merge(later.refused)
    self.held_out.update(later.held_out)

  def nothing_left(
    self, first_refusals: dict[str, str] | None = None
  ) -> errors.UserError:
    """Return the error of inputs without a document for the dataset.

    Args:
      first_refusals: messages by reason, None makes them from the inputs.
    """
    first = self.refused.first if first_refusals is None else first_refusals
    return errors.UserError(
      f"no document is left: {self.excluded.total():,} excluded, "
      f"{self.refused.total:,} refused, {self.held_out.total():,} held out"
      + "".join(f"; {message}" for message in first.values())
    )

  def to_dict(self) -> dict:
    """Return them as JSON values."""
    return {
      "out": self.out,
      "excluded": dict(self.excluded),
      "refused": self.refused.to_dict(),
      "held_out": dict(self.held_out),
    }

  @classmethod
  def from_dict(cls, values: dict) -> "Tally":
    """Read what `to_dict` gave."""
    return cls(
      out=values["out"],
      excluded=collections.Counter(values["excluded"]),
      refused=documents.Refusals.from_dict(values["refused"]),
      held_out=collections.Counter(values.get("held_out")),
    )


def read(
  plan: plan_lib.Plan,
  block: int,
  tally: Tally,
  hold_out: Callable[[str, documents.Document], None] | None = None,
) -> Iterator[documents.Document]:
  """Yield the documents of a block that go into the dataset; count all.

  Args:
    plan: what is prepared.
    block: its number.
    tally: takes the counts.
    hold_out: called with the kind of each held-out document, and itself.
  """
  refusals = tally.refused if plan.refuse else None
  for piece in plan.blocks[block]:
    for document in plan.inputs.documents(piece, refusals):
      if document.source in plan.exclude:
        tally.excluded[document.source] += 1
      elif plan.is_erased(document.source):
        tally.refused.add(ERASED, document.place)
      elif (kind := plan.kind(document)) != splits.TRAIN:
        tally.held_out[kind] += 1
        if hold_out:
          hold_out(kind, document)
      else:
        tally.out += 1
        yield document


class Task:
  """Packs blocks: `task(number)`; picklable, and keeps its tokenizer."""

  def __init__(
    self, plan: plan_lib.Plan, directory: pathlib.Path, model_bytes: bytes
  ):
    self._plan = plan
    self._work = work_lib.Work(directory)
    self._model_bytes = model_bytes
    self._tokenizer = None

  def __getstate__(self):
    return self.__dict__ | {"_tokenizer": None}

  def __setstate__(self, state):
    self.__dict__ = state

  def __call__(self, block: int) -> None:
    """Pack a block and write what it leaves behind."""
    if self._tokenizer is None:
      self._tokenizer = tokenizer_lib.Tokenizer(self._model_bytes)
      self._encoder = words.Encoder(self._tokenizer)
    summary = {}
    if self._plan.splits:
      work_lib.write(
        self._work.held_out(block),
        lambda file: summary.update(self._pack(block, held_out.Writer(file))),
      )
    else:
      summary = self._pack(block, None)
    # Last: it says that the others are there.
    work_lib.write_json(self._work.summary(block), summary)

  def _pack(
    self, block: int, hold_out: held_out.Writer | None
  ) -> dict[str, Any]:
    """Write parts and use of pieces; return the block's summary."""
    tally = Tally()
    usage = pieces_lib.PieceUsage(
      self._tokenizer.vocab_size, self._plan.config.min_piece_sources
    )
    part = _Part(self._plan.config, self._tokenizer)
    part_rows = []
    documents = read(self._plan, block, tally, hold_out)
    for document, pieces in self._encoder.encode_each(
      (document, document.text) for document in documents
    ):
      usage.add(part.add(document, pieces), pieces)
      # What one packed file holds may be many times its size.
      if part.num_characters >= self._plan.config.block_bytes:
        part_rows.append(part.write(self._work, block, len(part_rows)))
        part = _Part(self._plan.config, self._tokenizer)
    if part.num_characters:
      part_rows.append(part.write(self._work, block, len(part_rows)))
    work_lib.write_arrays(self._work.usage(block), usage.to_arrays())
    return tally.to_dict() | {"part_rows": part_rows}


class _Part:
  """Documents that are packed together, and their sources."""

  def __init__(self, config, tokenizer: tokenizer_lib.Tokenizer):
    self._config = config
    self._tokenizer = tokenizer
    self._packer = packing.Packer(config.row_length, config.tile)
    self._rows: list[packing.Row] = []
    # Keys in the order of first appearance; no source is number 0.
    self._numbers = {"": 0}
    self._ids, self._metadata = [0], [b"{}"]
    self._num_documents, self._num_tokens = [0], [0]
    self.num_characters = 0

  def add(self, document: documents.Document, pieces: np.ndarray) -> int:
    """Add a document; return the id of its source."""
    number = self._numbers.get(document.source)
    if number is None:
      number = self._new_source(document)
    parts = packing.cut(
      pieces,
      self._config.row_length,
      self._tokenizer.bos_id,
      self._tokenizer.eos_id,
    )
    for part in parts:
      self._rows.extend(self._packer.add(part, number))
    self._num_documents[number] += 1
    self._num_tokens[number] += len(pieces) + len(parts) + 1
    self.num_characters += len(document.text)
    return self._ids[number]

  def _new_source(self, document: documents.Document) -> int:
    number = self._numbers[document.source] = len(self._numbers)
    self._ids.append(assignment.source_id(document.source))
    text = json.dumps(document.metadata, sort_keys=True)
    self._metadata.append(text.encode("utf-8"))
    self._num_documents.append(0)
    self._num_tokens.append(0)
    return number

  def _check_ids(self) -> None:
    if len(set(self._ids)) == len(self._ids):
      return
    keys = {}
    for key, number in zip(self._numbers, self._ids, strict=True):
      if keys.setdefault(number, key) != key:
        raise same_id(key, keys[number], number)

  def write(self, work: work_lib.Work, block: int, part: int) -> int:
    """Write rows and sources; return the number of rows."""
    self._check_ids()
    rows = [*self._rows, *self._packer.close()]
    small = self._tokenizer.vocab_size <= 2**16
    keys = work_lib.pack_texts([key.encode("utf-8") for key in self._numbers])
    metadata = work_lib.pack_texts(self._metadata)
    work_lib.write_arrays(
      work.part(block, part),
      {
        "tokens": np.array(
          [row.tokens for row in rows], np.uint16 if small else np.uint32
        ),
        "tile_documents": np.array([row.tile_documents for row in rows]),
        "tile_sources": np.array([row.tile_sources for row in rows]),
        "ids": np.array(self._ids, np.uint64),
        "num_documents": np.array(self._num_documents, np.int64),
        "num_tokens": np.array(self._num_tokens, np.int64),
        "keys": keys["bytes"],
        "key_ends": keys["ends"],
        "metadata": metadata["bytes"],
        "metadata_ends": metadata["ends"],
      },
    )
    return len(rows)


def same_id(key: str, other: str, number: int) -> errors.UserError:
  """Return the error of two keys with one id."""
  return errors.UserError(
    f"sources {key!r} and {other!r} have the same 64-bit id {number:016x}; "
    "rename one of them"
  )
