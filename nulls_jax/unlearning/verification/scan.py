"""One look at everything that a checkpoint's item stores.

Owns the decoding of every stored chunk of every version, and what is found
there: the digest of each array, and which named rows are not zero. The same
scan is the check of an output and the positive control on its source. Knows
nothing of receipts.

Invariant: memory is bounded by `_AHEAD_BYTES` or two chunks, whichever is
more, whatever the size of the item.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorstore as ts

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib
from nulls_jax.unlearning.checkpoint import generations, moments, plan, storage

_NUM_THREADS = 2
# Decoded bytes that may wait for their turn.
_AHEAD_BYTES = 32 * 2**20
_MAX_PLACES = 3

# Called with the stored values done, and all.
Progress = Callable[[int, int], None]


@dataclasses.dataclass
class Rows:
  """What was found of the named rows in one array.

  Attributes:
    num_zero: named rows that are zero.
    num_alive: named rows that are not.
    places: the first of those, in words.
  """

  num_zero: int = 0
  num_alive: int = 0
  places: list[str] = dataclasses.field(default_factory=list)

  def add(self, chunk: arrays_lib.Chunk, found, elements: np.ndarray) -> None:
    """Look at the named rows of a chunk, as `plan.Rows.inside` gives them."""
    starts = [part.start for part in chunk.domain[:3]]
    for layer, stratum, numbers in found:
      named = np.ascontiguousarray(elements[layer, stratum, numbers])
      # As bytes: -0 is not zero, NaN is not.
      lines = named.reshape(len(numbers), -1).view(np.uint8)
      alive = numbers[lines.any(axis=1)]
      self.num_alive += len(alive)
      self.num_zero += len(numbers) - len(alive)
      for number in alive[: _MAX_PLACES - len(self.places)]:
        self.places.append(
          f"layer {starts[0] + layer}, stratum {starts[1] + stratum}, row "
          f"{starts[2] + int(number)}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
  """What an item holds.

  Attributes:
    arrays: its arrays, sorted by name.
    named: the rows that were looked for; None for none.
    survey: its values in all versions.
    digests: hex of `arrays.Digest` by name.
    without_rows: the same, had the named rows been zeroed; of the arrays with
      rows, if asked for.
    rows: what was found of the named rows, by array.
    columns: names of the column statistics, which an erasure resets.
    uneven_columns: those of them that still differ from column to column.
    superseded: values of older versions that differ from the newest, in
      words; none is in the digests.
  """

  arrays: tuple[arrays_lib.Array, ...]
  named: plan.Rows | None
  survey: generations.Survey
  digests: dict[str, str]
  without_rows: dict[str, str]
  rows: dict[str, Rows]
  columns: frozenset[str]
  uneven_columns: tuple[str, ...]
  superseded: tuple[str, ...]

  @property
  def num_values(self) -> int:
    return len(self.survey.newest)


def scan(
  item: pathlib.Path,
  config: assignment.SinkConfig,
  sources: list[ledger_lib.Source],
  progress: Progress | None = None,
  *,
  run_dir: pathlib.Path | None = None,
  predict: bool = False,
) -> Scan:
  """Decode every value of an item and look at the rows of sources.

  Args:
    item: the folder of the arrays.
    config: the assignment that its sink tables were made for.
    sources: those whose rows are looked at; may be empty.
    progress: called with the values done, and all.
    run_dir: the run whose ledger has these sources; needed for sources only.
    predict: digest the arrays without these rows, too.

  Raises:
    errors.UserError: something is missing, damaged or not accounted for.
  """
  arrays = arrays_lib.read_arrays(storage.Database.open(item))
  sinks = moments.find(item, arrays, config)
  rows = None
  if sources:
    num_layers = sinks.tables[0].shape[0]
    rows = plan.rows_to_zero(config, sources, num_layers, run_dir)
  survey = generations.survey(item)
  look = _Look(sinks, rows, predict)
  total = sum(array.num_chunks for array in arrays)
  for done, decoded in enumerate(_decoded(item, survey, arrays), start=1):
    look.add(*decoded)
    if progress:
      progress(done, total)
  return Scan(
    arrays=tuple(arrays),
    named=rows,
    survey=survey,
    digests={name: one.hexdigest() for name, one in look.digests.items()},
    without_rows={
      name: one.hexdigest() for name, one in look.without_rows.items()
    },
    rows=look.rows,
    columns=frozenset(array.name for array, _ in sinks.column_statistics),
    uneven_columns=tuple(sorted(look.uneven)),
    superseded=tuple(_describe(item, survey, sinks, rows)),
  )


class _Look:
  """What is kept of each chunk as it passes by."""

  def __init__(
    self, sinks: moments.SinkArrays, rows: plan.Rows | None, predict: bool
  ):
    self.digests: dict[str, arrays_lib.Digest] = {}
    self.without_rows: dict[str, arrays_lib.Digest] = {}
    self.rows = {array.name: Rows() for array in sinks.with_rows}
    self.uneven: set[str] = set()
    self._columns = {array.name for array, _ in sinks.column_statistics}
    self._named = rows
    self._predict = predict

  def add(self, array, chunk, elements: np.ndarray) -> None:
    if array.name not in self.digests:
      self.digests[array.name] = arrays_lib.Digest(array)
      if self._predict and array.name in self.rows:
        self.without_rows[array.name] = arrays_lib.Digest(array)
    self.digests[array.name].update(chunk, elements)
    if array.name in self._columns:
      # Chunks may split the columns; then the first of each is compared.
      words = arrays_lib.as_bytes(elements[..., None])
      if (words != words[..., :1, :]).any():
        self.uneven.add(array.name)
    if array.name in self.rows:
      found = self._named.inside(chunk.domain) if self._named else []
      self.rows[array.name].add(chunk, found, elements)
      if self._predict:
        for layer, stratum, numbers in found:
          elements[layer, stratum, numbers] = 0
        self.without_rows[array.name].update(chunk, elements)


def _decoded(
  item, survey: generations.Survey, arrays: list[arrays_lib.Array]
) -> Iterator[tuple[arrays_lib.Array, arrays_lib.Chunk, np.ndarray]]:
  """Yield all chunks in order; the next ones are decoded meanwhile."""

  def decode(array, chunk):
    value = survey.newest[chunk.key].read()
    return array, chunk, _codec(array).decode(chunk, value, item)

  waiting, size = collections.deque(), 0
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    for array in arrays:
      for chunk in array.chunks():
        while waiting and size + array.chunk_bytes > _AHEAD_BYTES:
          future, taken = waiting.popleft()
          size -= taken
          yield future.result()
        waiting.append((pool.submit(decode, array, chunk), array.chunk_bytes))
        size += array.chunk_bytes
    while waiting:
      yield waiting.popleft()[0].result()


@functools.lru_cache(maxsize=8)
def _codec(array: arrays_lib.Array) -> arrays_lib.Codec:
  return arrays_lib.Codec(array)


def _describe(item, survey, sinks, rows) -> Iterator[str]:
  """Say of each differing superseded value whether named rows survive there."""
  different = list(survey.different())
  if not different:
    return
  chunks = {
    chunk.key: (array, chunk)
    for array in sinks.with_rows
    for chunk in array.chunks()
  }
  for value in different:
    where = f"{value.key} of version {value.version}"
    if value.directory != item:
      where += f" of {value.directory.name}"
    found = chunks.get(value.key)
    if found is None or rows is None:
      yield f"{where} differs from the newest"
      continue
    array, chunk = found
    look = Rows()
    try:
      elements = _codec(array).decode(chunk, value.place.read(), item)
    except errors.UserError:
      yield f"{where} cannot be decoded"
      continue
    look.add(chunk, rows.inside(chunk.domain), elements)
    if look.num_alive:
      yield f"{where} still holds erased rows ({look.places[0]})"
    else:
      yield f"{where} differs from the newest"


def first_difference(
  array: arrays_lib.Array,
  items: tuple[pathlib.Path, pathlib.Path],
  rows: plan.Rows,
) -> str | None:
  """Name the first row outside of `rows` in which two items differ.

  Both store the array with rows along the third axis; their chunks may
  differ. Slow, for the case that digests differ.
  """
  tables = [_open(item, array.name) for item in items]
  for chunk in array.chunks():
    one, other = (
      np.ascontiguousarray(table[chunk.domain].read().result())
      for table in tables
    )
    flat = [
      arrays_lib.as_bytes(values.reshape(*values.shape[:3], -1))
      for values in (one, other)
    ]
    differs = (flat[0] != flat[1]).any(axis=-1)
    for layer, stratum, numbers in rows.inside(chunk.domain):
      differs[layer, stratum, numbers] = False
    if differs.any():
      place = [
        int(number) + part.start
        for number, part in zip(
          np.argwhere(differs)[0], chunk.domain[:3], strict=True
        )
      ]
      return f"layer {place[0]}, stratum {place[1]}, row {place[2]}"
  return None


def _open(item: pathlib.Path, name: str) -> ts.TensorStore:
  base = {"driver": "file", "path": f"{item.absolute()}/"}
  store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
  return ts.open({"driver": "zarr3", "kvstore": store}, open=True).result()
