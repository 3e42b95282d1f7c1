"""Where a key counts as mentioned, and what becomes of it."""

import pytest

from nulls_jax.unlearning.erasure import mentions


@pytest.mark.parametrize(
  ("key", "text", "expected"),
  [
    ("a/b", "data/a/b.txt", True),
    ("b", "data/a/b.txt", True),
    ("b", "table", False),
    ("article/1", "article/10", False),
    ("article/1", "article/10 article/1", True),
    ("smith", "smith_2", False),
    ("straße", "Die straße.", True),
    ("straße", "Hauptstraße", False),
    ("?", "what?", False),
    ("(x)", "f (x)", True),
    ("two\nlines", "with two\nlines in it", True),
    ("Smith", "smith", False),
  ],
)
def test_a_mention_is_a_whole_word(key, text, expected):
  assert mentions.Mentions([key, "zz"]).mentioned(text) == expected


def test_redacts_values_and_names():
  found = mentions.Mentions(["site/a", "word"])
  content = {
    "a": ["site/a", 1, None, "site/b"],
    "see site/a": {"b": 2},
    "word": {"c": "word", "d": ["a word", True]},
  }
  assert found.redact(content, "file") == {
    "a": ["[redacted]", 1, None, "site/b"],
    "word": {"c": "word", "d": ["[redacted]", True]},
  }
  assert found.kept == ["file, word, c"]
  again = mentions.Mentions(["redacted"])
  assert again.redact_text("[redacted]") == "[redacted]"
