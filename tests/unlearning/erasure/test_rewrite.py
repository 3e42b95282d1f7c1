"""The edited copy and the check that reads it back."""

import shutil

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.unlearning.checkpoint import arrays, moments, plan, storage
from nulls_jax.unlearning.erasure import rewrite


@pytest.fixture
def source(make_run):
  """The database of a run whose table is stored in 16 chunks and more."""
  run = make_run(num_devices=8, chunk_byte_size=1024)
  return storage.Database.open(run.item)


@pytest.fixture
def edit(source):
  """Zero row 3 of layer 0, stratum 1 and rows 7, 200 of layer 1, stratum 0."""
  found = arrays.read_arrays(source)
  rows = [[[], [3]], [[7, 200], []]]
  tables = [array for array in found if array.path[-3:] == moments.SINK_PATH]
  return rewrite.Edit(
    arrays=found,
    sinks=moments.SinkArrays(tables=tuple(tables)),
    rows=plan.Rows([[np.asarray(r, int) for r in layer] for layer in rows]),
  )


def silent(stage, done, total):
  pass


def decode(database, array):
  """Return an array's elements, chunk by chunk."""
  elements = np.zeros(array.shape, np.float32)
  codec = arrays.Codec(array)
  for chunk in array.chunks():
    (value,) = database.read([chunk.key])
    elements[chunk.domain] = codec.decode(chunk, value, database.directory)
  return elements


def test_rewrites_the_touched_chunks_only(edit, source, tmp_path):
  calls = []
  written = rewrite.write(
    edit, source, tmp_path, lambda *call: calls.append(call)
  )
  # Three rows in three chunks, in the parameters and both moments.
  assert written.num_rewritten == 9
  assert calls[-1] == ("copy", edit.num_values, edit.num_values)
  rewrite.check(edit, written, tmp_path, silent)
  assert len(written.digests) == len(edit.arrays)
  changed = {
    name
    for name, (old, new) in written.digests.items()
    if old.hexdigest() != new.hexdigest()
  }
  assert changed == edit.edited_names

  copy = storage.Database.open(tmp_path)
  for table in edit.sinks.tables:
    before, after = decode(source, table), decode(copy, table)
    for layer, stratum, rows in ((0, 1, [3]), (1, 0, [7, 200])):
      assert before[layer, stratum, rows].all()
      before[layer, stratum, rows] = 0
    np.testing.assert_array_equal(before, after)
    # The digests are of what is on the disk.
    digest = arrays.Digest(table)
    for chunk in table.chunks():
      digest.update(chunk, after[chunk.domain])
    after = written.digests[table.name][1]
    assert after.hexdigest() == digest.hexdigest()
    assert after.checksum == digest.checksum


def test_what_is_zero_already_keeps_its_bytes(edit, source, tmp_path):
  for name in ("once", "twice"):
    (tmp_path / name).mkdir()
  once = rewrite.write(edit, source, tmp_path / "once", silent)
  copy = storage.Database.open(tmp_path / "once")
  for name in ("_METADATA",):
    shutil.copy(source.directory / name, tmp_path / "once" / name)
  twice = rewrite.write(edit, copy, tmp_path / "twice", silent)
  assert twice.num_rewritten == 0
  assert twice.values == once.values
  # Minus zero is no zero.
  table = edit.sinks.tables[0]
  (chunk,) = (
    chunk
    for chunk in table.chunks()
    if chunk.index[:2] == (0, 1) and 3 in range(*chunk.domain[2].indices(256))
  )
  codec = arrays.Codec(table)
  elements = codec.decode(chunk, copy.read([chunk.key])[0], tmp_path)
  elements[0, 0, 3 - chunk.domain[2].start, 0] = -0.0
  copy.write([(chunk.key, codec.encode(chunk, elements))])
  (tmp_path / "thrice").mkdir()
  thrice = rewrite.write(edit, copy, tmp_path / "thrice", silent)
  assert thrice.num_rewritten == 1
  assert thrice.values == once.values


def test_dropped_arrays_are_digested_and_not_written(edit, source, tmp_path):
  kept = [array for array in edit.arrays if array.path[0] == "params"]
  rest = [array for array in edit.arrays if array.path[0] != "params"]
  sinks = moments.SinkArrays(tables=edit.sinks.tables[:1])
  some = rewrite.Edit(arrays=kept, sinks=sinks, rows=edit.rows, dropped=rest)
  written = rewrite.write(some, source, tmp_path, silent)
  rewrite.check(some, written, tmp_path, silent)
  copy = storage.Database.open(tmp_path)
  found = copy.keys()
  assert all(key.startswith("params.") for key in found)
  (tmp_path / "all").mkdir()
  whole = rewrite.write(edit, source, tmp_path / "all", silent)
  for array in edit.arrays:
    before, after = written.digests[array.name]
    assert before.hexdigest() == whole.digests[array.name][0].hexdigest()
    assert (after is None) == (array in rest)


@pytest.mark.parametrize(
  "damage",
  [
    pytest.param(lambda x: x.__setitem__((0, 0, 0, 0), -0.0), id="named row"),
    pytest.param(lambda x: x.__setitem__((0, 0, 1, 5), -0.0), id="other row"),
    pytest.param(
      lambda x: x.__setitem__((0, 0, 1, 5), np.nan), id="another NaN"
    ),
  ],
)
def test_sees_one_wrongly_encoded_element(
  damage, edit, source, tmp_path, monkeypatch
):
  encode = arrays.Codec.encode

  def wrong(self, chunk, elements):
    elements = elements.copy()
    if chunk.key.startswith("params") and chunk.index[:2] == (0, 1):
      # Rolled so that its named row, 3, is the first.
      first = 3 - chunk.domain[2].start
      elements = np.roll(elements, -first, axis=2)
      damage(elements)
      elements = np.roll(elements, first, axis=2)
    return encode(self, chunk, elements)

  monkeypatch.setattr(arrays.Codec, "encode", wrong)
  with pytest.raises(
    errors.MachineError, match=r"params\S+/c/0/1.*decodes to other elements"
  ):
    rewrite.write(edit, source, tmp_path, silent)


@pytest.mark.parametrize(
  "key", ["params.head.kernel/c/0/0", "step/zarr.json", "step/c"]
)
def test_check_sees_a_changed_value(key, edit, source, tmp_path):
  written = rewrite.write(edit, source, tmp_path, silent)
  copy = storage.Database.open(tmp_path)
  (value,) = copy.read([key])
  copy.write([(key, value[:-1] + b"?")])
  with pytest.raises(errors.MachineError, match=f"{key} reads back"):
    rewrite.check(edit, written, tmp_path, silent)


def test_check_sees_a_key_too_many_or_too_few(edit, source, tmp_path):
  written = rewrite.write(edit, source, tmp_path, silent)
  for key, value in (("old/c/0", b"row"), ("old/c/0", None), ("step/c", None)):
    storage.Database.open(tmp_path).write([(key, value)])
    if (key, value) == ("old/c/0", None):
      rewrite.check(edit, written, tmp_path, silent)
      continue
    with pytest.raises(
      errors.MachineError, match="other keys than were written"
    ):
      rewrite.check(edit, written, tmp_path, silent)
