"""The copy of an item's arrays without some rows of its sink tables.

Owns the edit of the arrays: stored values go over as they are, only chunks
with a named row are encoded anew; the digests of every array before and
after; and the check that reads the copy back. Knows nothing of sources.

Invariant: a value that holds a named row is never written, not even for a
moment: the copy's database has no version and no byte with it.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from nulls_jax import errors
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib
from nulls_jax.unlearning.checkpoint import moments, plan, storage
from nulls_jax.unlearning.erasure import memory
from nulls_jax.unlearning.erasure.digest_without_rows import DigestWithoutRows

# Called with "copy" or "check", the stored values done, and all.
Progress = Callable[[str, int, int], None]

After = arrays_lib.Digest | DigestWithoutRows
# Resident bytes from which freed memory goes back to the system.
_MUCH_MEMORY = 330 * 2**20

Batch = list[tuple[arrays_lib.Array, arrays_lib.Chunk | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
  """What to do.

  Attributes:
    arrays: the arrays of the item that the copy has.
    sinks: those among them that are edited.
    rows: which rows become zero.
    dropped: the arrays of the item that the copy does not have.
  """

  arrays: list[arrays_lib.Array]
  sinks: moments.SinkArrays
  rows: plan.Rows
  dropped: list[arrays_lib.Array] = dataclasses.field(default_factory=list)

  @property
  def num_values(self) -> int:
    """Stored values of the copy: one a chunk and one an array."""
    return sum(1 + array.num_chunks for array in self.arrays)

  @functools.cached_property
  def names_with_rows(self) -> frozenset[str]:
    return frozenset(array.name for array in self.sinks.with_rows)

  @functools.cached_property
  def edited_names(self) -> frozenset[str]:
    """Names of all arrays that are edited."""
    return frozenset(array.name for array in self.sinks.edited)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
  """What a copy must hold.

  Attributes:
    digests: of every array before and after, by name; one and the same where
      the array is not edited, and no "after" where it was dropped.
    values: SHA-256 of every stored value by its key.
    num_rewritten: values that were encoded anew.
  """

  digests: dict[str, tuple[arrays_lib.Digest, After | None]]
  values: dict[str, bytes]
  num_rewritten: int


def write(
  edit: Edit, source: storage.Database, directory, progress: Progress
) -> Written:
  """Write the edited copy of `source` as a new database in `directory`.

  Raises:
    UserError: a value of the source cannot be read or decoded.
    MachineError: the copy cannot be written, or an encoded chunk decodes to
      other elements.
  """
  target = storage.Database.create(directory)
  hashes, done = {}, 0

  def items(keys, values):
    for position, key in enumerate(keys):
      # Taken out of the list, so that no chunk is in memory thrice.
      value, values[position] = values[position], b""
      hashes[key] = hashlib.sha256(value).digest()
      yield key, value

  def store(keys, values):
    target.write(items(keys, values))

  with (
    concurrent.futures.ThreadPoolExecutor(1) as hasher,
    concurrent.futures.ThreadPoolExecutor(1) as writer,
  ):
    editor = _Editor(edit, source, hasher)
    pending = None
    for batch, keys, values in _read_ahead(source, edit.arrays):
      for position, (array, chunk) in enumerate(batch):
        value, values[position] = values[position], b""
        values[position] = editor.edit(array, chunk, value)
        del value
      if pending is not None:
        pending.result()
      pending = writer.submit(store, keys, values)
      done += len(batch)
      progress("copy", done, edit.num_values)
    if pending is not None:
      pending.result()
    for batch, _, values in _read_ahead(source, edit.dropped):
      for (array, chunk), value in zip(batch, values, strict=True):
        editor.edit(array, chunk, value)
    editor.finish()
  return Written(
    digests=editor.digests, values=hashes, num_rewritten=editor.num_rewritten
  )


def check(edit: Edit, written: Written, directory, progress: Progress) -> None:
  """Read the copy back from the disk, every value of it.

  Raises:
    MachineError: a value differs from what was written, or there are other
      keys.
  """
  with _reading_back():
    copy = storage.Database.open(directory)
    same_keys = set(copy.keys()) == written.values.keys()
  if not same_keys:
    raise errors.MachineError(
      f"{directory}: other keys than were written; check the disk and repeat"
    )
  done = 0
  with _reading_back():
    for batch, keys, values in _read_ahead(copy, edit.arrays):
      for key, value in zip(keys, values, strict=True):
        if hashlib.sha256(value).digest() != written.values[key]:
          raise errors.MachineError(
            f"{directory}: {key} reads back differently from what was "
            "written; check the disk and repeat"
          )
      done += len(batch)
      progress("check", done, edit.num_values)


class _Editor:
  """Turns the source's stored values into the copy's, array by array.

  Attributes:
    digests: as in `Written`, of what was seen so far.
    num_rewritten: values that were encoded anew so far.
  """

  def __init__(self, edit: Edit, source: storage.Database, hasher):
    self.digests = {}
    self._hasher = hasher
    self._hashing = None
    self.num_rewritten = 0
    self._edit = edit
    self._where = source.directory
    self._dropped = {array.name for array in edit.dropped}
    self._columns = {
      column.name: moments.reset_values(column, _means(source, rows, edit.rows))
      for column, rows in edit.sinks.column_statistics
    }

  def edit(self, array, chunk, value: bytes) -> bytes:
    """Return the value of the copy; chunks must come in their order."""
    if chunk is None:
      # The metadata come before the array's first chunk.
      self.digests[array.name] = self._digests_of(array)
      return value
    before, after = self.digests[array.name]
    codec = _codec(array)
    elements = codec.decode(chunk, value, self._where)
    # One chunk is hashed while the next is decoded.
    self.finish()
    self._hashing = self._hasher.submit(before.update, chunk, elements)
    if after is before or after is None:
      return value
    if array.name in self._columns or self._edit.rows.inside(chunk.domain):
      self.finish()
    if self._apply(array, chunk, elements, after):
      value = codec.encode(chunk, elements)
      self._check_encoding(codec, chunk, value, elements)
      self.num_rewritten += 1
    if isinstance(after, arrays_lib.Digest):
      after.update(chunk, elements)
    return value

  def finish(self) -> None:
    """Wait for the digests of what was seen so far."""
    if self._hashing is not None:
      self._hashing.result()
      self._hashing = None

  def _digests_of(self, array):
    """Return digests before and after; one does for both where bytes equal."""
    before = arrays_lib.Digest(array)
    if array.name in self._dropped:
      return before, None
    if array in self._edit.sinks.tables:
      inside = self._edit.rows.inside
      return before, DigestWithoutRows(array, before, inside)
    is_edited = array.name in self._edit.edited_names
    return before, arrays_lib.Digest(array) if is_edited else before

  def _apply(self, array, chunk, elements, after) -> bool:
    """Edit a chunk in place; say whether that changed any of its bits."""
    changed = False
    if array.name in self._columns:
      layers, strata = chunk.domain[:2]
      values = self._columns[array.name][layers, strata]
      wanted = np.broadcast_to(values, elements.shape)
      changed = not arrays_lib.same_bits(elements, wanted)
      elements[...] = wanted
    if array.name in self._edit.names_with_rows:
      for layer, stratum, numbers in self._edit.rows.inside(chunk.domain):
        rows = elements[layer, stratum, numbers]
        if arrays_lib.as_bytes(rows).any():
          if isinstance(after, DigestWithoutRows):
            after.remove(rows)
          elements[layer, stratum, numbers] = 0
          changed = True
    return changed

  def _check_encoding(self, codec, chunk, value, elements) -> None:
    with _reading_back():
      again = codec.decode(chunk, value, self._where)
    if not arrays_lib.same_bits(again, elements):
      raise errors.MachineError(
        f"{self._where}: {chunk.key} decodes to other elements than were "
        "encoded; check the machine's memory and repeat"
      )


def _means(source, array, rows: plan.Rows) -> np.ndarray:
  """Return the means of the surviving row statistics, `float64 [N, G]`."""
  means = [
    [moments.Mean() for _ in range(array.shape[1])]
    for _ in range(array.shape[0])
  ]
  for batch, _, values in _read_ahead(source, [array]):
    for (_, chunk), value in zip(batch, values, strict=True):
      if chunk is None:
        continue
      elements = _codec(array).decode(chunk, value, source.directory)
      survives = np.ones(elements.shape, bool)
      for layer, stratum, numbers in rows.inside(chunk.domain):
        survives[layer, stratum, numbers] = False
      for layer, stratum in np.ndindex(elements.shape[:2]):
        mean = means[chunk.domain[0].start + layer][
          chunk.domain[1].start + stratum
        ]
        mean.add(elements[layer, stratum][survives[layer, stratum]])
  return np.asarray([[mean.value() for mean in layer] for layer in means])


def _read_ahead(
  database: storage.Database, arrays: Iterable[arrays_lib.Array]
) -> Iterator[tuple[Batch, list[str], list[bytes]]]:
  """Yield batches, their keys and values; the next is read meanwhile."""

  def read(batch):
    keys = [
      array.metadata_key if chunk is None else chunk.key
      for array, chunk in batch
    ]
    return batch, keys, database.read(keys)

  memory.use_one_heap()
  with concurrent.futures.ThreadPoolExecutor(1) as reader:
    pending = None
    for batch in arrays_lib.batches(arrays):
      memory.trim(_MUCH_MEMORY)
      following = reader.submit(read, batch)
      if pending is not None:
        yield pending.result()
      pending = following
    if pending is not None:
      yield pending.result()


@functools.lru_cache(maxsize=8)
def _codec(array: arrays_lib.Array) -> arrays_lib.Codec:
  return arrays_lib.Codec(array)


@contextlib.contextmanager
def _reading_back():
  """What was just written and cannot be read is the machine's failure."""
  try:
    yield
  except errors.UserError as error:
    raise errors.MachineError(
      f"what was just written cannot be read back: {error}"
    ) from error
