"""Records of the common suites' files, each with its line, and their sources.

Owns what a user may say about a file besides its path (`Given`), and reading
JSON arrays and JSON Lines so that a complaint can name the line. What is in a
record is `tofu`'s and `muse`'s business.

Invariant: every record is yielded or raised; none is skipped.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import keys as source_keys

FORMATS = ("nulls", "tofu", "knowmem", "verbmem", "raw", "privleak")
_SPACE = " \t\r\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
  """A file and what is said about it.

  Attributes:
    path: the file: a JSON array or JSON Lines, whatever its name ends in; of
      "raw" also plain text (.txt), which is one document.
    format: one of `FORMATS`; "" to tell by the first record's fields.
    source: key of all records' source; with `per_source` the key's beginning.
    source_field: field of a record that holds its source's key.
    per_source: so many records in a row are one source, "SOURCE/0", and so
      on (TOFU has 20 questions an author); 0 for all.
    prompt: how a question is put; "{question}" stands for it.
    held_out: whether the sources were never trained, for probes.
  """

  path: str | os.PathLike
  format: str = ""
  source: str = ""
  source_field: str = "source"
  per_source: int = 0
  prompt: str = "{question}"
  held_out: bool = False

  def __post_init__(self):
    wrong = []
    if not isinstance(self.path, str | os.PathLike) or not str(self.path):
      wrong.append("path is no path")
    for name in ("format", "source", "source_field", "prompt"):
      if not isinstance(getattr(self, name), str):
        wrong.append(f"{name} is no text")
    if self.format not in ("", *FORMATS):
      wrong.append(f"format {self.format!r} is none of {', '.join(FORMATS)}")
    if not isinstance(self.per_source, int) or self.per_source < 0:
      wrong.append(f"per_source {self.per_source!r} is not 0 or more")
    if not isinstance(self.held_out, bool):
      wrong.append(f"held_out {self.held_out!r} is not true or false")
    if "{question}" not in str(self.prompt):
      wrong.append(f"prompt {self.prompt!r} has no {{question}}")
    if wrong:
      raise errors.UserError(f"{self.path}: {errors.listing(wrong)}")

  def key(self, record: "Record") -> str:
    """Return the key of a record's source.

    Raises:
      errors.UserError: it has no field of it, and none was given.
    """
    found = None
    if isinstance(record.value, dict):
      found = record.value.get(self.source_field)
    if isinstance(found, int) and not isinstance(found, bool):
      found = str(found)
    if isinstance(found, str) and found:
      source_keys.check_key(found)
      return found
    if not self.source:
      raise record.error(
        f"no source in field {self.source_field!r}; say which field has it "
        "(source_field), or give one key for all (source)"
      )
    if self.per_source:
      return f"{self.source}/{record.number // self.per_source}"
    return self.source


def given(value: str | os.PathLike | Mapping[str, Any] | Given) -> Given:
  """Return what a user gave, a path or an object, as `Given`.

  Raises:
    errors.UserError: an object has no path, or fields that there are not.
  """
  if isinstance(value, Given):
    return value
  if not isinstance(value, Mapping):
    return Given(path=value)
  names = {field.name for field in dataclasses.fields(Given)}
  unknown = sorted(set(value) - names)
  if unknown or "path" not in value:
    what = f"no {errors.listing(map(repr, unknown))}" if unknown else "a path"
    raise errors.UserError(
      f"{value.get('path', 'an input')}: an input has {what}; its fields are "
      f"{', '.join(sorted(names))}"
    )
  return Given(**value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """One element of a file.

  Attributes:
    value: what JSON made of it.
    number: its place in the file, from 0.
    where: "file:line", for messages.
  """

  value: Any
  number: int
  where: str

  def error(self, complaint: str) -> errors.UserError:
    """Return the error that says what is wrong with this record."""
    return errors.UserError(f"{self.where}: {complaint}")

  def text(self, *names: str) -> str:
    """Return the first of some fields that there is.

    Raises:
      errors.UserError: none is there, or it is no text with something in it.
    """
    if not isinstance(self.value, dict):
      kind = type(self.value).__name__
      raise self.error(f"not a JSON object but {kind}; it needs {names[0]!r}")
    name = next((name for name in names if name in self.value), names[0])
    found = self.value.get(name)
    if not isinstance(found, str) or not found.strip():
      raise self.error(f"no text {name!r}")
    return check_unicode(self, found, name)

  def texts(self, name: str) -> tuple[str, ...]:
    """Return a field that is a text or a list of texts; none if missing.

    Raises:
      errors.UserError: it is something else.
    """
    found = self.value.get(name)
    if found is None:
      return ()
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(
      isinstance(text, str) and text.strip() for text in found
    ):
      raise self.error(f"{name!r} is no text and no list of texts")
    return tuple(check_unicode(self, text, name) for text in found)


def check_unicode(record: Record, text: str, name: str) -> str:
  """Return the text, or raise if it is not valid Unicode."""
  if any("\ud800" <= character <= "\udfff" for character in text):
    raise record.error(f"{name!r} is not valid Unicode (a lone surrogate)")
  return text


def read_text(path: str | os.PathLike) -> str:
  """Return a file's whole text.

  Raises:
    errors.UserError: it is missing, empty, or not UTF-8.
  """
  path = pathlib.Path(path)
  try:
    content = path.read_text("utf-8-sig")
  except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
    raise errors.UserError(
      f"{path} cannot be read ({error.strerror}); give an existing file"
    ) from None
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"{path} is not UTF-8 (byte {error.start + 1}); convert the file"
    ) from None
  if not content.strip():
    raise errors.UserError(f"{path} is empty; expected JSON or JSON Lines")
  return content


def read(path: str | os.PathLike) -> Iterator[Record]:
  """Yield the records of a JSON array or of JSON Lines.

  Raises:
    errors.UserError: the file cannot be read, or is not JSON: with the line.
  """
  content = read_text(path)
  decoder = json.JSONDecoder()
  start = len(content) - len(content.lstrip(_SPACE))
  in_array = content[start] == "["
  place = start + 1 if in_array else start
  line, counted = 1, 0
  number = 0
  while True:
    place = _skip(content, place)
    if in_array and content[place : place + 1] == "]" and number == 0:
      raise errors.UserError(f"{path} is an empty array; expected records")
    if place == len(content) and not in_array:
      return
    line += content.count("\n", counted, place)
    counted = place
    where = f"{path}:{line}"
    try:
      value, place = decoder.raw_decode(content, place)
    except json.JSONDecodeError as error:
      raise errors.UserError(
        f"{path}:{error.lineno}: not JSON ({error.msg} at character "
        f"{error.colno}); expected a JSON array or one JSON value a line"
      ) from None
    except RecursionError:
      raise errors.UserError(f"{where}: nested too deeply") from None
    yield Record(value=value, number=number, where=where)
    number += 1
    if in_array:
      place = _skip(content, place)
      if content[place : place + 1] == "]":
        _nothing_after(content, _skip(content, place + 1), path)
        return
      if content[place : place + 1] != ",":
        line += content.count("\n", counted, place)
        raise errors.UserError(
          f"{path}:{line}: the array has no comma or end here"
        )
      place += 1


def _skip(content: str, place: int) -> int:
  while place < len(content) and content[place] in _SPACE:
    place += 1
  return place


def _nothing_after(content: str, place: int, path) -> None:
  if place < len(content):
    line = 1 + content.count("\n", 0, place)
    raise errors.UserError(f"{path}:{line}: more after the end of the array")
