"""The source key that was probably meant, for the message that it is unknown.

Owns what counts as near: the same text in other code points, in capitals or
with spaces around it, and typing errors. Reads the ledger's index of keys;
never decides which source a key names.
"""

import difflib
import heapq
import itertools
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from nulls_jax import errors

_NEAR = 40
# Keys that a message names; the rest is counted.
_NAMED = 20
# difflib's time grows with the square of the length.
_MAX_CHARACTERS = 200
_SHOWN = 100
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_CAPITALS = (str.casefold, str.lower, str.upper, str.title, str.capitalize)


def shown(key: str) -> str:
  """Return a key for a message: one line, not too long."""
  if len(key) <= _SHOWN:
    return repr(key)
  return f"{key[:_SHOWN]!r}... ({len(key)} characters)"


def not_found(
  connection: sqlite3.Connection,
  unknown: Sequence[str],
  erased: Sequence[str],
  *,
  where: Any,
  scan: bool,
) -> str:
  """Return the message for keys that cannot be found.

  Args:
    connection: to the ledger.
    unknown: keys that it does not have.
    erased: keys that it has no more.
    where: the ledger, for the message.
    scan: look at all its keys, rather than at a few.
  """
  parts = []
  if unknown:
    names = _describe(connection, unknown[:_NAMED], scan)
    listed = errors.listing([*names, *unknown[_NAMED:]], _NAMED)
    parts.append(f"{len(unknown)} unknown in {where}: {listed}")
  if erased:
    listed = errors.listing(map(shown, erased), _NAMED)
    parts.append(f"{len(erased)} already erased: {listed}")
  remedy = "give keys as the ledger has them"
  if not unknown:
    remedy = "nothing is left to do for these; take them off the list"
  return f"source keys: {'; '.join(parts)}; {remedy}"


def _describe(
  connection: sqlite3.Connection, unknown: Sequence[str], scan: bool
) -> list[str]:
  """Return each unknown key for a message, with the nearest known one."""
  known, folded, pairs = [], {}, {}
  if scan:
    query = "SELECT key FROM sources WHERE key IS NOT NULL ORDER BY key"
    known = [row[0] for row in connection.execute(query)]
    folded = {_fold(key): key for key in known}
    pairs = {key: _pairs(key) for key in known}
  names = []
  for key in unknown:
    near = _variant(connection, key) or folded.get(_fold(key))
    if near is None and len(key) <= _MAX_CHARACTERS:
      nearby = _alike(key, pairs) or neighbours(connection, key, _NEAR)
      near = next(iter(difflib.get_close_matches(key, nearby, n=1)), None)
    names.append(shown(key) + (_hint(key, near) if near else ""))
  return names


def _pairs(key: str) -> frozenset[str]:
  """Return the pairs of neighbouring characters."""
  return frozenset(map("".join, itertools.pairwise(key)))


def _alike(key: str, pairs: dict[str, frozenset[str]]) -> list[str]:
  """Return the keys that share most pairs; difflib is slow on all of them."""
  own = _pairs(key)
  return heapq.nlargest(_NEAR, pairs, key=lambda other: len(own & pairs[other]))


def _fold(key: str) -> str:
  """Map keys that people take for one to one text."""
  return unicodedata.normalize("NFKC", key).casefold().strip()


def _variant(connection: sqlite3.Connection, key: str) -> str | None:
  """Return a known key that is a usual respelling of this one."""
  forms = [unicodedata.normalize(form, key.strip()) for form in _FORMS]
  spellings = [key.strip(), *forms]
  spellings += [change(form) for change in _CAPITALS for form in forms]
  return next(iter(_known(connection, dict.fromkeys(spellings))), None)


def _known(connection: sqlite3.Connection, keys: Iterable[str]) -> list[str]:
  """Return those of these keys that the ledger has, in their order."""
  query = "SELECT key FROM sources WHERE key = ?"
  return [key for key in keys if connection.execute(query, (key,)).fetchone()]


def neighbours(
  connection: sqlite3.Connection, key: str, count: int
) -> list[str]:
  """Return as many known keys on either side of a text, in order of keys."""
  found = []
  for sign, direction in (("<", "DESC"), (">=", "ASC")):
    query = (
      f"SELECT key FROM sources WHERE key {sign} ? "
      f"ORDER BY key {direction} LIMIT {count}"
    )
    found += [row[0] for row in connection.execute(query, (key,))]
  return found


def _hint(key: str, near: str) -> str:
  """Return what to put behind an unknown key."""
  if unicodedata.normalize("NFC", key) != unicodedata.normalize("NFC", near):
    return f" (did you mean {shown(near)}?)"
  if near == unicodedata.normalize("NFC", near):
    stored = "composed"
  elif near == unicodedata.normalize("NFD", near):
    stored = "decomposed"
  else:
    stored = "in other code points"
  return (
    f" (did you mean {shown(near)}? It looks the same, but the key is stored "
    f"{stored}: {_points(near, key)} where you gave {_points(key, near)})"
  )


def _points(text: str, other: str) -> str:
  """Return the code points from the first one that differs: `U+00E9`.

  >>> _points("caf\\u00e9", "cafe\\u0301")
  'U+00E9'
  """
  start = 0
  while text[start : start + 1] == other[start : start + 1]:
    start += 1
  end_text, end_other = len(text), len(other)
  while (
    min(end_text, end_other) > start + 1
    and text[end_text - 1] == other[end_other - 1]
  ):
    end_text, end_other = end_text - 1, end_other - 1
  points = [f"U+{ord(sign):04X}" for sign in text[start:end_text]]
  return " ".join(points[:4]) + (" ..." if len(points) > 4 else "")
