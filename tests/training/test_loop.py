"""A run from start to end: killed, interrupted, refused, out of disk."""

import contextlib
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
from nulls_jax.data import ledger, prepare
from nulls_jax.sinks import assignment
from nulls_jax.training import checkpoint, loop, metrics, partitioning, state

PROGRESS = re.compile(
  r"step \d+/120  loss \d\.\d{3}  [\d,]+ tokens/s  [\d,]+ s left"
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


def wait_for_step(child, run_dir, step):
  """Return once the process has logged the step."""
  path = run_dir / "metrics.jsonl"
  deadline = time.monotonic() + 120
  while not path.exists() or f'"step": {step},' not in path.read_text():
    assert child.poll() is None, child.communicate()
    assert time.monotonic() < deadline, "the process logs nothing"
    time.sleep(0.002)


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
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_run(run_dir, other):
  """Both end with the same bits, and have logged the same losses."""
  first, second = load_state(run_dir), load_state(other)
  assert first.keys() == second.keys()
  assert any(".nu" in name for name in first)
  for name, leaf in first.items():
    np.testing.assert_array_equal(leaf, second[name], err_msg=name)
  for name in ("step", "loss", "loss_on", "loss_off", "grad_norm"):
    values = [[line[name] for line in logged(path)] for path in (run_dir, other)]
    assert values[0] == values[1], name


def copy_run(run, path, *, until):
  """Copy the run as if it had been killed after its step `until`."""
  shutil.copytree(run.path, path)
  for step in run.kept_steps:
    if step > until:
      shutil.rmtree(path / "checkpoints" / str(step))
  return path


def steps_on_disk(run_dir) -> list[str]:
  """Everything in the folder of checkpoints, half-written things too."""
  return sorted((run_dir / "checkpoints").iterdir().__iter__(), key=str) and [
    path.name
    for path in sorted(
      (run_dir / "checkpoints").iterdir(), key=lambda path: (len(path.name), path)
    )
  ]


def test_killed_interrupted_and_restarted_ends_with_the_same_bits(
  tiny_run, tmp_path
):
  run_dir = tmp_path / "run"
  first, second = sorted(random.Random(7).sample(range(25, 75, 5), 2))
  with process(tiny_run, run_dir) as child:
    wait_for_step(child, run_dir, first)
    child.send_signal(signal.SIGKILL)
    out, err = child.communicate()
  assert child.returncode == -signal.SIGKILL
  assert not out and "nulls:" not in err
  assert checkpoint.newest(run_dir) < tiny_run.num_steps

  with process(tiny_run, run_dir) as child:
    wait_for_step(child, run_dir, second)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate()
  assert child.returncode == 130
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
  assert steps_on_disk(run_dir) == steps_on_disk(tiny_run.path)
