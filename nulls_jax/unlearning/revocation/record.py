"""The format of the revocation list: lines that name the lines before them.

Owns what a line of `revocations.jsonl` is and what makes a list whole. Opens
no file.

Each line is canonical JSON (sorted names, no spaces, ASCII):
  format    1
  version   number of the line, from 1
  time      UTC, ISO 8601
  action    "suspend" or "restore"
  sources   [{"id": 16 hex digits, "index": number in the ledger}, ...], by
            index; never keys, so that the list may outlive an erasure
  reference, reason   of the request, text or null
  previous  `sha256` of the line before, null in the first
  sha256    SHA-256 of this line without this field

Invariant: a list of which a line was edited, moved, or removed before the
last one is refused as a whole.
"""

import dataclasses
import datetime
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib

FORMAT = 1
SUSPEND, RESTORE = "suspend", "restore"
REMEDY = "a list that was changed is not obeyed in part: put a copy of it back"

_FIELDS = frozenset(
  {
    "format",
    "version",
    "time",
    "action",
    "sources",
    "reference",
    "reason",
    "previous",
    "sha256",
  }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One line of the list.

  Attributes:
    version: number of the line, from 1.
    time: UTC, ISO 8601.
    action: "suspend" or "restore".
    sources: 64-bit id and ledger index of each source, by index.
    reference: of the request, None if none was given.
    reason: in words, None if none was given.
    previous: `sha256` of the line before, None in the first.
    sha256: SHA-256 of the line without this field, 64 hex digits.
  """

  version: int
  time: str
  action: str
  sources: tuple[tuple[int, int], ...]
  reference: str | None
  reason: str | None
  previous: str | None
  sha256: str


@dataclasses.dataclass(frozen=True)
class Revocations:
  """The list of a run, read and checked.

  Attributes:
    entries: its lines, the oldest first.
  """

  entries: tuple[Entry, ...] = ()

  @property
  def version(self) -> int:
    """Number of the last line; 0 when nothing was ever suspended."""
    return len(self.entries)

  @property
  def head(self) -> str | None:
    """Digest of the last line, which depends on all before it."""
    return self.entries[-1].sha256 if self.entries else None

  @property
  def suspended(self) -> frozenset[int]:
    """Ids of the suspended sources; erased ones may be among them."""
    return frozenset(self.suspended_by)

  @functools.cached_property
  def suspended_by(self) -> dict[int, Entry]:
    """The line that has suspended each suspended source, by its id."""
    found: dict[int, Entry] = {}
    for entry in self.entries:
      for source_id, _ in entry.sources:
        if entry.action == SUSPEND:
          found[source_id] = entry
        else:
          del found[source_id]
    return found


def parse(path: pathlib.Path, content: bytes) -> Revocations:
  """Read a list.

  Args:
    path: where it is, for messages.
    content: the file's bytes.

  Raises:
    errors.UserError: a line is not as it was written, or not where.
  """
  *lines, rest = content.split(b"\n")
  if rest:
    raise errors.UserError(
      f"{path}: line {len(lines) + 1} is cut off; {REMEDY}"
    )
  entries: list[Entry] = []
  suspended: set[int] = set()
  for number, line in enumerate(lines, start=1):
    try:
      entry = _entry(line)
      _follow(entry, number, entries[-1].sha256 if entries else None, suspended)
    except ValueError as error:
      raise errors.UserError(
        f"{path}: line {number} {error}; {REMEDY}"
      ) from error
    entries.append(entry)
  return Revocations(tuple(entries))


def _entry(line: bytes) -> Entry:
  """Parse one line; `ValueError` says what is wrong with it."""
  try:
    fields = json.loads(line)
  except (ValueError, RecursionError):
    raise ValueError("is not JSON") from None
  if not isinstance(fields, dict) or fields.get("format") != FORMAT:
    raise ValueError(f"is not of format {FORMAT}")
  if set(fields) != _FIELDS or _encode(fields) != line:
    raise ValueError("is not as this program writes it")
  if _digest(fields) != fields["sha256"]:
    raise ValueError("was edited (its digest differs)")
  try:
    sources = tuple(
      (int(source["id"], 16), source["index"]) for source in fields["sources"]
    )
  except (ValueError, KeyError, TypeError):
    raise ValueError("has no list of sources") from None
  rest = {name: fields[name] for name in _FIELDS - {"format", "sources"}}
  return Entry(sources=sources, **rest)


def _follow(
  entry: Entry, number: int, previous: str | None, suspended: set[int]
) -> None:
  """Check that an entry goes on where the ones before it end; apply it."""
  if entry.version != number or entry.previous != previous:
    raise ValueError(
      f"(version {entry.version}) does not follow the line before it: lines "
      "were removed, moved or edited"
    )
  ids = {source_id for source_id, _ in entry.sources}
  if entry.action == SUSPEND and not ids & suspended:
    suspended |= ids
  elif entry.action == RESTORE and ids <= suspended:
    suspended -= ids
  else:
    raise ValueError(f"cannot {entry.action} its sources after those before it")


def line(
  before: Revocations,
  action: str,
  sources: Sequence[ledger_lib.Source],
  reference: str | None,
  reason: str | None,
) -> bytes:
  """Return the line that follows a list, with its end of line."""
  now = datetime.datetime.now(datetime.UTC)
  ordered = sorted(sources, key=lambda source: source.index)
  fields = {
    "format": FORMAT,
    "version": before.version + 1,
    "time": now.isoformat(timespec="seconds"),
    "action": action,
    "sources": [
      {"id": f"{source.id:016x}", "index": source.index} for source in ordered
    ],
    "reference": reference,
    "reason": reason,
    "previous": before.head,
  }
  return _encode({**fields, "sha256": _digest(fields)}) + b"\n"


def _encode(fields: dict[str, Any]) -> bytes:
  text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
  return text.encode("ascii")


def _digest(fields: dict[str, Any]) -> str:
  covered = {name: fields[name] for name in fields if name != "sha256"}
  return hashlib.sha256(_encode(covered)).hexdigest()
