"""Source keys: files of them, and the rules that make them."""

import doctest
import json
import pickle
import sys

import pytest

from nulls_jax import errors
from nulls_jax.data.reading import documents, inputs, keys, parts, values


def _write(tmp_path, content, name="keys.txt"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def _keys(tmp_path, rule, *records, **settings):
  """Return sources and metadata of records read by a rule, and refusals."""
  content = "".join(json.dumps({"text": "t"} | r) + "\n" for r in records)
  path = _write(tmp_path, content, "documents.jsonl")
  opened = inputs.open([path], inputs.Settings(sources=rule, **settings))
  refusals = documents.Refusals()
  (block,) = opened.blocks(2**30)
  found = list(pickle.loads(pickle.dumps(opened)).documents(block, refusals))
  return [(d.source, d.metadata) for d in found], dict(refusals.counts)


def test_keys(tmp_path):
  path = _write(tmp_path, "person/A B\n\n ä \r\nperson/A B\nlast")
  assert keys.read_keys(path) == ["person/A B", " ä ", "last"]


def test_bad_keys(tmp_path, monkeypatch):
  with pytest.raises(errors.UserError, match="holds no key"):
    keys.read_keys(_write(tmp_path, "\n\n"))
  with pytest.raises(errors.UserError, match=r"keys\.txt:2: not UTF-8"):
    keys.read_keys(_write(tmp_path, b"a\n\xff\n"))
  with pytest.raises(errors.UserError, match=r"keys\.txt:1: source key is lon"):
    keys.read_keys(_write(tmp_path, "a" * 4097))
  with pytest.raises(errors.UserError, match="does not exist"):
    keys.read_keys(tmp_path / "absent")
  monkeypatch.setattr(documents, "MAX_RECORD_BYTES", 5000)
  with pytest.raises(errors.UserError, match=r"keys\.txt:1: key is too long"):
    keys.read_keys(_write(tmp_path, "a" * 5001))


def test_a_field_is_the_key_and_the_rest_is_metadata(tmp_path):
  record = {"author": "A", "source": "s", "year": 1}
  found, _ = _keys(tmp_path, "field:author", record)
  assert found == [("A", {"source": "s", "year": 1})]
  record = {"meta": {"id": "x"}, "body": "b", "text": "other"}
  found, _ = _keys(tmp_path, "field:meta.id", record, text_field="body")
  assert found == [("x", {"meta": {"id": "x"}, "text": "other"})]
  _, refused = _keys(tmp_path, "field:author", {"author": 3}, {"source": "s"})
  assert refused == {"source is not a string but int": 1, "no source": 1}


def test_a_template_joins_fields(tmp_path):
  rule = "template:{author}/{id}"
  records = [
    {"author": "A", "id": 7},
    {"author": "A", "id": "{author}"},
    {"author": "A"},
    {"author": "", "id": 1},
    {"author": "A", "id": 1.5},
    {"author": True, "id": 1},
  ]
  found, refused = _keys(tmp_path, rule, *records)
  assert found == [("A/7", records[0]), ("A/{author}", records[1])]
  assert refused == {
    "no source": 2,
    "id is not a string but float": 1,
    "author is not a string but bool": 1,
  }


@pytest.mark.parametrize(
  ("url", "site"),
  [
    ("https://Blog.Example.co.uk:8080/a?b#c", "example.co.uk"),
    ("http://user:word@www.example.com", "example.com"),
    ("www.example.com/path", "example.com"),
    ("https://alice.github.io/x", "alice.github.io"),
    ("https://www.bücher.de/", "xn--bcher-kva.de"),
    ("https://xn--bcher-kva.de/", "xn--bcher-kva.de"),
    ("http://192.168.0.1:80/", "192.168.0.1"),
    ("http://[2001:DB8::1]/", "2001:db8::1"),
    ("http://co.uk/", "co.uk"),
    ("http://localhost/", "localhost"),
    ("http://example.com./", "example.com"),
  ],
)
def test_a_site_is_the_registrable_domain(url, site):
  assert keys.site(url) == site


def test_sites(tmp_path):
  found, refused = _keys(
    tmp_path,
    "site:url",
    {"url": "https://a.example.org/x"},
    {"url": "https:///x"},
    {"url": "http://[broken"},
    {"url": "two words"},
    {"url": 5},
    {"other": "x"},
  )
  assert found == [("example.org", {"url": "https://a.example.org/x"})]
  assert refused == {
    "no site in the URL": 3,
    "url is not a string but int": 1,
    "no source": 1,
  }


def test_sites_need_no_network_and_say_what_is_missing(monkeypatch):
  import socket

  def refuse(*_):
    raise AssertionError("network")

  monkeypatch.setattr(socket, "create_connection", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  keys._suffixes.cache_clear()
  assert keys.site("http://a.b.example.com") == "example.com"
  keys._suffixes.cache_clear()
  monkeypatch.setitem(sys.modules, "publicsuffixlist", None)
  with pytest.raises(errors.UserError, match=r"publicsuffixlist.*pip install"):
    keys.site("http://example.com")


@pytest.mark.parametrize(
  "rule",
  [
    "author",
    "field:",
    "site:",
    "path:x",
    "template:fixed",
    "template:{a}{",
    "template:{}",
    "cluster:1",
    "cluster:many",
    "cluster:²",
    "",
  ],
)
def test_what_is_no_rule(tmp_path, rule):
  with pytest.raises(errors.UserError, match=f"--sources {rule}"[:15]):
    _keys(tmp_path, rule, {"source": "a"})


def test_identity_names_the_suffix_list():
  settings = inputs.Settings(sources="site:url", text_field="body")
  assert settings.to_dict()["sources"].startswith("site:url (publicsuffixlist")
  # A dataset of the defaults keeps the digest that it had.
  assert inputs.Settings().to_dict() == {}


@pytest.mark.parametrize("module", [documents, keys, parts, values])
def test_examples(module):
  result = doctest.testmod(module)
  assert result.attempted and not result.failed
