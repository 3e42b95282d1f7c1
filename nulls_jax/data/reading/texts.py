"""A folder of text files: a file is a document.

Owns the reading of whole files. A range is numbers of files in the order of
their names; a file may be packed (`.gz`, `.zst`).
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import documents, lines, parts

SUFFIXES = (".txt", ".text", ".md")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(parts.Part):
  """Text files below one folder.

  The fields of a document are its text, under the name that the text is
  asked for, and "path", the file's path in the folder.

  Attributes:
    path: the folder.
    names: paths in the folder, sorted, with "/".
    sizes: bytes of each.
  """

  path: str
  names: tuple[str, ...]
  sizes: tuple[int, ...]

  @classmethod
  def open(cls, root: pathlib.Path, names: Sequence[str]) -> "Texts":
    """Look at the files `names` below `root`."""
    sizes = tuple((root / name).stat().st_size for name in names)
    return cls(path=str(root), names=tuple(names), sizes=sizes)

  @property
  def num_bytes(self) -> int:
    """The size of all files."""
    return sum(self.sizes)

  def check_fields(self, text_field: str, names: tuple[str, ...]) -> None:
    absent = [name for name in names if name != "path"]
    if absent:
      raise errors.UserError(
        f"{self.path}: text files have no field "
        f"{errors.listing(map(repr, absent))}; leave --sources out, or write "
        "--sources path or --sources folder"
      )

  def ranges(self, block_bytes: int) -> list[tuple[int, int]]:
    return parts.grouped(self.sizes, block_bytes)

  def range_bytes(self, start: int, stop: int) -> int:
    return sum(self.sizes[start:stop])

  def records(
    self, start: int, stop: int, text_field: str
  ) -> Iterator[parts.Record]:
    root = pathlib.Path(self.path)
    for name, size in zip(
      self.names[start:stop], self.sizes[start:stop], strict=True
    ):
      path = root / name
      parts.check_unchanged(str(path), size)
      fields = _fields(lines.read_whole(path), text_field, name)
      yield parts.Record(documents.Place(str(path)), fields, name)

  def files(self) -> Iterator[tuple[str, str]]:
    return self.files_of(0, len(self.names))

  def files_of(self, start: int, stop: int) -> Iterator[tuple[str, str]]:
    root = pathlib.Path(self.path)
    for name in self.names[start:stop]:
      yield name, str(root / name)


def _fields(
  content: bytes | None, text_field: str, name: str
) -> dict[str, Any] | documents.BadRecord:
  if content is None:
    return documents.BadRecord(
      f"file is {documents.TOO_LONG}", documents.TOO_LONG_REMEDY
    )
  try:
    return {text_field: lines.decode(content, "file"), "path": name}
  except documents.BadRecord as bad:
    return bad
