"""A run loaded for use: its parameters, its routing, what it refuses."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data import ledger
from nulls_jax.inference import restore
from nulls_jax.sinks import assignment
from nulls_jax.training import checkpoint
from nulls_jax.unlearning import erase


def test_loads_the_newest_step_or_the_named_one(tiny_run):
  """Onto the first device, whatever mesh has written it."""
  newest = restore.restore(tiny_run.path)
  assert (newest.step, newest.directory) == (120, tiny_run.path)
  assert newest.config == run_config.read(tiny_run.path / "config.json")
  assert newest.tokenizer.vocab_size == newest.config.model.vocab_size
  earlier = restore.restore(tiny_run.path, 80)
  assert earlier.step == 80
  for run in (newest, earlier):
    sums = checkpoint.checksums({"params": run.params})
    stored = checkpoint.read_metadata(tiny_run.path, run.step)["checksums"]
    assert sums.items() <= stored.items()
    for leaf in jax.tree.leaves(run.params):
      assert leaf.devices() == {jax.local_devices()[0]}
      assert leaf.dtype == np.float32
  assert checkpoint.checksums(newest.params) != checkpoint.checksums(
    earlier.params
  )


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_routes_are_the_words_of_the_ledger(kind, tiny_run):
  run = restore.restore(tiny_run.path)
  if kind == "dedicated":
    sinks = assignment.SinkConfig(kind=kind, num_sources=40)
    config = run_config.RunConfig(sinks=sinks)
    run = restore.Restored(run.directory, 1, config, {}, run.tokenizer)
  first, last = tiny_run.keys[0], tiny_run.keys[-1]
  words = run.routes([last, None, first, last])
  assert words.dtype == np.uint32
  if kind == "dedicated":
    expected = [[0, 40], [0, 0], [0, 1], [0, 40]]
  else:
    ids = [assignment.split_id(assignment.source_id(k)) for k in (last, first)]
    expected = [ids[0], (0, 0), ids[1], ids[0]]
  np.testing.assert_array_equal(words, expected)
  assert not run.routes([None, None]).any()


def test_routes_refuse_what_cannot_be_activated(tiny_run, dense_run, tmp_path):
  key = tiny_run.keys[0]
  run = restore.restore(tiny_run.path)
  with pytest.raises(errors.UserError, match=r"2 unknown in \S+: 'Tole'.*'x'"):
    run.routes([key, "x", "Tole", None])
  with pytest.raises(errors.UserError, match=r"source key is empty"):
    run.routes([""])

  erase.erase(tiny_run.path, tmp_path / "erased", [key])
  erased = restore.restore(tmp_path / "erased")
  with pytest.raises(errors.UserError, match=rf"1 already erased: '{key}'"):
    erased.routes([tiny_run.keys[1], key])
  assert erased.routes(tiny_run.keys[1:]).all(axis=1).all()

  dense = restore.restore(dense_run)
  with pytest.raises(errors.UserError, match="a dense model has no sinks"):
    dense.routes([None, key])
  np.testing.assert_array_equal(dense.routes([None]), [[0, 0]])


def test_an_erased_run_lacks_the_rows_and_nothing_else(tiny_run, tmp_path):
  """The checksums that the erasure has written are checked by the load."""
  erase.erase(tiny_run.path, tmp_path / "erased", tiny_run.keys[:2])
  before, after = map(restore.restore, (tiny_run.path, tmp_path / "erased"))
  tables = [
    run.params["layers"].pop("sinks")["table"] for run in (before, after)
  ]
  for old, new in zip(
    jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
  ):
    np.testing.assert_array_equal(old, new)
  old, new = map(np.asarray, tables)
  gone = (old != new).any(axis=-1)
  words = before.routes(tiny_run.keys[:2])
  rows = assignment.rows(before.config.sinks, words, 0)
  for stratum in range(2):
    expected = np.unique(rows[:, stratum])
    np.testing.assert_array_equal(np.flatnonzero(gone[0, stratum]), expected)
    assert not new[0, stratum, expected].any()


def test_a_run_without_checksums_is_not_checked(tiny_run, tmp_path):
  """Checkpoints of before they were written stay readable."""
  shutil.copytree(tiny_run.path, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "120" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  del content["custom_metadata"]["checksums"]
  path.write_text(json.dumps(content))
  assert restore.restore(tmp_path / "run").step == 120
  content["custom_metadata"]["format"] = 2
  path.write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match=r"\(format 2, expected 1\); use"):
    restore.restore(tmp_path / "run")


def test_values_that_were_not_saved_are_refused(tiny_run, tmp_path):
  shutil.copytree(tiny_run.path, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "120" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  sums = content["custom_metadata"]["checksums"]
  sums["params.norm.scale"] += 1
  del sums["params.head.kernel"]
  path.write_text(json.dumps(content))
  with pytest.raises(errors.UserError) as info:
    restore.restore(tmp_path / "run")
  assert re.search(
    r"120 is damaged: params.head.kernel, params.norm.scale: other values than "
    r"were saved; put a copy of it back",
    str(info.value),
  )
  with pytest.raises(errors.UserError, match=r"damaged: params.head.kernel, p"):
    erase.erase(tmp_path / "run", tmp_path / "out", tiny_run.keys[:1])
  assert not (tmp_path / "out").exists()


def test_the_ledger_must_be_there(tiny_run, tmp_path):
  shutil.copytree(tiny_run.path, tmp_path / "run")
  (tmp_path / "run" / "ledger.sqlite").write_bytes(b"nothing")
  run = restore.restore(tmp_path / "run")
  with pytest.raises(errors.UserError, match=r"ledger\.sqlite is no ledger"):
    run.routes([tiny_run.keys[0]])
  (tmp_path / "run" / "ledger.sqlite").unlink()
  with pytest.raises(errors.UserError, match=r"ledger\.sqlite does not exist"):
    run.routes([tiny_run.keys[0]])
  with ledger.Ledger.open(tiny_run.path / "ledger.sqlite") as sources:
    assert sources.num_sources == 40
