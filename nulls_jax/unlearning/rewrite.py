"""The copy of an item's arrays without some rows of its sink tables.

Owns the edit of the arrays: stored values go over as they are, only chunks
with a named row are decoded, zeroed and encoded anew; and the check that
reads the copy back. Knows nothing of sources.

Invariant: a value that holds a named row is never written, not even for a
moment: the copy's database has no version and no byte with it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from nulls_jax import errors
from nulls_jax.unlearning import arrays as arrays_lib
from nulls_jax.unlearning import plan, storage

# Called with "copy" or "check", the stored values done, and all.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
  """What to do.

  Attributes:
    arrays: all arrays of the item.
    tables: those among them whose rows become zero.
    rows: which rows.
  """

  arrays: list[arrays_lib.Array]
  tables: list[arrays_lib.Array]
  rows: plan.Rows

  @property
  def num_values(self) -> int:
    """Stored values of the item: one a chunk and one an array."""
    return sum(1 + array.num_chunks for array in self.arrays)

  def rows_inside(self, array, chunk) -> list[tuple[int, int, np.ndarray]]:
    """Return the rows to zero in a chunk, as `plan.Rows.inside` does."""
    if chunk is None or array not in self.tables:
      return []
    return self.rows.inside(chunk.domain)


def write(
  edit: Edit, source: storage.Database, directory, progress: Progress
) -> int:
  """Write the edited copy of `source` as a new database in `directory`.

  Returns:
    The number of values that were encoded anew.
  """
  target = storage.Database.create(directory)
  done, num_rewritten = 0, 0
  for batch in arrays_lib.batches(edit.arrays):
    keys = [_key(array, chunk) for array, chunk in batch]
    values = source.read(keys)
    for position, (array, chunk) in enumerate(batch):
      rows = edit.rows_inside(array, chunk)
      if rows:
        # Taken out of the list, so that no chunk is in memory thrice.
        value, values[position] = values[position], b""
        codec = _codec(array)
        elements = codec.decode(chunk, value, source.directory)
        del value
        for layer, stratum, numbers in rows:
          elements[layer, stratum, numbers] = 0
        values[position] = codec.encode(chunk, elements)
        del elements
        num_rewritten += 1
    target.write(zip(keys, values, strict=True))
    done += len(batch)
    progress("copy", done, edit.num_values)
  return num_rewritten


def check(
  edit: Edit, source: storage.Database, directory, progress: Progress
) -> dict[str, tuple[arrays_lib.Digest, arrays_lib.Digest]]:
  """Read the copy back from the disk and compare it with the source.

  Returns:
    The digests of every array before and after, by name; one and the same
    where the array is not edited.

  Raises:
    MachineError: a byte differs from what it should be.
  """
  with _reading_back():
    copy = storage.Database.open(directory)
    same_keys = copy.keys() == source.keys()
  if not same_keys:
    raise errors.MachineError(
      f"{directory}: other keys than were written; check the disk and repeat"
    )
  digests, done = {}, 0
  zeroed = dict.fromkeys((table.name for table in edit.tables), 0)
  for batch in arrays_lib.batches(edit.arrays):
    keys = [_key(array, chunk) for array, chunk in batch]
    old_values = source.read(keys)
    with _reading_back():
      new_values = copy.read(keys)
    for position, (array, chunk) in enumerate(batch):
      old, old_values[position] = old_values[position], b""
      new, new_values[position] = new_values[position], b""
      rows = edit.rows_inside(array, chunk)
      if not rows and old != new:
        raise _differs(directory, _key(array, chunk))
      if chunk is None:
        # The metadata come before the array's first chunk.
        digests[array.name] = _digests_of(array, edit)
        continue
      before, after = digests[array.name]
      codec = _codec(array)
      elements = codec.decode(chunk, old, source.directory)
      before.update(chunk, elements)
      if rows:
        with _reading_back():
          edited = codec.decode(chunk, new, directory)
        zeroed[array.name] += _check_chunk(
          directory, chunk, elements, edited, rows
        )
        elements = edited
      if after is not before:
        after.update(chunk, elements)
    done += len(batch)
    progress("check", done, edit.num_values)
  _check_totals(edit, zeroed)
  return digests


@functools.lru_cache(maxsize=8)
def _codec(array: arrays_lib.Array) -> arrays_lib.Codec:
  return arrays_lib.Codec(array)


def _digests_of(array, edit):
  """Return digests before and after; one does for both where bytes equal."""
  before = arrays_lib.Digest(array)
  return before, arrays_lib.Digest(array) if array in edit.tables else before


def _check_chunk(directory, chunk, original, edited, rows) -> int:
  """Check one edited chunk; return how many of its elements were erased."""
  others = np.ones(edited.shape[:3], bool)
  num_erased = 0
  for layer, stratum, numbers in rows:
    named = edited[layer, stratum, numbers]
    if arrays_lib.as_bytes(named).any():
      raise _differs(directory, chunk.key)
    num_erased += named.size
    others[layer, stratum, numbers] = False
  for place in np.ndindex(edited.shape[:2]):
    # As bytes: NaN equals itself there, and -0 is not 0.
    old = arrays_lib.as_bytes(original[place])
    new = arrays_lib.as_bytes(edited[place])
    if ((old != new).any(axis=-1) & others[place]).any():
      raise _differs(directory, chunk.key)
  return num_erased


def _check_totals(edit: Edit, zeroed: dict[str, int]) -> None:
  num_rows = sum(map(sum, edit.rows.counts()))
  for table in edit.tables:
    expected = num_rows * table.shape[-1]
    if zeroed[table.name] != expected:
      raise RuntimeError(
        f"{table.name}: {zeroed[table.name]} elements were seen to be zero, "
        f"{expected} should be"
      )


def _key(array: arrays_lib.Array, chunk: arrays_lib.Chunk | None) -> str:
  return array.metadata_key if chunk is None else chunk.key


def _differs(directory, key: str) -> errors.MachineError:
  return errors.MachineError(
    f"{directory}: {key} reads back differently from what was written; check "
    "the disk and repeat"
  )


@contextlib.contextmanager
def _reading_back():
  """What was just written and cannot be read is the machine's failure."""
  try:
    yield
  except errors.UserError as error:
    raise errors.MachineError(
      f"what was just written cannot be read back: {error}"
    ) from error
