"""Shards and their merge: the same bytes, or all that is wrong, named."""

import shutil

import pytest

from nulls_jax import errors
from nulls_jax.data.preparation import dataset, prepare, shards


@pytest.fixture(scope="module")
def tokenizer_path(many_blocks, tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  prepare.train_tokenizer(
    many_blocks.path, path, many_blocks.config, on_error="refuse"
  )
  return path


@pytest.fixture(scope="module")
def three(many_blocks, tokenizer_path, tmp_path_factory):
  """All three shards."""
  root = tmp_path_factory.mktemp("three")
  for number in range(3):
    _shard(many_blocks, root, number, 3, tokenizer_path)
  return root


def _shard(corpus, root, number, count, tokenizer_path, **arguments):
  return shards.prepare_shard(
    corpus.path,
    root / "set",
    corpus.config,
    (number, count),
    tokenizer_path=tokenizer_path,
    **{"on_error": "refuse", **arguments},
  )


@pytest.fixture
def copy(three, tmp_path):
  shutil.copytree(three, tmp_path / "copy")
  return tmp_path / "copy"


def test_the_tokenizer_alone_is_that_of_the_dataset(
  many_blocks, tokenizer_path
):
  model = dataset.Prepared.open(many_blocks.undisturbed).tokenizer_path
  assert tokenizer_path.read_bytes() == model.read_bytes()
  assert [path.name for path in tokenizer_path.parent.iterdir()] == [
    "tokenizer.model"
  ]
  with pytest.raises(errors.UserError, match="a tokenizer is never overwrit"):
    prepare.train_tokenizer(
      many_blocks.path, tokenizer_path, many_blocks.config
    )


def test_merged_shards_are_the_dataset(
  many_blocks, tokenizer_path, copy, contents, nulls, tmp_path
):
  many_blocks.prepare(tmp_path / "one", tokenizer_path=tokenizer_path)
  status, out, err = nulls("prepare", "merge", "--out", copy / "set")
  assert (status, err) == (0, "")
  assert "240 documents of 50 sources" in out
  assert contents(copy / "set") == contents(tmp_path / "one")
  assert sorted(path.name for path in copy.iterdir()) == [
    "set",
    *(f"set.shard-0000{number}-of-00003" for number in range(3)),
  ]
  # Both know the dataset for what it is.
  again = many_blocks.prepare(copy / "set", tokenizer_path=tokenizer_path)
  assert again == shards.merge(copy / "set")


def test_a_shard_that_is_done_is_not_done_again(
  many_blocks, tokenizer_path, copy
):
  before = {path: path.stat().st_mtime_ns for path in copy.rglob("blocks/*")}
  found = _shard(many_blocks, copy, 1, 3, tokenizer_path)
  assert found["directory"].endswith("set.shard-00001-of-00003")
  assert before == {
    path: path.stat().st_mtime_ns for path in copy.rglob("blocks/*")
  }


def test_missing_and_unfinished_shards_are_named(copy, refused, tmp_path):
  (copy / "set.shard-00002-of-00003" / "shard.json").unlink()
  line = refused("prepare", "merge", "--out", copy / "set")
  assert "not all 3 shards of" in line
  assert "(unfinished: 2); start `nulls prepare --shard I/3` for" in line
  shutil.rmtree(copy / "set.shard-00000-of-00003")
  line = refused("prepare", "merge", "--out", copy / "set")
  assert "(missing: 0; unfinished: 2); start" in line
  line = refused("prepare", "merge", "--out", tmp_path / "none")
  assert f"there is no shard of {tmp_path / 'none'}; make them" in line


def test_shards_of_something_else_are_named(
  many_blocks, tokenizer_path, copy, refused, tmp_path
):
  import dataclasses

  shutil.rmtree(copy / "set.shard-00001-of-00003")
  shutil.rmtree(copy / "set.shard-00002-of-00003")
  other = dataclasses.replace(
    many_blocks,
    path=tmp_path / "other.jsonl",
    config=dataclasses.replace(many_blocks.config, tile=48),
  )
  text = many_blocks.path.read_text()
  other.path.write_text(text.replace("word1", "ward1"))
  _shard(other, copy, 1, 3, tokenizer_path)
  model = tmp_path / "other.model"
  prepare.train_tokenizer(
    many_blocks.path,
    model,
    dataclasses.replace(many_blocks.config, vocab_size=350),
    on_error="refuse",
  )
  _shard(many_blocks, copy, 2, 3, model, exclude={"author/7"})
  line = refused("prepare", "merge", "--out", copy / "set")
  assert "1: other content of the documents, settings (tile)" in line
  assert "2: other tokenizer, list of excluded keys" in line
  assert not (copy / "set").exists()
  (copy / "set.shard-00000-of-00005").mkdir()
  line = refused("prepare", "merge", "--out", copy / "set")
  assert "has shards of 3, 5; delete those" in line


def test_a_damaged_shard_is_named(copy):
  shard = copy / "set.shard-00001-of-00003"
  path = sorted(shard.glob("blocks/*-0000.npz"))[0]
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match="is damaged or missing") as error:
    shards.merge(copy / "set")
  assert f"delete {shard} and prepare again" in str(error.value)


def test_shards_that_cannot_be(many_blocks, tokenizer_path, refused, tmp_path):
  command = ("prepare", *many_blocks.flags, "--out", tmp_path / "set")
  model = ("--tokenizer", tokenizer_path)
  for flags, what in (
    (("--shard=3/3", *model), "3 shards have the numbers 0 to 2"),
    (("--shard=one", *model), "--shard one is not I/N, like 0/64"),
    (("--shard=0/3",), "shards need the same tokenizer; make one with"),
    (("--workers=-1",), "--workers=-1; give a number of processes"),
  ):
    assert what in refused(*command, *flags)
  assert not list(tmp_path.iterdir())
