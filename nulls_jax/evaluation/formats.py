"""Files of texts and of questions, in whatever shape they come.

Owns the choice of a reader. The shapes are `probes`' and `reading`'s ("nulls",
this package's own), `tofu`'s ("tofu", "knowmem") and `muse`'s ("verbmem",
"raw", "privleak").

A shape that is not named is told apart by the fields of the first record:
`prompt` and `gt` are "verbmem", `question` is "tofu", a text by itself or a
`text` whose source the user gives is "raw", all else is "nulls".

Invariant: never by the name of the file.
"""

import gzip
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import inputs
from nulls_jax.evaluation import muse, records, tofu
from nulls_jax.evaluation import probes as probes_lib

Given = str | os.PathLike | Mapping[str, Any] | records.Given

_PROBES = {
  "tofu": tofu.probes,
  "knowmem": tofu.probes,
  "verbmem": muse.probes,
}
_TEXTS = {
  "tofu": tofu.texts,
  "knowmem": tofu.texts,
  "raw": muse.texts,
  "privleak": muse.texts,
}


def read_probes(value: Given) -> list[probes_lib.Probe]:
  """Read questions.

  Raises:
    errors.UserError: a bad file, or a shape that holds no questions.
  """
  given = records.given(value)
  shape = given.format or _shape(given)
  if shape == "nulls":
    return probes_lib.read(given.path)
  if shape not in _PROBES:
    raise errors.UserError(
      f"{given.path}: {shape} holds texts and no questions; give it as "
      "documents"
    )
  return _PROBES[shape](given)


def read_texts(value: Given) -> dict[str, list[str]]:
  """Read texts by source; of this package's own, those of no source are left.

  Raises:
    errors.UserError: a bad file, or a shape that holds no texts.
  """
  given = records.given(value)
  shape = given.format or _shape(given)
  if shape != "nulls":
    if shape not in _TEXTS:
      raise errors.UserError(
        f"{given.path}: {shape} holds questions and no texts; give it as probes"
      )
    return _TEXTS[shape](given)
  found: dict[str, list[str]] = {}
  lines = inputs.read_documents(given.path, allow_no_source=True)
  for document in lines:
    if document.source:
      found.setdefault(document.source, []).append(document.text)
  return found


def read_public(value: Given) -> Iterator[str]:
  """Yield texts; whose they are is not looked at.

  Raises:
    errors.UserError: a bad file.
  """
  given = records.given(value)
  if given.format in ("raw", "privleak"):
    for record in records.read(given.path):
      yield muse.text_of(record)
    return
  for document in inputs.read_documents(given.path, allow_no_source=True):
    yield document.text


def _shape(given: records.Given) -> str:
  """Tell the shape by the first record; "nulls" also where there is none."""
  first = _first(given)
  if isinstance(first, str):
    return "raw"
  if not isinstance(first, dict):
    return "nulls"
  if "gt" in first:
    return "verbmem"
  if "question" in first:
    return "tofu"
  own_source = given.source_field in first and given.source_field == "source"
  if "text" in first and given.source and not own_source:
    return "raw"
  return "nulls"


def _first(given: records.Given) -> Any:
  """Return the first JSON value of a file, None if it has none."""
  path = pathlib.Path(given.path)
  if path.suffix == ".txt":
    return ""
  opener = gzip.open if path.suffix == ".gz" else open
  try:
    with opener(path, "rb") as file:
      start = file.readline().lstrip()
      # An array may be written over many lines.
      if start.startswith(b"["):
        file.seek(0)
        return next(records.read(path)).value
  except (OSError, EOFError):
    return None  # The reader says what is wrong.
  try:
    return json.loads(start)
  except ValueError:
    return None
