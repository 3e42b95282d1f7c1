"""A run from start to end: killed, interrupted, refused, out of disk."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tensorboardX
from tensorboardX.proto import event_pb2

from nulls_jax import cli, errors
from nulls_jax import config as run_config
from nulls_jax.data.preparation import dataset, job, prepare
from nulls_jax.sinks import assignment
from nulls_jax.training import checkpoint, loop, metrics, partitioning, state
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.revocation import revocation

PROGRESS = re.compile(
  r"step \d+/120  loss \d\.\d{3}(  [\d,]+ tokens/s  [\d,]+ s left)?"
)


def train(run, run_dir, *flags) -> int:
  """Run `nulls train` with the tiny run's flags in this process."""
  flags = (*run.flags, *flags)
  return cli.main(
    ["train", "--data", str(run.data), "--run", str(run_dir), *flags]
  )


@contextlib.contextmanager
def process(run, run_dir, *flags):
  """Start `nulls train` as a process of its own; end it when left."""
  arguments = ("train", "--data", run.data, "--run", run_dir)
  child = subprocess.Popen(
    [sys.executable, "-m", "nulls_jax.cli", *arguments, *run.flags, *flags],
    env={**os.environ, **run.environment},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    yield child
  finally:
    child.kill()
    child.communicate()


def wait_for_step(child, run_dir, step, *, starts):
  """Return once the process, the run's `starts`th, has logged the step."""
  path = run_dir / "metrics.jsonl"
  deadline = time.monotonic() + 120
  # A start drops lines that lie ahead, and then opens a file of its own.
  while (
    len(list((run_dir / "tensorboard").glob("*"))) < starts
    or f'"step": {step},' not in path.read_text()
  ):
    assert child.poll() in (None, 0), child.communicate()
    assert time.monotonic() < deadline, "the process logs nothing"
    time.sleep(0.002)


def hit(tiny_run, run_dir, number, step, starts) -> tuple[int, str, str]:
  """Train on and send a signal after `step`; return status, stdout, stderr.

  On a busy machine a run of milliseconds a step can end before the signal is
  sent. Then it is put back as it was and tried again, some times.
  """
  before = run_dir.with_name(f"before-{starts}")
  if run_dir.exists():
    shutil.copytree(run_dir, before)
  for _ in range(20):
    with process(tiny_run, run_dir) as child:
      wait_for_step(child, run_dir, step, starts=starts)
      child.send_signal(number)
      out, err = child.communicate()
    if child.returncode:
      break
    shutil.rmtree(run_dir)
    if before.exists():
      shutil.copytree(before, run_dir)
  return child.returncode, out, err


def logged(run_dir) -> list[dict]:
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def load_state(run_dir, step=None) -> dict[str, np.ndarray]:
  """Return parameters and optimiser state of a step, restored by path."""
  config = run_config.read(run_dir / "config.json")
  mesh = partitioning.make_mesh(run_config.MeshConfig())
  step = checkpoint.newest(run_dir, step)
  with checkpoint.Checkpoints(run_dir, config.checkpoint, step) as saves:
    found = saves.restore(step, state.abstract(config, mesh))
  leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(found))
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in leaves
  }


def assert_same_state(run_dir, other):
  """Both end with the same bits, of parameters and optimiser state."""
  first, second = load_state(run_dir), load_state(other)
  assert first.keys() == second.keys()
  assert any(".nu" in name for name in first)
  for name, leaf in first.items():
    np.testing.assert_array_equal(leaf, second[name], err_msg=name)


def assert_same_run(run_dir, other):
  """They have logged the same losses, too."""
  assert_same_state(run_dir, other)
  for name in ("step", "loss", "loss_on", "loss_off", "grad_norm"):
    values = [line[name] for line in logged(run_dir)]
    assert values == [line[name] for line in logged(other)], name


def copy_run(run, path, *, until):
  """Copy the run as if it had been killed after its step `until`."""
  shutil.copytree(run.path, path)
  for step in run.kept_steps:
    if step > until:
      shutil.rmtree(path / "checkpoints" / str(step))
  return path


def on_disk(run_dir) -> set[str]:
  """Everything in the folder of checkpoints, half-written things too."""
  return {path.name for path in (run_dir / "checkpoints").iterdir()}


def the_line(err: str) -> str:
  """Return the one line of a failure, after lines of progress only."""
  *progress, last = err.splitlines()
  assert [line for line in progress if not PROGRESS.fullmatch(line)] == []
  assert last.startswith("nulls: ")
  return last


@pytest.fixture
def small_disk(tmp_path):
  """Return a function that mounts a file system of so many bytes."""
  place = tmp_path / "disk"
  place.mkdir()
  if shutil.which("mount") is None:
    pytest.skip("no `mount` here; this runs as root on Linux")

  def mount(size, remount=""):
    done = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", f"{remount}size={size}", "tmpfs", place],
      capture_output=True,
      text=True,
    )
    if done.returncode:
      pytest.skip(
        f"mounting a small file system failed ({done.stderr.strip()}); this "
        "runs as root on Linux, where CAP_SYS_ADMIN is given"
      )
    return place

  yield mount
  subprocess.run(["umount", place], capture_output=True)


def test_killed_interrupted_and_restarted_ends_with_the_same_bits(
  tiny_run, tmp_path
):
  run_dir = tmp_path / "run"
  # Where exactly it is hit is left to chance: it goes on while it is hit. Most
  # of the run lies ahead, as a step takes a millisecond.
  first, second = sorted(random.Random(7).sample(range(10, 45, 5), 2))
  status, out, err = hit(tiny_run, run_dir, signal.SIGKILL, first, starts=1)
  assert status == -signal.SIGKILL
  assert not out and "nulls:" not in err
  assert max(checkpoint.steps(run_dir), default=0) < tiny_run.num_steps

  status, out, err = hit(tiny_run, run_dir, signal.SIGINT, second, starts=2)
  assert status == 130
  assert err.splitlines()[-1].startswith("nulls: interrupted; run the same")
  assert "Traceback" not in err

  with process(tiny_run, run_dir) as child:
    out, err = child.communicate()
  assert child.returncode == 0
  assert out == f"{run_dir}: trained to step {tiny_run.num_steps}\n"
  # In a log: some plain lines of progress and nothing else.
  lines = err.splitlines()
  assert 3 <= len(lines) <= 25
  assert [line for line in lines if not PROGRESS.fullmatch(line)] == []
  assert_same_run(run_dir, tiny_run.path)
  assert on_disk(run_dir) == on_disk(tiny_run.path)


def test_a_finished_run_returns_at_once(
  tiny_run, tmp_path, capsys, monkeypatch
):
  """With another mesh or policy too: they are not what is computed."""
  run_dir = copy_run(tiny_run, tmp_path / "run", until=tiny_run.num_steps)
  before = {path: path.stat().st_mtime_ns for path in files(run_dir)}
  monkeypatch.setattr(loop, "_run_steps", None)
  flags = ("--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2")
  assert train(tiny_run, run_dir, *flags, "--checkpoint.keep-last=7") == 0
  out, err = capsys.readouterr()
  assert (out, err) == (f"{run_dir}: already trained, step 120\n", "")
  after = {path: path.stat().st_mtime_ns for path in files(run_dir)}
  changed = {path.name for path in before if before[path] != after[path]}
  assert (before.keys(), changed) == (after.keys(), {"config.json"})


def files(path):
  return [entry for entry in path.rglob("*") if entry.is_file()]


def test_another_config_is_refused_by_field(tiny_run, capsys):
  flags = (
    "--model.d-model=32",
    "--training.seed=3",
    "--checkpoint.keep-last=1",
  )
  before = (tiny_run.path / "config.json").read_bytes()
  assert train(tiny_run, tiny_run.path, *flags) == 2
  line = the_line(capsys.readouterr().err)
  assert f"{tiny_run.path}: this run was started with another config" in line
  assert ": model.d_model: 16 -> 32, training.seed: 0 -> 3; give" in line
  assert (tiny_run.path / "config.json").read_bytes() == before


def test_resumes_on_another_mesh(tiny_run, tmp_path):
  run_dir = copy_run(tiny_run, tmp_path / "run", until=80)
  flags = ("--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2")
  assert train(tiny_run, run_dir, *flags) == 0
  for name in ("step", "loss", "grad_norm"):
    np.testing.assert_allclose(
      [line[name] for line in logged(run_dir)],
      [line[name] for line in logged(tiny_run.path)],
      atol=1e-5,
      rtol=1e-5,
    )
  first, second = load_state(run_dir), load_state(tiny_run.path)
  for name, leaf in first.items():
    np.testing.assert_allclose(leaf, second[name], atol=2e-5, err_msg=name)


# Orbax leaves unfinished reads behind, which a real process keeps quiet.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["values", "file", "metadata"])
def test_a_damaged_checkpoint_is_refused_and_can_be_deleted(
  kind, tiny_run, tmp_path, capsys
):
  run_dir = copy_run(tiny_run, tmp_path / "run", until=100)
  folder = run_dir / "checkpoints" / "100"
  logged_before = (run_dir / "metrics.jsonl").read_bytes()
  if kind == "values":
    path = max(files(folder), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    expected = (
      r"100 (is damaged: \S+: other values|cannot be read, it is damaged)"
    )
  elif kind == "file":
    max(files(folder), key=lambda path: path.stat().st_size).unlink()
    expected = (
      r"100 cannot be read, it is damaged or of another model \([A-Z_]+:"
    )
  else:
    path = folder / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:500])
    expected = "100/state/_METADATA is damaged .*line 1"
  assert train(tiny_run, run_dir) == 2
  line = the_line(capsys.readouterr().err)
  assert re.search(expected, line)
  assert line.endswith("or delete it to train on from the one before")
  assert (run_dir / "metrics.jsonl").read_bytes() == logged_before
  if kind == "values":
    shutil.rmtree(folder)
    assert train(tiny_run, run_dir) == 0
    assert_same_run(run_dir, tiny_run.path)


def test_parameters_that_are_not_finite_are_never_saved(
  tiny_run, tmp_path, capsys
):
  """The rate rises from 0: the first update is harmless, the second not."""
  flags = (
    "--optimizer.learning-rate=3e38",
    "--optimizer.warmup-fraction=0.01",
    "--checkpoint.every-steps=1",
  )
  run_dir = tmp_path / "run"
  assert train(tiny_run, run_dir, *flags) == 1
  line = the_line(capsys.readouterr().err)
  assert line == (
    f"nulls: {run_dir}: step 2 gave parameters that are not finite; nothing of "
    "it was saved, earlier checkpoints are kept; start another --run with a "
    "lower optimizer.learning_rate"
  )
  assert on_disk(run_dir) == {"1"}
  for name, leaf in load_state(run_dir).items():
    assert np.isfinite(leaf).all(), name


@pytest.mark.parametrize("figure", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_ends_the_run(
  figure, tiny_run, tmp_path, capsys, monkeypatch
):
  """At the next line of the log, and at the latest before a save."""

  def make(config, mesh):
    step = 0

    def update(current, batch):
      nonlocal step
      step += 1
      values = dict.fromkeys(("loss", "loss_on", "grad_norm", "tokens"), 1.0)
      values["loss_off"] = np.nan  # No such document: no failure.
      return current, values | ({figure: np.inf} if step == 23 else {})

    return update

  monkeypatch.setattr(loop.train_step, "make", make)
  for name, log_every in (("a", 5), ("b", 50)):
    run_dir = tmp_path / name
    assert train(tiny_run, run_dir, f"--training.log-every={log_every}") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"nulls: {run_dir}: step 23 gave loss ")
    assert "inf" in last.split(";")[0]
    assert on_disk(run_dir) == {"20"}
    assert logged(run_dir)[-1]["step"] == 20
  # All processes find it at once; none waits for a word of another.
  failed = loop._not_finite(23, "loss inf", run_dir)
  assert isinstance(failed, errors.MachineError) and failed.is_agreed


def test_a_full_disk_during_a_save(tiny_run, tmp_path, small_disk, capsys):
  place = small_disk("1200k")
  run_dir = place / "run"
  flags = ("--checkpoint.keep-last=100",)
  with process(tiny_run, run_dir, *flags) as child:
    out, err = child.communicate()
  assert (child.returncode, out) == (1, "")
  line = the_line(err)
  assert f"{run_dir}/checkpoints: saving failed" in line
  assert "No space left on device" in line
  assert "the disk is full; free space and start the same command again" in line
  last = checkpoint.newest(run_dir)
  assert 20 <= last < tiny_run.num_steps
  assert load_state(run_dir, last).keys() == load_state(tiny_run.path).keys()
  # What was being written does not look like a checkpoint.
  halves = on_disk(run_dir) - set(map(str, checkpoint.steps(run_dir)))
  assert all(name.endswith(".orbax-checkpoint-tmp") for name in halves)

  small_disk("64m", remount="remount,")
  assert train(tiny_run, run_dir, *flags) == 0
  assert capsys.readouterr().out == f"{run_dir}: trained to step 120\n"
  assert_same_state(run_dir, tiny_run.path)
  assert all(name.isdigit() for name in on_disk(run_dir))


def test_a_last_save_that_fails_is_not_passed_over(small_disk):
  """It runs on in the background: the end of the run waits for it."""
  place = small_disk("100k")
  state = {"params": {"a": jax.random.normal(jax.random.key(0), (1 << 18,))}}
  config = run_config.CheckpointConfig(every_steps=1)
  with (
    pytest.raises(errors.MachineError, match="disk is full; free space"),
    checkpoint.Checkpoints(place, config, 1) as saves,
  ):
    assert saves.save(1, state, {})
  assert checkpoint.steps(place) == []
  # What failed first is what is reported.
  with (
    pytest.raises(KeyError, match="first"),
    checkpoint.Checkpoints(place, config, 1) as saves,
  ):
    saves.save(1, state, {})
    raise KeyError("first")


def test_a_full_disk_before_the_first_step(tiny_run, small_disk, capsys):
  run_dir = small_disk("24k") / "run"
  assert train(tiny_run, run_dir) == 1
  line = the_line(capsys.readouterr().err)
  assert f"the disk is full while writing {run_dir}; free space" in line
  assert not (run_dir / "config.json").exists()


def test_a_full_disk_at_a_line_of_metrics(tiny_run, small_disk):
  place = small_disk("64k")
  config = run_config.read(tiny_run.path / "config.json")
  values = {"loss": 1.0, "loss_on": 1.0, "loss_off": 2.0, "grad_norm": 1.0}
  with (
    pytest.raises(errors.MachineError, match=r"disk is full.*metrics"),
    metrics.Writer(place, config, 0) as writer,
  ):
    for step in range(1, 1000):
      writer.write(step, values, 1.0)
  # A line that was cut off goes at the next start.
  content = (place / "metrics.jsonl").read_bytes()
  small_disk("1m", remount="remount,")
  (place / "metrics.jsonl").write_bytes(content.rstrip(b"\n")[:-1])
  with metrics.Writer(place, config, 1000):
    steps = [line["step"] for line in logged(place)]
  assert 10 < len(steps) < len(content.splitlines()) + 1
  assert steps == list(range(1, len(steps) + 1))
  with metrics.Writer(place, config, 3) as writer:
    writer.write(4, values, 1.0)
  assert [line["step"] for line in logged(place)] == [1, 2, 3, 4]


def test_logs_ascending_steps_and_the_last(tiny_run):
  steps = [line["step"] for line in logged(tiny_run.path)]
  assert steps == list(range(5, 121, 5))
  first, last = logged(tiny_run.path)[0], logged(tiny_run.path)[-1]
  assert last["loss"] < 0.5 * first["loss"]
  assert first["model_flop_utilisation"] is None  # No peak is known of a CPU.
  assert min(first["tokens_per_second"], first["memory_bytes"]) > 0


def test_tensorboard_has_the_logged_figures(tiny_run, tmp_path):
  (path,) = (tiny_run.path / "tensorboard").iterdir()
  content = path.read_bytes()
  events, place = [], 0
  copy = tensorboardX.RecordWriter(str(tmp_path / "copy"))
  while place < len(content):
    (size,) = struct.unpack_from("<Q", content, place)
    data = content[place + 12 : place + 12 + size]
    copy.write(data)
    events.append(event_pb2.Event.FromString(data))
    place += size + 16
  copy.close()
  assert (tmp_path / "copy").read_bytes() == content  # Lengths and checksums.
  assert events[0].file_version == "brain.Event:2"
  losses = [
    (event.step, value.simple_value)
    for event in events
    for value in event.summary.value
    if value.tag == "loss_on"
  ]
  assert losses == [
    (line["step"], pytest.approx(line["loss_on"]))
    for line in logged(tiny_run.path)
  ]


def test_policies_decide_what_is_saved_and_kept(tiny_run, tmp_path):
  assert on_disk(tiny_run.path) == set(map(str, tiny_run.kept_steps))
  config = run_config.CheckpointConfig(every_steps=3, keep_last=1, keep_every=6)
  with checkpoint.Checkpoints(tmp_path, config, last_step=11) as saves:
    assert saves.latest_step is None
    state = {"params": {"a": jax.device_put(np.ones(3, np.float32))}}
    saved = [step for step in range(12) if saves.save(step, state, {})]
  assert saved == [3, 6, 9, 11]
  assert on_disk(tmp_path) == {"6", "11"}
  assert checkpoint.steps(tmp_path) == [6, 11]


def test_a_step_says_what_it_is(tiny_run):
  path = tiny_run.path / "checkpoints" / "100" / "_CHECKPOINT_METADATA"
  found = json.loads(path.read_text())["custom_metadata"]
  assert found == checkpoint.read_metadata(tiny_run.path, 100)
  config = run_config.read(tiny_run.path / "config.json")
  manifest = dataset.Prepared.open(tiny_run.data).manifest
  ids = [assignment.source_id(key) for key in tiny_run.keys]
  content = np.array([0, *ids], "<u8").tobytes()
  fingerprint = hashlib.sha256(content).hexdigest()
  assert found.pop("checksums") == {
    name: int(np.atleast_1d(leaf).view(np.uint32).sum(dtype=np.uint64) % 2**32)
    for name, leaf in load_state(tiny_run.path, 100).items()
  }
  assert found == {
    "format": 1,
    "config": run_config.to_dict(config),
    "assignment": {
      **run_config.to_dict(config)["sinks"],
      "version": assignment.VERSION,
    },
    "tokenizer_fingerprint": manifest["tokenizer_fingerprint"],
    "ledger_fingerprint": fingerprint,
  }
  assert found["config"]["model"]["vocab_size"] == manifest["vocab_size"]
  assert found["config"]["training"]["num_steps"] == tiny_run.num_steps


def test_another_dataset_is_refused(tiny_run, tmp_path, capsys):
  """With the run's tokenizer, or with its own."""
  excluded = frozenset(tiny_run.keys[:2])
  config = dataset.Prepared.open(tiny_run.data).config
  for name, model in (
    ("fewer", tiny_run.data / "tokenizer.model"),
    ("other", None),
  ):
    prepare.prepare(
      job.Job(
        tiny_run.documents, config, tokenizer_path=model, exclude=excluded
      ),
      tmp_path / name,
    )
  fewer = dataclasses.replace(tiny_run, data=tmp_path / "fewer")
  assert train(fewer, tiny_run.path) == 2
  line = the_line(capsys.readouterr().err)
  assert f"its 40 sources are not the 38 of {tmp_path}/fewer; give" in line

  vocab_size = dataset.Prepared.open(tmp_path / "other").manifest["vocab_size"]
  run_dir = tmp_path / "run"
  shutil.copytree(tiny_run.path, run_dir)
  content = json.loads((run_dir / "config.json").read_text())
  content["model"]["vocab_size"] = vocab_size  # As if by chance the same.
  (run_dir / "config.json").write_text(json.dumps(content))
  other = dataclasses.replace(tiny_run, data=tmp_path / "other")
  assert train(other, run_dir) == 2
  line = the_line(capsys.readouterr().err)
  assert f"its tokenizer is not that of {tmp_path}/other; give" in line


def test_training_does_not_bring_back_what_was_erased(
  tiny_run, tmp_path, capsys
):
  run_dir, data = tmp_path / "erased", tmp_path / "data"
  erase.erase(tiny_run.path, run_dir, tiny_run.keys[:1])
  shutil.copytree(tiny_run.data, data)
  shutil.copyfile(run_dir / "ledger.sqlite", data / "ledger.sqlite")
  before = on_disk(run_dir)
  manifest = json.loads((data / "manifest.json").read_text())
  manifest["files"]["ledger.sqlite"] = (data / "ledger.sqlite").stat().st_size
  (data / "manifest.json").write_text(json.dumps(manifest))
  other = dataclasses.replace(tiny_run, data=data)
  # An erased run with the dataset of before, whatever else is asked for; and
  # a new run, whose documents of the erased source would go to the backbone.
  for run, path, place, flags in (
    (tiny_run, run_dir, run_dir, ()),
    (tiny_run, run_dir, run_dir, ("--training.seed=3",)),
    (other, tmp_path / "new", data, ()),
  ):
    assert train(run, path, *flags) == 2
    line = the_line(capsys.readouterr().err)
    assert f"{place}: 1 sources were erased here, and training would" in line
    assert "prepare the documents with --exclude and give another --run" in line
  assert on_disk(run_dir) == before
  assert not (tmp_path / "new").exists()


def test_training_does_not_go_on_teaching_what_is_suspended(
  tiny_run, tmp_path, capsys
):
  run_dir = copy_run(tiny_run, tmp_path / "run", until=100)
  revocation.suspend(run_dir, tiny_run.keys[:2])
  before = {path: path.read_bytes() for path in files(run_dir)}
  assert train(tiny_run, run_dir) == 2
  line = the_line(capsys.readouterr().err)
  assert f"{run_dir}: 2 sources are suspended in this run (revocation" in line
  assert "list version 1), and training would teach it them again; res" in line
  assert {path: path.read_bytes() for path in files(run_dir)} == before
  path = run_dir / revocation.FILE
  path.write_bytes(path.read_bytes()[:-1])
  assert train(tiny_run, run_dir) == 2
  assert "line 1 is cut off; a list that" in the_line(capsys.readouterr().err)
  path.write_bytes(before[path])
  revocation.restore(run_dir, tiny_run.keys[:2])
  assert train(tiny_run, run_dir) == 0
  assert_same_state(run_dir, tiny_run.path)


LACKING = {
  "opt_state": r"/1 has no optimiser state, as an erasure with --drop-optimi",
  "sinks": r"/1 has no sinks, though its settings have some: it is of another",
  "norm": r"/1 lacks params\.norm\.scale: it is damaged or of another model",
}


@pytest.mark.parametrize("part", LACKING)
def test_a_step_that_lacks_something_is_refused_in_one_line(part, tmp_path):
  leaf = jax.device_put(np.ones(3, np.float32))
  whole = {
    "params": {"layers": {"sinks": {"table": leaf}}, "norm": {"scale": leaf}},
    "opt_state": {"0": {"mu": {"norm": {"scale": leaf}}}},
  }
  stored = jax.tree.map(lambda leaf: leaf, whole)
  if part == "opt_state":
    del stored["opt_state"]
  elif part == "sinks":
    del stored["params"]["layers"]
  else:
    del stored["params"]["norm"]
  abstract = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf.sharding
    ),
    whole,
  )
  config = run_config.CheckpointConfig(every_steps=1)
  with checkpoint.Checkpoints(tmp_path, config, last_step=1) as saves:
    assert saves.save(1, stored, {"format": 1})
  with (
    pytest.raises(errors.UserError, match=LACKING[part]),
    checkpoint.Checkpoints(tmp_path, config, last_step=1) as saves,
  ):
    saves.restore(1, abstract)
  if part == "opt_state":
    found = checkpoint.load_params(tmp_path, 1, abstract["params"])
    np.testing.assert_array_equal(found["norm"]["scale"], leaf)
  else:
    with pytest.raises(errors.UserError, match=LACKING[part]):
      checkpoint.load_params(tmp_path, 1, abstract["params"])


def test_goes_on_where_it_was_killed_while_it_was_created(
  tiny_run, tmp_path, monkeypatch
):
  run_dir = tmp_path / "run"
  run_dir.mkdir()
  (run_dir / "tokenizer.model").write_bytes(
    (tiny_run.path / "tokenizer.model").read_bytes()
  )
  (run_dir / "ledger.sqlite.partial").write_bytes(b"SQLite format 3")
  monkeypatch.setattr(loop, "_run_steps", lambda *_: None)
  assert train(tiny_run, run_dir) == 0
  for name in ("tokenizer.model", "ledger.sqlite", "config.json"):
    same = (tiny_run.path / name).read_bytes()
    assert (run_dir / name).read_bytes() == same
  assert not (run_dir / "ledger.sqlite.partial").exists()
