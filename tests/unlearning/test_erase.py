"""Erasure of real Orbax checkpoints, compared with what Orbax restores."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import tensorstore as ts
from orbax.checkpoint import v1 as ocp

from nulls_jax import errors
from nulls_jax.data import ledger
from nulls_jax.sinks import assignment
from nulls_jax.unlearning import arrays, erase, storage

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


def test_output_is_a_run_directory_with_a_record(make_run, keys, tmp_path):
  run = make_run(num_devices=8)
  out = tmp_path / "deep" / "out"
  seen = []
  summary = erase.erase(
    run.path,
    out,
    [keys[0], keys[3], keys[0]],
    progress=lambda *call: seen.append(call),
  )
  assert sorted(path.name for path in out.iterdir()) == [
    "checkpoints",
    "config.json",
    "erasure.json",
    "ledger.sqlite",
    "tokenizer.model",
  ]
  assert [path.name for path in out.parent.iterdir()] == ["out"]
  for name in ("config.json", "tokenizer.model"):
    assert (out / name).read_bytes() == (run.path / name).read_bytes()
  for name in ("_CHECKPOINT_METADATA", "state/_METADATA", "state/_sharding"):
    copied = out / "checkpoints" / "3" / name
    assert copied.read_bytes() == (run.step_dir / name).read_bytes()

  assert seen[-1] == ("check", summary.num_values, summary.num_values)
  assert {stage for stage, _, _ in seen} == {"copy", "check"}
  record = json.loads((out / "erasure.json").read_text())
  assert record["step"] == summary.step == 3
  assert record["source_ids"] == [
    f"{assignment.source_id(key):016x}" for key in (keys[0], keys[3])
  ]
  assert record["source_indices"] == [1, 4]
  assert record["rows_zeroed"] == [list(row) for row in summary.rows_zeroed]
  assert record["arrays_edited"] == sorted(summary.arrays_edited)
  assert record["num_arrays_untouched"] == summary.num_arrays_untouched
  state = flat(run.state)
  assert len(record["arrays"]) == len(state) == 3 + summary.num_arrays_untouched
  for name, array in record["arrays"].items():
    changed = array["sha256_before"] != array["sha256_after"]
    assert changed == (name in record["arrays_edited"])
  assert not any(key in json.dumps(record) for key in keys)


def test_record_digests_the_contents(make_run, keys, tmp_path):
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
  record = json.loads((tmp_path / "out" / "erasure.json").read_text())
  before, after = flat(run.state), flat(run.restore(tmp_path / "out"))
  for path, values in before.items():
    array = record["arrays"][path.replace("/", ".")]
    assert array["sha256_before"] == digest(values), path
    assert array["sha256_after"] == digest(after[path]), path


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


def test_order_does_not_matter(make_run, keys, tmp_path):
  run = make_run(num_devices=8, chunk_byte_size=1024)
  erase.erase(run.path, tmp_path / "a", [keys[0]])
  erase.erase(tmp_path / "a", tmp_path / "ab", [keys[1]])
  erase.erase(run.path, tmp_path / "b", [keys[1]])
  erase.erase(tmp_path / "b", tmp_path / "ba", [keys[0]])
  erase.erase(run.path, tmp_path / "both", [keys[1], keys[0]])
  values = [
    read_values(tmp_path / name / "checkpoints" / "3" / "state")
    for name in ("ab", "ba", "both", "a")
  ]
  assert values[0] == values[1] == values[2] != values[3]


def test_refuses_what_is_already_erased(make_run, keys, tmp_path):
  run = make_run()
  erase.erase(run.path, tmp_path / "a", [keys[0]])
  with pytest.raises(errors.UserError, match=r"already erased.*article/0"):
    erase.erase(tmp_path / "a", tmp_path / "b", [keys[0], keys[1]])
  assert not (tmp_path / "b").exists()


def test_takes_the_newest_step_or_the_one_asked_for(own_run, keys, tmp_path):
  run = own_run()
  shutil.copytree(run.step_dir, run.path / "checkpoints" / "20")
  shutil.copytree(run.step_dir, run.path / "checkpoints" / "21.orbax-tmp")
  assert erase.erase(run.path, tmp_path / "a", keys[:1]).step == 20
  assert erase.erase(run.path, tmp_path / "b", keys[:1], step=3).step == 3
  assert [path.name for path in (tmp_path / "b/checkpoints").iterdir()] == ["3"]
  with pytest.raises(errors.UserError, match=r"no step 4; it has 3, 20$"):
    erase.erase(run.path, tmp_path / "c", keys[:1], step=4)


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
    from nulls_jax.unlearning import erase
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


KILL = """
import os, signal, sys
from nulls_jax.unlearning import arrays, erase
arrays.BATCH_BYTES = 2000
moment = sys.argv[4]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "rename":
  os.rename = die
else:
  stage, at = moment.split()
  calls = []
  def progress(now, done, total):
    calls.append(now)
    if calls.count(stage) == int(at):
      die()
erase.erase(sys.argv[1], sys.argv[2], [sys.argv[3]],
            progress=None if moment == "rename" else progress)
"""


@pytest.mark.parametrize("moment", ["copy 1", "copy 9", "check 3", "rename"])
def test_killed_leaves_nothing_that_looks_whole(
  moment, make_run, keys, tmp_path
):
  run, out = make_run(), tmp_path / "out"
  done = run_python(KILL, run.path, out, keys[0], moment)
  assert done.returncode == -signal.SIGKILL, done.stderr
  (left,) = tmp_path.iterdir()
  assert left.name.startswith(".out.partial-")
  assert (left / "config.json").exists() == (moment == "rename")
  # The next attempt is not disturbed by what is left.
  erase.erase(run.path, out, [keys[0]])
  assert not flat(run.restore(out))["params/layers/sinks/table"].all()


def test_replaces_the_partial_of_a_dead_namesake(make_run, keys, tmp_path):
  partial = tmp_path / f".out.partial-{os.getpid()}"
  (partial / "checkpoints").mkdir(parents=True)
  (partial / "checkpoints" / "rows").write_text("left by another process")
  erase.erase(make_run().path, tmp_path / "out", keys[:1])
  assert [path.name for path in tmp_path.iterdir()] == ["out"]
  assert not (tmp_path / "out" / "checkpoints" / "rows").exists()


def test_a_failed_write_leaves_nothing(make_run, keys, tmp_path):
  """The kernel refuses files over 4 KB, as it does on a full disk."""
  done = run_python(
    """
    import resource, sys
    from nulls_jax import errors
    from nulls_jax.unlearning import erase
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
      erase.erase(sys.argv[1], sys.argv[2], [sys.argv[3]])
    except errors.MachineError as error:
      print("MachineError:", error)
    """,
    make_run().path,
    tmp_path / "out",
    keys[0],
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("MachineError: "), done.stdout
  assert "cannot be written" in done.stdout
  assert done.stdout.count("\n") == 1
  assert list(tmp_path.iterdir()) == []


def test_refuses_a_disk_without_room(make_run, keys, tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    shutil, "disk_usage", lambda _: usage._replace(free=10_000)
  )
  with pytest.raises(errors.MachineError, match=r"has 1e-05 GB free"):
    erase.erase(make_run().path, tmp_path / "out", keys[:1])
  assert list(tmp_path.iterdir()) == []


def test_full_disk_while_copying_files(make_run, keys, tmp_path, monkeypatch):
  def full(source, target):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

  monkeypatch.setattr(shutil, "copyfile", full)
  with pytest.raises(errors.MachineError, match="No space left"):
    erase.erase(make_run().path, tmp_path / "out", keys[:1])
  assert list(tmp_path.iterdir()) == []


def test_a_disk_that_forgets_is_noticed(make_run, keys, tmp_path, monkeypatch):
  """A copy that reads back with an unerased value is not delivered."""
  run = make_run()
  key = "params.layers.sinks.table/c/0/0/0/0"
  original = read_values(run.item)[key.encode()]
  write = storage.Database.write

  def forgetful(self, items):
    write(self, [(k, original if k == key else v) for k, v in items])

  monkeypatch.setattr(storage.Database, "write", forgetful)
  with pytest.raises(errors.MachineError, match=f"{key} reads back"):
    erase.erase(run.path, tmp_path / "out", keys[:1])
  assert list(tmp_path.iterdir()) == []


def test_a_truncated_copy_is_noticed(make_run, keys, tmp_path, monkeypatch):
  write = storage.Database.write

  def truncating(self, items):
    write(self, items)
    for path in (self.directory / "d").iterdir():
      os.truncate(path, path.stat().st_size // 2)

  monkeypatch.setattr(storage.Database, "write", truncating)
  with pytest.raises(errors.MachineError, match="cannot be read back"):
    erase.erase(make_run().path, tmp_path / "out", keys[:1])
  assert list(tmp_path.iterdir()) == []


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


def test_refuses_bad_outputs(own_run, keys, tmp_path):
  run = own_run()
  (tmp_path / "there").mkdir()
  (tmp_path / "file").write_text("")
  for out, message in (
    (tmp_path / "there", "there exists"),
    (run.path / "checkpoints" / "4", "lies inside the run"),
    (tmp_path / "file" / "out", "file.*: (File exists|Not a directory); mend"),
  ):
    with pytest.raises(errors.UserError, match=message):
      erase.erase(run.path, out, keys[:1])
  left = sorted(path.name for path in tmp_path.iterdir())
  assert left == ["file", "run", "there"]


@pytest.mark.skipif(
  not os.path.isdir("/sys/kernel"), reason="/sys is read-only on Linux only"
)
def test_refuses_a_read_only_output(make_run, keys):
  with pytest.raises(errors.UserError, match=r"/sys/.*; mend the path"):
    erase.erase(make_run().path, "/sys/kernel/nulls-out", keys[:1])


def test_refuses_unknown_sources(make_run, keys, tmp_path):
  with pytest.raises(errors.UserError, match=r"unknown.*'nobody'"):
    erase.erase(make_run().path, tmp_path / "out", [keys[0], "nobody"])
  with pytest.raises(errors.UserError, match="no source keys given"):
    erase.erase(make_run().path, tmp_path / "out", [])
  assert list(tmp_path.iterdir()) == []


def test_a_damaged_ledger_leaves_nothing(own_run, keys, tmp_path, monkeypatch):
  run = own_run()

  class Locked:
    def execute(self, *_):
      raise sqlite3.OperationalError("database or disk is full")

    def close(self):
      pass

  connect = sqlite3.connect
  calls = []

  def connect_once(*arguments, **options):
    calls.append(arguments)
    return connect(*arguments, **options) if len(calls) == 1 else Locked()

  monkeypatch.setattr(sqlite3, "connect", connect_once)
  with pytest.raises(errors.MachineError, match="disk is full; check the disk"):
    erase.erase(run.path, tmp_path / "out", keys[:1])
  assert [path.name for path in tmp_path.iterdir()] == ["run"]
