"""Batches from a prepared dataset, through Grain.

Owns the order of the data and the draw of on and off documents. Knows
nothing of models or devices.

Invariant: what a batch holds is a pure function of (dataset, seed, step,
batch size): there is no iterator state to save, and the number of processes
changes only who reads which part.
"""

import contextlib
from collections.abc import Iterator

import grain
import numpy as np

from nulls_jax import errors
from nulls_jax.data import packing, prepare

# Batches read ahead, by one thread: rows are small, one is enough.
_READ_OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


def batches(
  prepared: prepare.Prepared,
  routing_table: np.ndarray,
  *,
  batch_size: int,
  seed: int,
  off_share: float,
  start_step: int = 0,
  num_steps: int | None = None,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Yield the batches of steps `start_step`, `start_step + 1`, ...

  Rows stream on over epochs: batch `s` holds the rows `s * batch_size` and
  following of an endless sequence that has each row once an epoch, in
  another order each epoch.

  Args:
    prepared: the dataset.
    routing_table: `uint32 [num_sources + 1, 2]` of the ledger.
    batch_size: rows of the global batch.
    seed: of the order and of the off draw; 32 bits.
    off_share: probability that a visit of a document uses no sinks.
    start_step: completed steps.
    num_steps: batches to yield; None never ends.
    process_index: this process.
    process_count: processes; each gets a contiguous slice of every batch
      and reads no other rows.

  Yields:
    `tokens`, `targets`, `segments`, `positions` int32 `[B, L]`, `weights`
    float32 `[B, L]`, `sources` uint32 `[B, T, 2]`; B is this process's part.

  Raises:
    errors.UserError: the batch does not divide over the processes, the
      share is no probability, the routing table is another ledger's, or the
      rows are damaged.
  """
  if batch_size < 1 or batch_size % process_count:
    raise errors.UserError(
      f"training.batch_size={batch_size} does not divide over "
      f"{process_count} processes; choose a multiple"
    )
  if not 0 <= off_share <= 1:
    raise errors.UserError(f"off_share={off_share} is not between 0 and 1")
  if not 0 <= seed < 2**32:
    raise errors.UserError(f"seed={seed} does not fit 32 bits")
  num_sources = prepared.manifest["counts"]["sources"]
  if len(routing_table) != num_sources + 1:
    raise errors.UserError(
      f"the routing table has {len(routing_table) - 1} sources but "
      f"{prepared.directory} has {num_sources}; use the dataset's own ledger"
    )
  source = _Batches(
    prepared,
    routing_table,
    batch_size=batch_size,
    seed=seed,
    off_share=off_share,
    process_index=process_index,
    process_count=process_count,
  )
  stop = len(source) if num_steps is None else start_step + num_steps
  dataset = grain.MapDataset.source(source)[start_step:stop]
  return iter(dataset.to_iter_dataset(_READ_OPTIONS))


class _Batches:
  """Random access to batches by step: a Grain data source."""

  def __init__(
    self,
    prepared,
    routing_table,
    *,
    batch_size,
    seed,
    off_share,
    process_index,
    process_count,
  ):
    self._row_length = prepared.config.row_length
    self._directory = prepared.directory
    with self._damage_named():
      self._records = grain.sources.ArrayRecordDataSource(
        [str(path) for path in prepared.row_files]
      )
      num_rows = len(self._records)
    # The order of rows alone; `repeat` shuffles every epoch anew.
    self._order = grain.MapDataset.range(num_rows).seed(seed).shuffle().repeat()
    self._routing_table = routing_table
    self._seed = seed
    self._off_share = off_share
    self._global_size = batch_size
    self._local_size = batch_size // process_count
    self._first = process_index * self._local_size

  @contextlib.contextmanager
  def _damage_named(self):
    """ArrayRecord checks what it reads, and has one kind of error."""
    try:
      yield
    except RuntimeError as error:
      raise errors.UserError(
        f"prepared dataset {self._directory} is damaged: {error}; delete it "
        "and prepare again"
      ) from error

  def __len__(self) -> int:
    return len(self._order) // self._global_size

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    start = int(step) * self._global_size + self._first
    places = range(start, start + self._local_size)
    with self._damage_named():
      records = [self._records[int(self._order[place])] for place in places]
    tokens, tile_documents, tile_sources = packing.split_records(
      records, self._row_length
    )
    batch = packing.token_fields(tokens, tile_documents)
    sources = self._routing_table[tile_sources]
    if self._off_share > 0:
      draw = off_draw(
        self._seed, np.asarray(places, np.uint64)[:, None], tile_documents
      )
      sources[draw < self._off_share] = 0
    batch["sources"] = sources
    return batch


def off_draw(seed: int, place: np.ndarray, document: np.ndarray) -> np.ndarray:
  """Return a number in [0, 1) for each visit of a document.

  Three rounds of a 64-bit finaliser (SplitMix64) over seed, place in the
  endless sequence of rows, and number in the row: no state, any order.

  Args:
    seed: 32 bits.
    place: integers, broadcast against `document`.
    document: number of the document in its row.

  Returns:
    `float64`; tiles of one document get the same number.
  """
  with np.errstate(over="ignore"):
    state = _mix64(np.asarray(seed, np.uint64) + _GOLDEN)
    state = _mix64((state ^ place.astype(np.uint64)) + _GOLDEN)
    state = _mix64((state ^ document.astype(np.uint64)) + _GOLDEN)
  return (state >> np.uint64(11)) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix64(x: np.ndarray) -> np.ndarray:
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
