"""What a document is, where it stood, and why a record is none.

Owns `Document`, `Place` and `Refusals`, and the rules that a text must obey.
Knows neither file formats nor source keys.

Invariant: every record of an input becomes a `Document`, is counted by
`Refusals`, or is raised; none is skipped.
"""

import collections
import dataclasses
import pathlib
from typing import Any

from nulls_jax import errors

# A longer record is refused without being held; that bounds the memory. The
# longest books are some 20 MB.
MAX_RECORD_BYTES = 2**25
TOO_LONG = f"longer than {MAX_RECORD_BYTES} bytes"
TOO_LONG_REMEDY = "split it into several documents of the same source"

_COUNT_BYTES = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
  """Where a record stood; `str()` gives it as messages name it.

  A block of a large file knows the numbers of its lines only from its own
  start. The lines before it are counted when, and only when, somebody asks
  for the text: keep places, and make the text of the few that are shown.

  Attributes:
    label: what stands before the number, "corpus.jsonl:" for one.
    number: of the record, from 1; from the block's start if `path` is given.
      None: `label` says it all.
    path: the file whose lines before byte `start` have to be added.
    start: byte of `path` at which the block starts.

  >>> str(Place("corpus.jsonl:", 7))
  'corpus.jsonl:7'
  """

  label: str
  number: int | None = None
  path: str | None = None
  start: int = 0

  def __str__(self) -> str:
    if self.number is None:
      return self.label
    before = _count_lines(self.path, self.start) if self.path else 0
    return f"{self.label}{before + self.number}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Document:
  """One text and the source that it belongs to.

  Several documents with the same key are documents of one source, whatever
  their texts: two articles by one author, or one article twice. Nothing is
  merged or left out; the source then has that many documents, and it keeps
  the metadata of the first.

  Attributes:
    source: the source key; "" is no source.
    text: the text, never empty, valid Unicode, without U+0000.
    metadata: the other fields of the record, JSON values only.
    place: where it stood.
  """

  source: str
  text: str
  metadata: dict[str, Any]
  place: Place

  @property
  def where(self) -> str:
    """ "file:line", for messages; may count the lines of a large file."""
    return str(self.place)


class BadRecord(Exception):
  """A record that is no document.

  Attributes:
    reason: one of a fixed few, never a part of the text.
    remedy: what the user can do, with details.
  """

  def __init__(self, reason: str, remedy: str):
    super().__init__(f"{reason}; {remedy}")
    self.reason = reason
    self.remedy = remedy


class Refusals:
  """Counts refused records by reason and keeps the first one's place.

  Those of the blocks of an input, merged in the order of the blocks, equal
  those of reading the input from end to end.

  Attributes:
    counts: number of refused records by reason, in the order of first sight.
  """

  def __init__(self):
    self.counts: collections.Counter[str] = collections.Counter()
    self._first: dict[str, tuple[Place, str]] = {}

  def add(self, reason: str, place: Place, message: str | None = None) -> None:
    """Count one; `message` is the reason with its remedy, if it has one."""
    self.counts[reason] += 1
    if reason not in self._first:
      self._first[reason] = (place, message or reason)

  def merge(self, later: "Refusals") -> None:
    """Add those of a later block."""
    self.counts.update(later.counts)
    for reason, first in later._first.items():
      self._first.setdefault(reason, first)

  @property
  def total(self) -> int:
    """The number of refused records."""
    return self.counts.total()

  @property
  def first(self) -> dict[str, str]:
    """One message a reason: "file:line: reason; remedy" of the first.

    May count the lines of large files, once a reason; ask at the end.
    """
    return {
      reason: f"{place}: {message}"
      for reason, (place, message) in self._first.items()
    }

  def to_dict(self) -> dict[str, Any]:
    """Return them as JSON values."""
    return {
      reason: {
        "count": self.counts[reason],
        "place": dataclasses.astuple(place),
        "message": message,
      }
      for reason, (place, message) in self._first.items()
    }

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> "Refusals":
    """Read what `to_dict` gave."""
    refusals = cls()
    for reason, value in values.items():
      refusals.counts[reason] = value["count"]
      refusals._first[reason] = (Place(*value["place"]), value["message"])
    return refusals


def check_text(text: Any, field: str) -> str:
  """Return a text that may be trained on.

  A null character (U+0000) is refused: it never is text, a damaged
  extraction left it there, and tokenizer training would leave its line out.

  Args:
    text: what the record has in `field`, None if nothing.
    field: its name, for messages.

  Raises:
    BadRecord: no text, no string, empty, or no valid Unicode.
  """
  if text is None:
    raise BadRecord(f"no {field}", f'add the field "{field}"')
  if isinstance(text, bytes):
    raise BadRecord("not UTF-8", f'convert "{field}"')
  if not isinstance(text, str):
    raise BadRecord(
      f"{field} is not a string but {type(text).__name__}", f'mend "{field}"'
    )
  if not text or text.isspace():
    raise BadRecord(f"{field} is empty", f'fill "{field}" or leave it out')
  if "\0" in text:
    raise BadRecord(
      f"{field} holds a null character (U+0000)",
      f"number {text.index(chr(0)) + 1} of its {len(text)}; take it out",
    )
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    raise BadRecord(
      f"{field} is not valid Unicode (a lone surrogate)", f'mend "{field}"'
    ) from None
  if len(text) > MAX_RECORD_BYTES:
    raise BadRecord(f"{field} is {TOO_LONG}", TOO_LONG_REMEDY)
  return text


def _count_lines(path: str, end: int) -> int:
  """Return the number of lines that start before byte `end` > 0 of a file."""
  # A line end in the byte just before `end` starts a line at `end`.
  count, left = 1, end - 1
  try:
    with pathlib.Path(path).open("rb") as file:
      while left and (piece := file.read(min(left, _COUNT_BYTES))):
        count += piece.count(b"\n")
        left -= len(piece)
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read any more ({error.strerror}); give it back and "
      "repeat"
    ) from None
  return count
