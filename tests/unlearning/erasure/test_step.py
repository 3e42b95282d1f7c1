"""A step without its optimiser, and the text that a step carries."""

import json
import shutil

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from nulls_jax import errors
from nulls_jax.data import ledger_writing
from nulls_jax.unlearning.checkpoint import arrays, storage
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import receipt


def restore(run, step_dir):
  """Restore parameters and step by Orbax, all that there is."""
  state = {name: run.state[name] for name in ("step", "params")}
  abstract = jax.tree.map(
    lambda leaf: (
      jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
      if isinstance(leaf, jax.Array)
      else leaf
    ),
    state,
  )
  return ocp.load_checkpointables(step_dir, {"state": abstract})["state"]


@pytest.mark.parametrize("num_devices", [1, 8])
def test_drops_the_optimiser(num_devices, make_run, keys, tmp_path):
  run = make_run(num_devices=num_devices)
  with_it = erase.erase(run.path, tmp_path / "kept", keys[:2])
  summary = erase.erase(
    run.path, tmp_path / "out", keys[:2], drop_optimizer=True
  )
  assert summary.arrays_edited == ("params.layers.sinks.table",)
  step_dir = tmp_path / "out" / "checkpoints" / "3"
  found = arrays.read_arrays(storage.Database.open(step_dir / "state"))
  assert {array.path[0] for array in found} == {"params", "step"}
  state = restore(run, step_dir)
  expected = run.restore(tmp_path / "kept")
  for name in ("step", "params"):
    jax.tree.map(np.testing.assert_array_equal, state[name], expected[name])

  names = {array.name for array in found}
  for file, key in (("_METADATA", "opt_state"), ("_sharding", "b3B0X3N0")):
    source = (run.item / file).read_text()
    text = (step_dir / "state" / file).read_text()
    assert key in source
    assert key not in text
    assert json.loads(text)
  (path,) = (step_dir / "state" / "array_metadatas").iterdir()
  told = json.loads(path.read_text())["array_metadatas"]
  assert {entry["array_metadata"]["param_name"] for entry in told} <= names
  assert told

  (document,) = receipt.chain(tmp_path / "out")
  assert document.predicate["optimizer"] == "dropped"
  kept = receipt.chain(tmp_path / "kept")[0].predicate["steps"][0]["arrays"]
  for one, other in zip(
    document.predicate["steps"][0]["arrays"], kept, strict=True
  ):
    assert one["before"] == other["before"]
    assert one["after"] == (other["after"] if one["name"] in names else None)
  assert summary.num_arrays_dropped == len(kept) - len(names)
  assert with_it.num_arrays_dropped == 0
  again = erase.erase(
    tmp_path / "out", tmp_path / "again", keys[:1], drop_optimizer=True
  )
  assert again.num_chunks_rewritten == again.num_arrays_dropped == 0


def test_drops_what_it_does_not_know(make_run, keys, tmp_path):
  def change(state):
    flat = np.ones(5000, np.float32)
    return {**state, "opt_state": {"flat": flat, "sinks": flat[:3]}}

  run = make_run(change=change)
  with pytest.raises(errors.UserError, match=r"flat \(5000,\).*--drop-optimi"):
    erase.erase(run.path, tmp_path / "out", keys[:1])
  erase.erase(run.path, tmp_path / "out", keys[:1], drop_optimizer=True)
  state = restore(run, tmp_path / "out" / "checkpoints" / "3")
  assert not np.asarray(state["params"]["layers"]["sinks"]["table"]).all()


@pytest.mark.parametrize(
  ("file", "content"),
  [
    ("_sharding", "[]"),
    ("_sharding", '{"?": 1}'),
    ("array_metadatas/process_0", '{"array_metadata": []}'),
    ("array_metadatas/process_0", '{"array_metadatas": [{}]}'),
  ],
)
def test_damaged_metadata_is_one_clear_line(
  file, content, own_run, keys, tmp_path
):
  run = own_run()
  (run.item / file).write_text(content)
  with pytest.raises(errors.UserError, match=f"{file}.*(damaged|no JSON obj)"):
    erase.erase(run.path, tmp_path / "out", keys[:1], drop_optimizer=True)
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_optimiser_is_used_and_not_trained_on(
  tiny_run, refused, tmp_path
):
  from nulls_jax.inference import restore as inference

  out = tmp_path / "out"
  erase.erase(tiny_run.path, out, tiny_run.keys[:1], drop_optimizer=True)
  erase.erase(tiny_run.path, tmp_path / "kept", tiny_run.keys[:1])
  found, expected = (
    inference.restore(path).params for path in (out, tmp_path / "kept")
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  line = refused(
    "train", "--data", tiny_run.data, "--run", out, *tiny_run.flags
  )
  assert "sources were erased" in line


# -- Copies of a key


def mention_everywhere(run, key):
  """Put a key where a careless config has it."""
  settings = {
    "sinks": {"kind": "hashed"},
    "data": {"exclude": [key, "another"], "path": f"/data/{key}/part 1"},
    "weights": {key: 2, f"{key}0": 1},
  }
  (run.path / "config.json").write_text(json.dumps(settings))
  path = run.step_dir / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  content["custom_metadata"]["config"] = settings
  path.write_text(json.dumps(content))
  commit = f"Checkpoint commit was successful to /runs/{key}/checkpoints/3"
  (run.step_dir / "commit_success.txt").write_text(commit)
  return settings


def all_text(run_dir):
  files = (path for path in run_dir.rglob("*") if path.is_file())
  return b"".join(path.read_bytes() for path in files)


def test_copies_of_a_key_are_redacted(own_run, keys, tmp_path):
  run = own_run()
  mention_everywhere(run, keys[1])
  erase.erase(run.path, tmp_path / "out", [keys[1], keys[2]])
  assert all_text(run.path).count(keys[1].encode()) > 6
  # What is left is another key, of which this one is the beginning.
  left = all_text(tmp_path / "out").count(keys[1].encode())
  assert left == all_text(tmp_path / "out").count(f"{keys[1]}0".encode()) == 2
  expected = {
    "sinks": {"kind": "hashed"},
    "data": {"exclude": ["[redacted]", "another"], "path": "[redacted]"},
    "weights": {f"{keys[1]}0": 1},
  }
  out = tmp_path / "out"
  assert json.loads((out / "config.json").read_text()) == expected
  step = json.loads((out / "checkpoints/3/_CHECKPOINT_METADATA").read_text())
  assert step["custom_metadata"]["config"] == expected
  assert (out / "checkpoints/3/commit_success.txt").read_text() == "[redacted]"
  run.restore(out)


def test_redaction_does_not_depend_on_order(own_run, keys, tmp_path):
  run = own_run()
  mention_everywhere(run, f"{keys[1]} and {keys[2]}")
  for names in ("one two", "two one"):
    source = run.path
    for name in names.split():
      out = tmp_path / f"{names} {name}"
      erase.erase(source, out, [keys[1 if name == "one" else 2]])
      source = out
  for name in ("config.json", "checkpoints/3/_CHECKPOINT_METADATA"):
    one, other = (
      (tmp_path / last / name).read_bytes()
      for last in ("one two two", "two one one")
    )
    assert one == other


def test_settings_that_look_like_a_key_are_kept_and_told(
  make_run, keys, tmp_path
):
  run = make_run()
  shutil.copytree(run.path, tmp_path / "run")
  with ledger_writing.Writer.create(tmp_path / "ledger") as book:
    book.add_documents((key, 1, {}) for key in (*keys[:7], "hashed"))
    fingerprint = book.fingerprint()
  (tmp_path / "ledger").rename(tmp_path / "run" / "ledger.sqlite")
  path = tmp_path / "run" / "checkpoints" / "3" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  content["custom_metadata"]["ledger_fingerprint"] = fingerprint
  path.write_text(json.dumps(content))
  summary = erase.erase(tmp_path / "run", tmp_path / "out", ["hashed"])
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert config["sinks"]["kind"] == "hashed"
  (line,) = (line for line in summary.not_reached if "may be settings" in line)
  assert "config.json, sinks, kind" in line
  assert "hashed" not in line
