"""Files that name sources: what `nulls find` wrote, or keys one a line.

Owns the selection file, JSON: `format`, `ledger_fingerprint`, `query`,
`sources` and `candidates` (each `key`, `id`, `index`, `num_documents`,
`num_tokens`, `status`, `metadata`, `evidence` and what else is known), and
`complete`. Sources are what later commands take; candidates are what a person
has yet to judge, and are never taken. Erased sources have no key; they are
listed, and left out of the keys. A selection holds keys and passages, word
for word: delete it when the request is dealt with.

Invariant: a selection at its place is whole.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import ledger
from nulls_jax.data.reading import keys as source_keys

FORMAT = "nulls selection 1"
_HEAD_BYTES = 4096


def entry(source: ledger.Source, **more: Any) -> dict[str, Any]:
  """Return a source as selections list it; the id in 16 hex digits."""
  return {
    "key": source.key,
    "id": f"{source.id:016x}",
    "index": source.index,
    "num_documents": source.num_documents,
    "num_tokens": source.num_tokens,
    "status": source.status,
    "metadata": source.metadata,
    **more,
  }


class Writer:
  """Writes a selection, source by source; a context manager.

  The file gets its name when the context ends, and only if it is finished.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    ledger_fingerprint: str,
    query: Mapping[str, Any],
  ):
    """Start a selection; nothing is written before the context is entered.

    Raises:
      errors.UserError: the file exists.
    """
    self._path = check_new(path)
    self._partial = self._path.with_name(f"{self._path.name}.partial")
    self._head = {
      "format": FORMAT,
      "ledger_fingerprint": ledger_fingerprint,
      "query": query,
    }
    self._comma = ""
    self._finished = False

  def __enter__(self) -> "Writer":
    with files.disk_errors(self._path):
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = open(self._partial, "wb")
    head = "".join(
      f"  {_dumps(name)}: {_dumps(value)},\n"
      for name, value in self._head.items()
    )
    self._write("{\n" + head + '  "sources": [')
    return self

  def add(self, source: Mapping[str, Any]):
    """Add a source, see `entry`."""
    self._write(f"{self._comma}\n    {_dumps(source)}")
    self._comma = ","

  def finish(self, candidates: Iterable[Mapping[str, Any]], complete: bool):
    """Add the candidates, and whether all sources are listed."""
    listed = ",".join(f"\n    {_dumps(item)}" for item in candidates)
    self._write(
      f'\n  ],\n  "candidates": [{listed}\n  ],\n'
      f'  "complete": {_dumps(complete)}\n}}\n'
    )
    self._finished = True

  def _write(self, text: str):
    with files.disk_errors(self._path):
      self._file.write(text.encode("utf-8"))

  def __exit__(self, *_):
    try:
      with files.disk_errors(self._path), self._file:
        if self._finished:
          self._file.flush()
          os.fsync(self._file.fileno())
          os.replace(self._partial, self._path)
    finally:
      self._partial.unlink(missing_ok=True)


def check_new(path: str | os.PathLike) -> pathlib.Path:
  """Return the path; `errors.UserError` when something is there."""
  path = pathlib.Path(path)
  if path.exists():
    raise errors.UserError(
      f"{path} exists, and a selection is never overwritten; choose another "
      "name or delete it"
    )
  return path


def _dumps(value: Any) -> str:
  """Return JSON on one line, readable where it is valid Unicode."""
  text = json.dumps(value, ensure_ascii=False)
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return json.dumps(value)
  return text


def read_keys(
  path: str | os.PathLike,
  ledger_fingerprint: str | Callable[[], str] | None = None,
) -> list[str]:
  """Return the source keys of a file: a selection, or keys one a line.

  Keys with line ends can be in selections only.

  Args:
    path: the file.
    ledger_fingerprint: of the ledger that the keys are for, or a function
      that finds it out; None takes a selection from any ledger. Keys one a
      line are of no ledger.

  Raises:
    errors.UserError: the file is missing or damaged, names no source, or is
      a selection from another ledger.
  """
  path = pathlib.Path(path)
  if not _is_json(path):
    return source_keys.read_keys(path)
  found = _load(path)
  fingerprint = (
    ledger_fingerprint() if callable(ledger_fingerprint) else ledger_fingerprint
  )
  if fingerprint not in (None, found.get("ledger_fingerprint")):
    raise errors.UserError(
      f"{path} was made from another ledger (fingerprint "
      f"{str(found.get('ledger_fingerprint'))[:12]}, not {fingerprint[:12]}); "
      "run `nulls find` on this run or dataset"
    )
  keys = [item["key"] for item in found["sources"] if item["key"] is not None]
  for key in keys:
    source_keys.check_key(key)
  if not keys:
    raise errors.UserError(f"{path} names no source{_why_none(found)}")
  return list(dict.fromkeys(keys))


def _is_json(path: pathlib.Path) -> bool:
  """Tell a selection by its first name, `format`; keys may begin with {."""
  try:
    with open(path, "rb") as file:
      head = file.read(_HEAD_BYTES)
  except OSError:
    return False  # `source_keys` says what is wrong
  start = b"".join(head.split())
  return start.startswith(b'{"format":') or path.suffix == ".json"


def _load(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise errors.UserError(
      f"{path} is not readable as JSON ({error}); run `nulls find` again"
    ) from None
  if not isinstance(found, dict) or found.get("format") != FORMAT:
    raise errors.UserError(
      f"{path} is no selection of format {FORMAT!r}; give what `nulls find "
      "--out` wrote, or a text file of keys, one a line"
    )
  sources = found.get("sources", [])
  if not isinstance(sources, list) or not all(map(_is_entry, sources)):
    raise errors.UserError(
      f"{path}: an entry of its sources has no key; run `nulls find` again"
    )
  return {**found, "sources": sources}


def _is_entry(item: Any) -> bool:
  key = item.get("key", 0) if isinstance(item, dict) else 0
  return key is None or isinstance(key, str)


def _why_none(found: Mapping[str, Any]) -> str:
  if found["sources"]:
    return ": all of it were erased already"
  candidates = found.get("candidates")
  if isinstance(candidates, list) and candidates:
    return (
      f", only {len(candidates)} candidates that hold parts of the quotation; "
      "look at them, then give their keys, or find again with "
      "--accept-partial SHARE"
    )
  return "; run `nulls find` again"
