"""Conditions on sources: `site = 'example.org' AND year >= 1999`, and globs.

Owns the grammar of `--where` and its translation to SQL. Knows the names of
the ledger's columns, and neither files nor connections.

    condition  = conjunction {OR conjunction}
    conjunction = negation {AND negation}
    negation   = NOT negation | "(" condition ")" | comparison
    comparison = field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | field [NOT] (GLOB | LIKE) string
               | field [NOT] IN "(" value {"," value} ")"
               | field IS [NOT] NULL
    field      = name {"." name}        names with other signs: "such a name"
    value      = 'a string' ('' is a quote) | a number | TRUE | FALSE

A field is a column (key, index, num_documents, num_tokens, status) or else a
path into the metadata; `metadata.key` is the metadata's own `key`. A
comparison with a field that a source lacks is false, and its NOT true; so is
an order between text and a number. LIKE has % and _ and does not tell a from
A; GLOB has *, ? and [a-z] and does.

Invariant: no text of a condition gets into the SQL; fields' paths and values
are parameters.
"""

import dataclasses
import json
import math
import re

from nulls_jax import errors

MAX_CHARACTERS = 20_000
# SQLite's own bound is 1,000 operators.
_MAX_COMPARISONS = 400
_MAX_DEPTH = 40

_COLUMNS = {
  "key": "key",
  "index": "source_index",
  "num_documents": "num_documents",
  "num_tokens": "num_tokens",
  "status": "status",
}
_TOKEN = re.compile(
  r"""
  (?P<space>\s+)
  | (?P<string>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*"|[^\W\d]\w*)
  | (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w))
  | (?P<sign><=|>=|!=|<>|==|[=<>(),.])
  """,
  re.VERBOSE,
)
_KEYWORDS = frozenset(
  ("AND", "OR", "NOT", "IN", "IS", "NULL", "GLOB", "LIKE", "TRUE", "FALSE")
)
_ORDERS = ("<", "<=", ">", ">=")
_EQUALS = {"=": "=", "==": "=", "!=": "!=", "<>": "!="}


@dataclasses.dataclass(frozen=True)
class Condition:
  """A condition as SQL that `Ledger.select` takes.

  Attributes:
    sql: of names of columns, operators and question marks only.
    parameters: the values for the question marks.
  """

  sql: str = "1"
  parameters: tuple = ()

  def __and__(self, other: "Condition") -> "Condition":
    return Condition(
      f"{self.sql} AND {other.sql}", self.parameters + other.parameters
    )


def glob(pattern: str) -> Condition:
  """Return the condition that a key matches: `*`, `?`, `[a-z]`.

  Raises:
    errors.UserError: the pattern is empty, too long or no valid Unicode.
  """
  _check_text(pattern, "glob")
  return Condition("(key IS NOT NULL AND key GLOB ?)", (pattern,))


def parse(text: str) -> Condition:
  """Translate a condition.

  >>> parse("site = 'example.org' AND num_tokens > 9").parameters
  ('$."site"', 'example.org', 9)

  Raises:
    errors.UserError: the text is no condition; the message has the position,
      counted from 1.
  """
  _check_text(text, "condition")
  parser = _Parser(text)
  sql = parser.condition(0)
  if parser.kind != "end":
    parser.fail("expected AND, OR or the end")
  return Condition(f"({sql})", tuple(parser.parameters))


def _check_text(text: str, name: str):
  if not text.strip():
    raise errors.UserError(f"the {name} is empty; leave it out or fill it")
  if len(text) > MAX_CHARACTERS:
    raise errors.UserError(
      f"the {name} has {len(text)} characters, at most {MAX_CHARACTERS} are "
      "read; put the keys into a file"
    )
  try:
    text.encode("utf-8")
  except UnicodeEncodeError as error:
    raise errors.UserError(
      f"the {name} is not valid Unicode at character {error.start + 1}"
    ) from None


class _Parser:
  """Recursive descent; `kind` and `value` are the token ahead."""

  def __init__(self, text: str):
    self.parameters = []
    self._text = text
    self._end = 0
    self._num_comparisons = 0
    self._advance()

  def _advance(self):
    """Read the next token: string, number, name, keyword, sign or end."""
    self._start = self._end
    if self._start == len(self._text):
      self.kind, self.value = "end", ""
      return
    match = _TOKEN.match(self._text, self._start)
    if match is None:
      self.kind, self.value = "odd", self._text[self._start]
      what = "this sign means nothing here"
      if self.value in "'\"":
        what = "this quotation mark is never closed"
      elif self.value.isdigit():
        what = "this is neither a number nor a name"
      self.fail(what)
    self._end = match.end()
    self.kind, self.value = match.lastgroup, match[0]
    if self.kind == "space":
      self._advance()
    elif self.kind == "string":
      self.value = self.value[1:-1].replace("''", "'")
    elif self.kind == "name" and self.value.startswith('"'):
      self.value = self.value[1:-1].replace('""', '"')
    elif self.kind == "name" and self.value.upper() in _KEYWORDS:
      self.kind, self.value = "keyword", self.value.upper()

  def fail(self, expected: str):
    if self.kind == "end":
      found = "the end"
    else:
      found = repr(self._text[self._start : max(self._end, self._start + 1)])
      found = found if len(found) < 60 else found[:60] + "..."
    raise errors.UserError(
      f"condition, character {self._start + 1}: {expected}; found {found} "
      "(like: site = 'example.org' AND year >= 1999)"
    )

  def _take(self, kind: str, value: str) -> bool:
    """Step over a token if it is this one."""
    if (self.kind, self.value) != (kind, value):
      return False
    self._advance()
    return True

  def condition(self, depth: int) -> str:
    parts = [self._conjunction(depth)]
    while self._take("keyword", "OR"):
      parts.append(self._conjunction(depth))
    return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

  def _conjunction(self, depth: int) -> str:
    parts = [self._negation(depth)]
    while self._take("keyword", "AND"):
      parts.append(self._negation(depth))
    return " AND ".join(parts)

  def _negation(self, depth: int) -> str:
    if depth > _MAX_DEPTH:
      self.fail(f"more than {_MAX_DEPTH} NOTs and brackets in each other")
    if self._take("keyword", "NOT"):
      return f"NOT ({self._negation(depth + 1)})"
    if self._take("sign", "("):
      inner = self.condition(depth + 1)
      if not self._take("sign", ")"):
        self.fail("expected AND, OR or a closing bracket")
      return f"({inner})"
    return self._comparison()

  def _comparison(self) -> str:
    self._num_comparisons += 1
    if self._num_comparisons > _MAX_COMPARISONS:
      self.fail(f"more than {_MAX_COMPARISONS} comparisons; use IN (...)")
    names = self._names()
    field, parameters = self._field(names)
    test, values, repeats = self._test(field)
    # The parameters stand in the order of the question marks.
    self.parameters += parameters * repeats + values
    # Two values only: a missing field makes false, not SQL's NULL.
    if parameters:
      return f"COALESCE({test}, 0)"
    if field == "key" and " NULL" not in test:
      return f"(key IS NOT NULL AND {test})"  # so, the index still serves
    return test

  def _names(self) -> list[str]:
    names = []
    while True:
      if self.kind != "name":
        self.fail("expected the name of a field")
      if '"' in self.value or not self.value:
        self.fail("no field can have this name")
      names.append(self.value)
      self._advance()
      if not self._take("sign", "."):
        return names

  def _field(self, names: list[str]) -> tuple[str, list[str]]:
    if len(names) == 1 and names[0] in _COLUMNS:
      return _COLUMNS[names[0]], []
    if len(names) > 1 and names[0] == "metadata":
      names = names[1:]
    # Escaped as the ledger's JSON is: old SQLites compare names as they stand.
    path = "".join(f".{json.dumps(name)}" for name in names)
    return "json_extract(metadata, ?)", [f"${path}"]

  def _test(self, field: str) -> tuple[str, list, int]:
    """Return SQL, its values, and how often the field stands before them."""
    if self._take("keyword", "IS"):
      negated = "NOT " if self._take("keyword", "NOT") else ""
      if not self._take("keyword", "NULL"):
        self.fail("expected NULL")
      return f"{field} IS {negated}NULL", [], 1
    if self.kind == "sign" and self.value in _EQUALS:
      sign = _EQUALS[self.value]
      self._advance()
      return f"{field} {sign} ?", [self._value()], 1
    if self.kind == "sign" and self.value in _ORDERS:
      sign = self.value
      self._advance()
      value = self._value()
      # To SQLite every text is more than every number.
      kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
      return f"typeof({field}) IN {kinds} AND {field} {sign} ?", [value], 2
    negated = "NOT " if self._take("keyword", "NOT") else ""
    for keyword in ("GLOB", "LIKE"):
      if self._take("keyword", keyword):
        if self.kind != "string":
          self.fail("expected a pattern in 'single quotes'")
        return f"{field} {negated}{keyword} ?", [self._value()], 1
    if self._take("keyword", "IN"):
      values = self._values()
      marks = ",".join("?" * len(values))
      return f"{field} {negated}IN ({marks})", values, 1
    self.fail("expected =, !=, <, <=, >, >=, GLOB, LIKE, IN or IS")

  def _values(self) -> list:
    if not self._take("sign", "("):
      self.fail("expected an opening bracket")
    values = [self._value()]
    while self._take("sign", ","):
      values.append(self._value())
    if not self._take("sign", ")"):
      self.fail("expected a comma or a closing bracket")
    return values

  def _value(self) -> str | int | float:
    if self.kind == "string":
      value = self.value
    elif self.kind == "number":
      value = self._number()
    elif self.kind == "keyword" and self.value in ("TRUE", "FALSE"):
      value = int(self.value == "TRUE")
    else:
      self.fail("expected a value: a number, or a text in 'single quotes'")
    self._advance()
    return value

  def _number(self) -> int | float:
    if re.fullmatch(r"[-+]?\d+", self.value):
      value = int(self.value)
      if not -(2**63) <= value < 2**63:
        self.fail("a whole number must fit 64 bits")
      return value
    if not math.isfinite(float(self.value)):
      self.fail("this number is too large")
    return float(self.value)
