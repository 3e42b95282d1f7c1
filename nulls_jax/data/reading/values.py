"""JSON values of what Parquet and TFDS hold.

Owns the conversion of fields that are neither texts nor numbers. Texts come
as bytes from some writers: bytes that are UTF-8 become a string.
"""

import datetime
import decimal
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

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


def described(value: Any) -> Any:
  """Return a value of `to_json` with bytes replaced by their number.

  >>> described({"title": "a", "picture": [b"\\xff\\xd8"]})
  {'title': 'a', 'picture': ['2 bytes']}
  """
  if isinstance(value, bytes):
    return f"{len(value)} bytes"
  if isinstance(value, dict):
    return {name: described(part) for name, part in value.items()}
  if isinstance(value, list):
    return [described(part) for part in value]
  return value
