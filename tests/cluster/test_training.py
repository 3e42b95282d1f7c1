"""One run on several processes: its losses, its end, its next start."""

import json
import os
import re
import shutil
import signal
import threading
import time

import jax
import numpy as np
import psutil
import pytest

from nulls_jax import cli, errors
from nulls_jax.cluster import member
from nulls_jax.training import checkpoint, loop

FLAGS = (
  "--data.row-length=128",
  "--optimizer.learning-rate=1e-2",
  # Every process holds, and saves, a part of every large array.
  "--mesh.fsdp=8",
  # Longer than any test waits.
  "--training.num-steps=100000",
  "--optimizer.warmup-fraction=0.0001",
  "--training.log-every=1",
  "--checkpoint.every-steps=100000",
)
MORE_STEPS = 4
FIGURES = ("loss", "loss_on", "loss_off", "grad_norm")


def logged(run_dir) -> list[dict]:
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def assert_same_losses(found, expected):
  assert [line["step"] for line in found] == [line["step"] for line in expected]
  for name in FIGURES:
    np.testing.assert_allclose(
      np.array([line[name] for line in found], float),
      np.array([line[name] for line in expected], float),
      atol=1e-5,
      rtol=1e-5,
      err_msg=name,
    )


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
  """Compiling costs more here than running; as in the other processes."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


class _ToldAt:
  """A notice that comes at a step."""

  def __init__(self, step):
    self._step = step

  def reached(self, step):
    return step >= self._step


@pytest.fixture(scope="module")
def flags(data, model_flags):
  """Of `nulls train`, but for --run."""
  return ("--data", data, *model_flags, *FLAGS)


def train_here(flags, run_dir, until) -> list[dict]:
  """Train in this process, on its eight devices; return what was logged."""
  alone = member.Member()
  alone.notice = _ToldAt(until)
  words = [*map(str, flags), "--run", str(run_dir)]
  it = cli._parse("train", words)
  with pytest.raises(errors.StartAgain, match=f"step {until} is saved"):
    loop.train(it.settings, it.data, run_dir, it.grow_from, member=alone)
  return logged(run_dir)


@pytest.fixture(scope="module")
def two(flags, start_once, tmp_path_factory):
  """Two processes of four devices, until one was told to end."""
  run_dir = tmp_path_factory.mktemp("two") / "run"
  with start_once(4, [(*flags, "--run", run_dir)] * 2) as processes:
    processes.wait_for_line(run_dir / "metrics.jsonl", 2)
    processes.ranks[1].send_signal(signal.SIGTERM)
    statuses = processes.wait()
  return run_dir, statuses, processes


@pytest.fixture(scope="module")
def one(flags, two, compiled, tmp_path_factory):
  """The run of one process, some steps further."""
  run_dir = tmp_path_factory.mktemp("one") / "run"
  train_here(flags, run_dir, len(logged(two[0])) + MORE_STEPS)
  return run_dir


@pytest.fixture(scope="module")
def expected(one):
  return logged(one)


def test_a_notice_to_one_ends_all_at_one_saved_step(two):
  run_dir, statuses, processes = two
  assert statuses == [errors.START_AGAIN] * 2, processes.said()
  (step,) = checkpoint.steps(run_dir)
  assert step == len(logged(run_dir)) < 100000
  for rank in range(2):
    assert processes.line(rank) == (
      f"nulls: {run_dir}: told to end; step {step} is saved; start the same "
      "command again to go on"
    )
  # Rank 0 speaks for all while they train.
  assert "step 1/100000" in processes.err(0)
  assert "step 1/" not in processes.err(1)
  assert len(list((run_dir / "tensorboard").iterdir())) == 1


def test_two_processes_have_the_losses_of_one(two, expected):
  found = logged(two[0])
  assert_same_losses(found, expected[: len(found)])
  assert len({round(line["loss"], 4) for line in found}) > 1


def test_goes_on_alone_with_the_same_batches(two, expected, flags, tmp_path):
  run_dir = shutil.copytree(two[0], tmp_path / "run")
  assert_same_losses(train_here(flags, run_dir, len(expected)), expected)


def test_goes_on_as_four_until_one_is_killed(
  two, expected, flags, start, tmp_path
):
  run_dir = shutil.copytree(two[0], tmp_path / "run")
  processes = start(1, [(*flags, "--run", run_dir, "--mesh.fsdp=4")] * 4)
  processes.wait_for_line(run_dir / "metrics.jsonl", len(expected))
  assert_same_losses(logged(run_dir)[: len(expected)], expected)

  killed = time.monotonic()
  processes.ranks[2].kill()
  statuses = processes.wait()
  seconds = time.monotonic() - killed
  assert statuses == [75, 75, -signal.SIGKILL, 75], processes.said()
  assert seconds < 60
  for rank in (0, 1, 3):
    assert re.fullmatch(
      r"nulls: rank 2 of 4 is lost \(its host ended the connection\), so rank "
      rf"{rank} stops; the newest whole checkpoint is kept; start the same "
      "command again to go on",
      processes.line(rank),
    ), processes.said()
  # What was saved before is whole, and the process of rank 2 did not live on.
  assert checkpoint.steps(run_dir) == checkpoint.steps(two[0])
  held = [line for line in os.popen("ps -eo args") if str(run_dir) in line]
  assert held == []


def test_learns_more_on_two_until_one_hangs(one, flags, data, start, tmp_path):
  """Of new sources; then it is stopped, as a host that hangs; then alone."""
  words = ("--documents", data.parent / "held_out.jsonl", "--extend", one)
  words = ("prepare", *words, "--out", tmp_path / "more")
  assert cli.main([str(word) for word in words]) == 0
  flags = (*flags, "--data", tmp_path / "more", "--grow-from", one)
  flags += ("--checkpoint.every-steps=2",)
  run_dir = tmp_path / "run"
  words = (*flags, "--run", run_dir, "--cluster.silent-seconds=8")
  processes = start(4, [words] * 2)
  # The save of step 4 has waited for that of step 2.
  processes.wait_for_line(run_dir / "metrics.jsonl", 5)
  (child,) = psutil.Process(processes.ranks[1].pid).children()
  child.suspend()
  assert processes.wait() == [errors.START_AGAIN] * 2, processes.said()
  assert not child.is_running()
  silence = "was silent for 8 s, as if it was stopped"
  kept = "the newest whole checkpoint is kept; start the same command again"
  assert [processes.line(rank) for rank in (0, 1)] == [
    f"nulls: rank 1 of 2 is lost (it {silence}), so rank 0 stops; {kept} to "
    "go on",
    f"nulls: rank 1: the training process {silence}; {kept} to go on",
  ]

  found = logged(run_dir)
  steps = checkpoint.steps(run_dir)
  assert steps and steps[-1] <= len(found)
  straight = train_here(flags, tmp_path / "straight", len(found) + 1)
  assert_same_losses(found, straight[:-1])
  assert_same_losses(train_here(flags, run_dir, len(straight)), straight)


def test_alone_a_notice_ends_the_run_at_a_saved_step(
  flags, expected, nulls, tmp_path
):
  run_dir = tmp_path / "run"
  path = run_dir / "metrics.jsonl"

  def tell():
    while not path.exists() or not path.read_text():
      time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)

  teller = threading.Thread(target=tell)
  teller.start()
  before = signal.getsignal(signal.SIGTERM)
  status, out, err = nulls("train", *flags, "--run", run_dir)
  teller.join()
  assert (status, out) == (errors.START_AGAIN, "")
  (step,) = checkpoint.steps(run_dir)
  assert err.splitlines()[-1] == (
    f"nulls: {run_dir}: told to end; step {step} is saved; start the same "
    "command again to go on"
  )
  found = logged(run_dir)
  assert len(found) == step
  count = min(step, len(expected))
  assert_same_losses(found[:count], expected[:count])
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_notice_before_the_first_step_ends_at_once():
  with (
    pytest.raises(errors.StartAgain, match="told to end before the first step"),
    member.join() as me,
  ):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
  assert me.count == 1


def test_a_save_that_fails_on_one_ends_all(two, flags, start, tmp_path):
  """As a host whose disk is full or gone; the others cannot see it."""
  run_dir = shutil.copytree(two[0], tmp_path / "run")
  words = (*flags, "--run", run_dir, "--checkpoint.every-steps=1")
  processes = start(4, [words, words], before=("prlimit", "--fsize=4096"))
  assert processes.wait() == [1, 1], processes.said()
  line = processes.line(1)
  assert f"{run_dir}/checkpoints: saving failed (" in line
  assert processes.line(0) == line.replace("nulls: ", "nulls: rank 1: ")
  # The half-written step does not look like one.
  assert checkpoint.steps(run_dir) == checkpoint.steps(two[0])


def test_one_that_fails_before_the_first_step_stops_all(flags, start, tmp_path):
  words = (*flags, "--run", tmp_path / "run")
  processes = start(4, [words, (*words, "--data", tmp_path / "none")])
  assert processes.wait() == [2, 2], processes.said()
  assert f"{tmp_path}/none" in processes.line(1)
  assert processes.line(0).startswith(f"nulls: rank 1: {tmp_path}/none")
  assert not (tmp_path / "run").exists()


def test_processes_with_other_settings_are_refused(monkeypatch):
  me = member.Member(rank=0, count=3)
  others = [{"jax": "1", "rows": 5}, {"jax": "2", "rows": 4}]
  monkeypatch.setattr(me, "meet", lambda name, facts: [facts, *others])
  with pytest.raises(
    errors.UserError,
    match=r"the processes of this run do not agree: jax is 2 on rank 2 and 1 "
    r"on rank 0, rows is 4 on rank 2 and 5 on rank 0; give all of them",
  ):
    me.check_same("settings", {"jax": "1", "rows": 5})
  others.pop()
  me.check_same("settings", {"jax": "1", "rows": 5})
