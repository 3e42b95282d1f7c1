"""The texts that a tokenizer is trained on: a bounded sample of documents.

Owns which documents those are: the ones with the smallest hashes of source
and text, as many as the bound on their bytes allows. All of them, where the
corpus is no larger.

Invariant: a function of the documents, never of who reads them. What a block
leaves out, because its own documents with smaller hashes fill the bound, no
choice over all blocks would take.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from nulls_jax.data import tokenizer as tokenizer_lib
from nulls_jax.data.preparation import block as block_lib
from nulls_jax.data.preparation import plan as plan_lib
from nulls_jax.data.preparation import work as work_lib
from nulls_jax.sinks import assignment

# Twice the share of the input that is wanted is kept, as not all of the input
# may be text.
_MARGIN = 2


class Task:
  """Draws from blocks: `task(number)`; picklable."""

  def __init__(self, plan: plan_lib.Plan, directory: pathlib.Path):
    self._plan = plan
    self._work = work_lib.Work(directory)
    self._limit = plan.config.tokenizer_bytes
    self._threshold = _threshold(plan)

  def __call__(self, block: int) -> None:
    """Draw from a block and write what was drawn."""
    taken, size, least = [], 0, None
    tally = block_lib.Tally()
    documents = block_lib.read(self._plan, block, tally)
    for place, document in enumerate(documents):
      text = document.text.encode("utf-8")
      number = _hash(document.source, text)
      if least is None or number < least[0]:
        least = (number, place, document.source, text)
      if number <= self._threshold:
        taken.append((number, place, document.source, text))
        size += len(text)
        if size > 2 * self._limit:
          taken = _smallest(taken, self._limit)
          size = sum(len(one[3]) for one in taken)
    taken = _smallest(taken or [least] if least else [], self._limit)
    taken.sort(key=lambda one: one[1])
    ids = [assignment.source_id(key) if key else 0 for _, _, key, _ in taken]
    texts = work_lib.pack_texts([one[3] for one in taken])
    work_lib.write_arrays(
      self._work.sample(block),
      {
        "hashes": np.array([one[0] for one in taken], np.uint64),
        "ids": np.array(ids, np.uint64),
        "texts": texts["bytes"],
        "ends": texts["ends"],
        "tally": np.frombuffer(json.dumps(tally.to_dict()).encode(), np.uint8),
      },
    )


def _threshold(plan: plan_lib.Plan) -> int:
  """Return the 64-bit hash up to which documents are taken."""
  share = _MARGIN * plan.config.tokenizer_bytes / max(1, plan.inputs.num_bytes)
  return 2**64 - 1 if share >= 1 else int(share * 2**64)


def _hash(source: str, text: bytes) -> int:
  """Return 64 bits of a document; the key's end is told by its length."""
  key = source.encode("utf-8")
  digest = hashlib.blake2b(len(key).to_bytes(4, "little"), digest_size=8)
  digest.update(key)
  digest.update(text)
  return int.from_bytes(digest.digest(), "little")


def _smallest(taken: list, limit: int) -> list:
  """Return those with the smallest hashes whose texts fit the limit."""
  taken = sorted(taken, key=lambda one: one[:2])
  ends = np.cumsum([len(one[3]) for one in taken], dtype=np.int64)
  # One text at least: there is something to train on.
  return taken[: max(1, int(np.searchsorted(ends, limit, side="right")))]


class Sample:
  """The chosen texts of all blocks."""

  def __init__(self, plan: plan_lib.Plan, work: work_lib.Work):
    """Choose; keeps 16 bytes a drawn document in memory.

    Args:
      plan: what is prepared.
      work: where the blocks' samples are.
    """
    self._work = work
    self._blocks = blocks = range(len(plan.blocks))
    hashes, sizes = [], []
    for block in blocks:
      arrays = work_lib.read_arrays(work.sample(block), "hashes", "ends")
      hashes.append(arrays["hashes"])
      sizes.append(np.diff(arrays["ends"], prepend=0))
    hash_, size = np.concatenate(hashes), np.concatenate(sizes)
    # Of equal hashes the first document: a stable order. Those beyond the
    # threshold are each the least of a block: only to have one at all.
    order = np.argsort(hash_, kind="stable")
    near = np.cumsum(size[order]) <= plan.config.tokenizer_bytes
    near &= hash_[order] <= np.uint64(_threshold(plan))
    chosen = np.zeros(len(hash_), bool)
    chosen[order[: max(1, int(near.sum()))]] = True
    self._chosen = np.split(chosen, np.cumsum([len(one) for one in hashes]))
    self.num_documents = int(chosen.sum())
    self.num_bytes = int(size[chosen].sum())

  def __call__(self) -> Iterator[tuple[int, str]]:
    """Yield ids of sources and texts, in the order of the documents."""
    for block, chosen in zip(self._blocks, self._chosen, strict=False):
      arrays = work_lib.read_arrays(self._work.sample(block))
      ids = arrays["ids"].tolist()
      texts = work_lib.unpack_texts(arrays["texts"], arrays["ends"])
      for number, text, wanted in zip(ids, texts, chosen, strict=True):
        if wanted:
          yield number, text.decode("utf-8")

  def tally(self) -> block_lib.Tally:
    """Return the counts of all blocks' documents."""
    tally = block_lib.Tally()
    for block in self._blocks:
      arrays = work_lib.read_arrays(self._work.sample(block), "tally")
      tally.merge(
        block_lib.Tally.from_dict(json.loads(arrays["tally"].tobytes()))
      )
    return tally


def train(plan: plan_lib.Plan, work: work_lib.Work) -> tuple[bytes, dict]:
  """Train the tokenizer on the blocks' samples.

  Returns:
    The model, and what the manifest says of it.

  Raises:
    errors.UserError: there is no text, or the vocabulary is too small.
  """
  sample = Sample(plan, work)
  if not sample.num_documents:
    raise sample.tally().nothing_left()
  model_bytes, report = tokenizer_lib.train_tokenizer(
    sample,
    vocab_size=plan.config.vocab_size,
    min_piece_sources=plan.config.min_piece_sources,
  )
  facts = dataclasses.asdict(report) | {
    "sampled_documents": sample.num_documents,
    "sampled_bytes": sample.num_bytes,
  }
  return model_bytes, facts
