"""Copies of a source's key in the text that a run says about itself.

Owns what counts as a mention and what becomes of it. A string that mentions
an erased key is replaced as a whole, and an entry whose name mentions one is
left out, so that the result does not depend on the order of erasures.

Invariant: what `Mentions.redact` returns mentions no key, except in the
places that it names.
"""

import re
from collections.abc import Iterable
from typing import Any

REDACTED = "[redacted]"

# What a setting looks like, such as "hashed" or "float32".
_SETTING = re.compile(r"[a-z][a-z0-9_]*")


class Mentions:
  """Finds keys in strings.

  A key is mentioned where it stands in a string and no letter, digit or
  underscore touches it: "a/b" is mentioned in "data/a/b.txt", "b" is not
  mentioned in "table".

  Attributes:
    kept: the places of strings that equal a key, but were kept because they
      may be settings: one word of small letters, digits and underscores.
  """

  def __init__(self, keys: Iterable[str]):
    self._keys = tuple(keys)
    self.kept: list[str] = []

  def mentioned(self, text: str) -> bool:
    """Say whether a key is mentioned in a text."""
    return any(
      re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text)
      for key in self._keys
      if key in text
    )

  def redact_text(self, text: str) -> str:
    return REDACTED if self.mentioned(text) else text

  def redact(self, node: Any, place: str) -> Any:
    """Return a JSON value without mentions.

    Args:
      node: the value.
      place: where it stands, such as "config.json"; begins the places in
        `kept`.
    """
    if isinstance(node, dict):
      return {
        name: self.redact(value, f"{place}, {name}")
        for name, value in node.items()
        if _SETTING.fullmatch(name) or not self.mentioned(name)
      }
    if isinstance(node, list):
      return [
        self.redact(value, f"{place}, item {number}")
        for number, value in enumerate(node)
      ]
    if not isinstance(node, str) or not self.mentioned(node):
      return node
    if _SETTING.fullmatch(node):
      self.kept.append(place)
      return node
    return REDACTED
