"""Which documents are held out of training, and the lines they become.

Owns the draw of held-out sources and documents, the three files of them in a
prepared dataset, and their format. Reads and writes no files itself.

Invariant: whether a document is held out is a function of its source's key,
its text and the two shares alone: not of its place, of other documents, or of
who reads it. What a share holds out, every larger share holds out too.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nulls_jax import errors

TRAIN = "train"
# All documents of a source that is held out; `nulls score --held-out`.
SOURCE = "source"
# A document of a source that is trained on; `nulls score --documents`.
DOCUMENT = "document"
# A document of no source; the input "public" of `nulls evaluate`.
PUBLIC = "public"

# The files of a prepared dataset, by what they hold.
FILES = {
  SOURCE: "held_out_sources.jsonl",
  DOCUMENT: "held_out_documents.jsonl",
  PUBLIC: "held_out_public.jsonl",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
  """What is held out of a dataset.

  Attributes:
    sources: share of the sources of which nothing is trained on.
    documents: share of the other documents that are not trained on, those of
      no source among them.
  """

  sources: float = 0.0
  documents: float = 0.0

  def __post_init__(self):
    for name in ("sources", "documents"):
      share = getattr(self, name)
      if not 0 <= share < 1:
        raise errors.UserError(
          f"the share of {name} to hold out is {share}; it must be at least 0 "
          "and less than 1"
        )

  def __bool__(self) -> bool:
    return self.sources > 0 or self.documents > 0

  def of(self, source: str, text: str) -> str:
    """Return TRAIN, SOURCE, DOCUMENT or PUBLIC for a document.

    >>> Splits(sources=0.5).of("a source", "text"), Splits().of("", "text")
    ('source', 'train')

    Args:
      source: its key; "" is no source.
      text: its text.
    """
    if self.sources > 0 and source and is_held_out(self.sources, source):
      return SOURCE
    if self.documents > 0 and is_held_out(self.documents, source, text):
      return DOCUMENT if source else PUBLIC
    return TRAIN


def is_held_out(share: float, *names: str) -> bool:
  """Say whether what has these names is among a share of all.

  The first 64 bits of a SHA-256 of the names, each after its length in bytes,
  so that no two lists of names look alike.
  """
  digest = hashlib.sha256(b"nulls held out 1")
  for name in names:
    encoded = name.encode("utf-8")
    digest.update(b"%d:" % len(encoded))
    digest.update(encoded)
  return int.from_bytes(digest.digest()[:8], "big") < int(share * 2**64)


def to_line(source: str, text: str, metadata: Mapping[str, Any]) -> bytes:
  """Return a held-out document as a line that `prepare` could read.

  >>> to_line("a", "Some text.", {"year": 1999})
  b'{"source": "a", "text": "Some text.", "year": 1999}\\n'
  """
  fields = {"source": source, "text": text, **metadata}
  # ASCII: metadata may have lone surrogates, which UTF-8 cannot write.
  return json.dumps(fields).encode("ascii") + b"\n"


def placed(where: str, *, is_trained: bool) -> str:
  """Return what a held-out document is when all documents were seen.

  A source whose documents were all held out is a held-out source.

  Args:
    where: SOURCE, DOCUMENT or PUBLIC.
    is_trained: whether the source has a document that is trained on.
  """
  return SOURCE if where == DOCUMENT and not is_trained else where
