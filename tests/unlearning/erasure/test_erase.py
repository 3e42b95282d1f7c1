"""Erasure of real Orbax checkpoints, compared with what Orbax restores."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import tensorstore as ts
from orbax.checkpoint import v1 as ocp

from nulls_jax import errors
from nulls_jax.data import ledger, ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.revocation import revocation

LAYOUTS = {
  "one device": {},
  "8 devices": {"num_devices": 8},
  "8 devices, small chunks": {"num_devices": 8, "chunk_byte_size": 1024},
  "dedicated": {"kind": "dedicated", "num_devices": 8},
  "groups": {"optimiser": "groups"},
}


def flat(state):
  """Return the state's arrays by path, in NumPy."""
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }


def is_table(path):
  return path.endswith("layers/sinks/table")


def mask_of(config, keys, indices, shape):
  """Mark the rows of sources: `bool [N, G, R]`."""
  words = assignment.routing_words(
    config,
    np.asarray([assignment.source_id(key) for key in keys], np.uint64),
    np.asarray(indices),
  )
  mask = np.zeros(shape[:3], bool)
  for layer in range(shape[0]):
    for source in assignment.rows(config, words, layer):
      for stratum, rows in enumerate(source):
        mask[layer, stratum, rows] = True
  return mask


def open_database(item, version=None):
  spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}
  if version is not None:
    spec["version"] = version
  return spec


def read_values(item):
  store = ts.KvStore.open(open_database(item)).result()
  return {key: store.read(key).result().value for key in store.list().result()}


def versions(item):
  base = ts.KvStore.open({"driver": "file", "path": f"{item}/"}).result()
  manifest = ts.ocdbt.dump(base).result()
  return range(1, manifest["versions"][-1]["generation_number"] + 1)


def rows_in_all_versions(item):
  """Decode every table of every version: the bytes of all their rows."""
  found = set()
  for version in versions(item):
    spec = open_database(item, version)
    names = {
      key.rpartition(b"/zarr.json")[0].decode()
      for key in ts.KvStore.open(spec).result().list().result()
      if key.endswith(b"layers.sinks.table/zarr.json")
    }
    for name in names:
      table = ts.open(
        {"driver": "zarr3", "kvstore": {**spec, "path": f"{name}/"}}
      ).result()
      rows = table.read().result()
      found.update(row.tobytes() for row in rows.reshape(-1, rows.shape[-1]))
  return found


def referenced_bytes(item):
  """Return, by file, the byte ranges that any version refers to."""
  base = ts.KvStore.open({"driver": "file", "path": f"{item}/"}).result()
  ranges = {}

  def add(location):
    kind, name, offset, length = location.rsplit(":", 3)
    ranges.setdefault(name.lstrip(":"), set()).add((int(offset), int(length)))
    return kind

  def walk(location):
    add(location)
    for entry in ts.ocdbt.dump(base, location).result()["entries"]:
      if "location" in entry:
        walk(entry["location"])
      elif "indirect_value" in entry:
        add(entry["indirect_value"])

  def walk_versions(entries):
    for entry in entries:
      if "root" not in entry:
        add(entry["location"])
        node = ts.ocdbt.dump(base, entry["location"]).result()
        walk_versions(node["entries"])
      elif "location" in entry["root"]:
        walk(entry["root"]["location"])

  manifest = ts.ocdbt.dump(base).result()
  walk_versions(manifest["versions"] + manifest["version_tree_nodes"])
  return ranges


@pytest.mark.parametrize("layout", LAYOUTS)
def test_erases_the_rows_and_nothing_else(layout, make_run, keys, tmp_path):
  run = make_run(**LAYOUTS[layout])
  out = tmp_path / "out"
  summary = erase.erase(run.path, out, [keys[5], keys[2]])

  before, after = flat(run.state), flat(run.restore(out))
  assert before.keys() == after.keys()
  tables = [path for path in before if is_table(path)]
  assert len(tables) == 3
  mask = mask_of(
    run.config, (keys[5], keys[2]), (6, 3), before[tables[0]].shape
  )
  for path, old in before.items():
    new = after[path]
    assert old.dtype == new.dtype
    if path in tables:
      # Positive control: there was something in every row.
      assert old[mask].any(axis=-1).all()
      assert not new[mask].any()
      np.testing.assert_array_equal(old[~mask], new[~mask], strict=True)
    else:
      assert old.tobytes() == new.tobytes(), path
  assert summary.rows_zeroed == tuple(
    tuple(layer) for layer in mask.sum(-1).tolist()
  )
  assert set(summary.arrays_edited) == {
    path.replace("/", ".") for path in tables
  }


def test_dedicated_rows_are_those_of_the_index(make_run, keys, tmp_path):
  run = make_run(kind="dedicated")
  erase.erase(run.path, tmp_path / "out", [keys[4]])
  table = run.restore(tmp_path / "out")["params"]["layers"]["sinks"]["table"]
  # Source 5 with 2 rows a stratum owns rows 8 and 9 of every stratum.
  empty = ~np.asarray(table).any(axis=-1)
  assert [tuple(place) for place in np.argwhere(empty)] == [
    (layer, stratum, row)
    for layer in (0, 1)
    for stratum in (0, 1)
    for row in (8, 9)
  ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_untouched_values_are_the_same_bytes(layout, make_run, keys, tmp_path):
  run = make_run(**LAYOUTS[layout])
  summary = erase.erase(run.path, tmp_path / "out", keys[:1])
  before = read_values(run.item)
  after = read_values(tmp_path / "out" / "checkpoints" / "3" / "state")
  assert before.keys() == after.keys()
  changed = [key for key in before if before[key] != after[key]]
  assert len(changed) == summary.num_chunks_rewritten > 0
  assert all(b"layers.sinks.table/c/" in key for key in changed)
  assert summary.num_values == len(before)
  if layout == "8 devices, small chunks":
    chunks = [key for key in before if b"layers.sinks.table/c/" in key]
    assert len(changed) < len(chunks) / 2


@pytest.mark.parametrize("layout", ["one device", "8 devices, small chunks"])
def test_no_version_holds_an_erased_row(
  layout, make_run, keys, tmp_path, monkeypatch
):
  # Small batches make many transactions, each a version of the database.
  monkeypatch.setattr(arrays, "BATCH_BYTES", 2000)
  run = make_run(**LAYOUTS[layout])
  erase.erase(run.path, tmp_path / "out", [keys[1], keys[7]])
  item = tmp_path / "out" / "checkpoints" / "3" / "state"

  before = flat(run.state)
  secrets = set()
  for path in filter(is_table, before):
    mask = mask_of(run.config, (keys[1], keys[7]), (2, 8), before[path].shape)
    secrets.update(row.tobytes() for row in before[path][mask])
  assert len(secrets) > 50
  # Positive control: this very scan finds all of them in the source.
  assert secrets <= rows_in_all_versions(run.item)
  assert len(versions(item)) > 10
  assert not secrets & rows_in_all_versions(item)

  # Nothing hides in what no version refers to: there are superseded nodes of
  # the version tree only, which hold no values.
  base = ts.KvStore.open({"driver": "file", "path": f"{item}/"}).result()
  ranges = referenced_bytes(item)
  files = {f"d/{path.name}": path for path in (item / "d").iterdir()}
  assert ranges.keys() == files.keys()
  for name, path in files.items():
    position = 0
    for offset, length in [*sorted(ranges[name]), (path.stat().st_size, 0)]:
      assert offset >= position
      if offset > position:
        gap = f"versionnode::{name}:{position}:{offset - position}"
        assert "entries" in ts.ocdbt.dump(base, gap).result()
      position = offset + length


def test_output_is_a_run_directory_with_a_receipt(make_run, keys, tmp_path):
  run = make_run(num_devices=8)
  out = tmp_path / "deep" / "out"
  seen = []
  summary = erase.erase(
    run.path,
    out,
    [keys[0], keys[3], keys[0]],
    reference="case 17",
    progress=lambda *call: seen.append(call),
  )
  assert sorted(path.name for path in out.iterdir()) == [
    "checkpoints",
    "config.json",
    "ledger.sqlite",
    "receipts",
    "tokenizer.model",
  ]
  assert [path.name for path in out.parent.iterdir()] == ["out"]
  for name in ("config.json", "tokenizer.model"):
    assert (out / name).read_bytes() == (run.path / name).read_bytes()
  for name in (
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    "state/_METADATA",
    "state/_sharding",
    "state/array_metadatas/process_0",
    "state/commit_success.txt",
  ):
    copied = out / "checkpoints" / "3" / name
    assert copied.read_bytes() == (run.step_dir / name).read_bytes()
  assert seen[-1] == ("check", summary.num_values, summary.num_values)
  assert {stage for stage, _, _ in seen} == {"copy", "check"}

  (found,) = receipt.chain(out)
  assert found.path == summary.receipt
  said = found.predicate
  assert said["reference"] == "case 17"
  assert said["optimizer"] == "kept"
  assert said["sources"] == [
    {
      "id": f"{assignment.source_id(key):016x}",
      "index": index,
      "wasErased": False,
    }
    for key, index in ((keys[0], 1), (keys[3], 4))
  ]
  (step,) = said["steps"]
  assert step["step"] == summary.step == 3
  assert step["rowsZeroed"] == [list(row) for row in summary.rows_zeroed]
  assert step["edited"] == sorted(summary.arrays_edited)
  state = flat(run.state)
  assert len(step["arrays"]) == len(state) == 3 + summary.num_arrays_untouched
  for array in step["arrays"]:
    changed = array["before"] != array["after"]
    assert changed == (array["name"] in step["edited"])
  assert said["notReached"] == list(summary.not_reached)
  assert not any(key.encode() in found.content for key in keys)


def test_receipt_digests_the_contents(make_run, keys, tmp_path):
  """The digest as its docstring defines it, over what Orbax restores."""

  def digest(values):
    rows = values.reshape(-1, values.shape[-1]) if values.ndim else [values]
    total = hashlib.sha256(
      f"nulls_jax array 1\n{values.dtype}\n{list(values.shape)}\n".encode()
    )
    for row in rows:
      total.update(hashlib.sha256(row.tobytes()).digest())
    return total.hexdigest()

  run = make_run(num_devices=8, chunk_byte_size=1024)
  erase.erase(run.path, tmp_path / "out", keys[:2])
  (found,) = receipt.chain(tmp_path / "out")
  arrays_said = {
    array["name"]: array for array in found.predicate["steps"][0]["arrays"]
  }
  before, after = flat(run.state), flat(run.restore(tmp_path / "out"))
  for path, values in before.items():
    array = arrays_said[path.replace("/", ".")]
    assert array["before"] == digest(values), path
    assert array["after"] == digest(after[path]), path


def test_keys_stand_in_the_receipt_only_if_asked_for(make_run, keys, tmp_path):
  run = make_run()
  with pytest.raises(errors.UserError, match=r"reference .* mentions the key"):
    erase.erase(
      run.path, tmp_path / "a", keys[:1], reference=f"removal of {keys[0]}"
    )
  assert not (tmp_path / "a").exists()
  erase.erase(run.path, tmp_path / "a", keys[:2], name_keys=True)
  (found,) = receipt.chain(tmp_path / "a")
  named = [source["key"] for source in found.predicate["sources"]]
  assert named == list(keys[:2])


def test_ledger_is_erased_in_the_output_only(make_run, keys, tmp_path):
  run = make_run()
  before = (run.path / "ledger.sqlite").read_bytes()
  erase.erase(run.path, tmp_path / "out", [keys[6]])
  assert (run.path / "ledger.sqlite").read_bytes() == before
  assert keys[6].encode() in before
  path = tmp_path / "out" / "ledger.sqlite"
  assert keys[6].encode() not in path.read_bytes()
  assert keys[5].encode() in path.read_bytes()
  with ledger.Ledger.open(path) as sources:
    statuses = {source.index: source.status for source in sources}
  assert statuses == {
    index: "erased" if index == 7 else "active" for index in range(1, 9)
  }


def chain_of(run_dir):
  return [found.predicate["number"] for found in receipt.chain(run_dir)]


def test_order_and_grouping_do_not_matter(make_run, keys, tmp_path):
  run = make_run(num_devices=8, chunk_byte_size=1024)
  erase.erase(run.path, tmp_path / "a", [keys[0]])
  erase.erase(tmp_path / "a", tmp_path / "abc", [keys[2], keys[1]])
  erase.erase(run.path, tmp_path / "b", [keys[1]])
  erase.erase(tmp_path / "b", tmp_path / "ba", [keys[0]])
  erase.erase(tmp_path / "ba", tmp_path / "bac", [keys[2], keys[0]])
  erase.erase(run.path, tmp_path / "all", [keys[1], keys[2], keys[0]])
  found = []
  for name in ("abc", "bac", "all"):
    step_dir = tmp_path / name / "checkpoints" / "3"
    found.append(
      (
        read_values(step_dir / "state"),
        (step_dir / "_CHECKPOINT_METADATA").read_bytes(),
        (tmp_path / name / "ledger.sqlite").read_bytes(),
        (tmp_path / name / "config.json").read_bytes(),
      )
    )
  assert found[0] == found[1] == found[2]
  before = read_values(tmp_path / "a" / "checkpoints" / "3" / "state")
  assert before != found[0][0]
  assert chain_of(tmp_path / "bac") == [1, 2, 3]


def test_an_erased_source_may_be_named_again(make_run, keys, tmp_path):
  run = make_run()
  erase.erase(run.path, tmp_path / "a", [keys[0]])
  summary = erase.erase(tmp_path / "a", tmp_path / "b", [keys[0], keys[1]])
  erased = assignment.source_id(keys[0])
  assert summary.already_erased == (erased,)
  assert summary.source_ids == (erased, assignment.source_id(keys[1]))
  last = receipt.chain(tmp_path / "b")[-1].predicate
  assert [source["wasErased"] for source in last["sources"]] == [True, False]

  again = erase.erase(tmp_path / "b", tmp_path / "c", [keys[1], keys[0]])
  assert again.num_chunks_rewritten == 0
  assert len(again.already_erased) == 2
  first, second = (tmp_path / name for name in ("b", "c"))
  item = "checkpoints/3/state"
  assert read_values(first / item) == read_values(second / item)
  for name in ("ledger.sqlite", "checkpoints/3/_CHECKPOINT_METADATA"):
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_sources_by_id(make_run, keys, tmp_path):
  """What a patch names: the same output, byte for byte."""
  run = make_run()
  erase.erase(run.path, tmp_path / "keys", keys[:2])
  ids = [assignment.source_id(key) for key in keys[:2]]
  summary = erase.erase(run.path, tmp_path / "ids", [*ids, keys[0]])
  assert summary.source_ids == tuple(ids)
  for name in ("ledger.sqlite", "config.json"):
    one, other = (tmp_path / out / name for out in ("keys", "ids"))
    assert one.read_bytes() == other.read_bytes()
  with pytest.raises(errors.UserError, match="no source with the id 00000000"):
    erase.erase(run.path, tmp_path / "none", [7])


def test_rows_of_a_ledgers_erased_sources_become_zero_too(
  own_run, keys, tmp_path
):
  """An older copy of the step was put back beside the newer ledger."""
  run = own_run()
  with ledger_writing.Writer.open(run.path / "ledger.sqlite") as book:
    book.erase([keys[4]])
  erase.erase(run.path, tmp_path / "out", [keys[0]])
  table = run.restore(tmp_path / "out")["params"]["layers"]["sinks"]["table"]
  mask = mask_of(run.config, (keys[4], keys[0]), (5, 1), table.shape)
  assert not np.asarray(table)[mask].any()
  assert np.asarray(table)[~mask].any(axis=-1).all()


def test_freed_rows_are_never_given_to_another_source(make_run, keys, tmp_path):
  run = make_run(kind="dedicated")
  erase.erase(run.path, tmp_path / "out", [keys[7], keys[2]])
  path = tmp_path / "out" / "ledger.sqlite"
  with ledger_writing.Writer.open(path) as book:
    with pytest.raises(errors.UserError, match=r"article/7' was erased"):
      book.add_documents([("new", 1, {}), (keys[7], 1, {})])
    book.add_documents([("new", 1, {}), (keys[0], 1, {})])
    found = {source.index: source for source in book}
    assert sorted(found) == list(range(1, 10))
    assert found[9].key == "new"
    for index, key in ((3, keys[2]), (8, keys[7])):
      assert found[index].status == "erased"
      assert found[index].id == assignment.source_id(key)


def test_refuses_a_ledger_of_another_run(own_run, keys, tmp_path):
  run = own_run()
  step_file = run.step_dir / "_CHECKPOINT_METADATA"
  content = json.loads(step_file.read_text())
  (run.path / "ledger.sqlite").unlink()
  with ledger_writing.Writer.create(run.path / "ledger.sqlite") as other:
    other.add_documents((key, 1, {}) for key in reversed(keys))
  with pytest.raises(
    errors.UserError, match=r"ledger.sqlite is the ledger of another run"
  ):
    erase.erase(run.path, tmp_path / "out", keys[:1])
  del content["custom_metadata"]["ledger_fingerprint"]
  step_file.write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match="has no ledger_fingerprint"):
    erase.erase(run.path, tmp_path / "out", keys[:1])
  assert not (tmp_path / "out").exists()


def test_takes_the_revocation_list_along(own_run, keys, tmp_path):
  run = own_run()
  revocation.suspend(run.path, keys[3:5], reference="case 1", reason=None)
  erase.erase(run.path, tmp_path / "out", [keys[3]])
  name = revocation.FILE
  assert (tmp_path / "out" / name).read_bytes() == (
    run.path / name
  ).read_bytes()
  assert revocation.read(tmp_path / "out").suspended
  (found,) = receipt.chain(tmp_path / "out")
  assert name not in found.subjects("sha256")


def test_takes_the_newest_step_or_the_one_asked_for(own_run, keys, tmp_path):
  run = own_run()
  shutil.copytree(run.step_dir, run.path / "checkpoints" / "20")
  shutil.copytree(run.step_dir, run.path / "checkpoints" / "21.orbax-tmp")
  newest = erase.erase(run.path, tmp_path / "a", keys[:1])
  assert newest.steps == (20,)
  assert any("not written: 3. They hold" in line for line in newest.not_reached)
  assert erase.erase(run.path, tmp_path / "b", keys[:1], step=3).steps == (3,)
  assert [path.name for path in (tmp_path / "b/checkpoints").iterdir()] == ["3"]
  with pytest.raises(errors.UserError, match=r"no step 4; it has 3, 20$"):
    erase.erase(run.path, tmp_path / "c", keys[:1], step=4)


def test_takes_every_kept_step(own_run, keys, tmp_path):
  run = own_run()
  shutil.copytree(run.step_dir, run.path / "checkpoints" / "20")
  calls = []
  summary = erase.erase(
    run.path,
    tmp_path / "out",
    keys[:1],
    all_steps=True,
    progress=lambda *call: calls.append(call),
  )
  assert summary.steps == (3, 20)
  assert calls[-1] == ("check", summary.num_values, summary.num_values)
  assert not any("not written" in line for line in summary.not_reached)
  one, other = (
    read_values(tmp_path / "out" / "checkpoints" / step / "state")
    for step in ("3", "20")
  )
  assert one == other != read_values(run.item)
  steps = receipt.chain(tmp_path / "out")[0].predicate["steps"]
  assert [step["step"] for step in steps] == [3, 20]
  with pytest.raises(errors.UserError, match="step 3 and all steps"):
    erase.erase(run.path, tmp_path / "x", keys[:1], step=3, all_steps=True)

  path = run.path / "checkpoints" / "3" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  content["custom_metadata"]["assignment"]["seed"] = 8
  path.write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match=r"steps 3 have another assign"):
    erase.erase(run.path, tmp_path / "x", keys[:1], all_steps=True)


def run_python(code, *arguments):
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_imports_neither_jax_nor_orbax(make_run, keys, tmp_path):
  done = run_python(
    """
    import sys
    from nulls_jax.unlearning.erasure import erase
    erase.erase(sys.argv[1], sys.argv[2], [sys.argv[3]])
    print({name.partition(".")[0] for name in sys.modules}
          & {"jax", "jaxlib", "flax", "orbax", "optax"})
    """,
    make_run().path,
    tmp_path / "out",
    keys[0],
  )
  assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


TWO_PROCESSES = """
import os, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
port, process, root, metadata = sys.argv[1:]
jax.distributed.initialize(
  f"127.0.0.1:{port}", num_processes=2, process_id=int(process)
)
import json
import numpy as np
from orbax.checkpoint import v1 as ocp
mesh = jax.make_mesh(
  (2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
)
spec = jax.sharding.PartitionSpec
def put(values, *axes):
  sharding = jax.sharding.NamedSharding(mesh, spec(*axes))
  return jax.make_array_from_callback(
    values.shape, sharding, lambda index: values[index]
  )
values = np.random.default_rng(0).normal(size=(2, 2, 256, 12)).astype("f4")
table = {"layers": {"sinks": {"table": put(values, None, "a", "b")}}}
state = {"params": {**table, "norm": put(values[0, 0, 0], "b")}, "mu": table}
with ocp.training.Checkpointer(root) as checkpointer:
  checkpointer.save_checkpointables(
    3, {"state": state}, custom_metadata=json.loads(metadata)
  )
sys.stdout.flush()
os._exit(0)  # Processes that wait for one another at exit may hang.
"""


def test_a_checkpoint_of_several_processes(own_run, keys, tmp_path):
  run = own_run()
  step = json.loads((run.step_dir / "_CHECKPOINT_METADATA").read_text())
  shutil.rmtree(run.step_dir)
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  metadata = json.dumps(step["custom_metadata"])
  root = str(run.path / "checkpoints")
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", TWO_PROCESSES, str(port), number, root, metadata],
      env={**os.environ, "NPROC": "64"},
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in "01"
  ]
  try:
    for process in processes:
      _, log = process.communicate(timeout=120)
      assert process.returncode == 0, log
  finally:
    for process in processes:
      process.kill()
  assert (run.item / "ocdbt.process_1").is_dir()

  summary = erase.erase(run.path, tmp_path / "out", keys[:3])
  assert summary.arrays_edited == (
    "params.layers.sinks.table",
    "mu.layers.sinks.table",
  )
  values = np.random.default_rng(0).normal(size=(2, 2, 256, 12)).astype("f4")
  mask = mask_of(run.config, keys[:3], (1, 2, 3), values.shape)
  abstract = jax.ShapeDtypeStruct(
    values.shape,
    values.dtype,
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
  )
  table = {"layers": {"sinks": {"table": abstract}}}
  norm = jax.ShapeDtypeStruct((12,), values.dtype, sharding=abstract.sharding)
  restored = ocp.load_checkpointables(
    tmp_path / "out" / "checkpoints" / "3",
    {"state": {"params": {**table, "norm": norm}, "mu": table}},
  )["state"]
  for name in ("params", "mu"):
    found = np.asarray(restored[name]["layers"]["sinks"]["table"])
    assert not found[mask].any()
    np.testing.assert_array_equal(found[~mask], values[~mask])
  np.testing.assert_array_equal(restored["params"]["norm"], values[0, 0, 0])


def truncate_data(item):
  files = list(item.glob("ocdbt.process_0/d/*"))
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)


def flip_data(item):
  for path in item.glob("ocdbt.process_0/d/*"):
    content = bytearray(path.read_bytes())
    content[40::61] = bytes(byte ^ 0xFF for byte in content[40::61])
    path.write_bytes(content)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (truncate_data, r"state: \S*sinks.table/c/0/0/0/0: damaged"),
    (flip_data, r"state: \S*sinks.table/c/0/0/0/0: damaged"),
    (
      lambda item: os.truncate(next(item.glob("d/*")), 100),
      r"state: damaged or unreadable .*100",
    ),
    (lambda item: shutil.rmtree(item / "d"), r"state: damaged or unreadable"),
    (
      lambda item: (item / "manifest.ocdbt").unlink(),
      r"state: manifest.ocdbt is missing",
    ),
    (
      lambda item: os.truncate(item / "manifest.ocdbt", 50),
      r"state: damaged or unreadable .*manifest.ocdbt",
    ),
    (lambda item: (item / "_METADATA").unlink(), r"_METADATA is missing"),
    (
      lambda item: os.truncate(item / "_METADATA", 500),
      r"_METADATA: not the tree of an Orbax item",
    ),
  ],
)
def test_a_corrupted_checkpoint_is_one_clear_line(
  damage, message, own_run, keys, tmp_path
):
  run = own_run()
  damage(run.item)
  with pytest.raises(errors.UserError, match=message) as caught:
    erase.erase(run.path, tmp_path / "out", keys[:1])
  assert "\n" not in str(caught.value)
  assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_refuses_unknown_sources(make_run, keys, tmp_path):
  with pytest.raises(errors.UserError, match=r"unknown.*'nobody'"):
    erase.erase(make_run().path, tmp_path / "out", [keys[0], "nobody"])
  with pytest.raises(errors.UserError, match="no source keys given"):
    erase.erase(make_run().path, tmp_path / "out", [])
  assert list(tmp_path.iterdir()) == []
