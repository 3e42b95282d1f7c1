"""Conditions: nothing of their text gets into SQL; errors name the place.

What conditions mean is tested in test_ledger.py, on sources.
"""

import re

import pytest

from nulls_jax import errors
from nulls_jax.data import conditions


@pytest.mark.parametrize(
  "text",
  [
    "site = 'x'; DROP TABLE sources; --'",
    "'; DROP' = 'x'",
    '"a\\" OR 1=1 --" = 1',
    "x IN (SELECT key FROM sources)",
    "1=1",
    "key = 'a' --",
    "key = sources.key",
    "load_extension('x')",
    "key = 'a' UNION SELECT 1",
  ],
)
def test_sql_is_no_condition(text):
  with pytest.raises(errors.UserError, match=r"^condition, character \d+: "):
    conditions.parse(text)


def test_the_sql_holds_nothing_of_the_text():
  text = (
    "zebra.\"emu'; --\" = 'lion' AND NOT (yak IN ('gnu''s', 77777) OR "
    "ibex GLOB 'ant*') AND key LIKE 'wasp' AND index >= 88888"
  )
  found = conditions.parse(text)
  words = set(re.findall(r"\w+", found.sql))
  assert words <= {
    *("AND", "OR", "NOT", "IN", "GLOB", "LIKE", "IS", "NULL", "COALESCE", "0"),
    *("json_extract", "typeof", "metadata", "key", "source_index", "integer"),
    *("real", "text"),
  }
  assert found.parameters == (
    '$."zebra"."emu\'; --"',
    "lion",
    '$."yak"',
    "gnu's",
    77777,
    '$."ibex"',
    "ant*",
    "wasp",
    88888,
  )
  assert found.sql.count("?") == len(found.parameters)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("site =", "character 7: expected a value"),
    ("site = example", "character 8: expected a value"),
    ('site = "x"', "character 8: expected a value.*in 'single quotes'"),
    ("site = 'x", "character 8: this quotation mark is never closed"),
    ("= 3", "character 1: expected the name of a field; found '='"),
    ("a = 3 b = 4", "character 7: expected AND, OR or the end; found 'b'"),
    ("a = 3 AND", "character 10: expected the name.*found the end"),
    ("a IN 3", "character 6: expected an opening bracket"),
    ("a IN (1, 2", "character 11: expected a comma or a closing bracket"),
    ("(a = 1 OR b = 2", "character 16: expected AND, OR or a closing"),
    ("a ~ 1", "character 3: this sign means nothing here; found '~'"),
    ("a 1", "character 3: expected =, !=, <"),
    ("a = 3x", "character 5: this is neither a number nor a name"),
    ("a = 9223372036854775808", "character 5: a whole number must fit 64"),
    ("a = 1e999", "character 5: this number is too large"),
    ("a IS 3", "character 6: expected NULL"),
    ("a LIKE 3", "character 8: expected a pattern"),
    ("a NOT = 3", "character 7: expected =, !="),
    ("a..b = 1", "character 3: expected the name of a field"),
    ('"" = 1', "character 1: no field can have this name"),
    ('"a""b" = 1', "character 1: no field can have this name"),
    ("a = 1 OR " * 450 + "a = 1", "more than 400 comparisons"),
    ("(" * 100 + "a = 1" + ")" * 100, "character 42: more than 40 NOTs"),
    ("NOT " * 100 + "a = 1", "more than 40 NOTs and brackets"),
    ("a = '" + "x" * 20_000 + "'", "has 20006 characters"),
    (" \n", "the condition is empty"),
    ("a = '\ud800'", "not valid Unicode at character 6"),
  ],
)
def test_what_is_wrong_and_where(text, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    conditions.parse(text)
  assert len(str(caught.value)) < 250


def test_the_bounds_are_within_sqlites(library_connection):
  deep = "NOT " * 39 + "(" + " OR ".join(["a = 1"] * 399) + ")"
  for text in (deep, f"a IN ({','.join(['1'] * 9000)})"):
    found = conditions.parse(text)
    library_connection.execute(
      f"SELECT * FROM sources WHERE {found.sql}", found.parameters
    )


@pytest.fixture
def library_connection():
  import sqlite3

  connection = sqlite3.connect(":memory:")
  connection.execute("CREATE TABLE sources (metadata)")
  connection.execute("INSERT INTO sources VALUES ('{}')")
  yield connection
  connection.close()


@pytest.mark.parametrize(
  ("pattern", "message"),
  [("", "glob is empty"), ("x" * 20_001, "20001 char"), ("\ud800", "Unicode")],
)
def test_wrong_globs(pattern, message):
  with pytest.raises(errors.UserError, match=message):
    conditions.glob(pattern)
