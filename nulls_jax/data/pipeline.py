"""Batches from a prepared dataset or a mixture, through Grain.

Owns the order of the data and the draw of on and off documents. Knows
nothing of models or devices.

Invariant: what a batch holds is a pure function of (dataset, seed, step,
batch size): there is no iterator state to save, and the number of processes
changes only who reads which part.
"""

import sys
from collections.abc import Iterator

import grain
import numpy as np

from nulls_jax import errors
from nulls_jax.data import mixture, packing, stored_rows
from nulls_jax.data.preparation import dataset

# Batches read ahead, by one thread: rows are small, one is enough.
_READ_OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


def batches(
  prepared: dataset.Prepared,
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
  another order each epoch. The sets of a mixture take turns in it, each in
  such an order of its own; where a mixture ends, the rest of the last batch
  is padding.

  Args:
    prepared: the dataset, see `mixture.open_dataset`.
    routing_table: `uint32 [num_sources + 1, 2]` of the ledger.
    batch_size: rows of the global batch.
    seed: of the order and of the off draw; 32 bits.
    off_share: probability that a visit of a document uses no sinks.
    start_step: completed steps.
    num_steps: batches to yield; None ends where the dataset does, or never.
    process_index: this process.
    process_count: processes; each gets a contiguous slice of every batch
      and reads no other rows.

  Yields:
    `tokens`, `targets`, `segments`, `positions` int32 `[B, L]`, `weights`
    float32 `[B, L]`, `sources` uint32 `[B, T, 2]`; B is this process's part.

  Raises:
    errors.UserError: the batch does not divide over the processes, the
      share is no probability, the routing table is another ledger's, a
      mixture ends before these steps do, or the rows are damaged.
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
  if num_steps is not None:
    mixture.check_steps(prepared, start_step + num_steps, batch_size)
  source = _Batches(
    _Sequence(prepared, seed),
    routing_table,
    batch_size=batch_size,
    seed=seed,
    off_share=off_share,
    process_index=process_index,
    process_count=process_count,
  )
  stop = len(source) if num_steps is None else start_step + num_steps
  steps = grain.MapDataset.source(source)[start_step:stop]
  return iter(steps.to_iter_dataset(_READ_OPTIONS))


class _Batches:
  """Random access to batches by step: a Grain data source."""

  def __init__(
    self,
    sequence: "_Sequence",
    routing_table,
    *,
    batch_size,
    seed,
    off_share,
    process_index,
    process_count,
  ):
    self._sequence = sequence
    self._routing_table = routing_table
    self._seed = seed
    self._off_share = off_share
    self._global_size = batch_size
    self._local_size = batch_size // process_count
    self._first = process_index * self._local_size

  def __len__(self) -> int:
    if self._sequence.end is None:
      return sys.maxsize // self._global_size
    return -(-self._sequence.end // self._global_size)

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    start = int(step) * self._global_size + self._first
    places_B = np.arange(start, start + self._local_size)
    tokens, tile_documents, tile_sources = self._sequence.read(places_B)
    batch = packing.token_fields(tokens, tile_documents)
    sources = self._routing_table[tile_sources]
    if self._off_share > 0:
      draw = off_draw(
        self._seed, places_B.astype(np.uint64)[:, None], tile_documents
      )
      sources[draw < self._off_share] = 0
    batch["sources"] = sources
    return batch


class _Sequence:
  """The sequence of rows that batches are cut from, by place."""

  def __init__(self, prepared: dataset.Prepared, seed: int):
    parts = mixture.parts_of(prepared)
    self.end = mixture.end_of(prepared)
    self._counts = [part.rows_a_pass for part in parts]
    self._parts = [
      _Part(part, prepared.config, _part_seed(seed, number))
      for number, part in enumerate(parts)
    ]
    tiles = prepared.config.row_length // prepared.config.tile
    self._widths = (prepared.config.row_length, tiles, tiles)

  def read(self, places_B: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return tokens `[B, L]`, documents and sources `[B, T]`, uint32."""
    if len(self._parts) == 1 and self.end is None:
      return self._parts[0].read(places_B)
    parts_B, turns_B = mixture.interleave(self._counts, places_B)
    if self.end is not None:
      parts_B[places_B >= self.end] = -1
    found = tuple(
      np.zeros((len(places_B), width), np.uint32) for width in self._widths
    )
    for number in np.unique(parts_B[parts_B >= 0]).tolist():
      mine_B = parts_B == number
      for whole, own in zip(
        found, self._parts[number].read(turns_B[mine_B]), strict=True
      ):
        whole[mine_B] = own
    return found


class _Part:
  """The rows of one dataset, shuffled anew each time all were read."""

  def __init__(self, part: mixture.Part, config, seed: int):
    self._directory = part.directory
    self._row_length = config.row_length
    with stored_rows.damage_named(self._directory):
      self._records = grain.sources.ArrayRecordDataSource(
        [str(path) for path in part.row_files]
      )
      num_rows = len(self._records)
    self._kept = part.load_kept()
    self._numbers = part.load_numbers()
    if self._kept is not None:
      num_rows = len(self._kept)
    # The order of rows alone; `repeat` shuffles every epoch anew.
    self._order = grain.MapDataset.range(num_rows).seed(seed).shuffle().repeat()

  def read(self, turns_B: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return tokens `[B, L]`, documents and sources `[B, T]`, uint32."""
    numbers = [self._order[turn] for turn in turns_B.tolist()]
    if self._kept is not None:
      numbers = self._kept[numbers].tolist()
    with stored_rows.damage_named(self._directory):
      # One by one: `__getitems__` starts a pool of threads each time, and is
      # slower below some 200 rows.
      records = [self._records[int(number)] for number in numbers]
    return mixture.renumbered(
      *packing.split_records(records, self._row_length), self._numbers
    )


def _part_seed(seed: int, number: int) -> int:
  """Return the seed of a part's order; the first has that of a dataset."""
  if number == 0:
    return seed
  with np.errstate(over="ignore"):
    state = _mix64(np.asarray(seed, np.uint64) + _GOLDEN)
    state = _mix64((state ^ np.asarray(number, np.uint64)) + _GOLDEN)
  return int(state >> np.uint64(32))


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
