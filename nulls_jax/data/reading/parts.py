"""What every kind of input offers; `inputs` puts the kinds together.

Owns the contract `Part`: one file, one folder of texts or one split of a
dataset.

Invariant: the ranges of a part, and the records of a range, depend on what
is on the disk and on nothing else.
"""

import abc
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nulls_jax import errors
from nulls_jax.data.reading import documents


class Record(NamedTuple):
  """One record of an input.

  Attributes:
    place: where it stands.
    fields: what it holds, the caller's to change; or why it cannot be read.
    path: of its file, within the folder that was given, with "/".
  """

  place: documents.Place
  fields: dict[str, Any] | documents.BadRecord
  path: str


class Part(abc.ABC):
  """A piece of the input that is cut into ranges; small and picklable.

  Attributes:
    path: as the user gave it, for messages.
    num_bytes: about how much there is to read, for progress.
    is_file: it is one file; else it has files, with names.
  """

  path: str
  num_bytes: int
  is_file = False

  @abc.abstractmethod
  def ranges(self, block_bytes: int) -> list[tuple[int, int]]:
    """Return (start, stop) of ranges of about `block_bytes`, in order.

    Their unit is the part's own: bytes, row groups, records or files.
    """

  @abc.abstractmethod
  def records(self, start: int, stop: int, text_field: str) -> Iterator[Record]:
    """Yield the records of a range.

    Args:
      start: of the range, from `ranges`.
      stop: of the range.
      text_field: the name under which the text is wanted.

    Raises:
      errors.UserError: the input is damaged or has changed.
    """

  @abc.abstractmethod
  def files(self) -> Iterator[tuple[str, str]]:
    """Yield the files that hold it: name and path, in order."""

  def files_of(self, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """Yield those of the files that a range of `ranges` reads, in order.

    The ranges together read all of them.
    """
    del start, stop
    return self.files()

  def range_bytes(self, start: int, stop: int) -> int:
    """Return about how many bytes a range has, for progress."""
    return stop - start

  def check_fields(self, text_field: str, names: tuple[str, ...]) -> None:
    """Raise `errors.UserError` if records of this schema have no such fields.

    Kinds without a schema have nothing to check.
    """
    del text_field, names


def check_present(
  path: str, present: Sequence[str], wanted: Sequence[str]
) -> None:
  """Raise `errors.UserError` if a schema lacks fields; all are named.

  Of a field of a field, "meta.url", only the first is looked for.
  """
  absent = [
    name
    for name in dict.fromkeys(wanted)
    if name not in present and name.partition(".")[0] not in present
  ]
  if absent:
    raise errors.UserError(
      f"{path} has no field {errors.listing(map(repr, absent))} but "
      f"{errors.listing(map(repr, present))}; name the text with --text-field "
      "and the source with --sources"
    )


def grouped(sizes: Sequence[int], block_bytes: int) -> list[tuple[int, int]]:
  """Group neighbours up to `block_bytes`; each group has at least one.

  >>> grouped([5, 5, 20, 1], 10)
  [(0, 2), (2, 3), (3, 4)]
  """
  found, start, held = [], 0, 0
  for number, size in enumerate(sizes):
    # An empty piece takes its time too.
    size = max(size, 1)
    if number > start and held + size > block_bytes:
      found.append((start, number))
      start, held = number, 0
    held += size
  return [*found, (start, len(sizes))]


def check_unchanged(path: str, size: int) -> None:
  """Raise `errors.UserError` if a file is not as long as it was.

  Ranges that were cut from another file would lose or repeat records.
  """
  try:
    found = os.stat(path).st_size
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read any more ({error.strerror}); give it back and "
      "repeat"
    ) from None
  if found != size:
    raise errors.UserError(
      f"{path} has changed while it was read: {found} bytes, not {size}; "
      "repeat when nobody writes it"
    )
