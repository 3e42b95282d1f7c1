"""Parquet files, streamed by row group and batch of rows (pyarrow).

Owns the schema check and the reading of rows. A range is numbers of row
groups, at least one: a group is what Parquet can be entered at.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import documents, extra, parts, values

# Held at a time. The buffer makes pyarrow read a column in pieces instead of
# a whole row group, which may be a gigabyte.
_BATCH_ROWS = 32
_BUFFER_BYTES = 2**20

_TEXT_TYPES = (
  "string",
  "large_string",
  "string_view",
  "binary",
  "large_binary",
  "binary_view",
  "dictionary<values=string",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parquet(parts.Part):
  """A Parquet file; a row is a record, a column a field.

  Attributes:
    path: the file.
    name: its path in the folder that was given.
    size: of the file, in bytes.
    columns: name and type of each column.
    group_bytes: bytes of each row group, unpacked.
  """

  path: str
  name: str
  size: int
  columns: tuple[tuple[str, str], ...]
  group_bytes: tuple[int, ...]
  is_file = True

  @classmethod
  def open(cls, path: pathlib.Path, name: str) -> "Parquet":
    """Read a file's footer.

    Raises:
      errors.UserError: it is no Parquet file or has no rows, or pyarrow is
        missing.
    """
    with _mendable(str(path)), _open(str(path)) as file:
      footer = file.metadata
      groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
      columns = [(field.name, str(field.type)) for field in file.schema_arrow]
    if not footer.num_rows:
      raise errors.UserError(f"{path} holds no rows; leave it out")
    if len(dict(columns)) < len(columns):
      raise errors.UserError(
        f"{path} has two columns of one name; rename one of "
        f"{errors.listing(name for name, _ in columns)}"
      )
    return cls(
      path=str(path),
      name=name,
      size=path.stat().st_size,
      columns=tuple(columns),
      group_bytes=tuple(group.total_byte_size for group in groups),
    )

  @property
  def num_bytes(self) -> int:
    """The size of all row groups, unpacked."""
    return sum(self.group_bytes)

  def check_fields(self, text_field: str, names: tuple[str, ...]) -> None:
    types = dict(self.columns)
    parts.check_present(self.path, list(types), [text_field, *names])
    found = types.get(text_field, "string")
    if not found.startswith(_TEXT_TYPES):
      raise errors.UserError(
        f"{self.path}: column {text_field!r} is {found} and no text; name "
        f"the text with --text-field (columns: {errors.listing(types)})"
      )

  def ranges(self, block_bytes: int) -> list[tuple[int, int]]:
    return parts.grouped(self.group_bytes, block_bytes)

  def range_bytes(self, start: int, stop: int) -> int:
    return sum(self.group_bytes[start:stop])

  def records(
    self, start: int, stop: int, text_field: str
  ) -> Iterator[parts.Record]:
    del text_field  # The columns have names of their own.
    parts.check_unchanged(self.path, self.size)
    for group in range(start, stop):
      label = f"{self.path}: row group {group}, row "
      with _mendable(label + "1 or later"), _open(self.path) as file:
        rows = _rows(file, group)
        for number, fields in enumerate(rows, start=1):
          place = documents.Place(label, number)
          yield parts.Record(place, fields, self.name)

  def files(self) -> Iterator[tuple[str, str]]:
    yield self.name, self.path


def _rows(
  file: Any, group: int
) -> Iterator[dict[str, Any] | documents.BadRecord]:
  batches = file.iter_batches(
    _BATCH_ROWS, row_groups=[group], use_threads=False
  )
  for batch in batches:
    try:
      rows = batch.to_pylist()
    except UnicodeDecodeError:
      for number in range(batch.num_rows):
        yield _row(batch.slice(number, 1))
      continue
    for row in rows:
      yield {name: values.to_json(value) for name, value in row.items()}


def _row(batch: Any) -> dict[str, Any] | documents.BadRecord:
  """Return one row of a batch in which some string is not UTF-8."""
  fields = {}
  for name, column in zip(batch.schema.names, batch.columns, strict=True):
    try:
      fields[name] = values.to_json(column[0].as_py())
    except UnicodeDecodeError as error:
      return documents.BadRecord(
        "not UTF-8", f"byte {error.start + 1} of {name!r}; convert the file"
      )
  return fields


def _open(path: str) -> Any:
  module = extra.load("pyarrow.parquet", path)
  return module.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


@contextlib.contextmanager
def _mendable(where: str) -> Iterator[None]:
  """Turn what can be wrong with a Parquet file into one line."""
  arrow = extra.load("pyarrow", where)
  try:
    yield
  except (arrow.ArrowException, OSError) as error:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise errors.UserError(
      f"{where}: damaged, or no Parquet file ({cause}); fetch or write it again"
    ) from None
