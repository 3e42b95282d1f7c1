"""Shards and their merge: the same bytes, or all that is wrong, named."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil

import pytest

from nulls_jax import errors
from nulls_jax.data.preparation import dataset, job, prepare, shards
from nulls_jax.data.reading import inputs


@pytest.fixture(scope="module")
def tokenizer_path(many_blocks, tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  prepare.train_tokenizer(many_blocks.job(), path)
  return path


@pytest.fixture(scope="module")
def three(many_blocks, tokenizer_path, tmp_path_factory):
  """All three shards."""
  root = tmp_path_factory.mktemp("three")
  for number in range(3):
    _shard(many_blocks, root, number, 3, tokenizer_path)
  return root


def _shard(corpus, root, number, count, tokenizer_path, **settings):
  return shards.prepare_shard(
    corpus.job(tokenizer_path=tokenizer_path, **settings),
    root / "set",
    (number, count),
  )


@pytest.fixture
def copy(three, tmp_path):
  shutil.copytree(three, tmp_path / "copy")
  return tmp_path / "copy"


def test_the_tokenizer_alone_is_that_of_the_dataset(
  many_blocks, tokenizer_path, tmp_path
):
  model = dataset.Prepared.open(many_blocks.undisturbed).tokenizer_path
  assert tokenizer_path.read_bytes() == model.read_bytes()
  assert [path.name for path in tokenizer_path.parent.iterdir()] == [
    "tokenizer.model"
  ]
  with pytest.raises(errors.UserError, match="a tokenizer is never overwrit"):
    prepare.train_tokenizer(many_blocks.job(), tokenizer_path)
  with pytest.raises(ValueError, match="the job has a tokenizer; give none"):
    prepare.train_tokenizer(
      many_blocks.job(tokenizer_path=tokenizer_path), tmp_path / "again"
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
  smaller = dataclasses.replace(many_blocks.config, vocab_size=350)
  prepare.train_tokenizer(
    dataclasses.replace(many_blocks, config=smaller).job(), model
  )
  _shard(many_blocks, copy, 2, 3, model, exclude={"author/7"})
  line = refused("prepare", "merge", "--out", copy / "set")
  assert "1: other list of files and sizes, settings (tile)" in line
  assert "2: other tokenizer, list of excluded keys" in line
  assert not (copy / "set").exists()
  (copy / "set.shard-00000-of-00005").mkdir()
  line = refused("prepare", "merge", "--out", copy / "set")
  assert "has shards of 3, 5; delete those" in line


def test_a_damaged_shard_is_named(copy):
  shard = copy / "set.shard-00001-of-00003"
  path = sorted(shard.glob("blocks/*-0000.npz"))[0]
  content = bytearray(path.read_bytes())
  # Among the tokens: the first array, after its header.
  content[content.index(b"NUMPY") + 200] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match="is damaged or missing") as error:
    shards.merge(copy / "set")
  assert f"delete {shard} and prepare again" in str(error.value)
  (shard / "plan.json").write_text("{")
  with pytest.raises(errors.UserError, match="is damaged or missing") as error:
    shards.merge(copy / "set")
  assert f"delete {shard} and prepare again" in str(error.value)


def test_shards_that_were_cut_differently(copy, refused):
  path = copy / "set.shard-00001-of-00003" / "plan.json"
  plan = json.loads(path.read_text())
  plan["share"][0] += 1
  path.write_text(json.dumps(plan))
  line = refused("prepare", "merge", "--out", copy / "set")
  assert f"the shards in {copy} do not have each block once" in line


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


@pytest.fixture
def folder(many_blocks, tmp_path):
  """The documents in six files, and six texts, in several folders."""
  root = tmp_path / "documents"
  lines = many_blocks.path.read_text().splitlines(keepends=True)
  for number in range(6):
    (root / "texts").mkdir(parents=True, exist_ok=True)
    part = "".join(lines[number * 40 : (number + 1) * 40])
    (root / f"{number}.jsonl").write_text(part)
    text = " ".join(f"word{i * i % 90}" for i in range(700 + 90 * number))
    (root / "texts" / f"{number}.txt").write_text(text)
  return dataclasses.replace(many_blocks, path=root)


def _files_read(shard):
  plan = json.loads((shard / "plan.json").read_text())
  return [
    name for part in plan["identity"]["documents"] for name in part["sha256"]
  ]


def test_a_shard_reads_only_its_files(
  folder, tokenizer_path, contents, tmp_path
):
  """All other files hold something else while it works."""
  reading = inputs.Settings(sources="path")
  names = [f"{n}.jsonl" for n in range(6)]
  names += [f"texts/{n}.txt" for n in range(6)]
  good = {name: (folder.path / name).read_bytes() for name in names}
  plan = folder.job(reading=reading).plan()
  read = []
  for number in range(4):
    pieces = [
      piece for block in plan.shard(number, 4) for piece in plan.blocks[block]
    ]
    found = plan.inputs.contents(pieces)
    read.append([name for content in found for name in content.sha256])
    for name in set(names) - set(read[-1]):
      (folder.path / name).write_bytes(b"\xff" * len(good[name]))
    made = _shard(folder, tmp_path, number, 4, tokenizer_path, reading=reading)
    assert _files_read(pathlib.Path(made["directory"])) == read[-1]
    for name in names:
      (folder.path / name).write_bytes(good[name])
  # Neighbours share the file that one ends and the next begins in.
  readers = collections.Counter(name for names_ in read for name in names_)
  assert list(readers) == names
  assert readers.total() <= len(names) + 3 and max(readers.values()) <= 2
  shards.merge(tmp_path / "set")
  folder.prepare(
    tmp_path / "one", tokenizer_path=tokenizer_path, reading=reading
  )
  assert contents(tmp_path / "set") == contents(tmp_path / "one")


def test_a_file_that_changes_between_shards(
  many_blocks, tokenizer_path, refused, tmp_path
):
  path = tmp_path / "documents.jsonl"
  corpus = dataclasses.replace(many_blocks, path=path)
  text = many_blocks.path.read_text()
  for number, content in enumerate(
    (text, text.replace("word1", "ward1"), text + "\n")
  ):
    path.write_text(content)
    _shard(corpus, tmp_path, number, 3, tokenizer_path)
  merge = ("prepare", "merge", "--out", tmp_path / "set")
  assert "2: other list of files and sizes; delete those" in refused(*merge)
  shutil.rmtree(tmp_path / "set.shard-00002-of-00003")
  path.write_text(text)
  _shard(corpus, tmp_path, 2, 3, tokenizer_path)
  line = refused(*merge)
  assert "different contents of documents.jsonl (shards 0 and 1)" in line
  assert "delete those that read the wrong one and start them again" in line
  assert not (tmp_path / "set").exists()
  shutil.rmtree(tmp_path / "set.shard-00001-of-00003")
  _shard(corpus, tmp_path, 1, 3, tokenizer_path)
  shards.merge(tmp_path / "set")


def test_files_with_an_old_stamp_are_not_read_for_their_digest(
  many_blocks, tokenizer_path, tmp_path
):
  path = tmp_path / "documents.jsonl"
  path.write_bytes(many_blocks.path.read_bytes())
  corpus = dataclasses.replace(many_blocks, path=path)
  made = _shard(corpus, tmp_path, 1, 3, tokenizer_path)
  time = path.stat().st_mtime_ns
  path.write_bytes(path.read_bytes().replace(b"word1", b"ward1"))
  os.utime(path, ns=(time, time))
  assert _shard(corpus, tmp_path, 1, 3, tokenizer_path) == made
  os.utime(path, ns=(time, time + 1))
  with pytest.raises(errors.UserError, match="another content of the docu"):
    _shard(corpus, tmp_path, 1, 3, tokenizer_path)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_shards_are_about_equal_in_bytes(many_blocks, tmp_path, count):
  """Whatever the sizes of the blocks, here a file each."""
  for number in range(30):
    text = "x" * (9000 // (30 - number))
    (tmp_path / f"{number:02d}.txt").write_text(text)
  config = dataclasses.replace(many_blocks.config, block_bytes=1)
  plan = job.Job(tmp_path, config).plan()
  blocks = range(len(plan.blocks))
  assert len(blocks) == 30
  found = [plan.shard(number, count) for number in range(count)]
  assert [block for share in found for block in share] == list(blocks)
  sizes = [sum(map(plan.block_bytes, share)) for share in found]
  equal = plan.inputs.num_bytes / count
  largest = max(map(plan.block_bytes, blocks))
  assert max(abs(size - equal) for size in sizes) <= largest
