"""Documents from JSON Lines files, one bad line reported at a time.

Owns the document format: one JSON object a line with `source` (the key),
`text`, and any other fields, which become the source's metadata. Knows
neither tokens nor the ledger. Files ending in `.gz` are unpacked on the fly;
nothing is held in memory but one line.

Invariant: every line is either yielded, counted by `Refusals`, or raised;
none is skipped.
"""

import collections
import dataclasses
import gzip
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from nulls_jax import errors

MAX_KEY_BYTES = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
  """One text and the source that it belongs to.

  Attributes:
    source: the source key; "" is no source.
    text: the text, never empty, valid Unicode.
    metadata: the other fields of the line.
    where: "file:line", for messages.
  """

  source: str
  text: str
  metadata: dict[str, Any]
  where: str


class Refusals:
  """Counts refused lines by reason and keeps the first one's place."""

  def __init__(self):
    self.counts = collections.Counter()
    self.first = {}

  def add(self, reason: str, message: str):
    self.counts[reason] += 1
    self.first.setdefault(reason, message)

  @property
  def total(self) -> int:
    return self.counts.total()


class _BadLine(Exception):
  """A line that is no document: a short reason and the remedy."""

  def __init__(self, reason: str, remedy: str):
    super().__init__(f"{reason}; {remedy}")
    self.reason = reason


def read_documents(
  path: str | os.PathLike,
  *,
  refusals: Refusals | None = None,
  allow_no_source: bool = False,
) -> Iterator[Document]:
  """Yield the documents of a JSON Lines file, plain or `.gz`.

  Args:
    path: the file.
    refusals: counts bad lines here and goes on; without it the first bad
      line raises. A file that cannot be read to its end always raises.
    allow_no_source: accept `"source": ""` and `null` as text of no source.

  Raises:
    errors.UserError: the file is missing, empty or damaged, or a line is no
      document; one line with `file:line` and the remedy.
  """
  num_lines = 0
  for number, line in enumerate(_lines(path), start=1):
    num_lines = number
    where = f"{path}:{number}"
    try:
      yield _parse(line, where, allow_no_source)
    except _BadLine as bad:
      if refusals is None:
        raise errors.UserError(f"{where}: {bad}") from None
      refusals.add(bad.reason, f"{where}: {bad}")
  if not num_lines:
    raise errors.UserError(
      f"{path} is empty; expected one JSON object a line with the fields "
      '"source" and "text"'
    )


def read_keys(path: str | os.PathLike) -> list[str]:
  """Return the source keys of a file, one a line, blank lines ignored.

  A key keeps its inner and outer spaces; only the line end is taken off.

  Raises:
    errors.UserError: the file is missing or damaged, holds no key, or a key
      is not UTF-8 or too long.
  """
  keys = []
  for number, line in enumerate(_lines(path), start=1):
    try:
      key = _decode(line).rstrip("\r\n")
      if not key.strip():
        continue
      check_key(key)
    except (_BadLine, errors.UserError) as bad:
      raise errors.UserError(f"{path}:{number}: {bad}") from None
    keys.append(key)
  if not keys:
    raise errors.UserError(f"{path} holds no key; write one source key a line")
  return list(dict.fromkeys(keys))


def check_key(key: str):
  """Raise `errors.UserError` when a key cannot name a source."""
  problem = _key_problem(key)
  if problem is not None:
    raise errors.UserError("; ".join(problem))


def _key_problem(key: str) -> tuple[str, str] | None:
  """Return what is wrong with a key and the remedy, None if nothing is."""
  if not key:
    return "source key is empty", "give every source a name"
  try:
    size = len(key.encode("utf-8"))
  except UnicodeEncodeError:
    return "source key is not valid Unicode (a lone surrogate)", "mend the key"
  if size > MAX_KEY_BYTES:
    return (
      f"source key is longer than {MAX_KEY_BYTES} bytes",
      f"it has {size}; shorten it",
    )
  return None


def _lines(path: str | os.PathLike) -> Iterator[bytes]:
  path = pathlib.Path(path)
  opener = gzip.open if path.suffix == ".gz" else open
  num_read = 0
  try:
    with opener(path, "rb") as file:
      for line in file:
        yield line
        num_read += 1
  except FileNotFoundError:
    raise errors.UserError(
      f"{path} does not exist; give an existing file"
    ) from None
  except IsADirectoryError:
    raise errors.UserError(f"{path} is a directory; give a file") from None
  except PermissionError:
    raise errors.UserError(
      f"{path} may not be read; change its permissions"
    ) from None
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise errors.UserError(
      f"{path}:{num_read + 1}: damaged gzip ({error}); fetch or pack the file "
      "again"
    ) from None


def _decode(line: bytes) -> str:
  try:
    return line.decode("utf-8")
  except UnicodeDecodeError as error:
    raise _BadLine(
      "not UTF-8", f"byte {error.start + 1} of the line; convert the file"
    ) from None


def _parse(line: bytes, where: str, allow_no_source: bool) -> Document:
  text_line = _decode(line)
  if not text_line.strip():
    raise _BadLine("empty line", "delete it")
  try:
    fields = json.loads(text_line)
  except json.JSONDecodeError as error:
    raise _BadLine(
      "not JSON",
      f"{error.msg} at character {error.pos + 1}; expected one JSON object a "
      "line",
    ) from None
  except (ValueError, RecursionError):
    # A number of thousands of digits, or nesting of thousands of brackets.
    raise _BadLine(
      "not readable JSON", "a number or its nesting is too long"
    ) from None
  if not isinstance(fields, dict):
    raise _BadLine(
      f"not a JSON object but {type(fields).__name__}",
      'expected {"source": ..., "text": ...}',
    )
  text = fields.pop("text", None)
  source = fields.pop("source", None)
  return Document(
    source=_check_source(source, allow_no_source),
    text=_check_text(text),
    metadata=fields,
    where=where,
  )


def _check_text(text: Any) -> str:
  if text is None:
    raise _BadLine("no text", 'add the field "text"')
  if not isinstance(text, str):
    raise _BadLine(
      f"text is not a string but {type(text).__name__}", 'mend "text"'
    )
  if not text.strip():
    raise _BadLine("text is empty", 'fill "text" or delete the line')
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    raise _BadLine(
      "text is not valid Unicode (a lone surrogate)", 'mend "text"'
    ) from None
  return text


def _check_source(source: Any, allow_no_source: bool) -> str:
  if source is None or source == "":
    if allow_no_source:
      return ""
    raise _BadLine(
      "no source",
      'add the field "source", or say that text without a source is wanted '
      "(--allow-no-source)",
    )
  if not isinstance(source, str):
    raise _BadLine(
      f"source is not a string but {type(source).__name__}", 'mend "source"'
    )
  problem = _key_problem(source)
  if problem is not None:
    raise _BadLine(*problem)
  return source
