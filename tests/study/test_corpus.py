"""Corpora of studies: drawn by seed, split without loss."""

import json

import pytest

from nulls_jax import errors
from nulls_jax.study import corpus


def write_texts(path, sizes):
  with open(path, "w") as file:
    for number, size in enumerate(sizes):
      line = {"source": f"s{number}", "text": "x" * size, "title": number}
      file.write(json.dumps(line) + "\n")
  return path


def config(documents, **changes):
  values = {"num_sources": 20, "num_never_trained": 3, "num_erased": 2}
  return corpus.CorpusConfig(documents=documents, **{**values, **changes})


def sources(path):
  return [json.loads(line)["source"] for line in path.read_text().splitlines()]


def test_documents_are_split_without_loss(tmp_path):
  path = write_texts(tmp_path / "texts.jsonl", [300] * 10 + [10] * 10)
  made = corpus.make(config(path), tmp_path / "corpus")
  trained, never = sources(made.documents), sources(made.held_out)
  assert sorted(trained + never) == sorted(f"s{n}" for n in range(20))
  assert len(never) == 3 and len(made.erased_keys) == 2
  assert set(made.erased_keys) <= set(trained)
  # Short texts are trained, but neither erased nor kept out.
  short = {f"s{n}" for n in range(10, 20)}
  assert not short & {*never, *made.erased_keys}
  assert made.probes is None
  line = json.loads(made.documents.read_text().splitlines()[0])
  assert line["title"] == int(line["source"][1:])


def test_the_draw_depends_on_the_seed_alone(tmp_path):
  path = write_texts(tmp_path / "texts.jsonl", [300] * 40)
  keys = [
    corpus.make(config(path, seed=seed), tmp_path / name).erased_keys
    for name, seed in (("a", 0), ("b", 0), ("c", 1))
  ]
  assert keys[0] == keys[1] != keys[2]


def test_encyclopedia(tmp_path):
  made = corpus.make(config(None), tmp_path / "corpus")
  assert made.probes.exists()
  assert len(set(sources(made.documents))) == 20
  assert set(made.erased_keys) <= set(sources(made.documents))
  assert len(sources(made.held_out)) == 3


def test_a_finished_corpus_is_left_alone(tmp_path):
  made = corpus.make(config(None), tmp_path / "corpus")
  made.erased.write_text("kept\n")
  assert corpus.make(config(None), tmp_path / "corpus").erased_keys == ["kept"]


def test_too_few_sources(tmp_path):
  path = write_texts(tmp_path / "texts.jsonl", [300] * 5)
  with pytest.raises(errors.UserError, match="leave nothing of the 5 sources"):
    corpus.make(config(path), tmp_path / "corpus")
  assert not (tmp_path / "corpus").exists()


def test_other_documents_are_another_corpus(tmp_path):
  first = config(write_texts(tmp_path / "a.jsonl", [300]))
  same = config(write_texts(tmp_path / "b.jsonl", [300]))
  other = config(write_texts(tmp_path / "c.jsonl", [301]))
  assert first.to_dict() == same.to_dict() != other.to_dict()


def test_missing_documents(tmp_path):
  with pytest.raises(errors.UserError, match="cannot be read"):
    config(tmp_path / "none.jsonl").to_dict()
