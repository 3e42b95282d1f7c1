"""The documents of a repair: what it is trained on, and its two samples.

Owns which documents of a prepared dataset count in a batch. NumPy only.

Invariant: a document of an erased or suspended source has no weight in a
batch of training, and no sinks.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from nulls_jax.data import pipeline
from nulls_jax.data.preparation import dataset
from nulls_jax.training.config import TrainingConfig
from nulls_jax.training.survivors import Survivors

# Rows of the dataset that each figure of the report is measured on.
ROWS = 256

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """Batches on which a loss is measured before and after.

  Attributes:
    batches: of the size of training, weights 0 for all other documents.
    num_sources: sources that have a document in them.
  """

  batches: list[Batch]
  num_sources: int

  @property
  def num_tokens(self) -> int:
    return int(sum(batch["weights"].sum() for batch in self.batches))


def training_batches(
  prepared: dataset.Prepared, who: Survivors, training: TrainingConfig
) -> Iterator[Batch]:
  """Yield the batches of a repair: only documents of taught sources count."""
  for batch in _read(prepared, who.words, training, training.num_steps):
    yield _weigh(batch, batch["sources"].any(axis=-1))


def take(
  prepared: dataset.Prepared, who: Survivors, training: TrainingConfig
) -> dict[str, Sample]:
  """Take the first rows, in the order of training, of either kind.

  Args:
    prepared: the dataset.
    who: its sources.
    training: its batch size and seed are used.

  Returns:
    "retained": documents that are trained on, with their sinks; "deleted":
    documents of erased sources, if the dataset has them, without sinks.
  """
  size = training.batch_size
  # Words that only say which source a tile has.
  indices = np.zeros_like(who.words)
  indices[:, 1] = np.arange(len(indices))
  chosen = {"retained": who.words.any(axis=1), "deleted": who.deleted}
  rows: dict[str, list[Batch]] = {name: [] for name in chosen}
  num_rows = prepared.manifest["counts"]["rows"]
  num_batches = math.ceil(num_rows / size)
  for number, batch in enumerate(
    _read(prepared, indices, training, num_batches)
  ):
    # The rest of the last batch is of the next epoch.
    for row in range(min(size, num_rows - number * size)):
      for name, marks in chosen.items():
        wanted = marks[batch["sources"][row, :, 1]].any()
        if wanted and len(rows[name]) < ROWS:
          rows[name].append({key: value[row] for key, value in batch.items()})
    if all(len(found) == ROWS for found in rows.values()):
      break
  words = {"retained": who.words, "deleted": np.zeros_like(who.words)}
  return {
    name: _sample(rows[name], marks, words[name], size)
    for name, marks in chosen.items()
  }


def _sample(rows, marks, words, size) -> Sample:
  """Make batches of rows whose `sources` hold indices in place of words."""
  batches, sources = [], set()
  for start in range(0, len(rows), size):
    part = rows[start : start + size]
    filled = part + part[:1] * (size - len(part))
    batch = {key: np.stack([row[key] for row in filled]) for key in part[0]}
    index_BxT = batch["sources"][..., 1]
    marked_BxT = marks[index_BxT]
    marked_BxT[len(part) :] = False
    sources.update(np.unique(index_BxT[marked_BxT]).tolist())
    batch["sources"] = words[index_BxT]
    batches.append(_weigh(batch, marked_BxT))
  return Sample(batches=batches, num_sources=len(sources))


def _read(prepared, routing_table, training, num_steps) -> Iterator[Batch]:
  return pipeline.batches(
    prepared,
    routing_table,
    batch_size=training.batch_size,
    seed=training.seed,
    off_share=0.0,
    num_steps=num_steps,
  )


def _weigh(batch: Batch, tiles_BxT: np.ndarray) -> Batch:
  """Return the batch with weights 0 outside of the marked tiles (bool)."""
  weights_BxL = batch["weights"]
  tile = weights_BxL.shape[1] // tiles_BxT.shape[1]
  return {**batch, "weights": weights_BxL * np.repeat(tiles_BxT, tile, axis=1)}
