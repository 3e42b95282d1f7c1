"""TFDS datasets from the disk, and never TensorFlow."""

import subprocess
import sys
import textwrap

import pytest

from nulls_jax import errors
from nulls_jax.data.reading import documents, inputs

NAME = "tfds:wikipedia/20230601.simple"
COUNT = 300


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Build a dataset of the shape of TFDS's wikipedia, as array_record."""
  root = tmp_path_factory.mktemp("tfds")
  build = f"""
    import tensorflow_datasets as tfds

    class Wikipedia(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version("1.0.0")
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="20230601.simple")]

      def _info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({{"title": text, "text": text}})
        return tfds.core.DatasetInfo(builder=self, features=features)

      def _split_generators(self, manager):
        bad = {{"title": "x", "text": b"bad \\xff"}}
        few = enumerate([bad] * 4)
        return {{"train": self._generate_examples(), "few": few}}

      def _generate_examples(self):
        for n in range({COUNT}):
          yield n, {{"title": f"Title {{n}}", "text": f"É {{n}} " * 20}}

    Wikipedia(
      config="20230601.simple", data_dir={str(root)!r},
      file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=4))
  """
  # Another process: TFDS keeps the class for good.
  subprocess.run([sys.executable, "-c", textwrap.dedent(build)], check=True)
  return root


def _read(data_dir, name=NAME, block_bytes=2**30, refusals=None, **settings):
  place = None if data_dir is None else str(data_dir)
  settings = {"sources": "field:title", "data_dir": place} | settings
  opened = inputs.open([name], inputs.Settings(**settings))
  return [
    document
    for block in opened.blocks(block_bytes)
    for document in opened.documents(block, refusals)
  ]


def test_records_whatever_the_blocks(data_dir, monkeypatch):
  found = _read(data_dir)
  assert len(found) == COUNT
  assert {d.source for d in found} == {f"Title {n}" for n in range(COUNT)}
  assert all(d.text == f"É {d.source.split()[1]} " * 20 for d in found)
  assert found[6].where == f"{NAME}: train record 7"
  assert _read(data_dir, block_bytes=1000) == found
  assert _read(data_dir, f"{NAME}:1.0.0@train", 5000) != []
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  assert _read(None) == found
  opened = inputs.open(
    [NAME], inputs.Settings(sources="field:title", data_dir=str(data_dir))
  )
  blocks = opened.blocks(1000)
  assert len(blocks) > 5
  assert sum(block.num_bytes for block in blocks) == opened.num_bytes
  assert opened.digests() == opened.digests()
  # Each range knows its files: the others may be anything.
  (part,) = opened.parts
  names, _, stops = zip(*part.shards, strict=True)
  assert len(names) == 4
  for name, stop in zip(names, stops, strict=True):
    assert [found for found, _ in part.files_of(stop - 1, stop)] == [name]
  for number, stop in enumerate(stops[:-1]):
    found = [name for name, _ in part.files_of(stop - 1, stop + 1)]
    assert found == [names[number], names[number + 1]]
  assert [found for found, _ in part.files_of(0, COUNT)] == [*names]


def test_bad_records_are_counted(data_dir):
  refusals = documents.Refusals()
  assert _read(data_dir, f"{NAME}@few", refusals=refusals) == []
  assert refusals.first == {
    "not UTF-8": f'{NAME}@few: few record 1: not UTF-8; convert "text"'
  }


def test_what_is_not_on_the_disk(data_dir, tmp_path):
  with pytest.raises(
    errors.UserError,
    match=r"tfds:c4/en is not in .*; name its place with --data-dir, or .*: "
    r"tfds build c4/en --file_format=array_record --data_dir=",
  ) as caught:
    _read(data_dir, "tfds:c4/en")
  assert "\n" not in str(caught.value)
  with pytest.raises(errors.UserError, match=r"there are wikipedia/20230"):
    _read(data_dir, "tfds:wikipedia")
  with pytest.raises(errors.UserError, match=r"simple:2\.0\.0 is not in"):
    _read(data_dir, f"{NAME}:2.0.0")
  with pytest.raises(errors.UserError, match=r"no split 'test'; it has "):
    _read(data_dir, f"{NAME}@test")
  with pytest.raises(errors.UserError, match="names no dataset; write tfds:"):
    _read(data_dir, "tfds:/en")
  with pytest.raises(errors.UserError, match=r"no field 'source' but 'text', "):
    _read(data_dir, sources=None)
  with pytest.raises(errors.UserError, match="have no path; name a field"):
    _read(data_dir, sources="path")


def test_damaged_datasets(data_dir, tmp_path):
  copy = tmp_path / "copy"
  subprocess.run(["cp", "-r", data_dir, copy], check=True)
  shard = min(copy.rglob("*train*"))
  whole = shard.read_bytes()
  # Its end is empty.
  shard.write_bytes(whole[:1000] + bytes(len(whole) - 1000))
  with pytest.raises(errors.UserError, match=r"record 1 or later: damaged"):
    _read(copy, refusals=documents.Refusals())
  opened = inputs.open(
    [NAME], inputs.Settings(sources="field:title", data_dir=str(copy))
  )
  shard.write_bytes(whole[:1000])
  with pytest.raises(errors.UserError, match="has changed while it was read"):
    list(opened.documents(opened.blocks(2**30)[0]))
  shard.unlink()
  with pytest.raises(errors.UserError, match="lacks the files"):
    _read(copy)
  (info,) = copy.rglob("dataset_info.json")
  written = info.read_text()
  info.write_text(written.replace("array_record", "tfrecord"))
  with pytest.raises(errors.UserError, match="in the format tfrecord, not arr"):
    _read(copy)
  info.write_text(written[:50])
  with pytest.raises(errors.UserError, match=r"simple.1\.0\.0: .* damaged"):
    _read(copy)


def test_tensorflow_is_never_imported(data_dir, tmp_path):
  """A package of that name is there and fails if anybody asks for it."""
  (tmp_path / "tensorflow.py").write_text("raise SystemExit('imported')")
  code = f"""
    import sys
    sys.path.insert(0, {str(tmp_path)!r})
    from nulls_jax.data.reading import inputs
    opened = inputs.open([{NAME!r}], inputs.Settings(
      sources="field:title", data_dir={str(data_dir)!r}))
    (block,) = opened.blocks(2**30)
    assert len(list(opened.documents(block))) == {COUNT}
    assert "tensorflow" not in sys.modules
  """
  subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
