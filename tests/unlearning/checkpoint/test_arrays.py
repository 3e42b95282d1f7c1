"""zarr3 arrays of an item: accounted for, decoded, digested."""

import hashlib
import json
import math
import os

import numpy as np
import pytest
import tensorstore as ts

from nulls_jax import errors
from nulls_jax.unlearning.checkpoint import arrays, storage


def write_item(path, content):
  """Write arrays as Orbax does: {"a.b": (values, chunk shape)}."""
  tree = {}
  for name, (values, chunk_shape) in content.items():
    keys = name.split(".")
    tree[str(tuple(keys))] = {
      "key_metadata": [{"key": key, "key_type": 2} for key in keys],
      "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
    }
    array = ts.open(
      {
        "driver": "zarr3",
        "kvstore": {
          "driver": "ocdbt",
          "base": {"driver": "file", "path": f"{path}/"},
          "path": f"{name}/",
        },
        "metadata": {
          "shape": values.shape,
          "data_type": ts.dtype(values.dtype).name,
          "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": chunk_shape},
          },
          "codecs": [{"name": "zstd", "configuration": {"level": 3}}],
        },
        "store_data_equal_to_fill_value": True,
        "create": True,
      }
    ).result()
    array.write(values).result()
  tree["('empty',)"] = {
    "key_metadata": [{"key": "empty", "key_type": 2}],
    "value_metadata": {"value_type": "None", "skip_deserialize": True},
  }
  metadata = {"tree_metadata": tree, "use_ocdbt": True, "use_zarr3": True}
  (path / "_METADATA").write_text(json.dumps(metadata))
  return storage.Database.open(path)


def read_item(path, content):
  database = write_item(path, content)
  return database, arrays.read_arrays(database)


def digest(path, values, chunk_shape):
  path.mkdir()
  database, (array,) = read_item(path, {"a": (values, chunk_shape)})
  codec, result = arrays.Codec(array), arrays.Digest(array)
  for chunk in array.chunks():
    (value,) = database.read([chunk.key])
    result.update(chunk, codec.decode(chunk, value, path))
  return result.hexdigest()


def test_reads_the_arrays_of_the_tree(tmp_path):
  values = np.arange(30, dtype=np.float32).reshape(5, 6)
  _, found = read_item(
    tmp_path,
    {"params.b": (values, (2, 4)), "a": (np.asarray(7), ())},
  )
  assert [array.path for array in found] == [("a",), ("params", "b")]
  scalar, matrix = found
  assert (scalar.shape, scalar.grid, scalar.data_type) == ((), (), "int64")
  assert [chunk.key for chunk in scalar.chunks()] == ["a/c"]
  assert (matrix.shape, matrix.chunk_shape, matrix.grid) == (
    (5, 6),
    (2, 4),
    (3, 2),
  )
  assert matrix.chunk_bytes == 32
  last = list(matrix.chunks())[-1]
  assert (last.index, last.key) == ((2, 1), "params.b/c/2/1")
  assert last.domain == (slice(4, 5), slice(4, 6))


def test_codec_decodes_and_encodes_bit_for_bit(tmp_path):
  values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
  bits = values.view(np.uint32)
  bits[0, 0] = 0x7FC12345  # a NaN with a payload
  bits[0, 1] = 0x80000000  # -0
  database, (array,) = read_item(tmp_path, {"a": (values, (2, 4))})
  codec = arrays.Codec(array)
  for chunk in array.chunks():
    (value,) = database.read([chunk.key])
    decoded = codec.decode(chunk, value, tmp_path)
    assert decoded.tobytes() == values[chunk.domain].tobytes()
    again = codec.decode(chunk, codec.encode(chunk, decoded), tmp_path)
    assert again.tobytes() == decoded.tobytes()
    if decoded.shape == array.chunk_shape:
      assert codec.encode(chunk, decoded) == value


def test_codec_stores_zeros(tmp_path):
  values = np.ones((2, 4), np.float32)
  _, (array,) = read_item(tmp_path, {"a": (values, (2, 4))})
  (chunk,) = array.chunks()
  value = arrays.Codec(array).encode(chunk, np.zeros((2, 4), np.float32))
  assert value
  decoded = arrays.Codec(array).decode(chunk, value, tmp_path)
  assert not decoded.any()


def test_codec_says_which_chunk_is_damaged(tmp_path):
  _, (array,) = read_item(tmp_path, {"a": (np.ones((2, 4)), (2, 4))})
  (chunk,) = array.chunks()
  with pytest.raises(errors.UserError, match=r"ITEM: a/c/0/0: damaged"):
    arrays.Codec(array).decode(chunk, b"no zstd", "ITEM")


def test_digest_is_of_the_contents_not_of_the_chunks(tmp_path):
  values = np.random.default_rng(0).normal(size=(4, 3, 10)).astype(np.float32)
  expected = hashlib.sha256(b"nulls_jax array 1\nfloat32\n[4, 3, 10]\n")
  for row in values.reshape(12, 10):
    expected.update(hashlib.sha256(row.tobytes()).digest())
  for position, chunk_shape in enumerate(
    [(4, 3, 10), (1, 1, 10), (2, 2, 3), (4, 1, 7), (3, 3, 1)]
  ):
    found = digest(tmp_path / str(position), values, chunk_shape)
    assert found == expected.hexdigest(), chunk_shape


def test_digest_of_few_dimensions_and_other_types(tmp_path):
  scalar, vector = np.asarray(3, np.int32), np.arange(7, dtype=np.float64)
  bfloat = vector.astype(ts.bfloat16.numpy_dtype)
  found = {
    digest(tmp_path / "scalar", scalar, ()),
    digest(tmp_path / "vector", vector, (7,)),
    digest(tmp_path / "bfloat", bfloat, (7,)),
    digest(tmp_path / "other", scalar + np.int32(1), ()),
  }
  assert len(found) == 4
  assert digest(tmp_path / "vector 2", vector, (3,)) in found
  assert digest(tmp_path / "bfloat 2", bfloat, (2,)) in found
  row = hashlib.sha256(scalar.tobytes()).digest()
  header = b"nulls_jax array 1\nint32\n[]\n"
  assert hashlib.sha256(header + row).hexdigest() in found


def test_digest_wants_every_chunk(tmp_path):
  _, (array,) = read_item(tmp_path, {"a": (np.ones((2, 4)), (1, 4))})
  with pytest.raises(RuntimeError, match="2 chunks were not digested"):
    arrays.Digest(array).hexdigest()


def test_batches_hold_every_value_once(tmp_path, monkeypatch):
  _, found = read_item(
    tmp_path,
    {
      "big": (np.ones((4, 100), np.float32), (2, 100)),
      "small": (np.ones((6, 5), np.float32), (1, 5)),
    },
  )
  monkeypatch.setattr(arrays, "BATCH_BYTES", 700)
  batches = list(arrays.batches(found))
  sizes = [
    sum(20 if chunk else len(array.metadata) for array, chunk in batch)
    for batch in batches
    if batch[0][0].name == "small"
  ]
  assert all(size <= 700 for size in sizes)
  # A chunk of 800 bytes is a batch of its own.
  assert [len(batch) for batch in batches][:3] == [1, 1, 1]
  values = [value for batch in batches for value in batch]
  assert len(values) == len(set(map(str, values))) == 1 + 2 + 1 + 6
  first = {}
  for array, chunk in values:
    first.setdefault(array.name, chunk)
  assert first == {"big": None, "small": None}


def damage_tree(change):
  def damage(path):
    content = json.loads((path / "_METADATA").read_text())
    change(content)
    (path / "_METADATA").write_text(json.dumps(content))

  return damage


def write_value(key, value):
  def damage(path):
    store = ts.KvStore.open(
      {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
    ).result()
    store.write(key, value).result()

  return damage


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: (path / "_METADATA").unlink(), r"_METADATA is missing"),
    (
      lambda path: os.truncate(path / "_METADATA", 30),
      r"_METADATA: not the tree",
    ),
    (
      damage_tree(lambda tree: tree.pop("tree_metadata")),
      r"_METADATA: not the tree of an Orbax item \('tree_metadata'\)",
    ),
    (
      damage_tree(lambda tree: tree.update(use_zarr3=False)),
      r"'use_zarr3': False}; only OCDBT with zarr3",
    ),
    (
      damage_tree(lambda tree: tree["tree_metadata"].pop("('a',)")),
      r"does not explain: a/c/0/0, a/zarr.json; this release",
    ),
    (write_value("b/c/0/1", b"?"), r"does not explain: b/c/0/1; this"),
    (write_value("b/c/0/0", None), r"chunks are missing: b/c/0/0; use"),
    (write_value("b/zarr.json", None), r"b/zarr.json missing although"),
    (write_value("b/zarr.json", b"{}"), r"b/zarr.json is not zarr3"),
    (write_value("b/zarr.json", b"\xff"), r"b/zarr.json is not zarr3"),
  ],
)
def test_refuses_what_is_not_accounted_for(damage, message, tmp_path):
  values = np.ones((2, 4), np.float32)
  content = {"a": (values, (2, 4)), "b": (values, (2, 4))}
  write_item(tmp_path, content)
  damage(tmp_path)
  with pytest.raises(errors.UserError, match=message) as caught:
    arrays.read_arrays(storage.Database.open(tmp_path))
  assert "\n" not in str(caught.value)


def test_refuses_other_grids(tmp_path):
  write_item(tmp_path, {"a": (np.ones((2, 4)), (2, 4))})
  (value,) = storage.Database.open(tmp_path).read(["a/zarr.json"])
  content = json.loads(value)
  content["chunk_key_encoding"] = {"name": "v2"}
  write_value("a/zarr.json", json.dumps(content).encode())(tmp_path)
  with pytest.raises(errors.UserError, match=r"\('regular', 'v2'\)"):
    arrays.read_arrays(storage.Database.open(tmp_path))


def test_orbax_checkpoints_are_accounted_for(make_run):
  for arguments in ({}, {"num_devices": 8}, {"optimiser": "groups"}):
    run = make_run(**arguments)
    found = arrays.read_arrays(storage.Database.open(run.item))
    names = [array.name for array in found]
    assert names == sorted(names)
    table = found[names.index("params.layers.sinks.table")]
    assert table.shape == (2, 2, 256, 12)
    if arguments == {"num_devices": 8}:
      assert math.prod(table.grid) == 8
