"""Clusters as sources: the same ones for everyone, and named ones kept."""

import json
import random
import sys

import pytest

from nulls_jax import errors
from nulls_jax.data.reading import clustering, documents, inputs

TOPICS = {
  "sea": "ship sail harbour wave captain anchor tide coast",
  "kitchen": "bread flour oven butter salt knife recipe dough",
  "sky": "star planet orbit telescope galaxy comet moon light",
  "music": "violin song choir rhythm melody piano chord opera",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Four topics, a named source, and a text without any word."""
  path = tmp_path_factory.mktemp("web") / "web.jsonl"
  chance = random.Random(5)
  with open(path, "w") as file:
    for number in range(400):
      topic = list(TOPICS)[number % 4]
      words = chance.choices([*TOPICS[topic].split(), "the", "of"], k=40)
      record = {"text": " ".join(words), "topic": topic, "source": None}
      if number % 10 == 9:
        record["source"] = "books"
      file.write(json.dumps(record) + "\n")
    file.write(json.dumps({"text": "!?", "topic": "none"}) + "\n")
  return path


def _open(corpus, count=4):
  return inputs.open([corpus], inputs.Settings(sources=f"cluster:{count}"))


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
  path = tmp_path_factory.mktemp("fit") / "clusters.npz"
  clustering.fit(_open(corpus)).save(path)
  return path


def _read(opened, block_bytes=2**30, refusals=None):
  return [
    document
    for block in opened.blocks(block_bytes)
    for document in opened.documents(block, refusals)
  ]


def test_topics_become_sources_and_named_sources_stay(corpus, saved):
  found = _read(_open(corpus).with_clusters(saved))
  assert len(found) == 401
  assert [d.where for d in found] == [f"{corpus}:{n}" for n in range(1, 402)]
  books = [d for d in found if d.source == "books"]
  assert len(books) == 40 and "topic" in books[0].metadata
  keys = {}
  for number, document in enumerate(found[:400]):
    if document.source == "books":
      continue
    topic = list(TOPICS)[number % 4]
    keys.setdefault(topic, set()).add(document.source)
    # The cluster's metadata, not one document's.
    words = set(document.metadata.pop("terms").split())
    assert document.metadata == {} and len(words) == 8
    assert len(words & set(TOPICS[topic].split())) >= 6
  assert sorted(map(len, keys.values())) == [1] * 4
  assert set.union(*keys.values()) == {f"cluster-{n:05d}" for n in range(4)}
  assert documents.Refusals().total == 0


def test_everyone_finds_the_same_clusters(corpus, saved, tmp_path):
  clustering.fit(_open(corpus)).save(tmp_path / "again.npz")
  assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()
  opened = _open(corpus).with_clusters(saved)
  whole = _read(opened)
  cut = _read(opened, 3000)
  assert [d.source for d in cut] == [d.source for d in whole]
  loaded, text = clustering.load(saved), whole[0].text
  head = text + " " * clustering.HEAD_CHARACTERS
  assert loaded.predict([text, head + "piano"]) == loaded.predict([text] * 2)


def test_a_cluster_key_is_not_for_documents(tmp_path, saved):
  path = tmp_path / "a.jsonl"
  record = {"source": "cluster-00001", "text": "ship"}
  path.write_text(json.dumps(record) + "\n")
  with pytest.raises(errors.UserError, match=r":1: source key has the form of"):
    _read(_open(path).with_clusters(saved))
  # Elsewhere it is a key like others.
  assert _read(inputs.open([path]))[0].source == "cluster-00001"


def test_fitting_comes_first(corpus, saved, tmp_path):
  with pytest.raises(RuntimeError, match="fit a clustering first"):
    _read(_open(corpus))
  with pytest.raises(errors.UserError, match=r"has 4 clusters, not 5; "):
    _open(corpus, 5).with_clusters(saved)
  with pytest.raises(errors.UserError, match="absent cannot be read"):
    _open(corpus).with_clusters(tmp_path / "absent")
  for content in (b"", b"text", saved.read_bytes()[:-200]):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(errors.UserError, match="holds no clusters"):
      _open(corpus).with_clusters(tmp_path / "bad.npz")


def test_more_clusters_than_documents(corpus):
  with pytest.raises(errors.UserError, match=r"cluster:999: only 361 document"):
    clustering.fit(_open(corpus, 999))


def test_without_scikit_learn(corpus, monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
  with pytest.raises(errors.UserError, match=r"sklearn.*pip install 'nulls_ja"):
    clustering.fit(_open(corpus))
