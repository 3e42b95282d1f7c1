"""JSON Lines: one JSON object a line, plain, `.gz` or `.zst`.

Owns the reading of a line as fields. A plain file is cut into ranges of
bytes; a line belongs to the range in which it starts. A packed file is one
range, since it can only be read from its start.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import documents, lines, parts

SUFFIXES = (".jsonl", ".json", ".ndjson")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines(parts.Part):
  """A file of one JSON object a line.

  Attributes:
    path: the file.
    name: its path in the folder that was given.
    num_bytes: its size.
  """

  path: str
  name: str
  num_bytes: int
  is_file = True

  @classmethod
  def open(cls, path: str | os.PathLike, name: str = "") -> "JsonLines":
    """Look at a file; raises `errors.UserError` if it is none or empty."""
    path = pathlib.Path(path)
    try:
      size = path.stat().st_size
    except OSError as error:
      raise errors.UserError(
        f"{path} cannot be read ({error.strerror}); give an existing file"
      ) from None
    if not size:
      raise _empty(path)
    return cls(path=str(path), name=name or path.name, num_bytes=size)

  def ranges(self, block_bytes: int) -> list[tuple[int, int]]:
    if lines.is_packed(self.path):
      return [(0, self.num_bytes)]
    return [
      (start, min(start + block_bytes, self.num_bytes))
      for start in range(0, self.num_bytes, block_bytes)
    ]

  def records(
    self, start: int, stop: int, text_field: str
  ) -> Iterator[parts.Record]:
    del text_field  # The line has names of its own.
    parts.check_unchanged(self.path, self.num_bytes)
    packed = lines.is_packed(self.path)
    label = f"{self.path}:"
    inside = (self.path, start) if start else ()
    number = 0
    found = lines.read(self.path, start, None if packed else stop)
    for number, line in enumerate(found, start=1):
      place = documents.Place(label, number, *inside)
      yield parts.Record(place, _fields(line), self.name)
    if packed and not number:
      raise _empty(self.path)

  def files(self) -> Iterator[tuple[str, str]]:
    yield self.name, self.path


def _empty(path: str | os.PathLike) -> errors.UserError:
  return errors.UserError(
    f"{path} is empty; expected one JSON object a line with the fields "
    '"source" and "text"'
  )


def _fields(line: bytes | None) -> dict[str, Any] | documents.BadRecord:
  try:
    return parse(line)
  except documents.BadRecord as bad:
    return bad


def parse(line: bytes | None) -> dict[str, Any]:
  """Return the fields of a line; None stands for one that is too long.

  Raises:
    documents.BadRecord: the line is no JSON object.
  """
  if line is None:
    raise documents.BadRecord(
      f"line is {documents.TOO_LONG}", documents.TOO_LONG_REMEDY
    )
  text = lines.decode(line)
  if not text or text.isspace():
    raise documents.BadRecord("empty line", "delete it")
  try:
    fields = json.loads(text, object_pairs_hook=_object)
  except json.JSONDecodeError as error:
    raise documents.BadRecord(
      "not JSON",
      f"{error.msg.removesuffix(' at')} at character {error.pos + 1}; expected "
      "one JSON object a line",
    ) from None
  except (ValueError, RecursionError):
    # A number of thousands of digits, or nesting of thousands of brackets.
    raise documents.BadRecord(
      "not readable JSON", "a number or its nesting is too long"
    ) from None
  if not isinstance(fields, dict):
    kind = "null" if fields is None else type(fields).__name__
    raise documents.BadRecord(
      f"not a JSON object but {kind}",
      'expected {"source": ..., "text": ...}',
    )
  return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Return the fields of an object; of two equal ones nobody knows which."""
  fields = dict(pairs)
  if len(fields) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in fields if names.count(name) > 1)
    raise documents.BadRecord("a field stands twice", f"keep one {twice!r}")
  return fields
