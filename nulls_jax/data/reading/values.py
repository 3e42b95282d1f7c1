"""JSON values of what Parquet and TFDS hold.

Owns the conversion of fields that are neither texts nor numbers. Texts come
as bytes from some writers: bytes that are UTF-8 become a string.
"""

import datetime
import decimal
import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from nulls_jax.data.reading import documents

# Python and SQLite read more, each with a limit of its own.
MAX_DEPTH = 100
_PLAIN = (str, bool, int, float, type(None))


def to_json(value: Any) -> Any:
  """Return a field as a JSON value; times, decimals as their usual text.

  Bytes that are not UTF-8, a picture for one, stay bytes here: as text or
  source key they are refused, as metadata `described` replaces them.

  >>> to_json([b"a", np.int64(3), datetime.date(2026, 1, 2)])
  ['a', 3, '2026-01-02']
  """
  if isinstance(value, _PLAIN):
    return value
  if isinstance(value, bytes):
    try:
      return value.decode("utf-8")
    except UnicodeDecodeError:
      return value
  if isinstance(value, np.ndarray | np.generic):
    return to_json(value.tolist())
  if isinstance(value, Mapping):
    return {str(name): to_json(part) for name, part in value.items()}
  if isinstance(value, list | tuple):
    return [to_json(part) for part in value]
  if isinstance(value, datetime.date | datetime.time):
    return value.isoformat()
  if isinstance(value, datetime.timedelta | decimal.Decimal | uuid.UUID):
    return str(value)
  return repr(value)


def described(value: Any, depth: int = 0) -> Any:
  """Return a value of `to_json` as any reader of JSON takes it.

  Bytes are replaced by their number, NaN and infinities by null.

  >>> described({"title": "a", "picture": [b"\\xff\\xd8"], "score": math.nan})
  {'title': 'a', 'picture': ['2 bytes'], 'score': None}

  Args:
    value: of a field, or all fields.
    depth: how many values it is within.

  Raises:
    documents.BadRecord: it is nested more than `MAX_DEPTH` deep.
  """
  if isinstance(value, bytes):
    return f"{len(value)} bytes"
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, dict | list):
    if depth > MAX_DEPTH:
      raise documents.BadRecord(
        "nested too deeply", f"make it at most {MAX_DEPTH} levels"
      )
    if isinstance(value, list):
      return [described(part, depth + 1) for part in value]
    return {name: described(part, depth + 1) for name, part in value.items()}
  return value
