"""The edited copy and the check that reads it back."""

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.unlearning import arrays, plan, rewrite, storage


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
  return rewrite.Edit(
    arrays=found,
    tables=[
      array
      for array in found
      if array.path[-3:] == ("layers", "sinks", "table")
    ],
    rows=plan.Rows([[np.asarray(r, int) for r in layer] for layer in rows]),
  )


def silent(stage, done, total):
  pass


def test_rewrites_the_touched_chunks_only(edit, source, tmp_path):
  calls = []
  num_rewritten = rewrite.write(
    edit, source, tmp_path, lambda *call: calls.append(call)
  )
  # Three rows in three chunks, in the parameters and both moments.
  assert num_rewritten == 9
  assert calls[-1] == ("copy", edit.num_values, edit.num_values)
  digests = rewrite.check(edit, source, tmp_path, silent)
  assert len(digests) == len(edit.arrays)
  changed = {
    name
    for name, (old, new) in digests.items()
    if old.hexdigest() != new.hexdigest()
  }
  assert changed == {table.name for table in edit.tables}


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
def test_check_sees_one_wrong_element(
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
  rewrite.write(edit, source, tmp_path, silent)
  with pytest.raises(
    errors.MachineError, match=r"params\S+/c/0/1.*differently"
  ):
    rewrite.check(edit, source, tmp_path, silent)


def test_check_sees_a_changed_untouched_value(edit, source, tmp_path):
  rewrite.write(edit, source, tmp_path, silent)
  copy = storage.Database.open(tmp_path)
  (value,) = copy.read(["params.head.kernel/c/0/0"])
  copy.write([("params.head.kernel/c/0/0", value[:-1] + b"?")])
  with pytest.raises(
    errors.MachineError, match=r"head.kernel/c/0/0 reads back"
  ):
    rewrite.check(edit, source, tmp_path, silent)


def test_check_sees_a_key_too_many(edit, source, tmp_path):
  rewrite.write(edit, source, tmp_path, silent)
  storage.Database.open(tmp_path).write([("old/c/0", b"row")])
  with pytest.raises(errors.MachineError, match="other keys than were written"):
    rewrite.check(edit, source, tmp_path, silent)


def test_check_counts_the_rows(edit, source, tmp_path):
  """Rows outside of the table would be named and never be seen."""
  edit.rows._numbers[0][0] = np.asarray([256])
  rewrite.write(edit, source, tmp_path, silent)
  with pytest.raises(
    RuntimeError, match=r"36 elements were seen .*, 48 should"
  ):
    rewrite.check(edit, source, tmp_path, silent)
