"""When a program is started again: real processes, no cloud and no JAX."""

import shutil
import signal
import subprocess
import time

import pytest

# Ends as the lines of `statuses` say, one after the other; `S` saves a
# checkpoint first, `K` is killed, `W` waits for SIGTERM and then saves.
_PROGRAM = r"""#!/usr/bin/env bash
rank=${SLURM_PROCID:-0}
echo "$@" >>"$FAKES/starts-$rank"
number=$(wc -l <"$FAKES/starts-$rank")
what=$(sed -n "${number}p" "$FAKES/statuses-$rank")
case $what in
  S*) mkdir -p "$RUN/checkpoints/$number" ;;
  K) kill -KILL $$ ;;
  W)
    trap 'mkdir -p "$RUN/checkpoints/$number"; exit 75' TERM
    touch "$FAKES/waiting"
    while :; do /bin/sleep 0.02; done
    ;;
esac
exit "${what#S}"
"""


@pytest.fixture
def job(fakes, tmp_path):
  """A program that ends as told, and where its job keeps its state."""
  fakes.program("nulls", _PROGRAM)
  fakes.environment["RUN"] = str(tmp_path / "a run")

  class Job:
    state = tmp_path / "state of it"
    run_dir = tmp_path / "a run"

    def ends(self, *statuses, rank=0):
      text = "\n".join(map(str, statuses)) + "\n"
      (fakes.folder / f"statuses-{rank}").write_text(text)

    def loop(self, maximum=2, run_dir=run_dir):
      words = ("loop", self.state, run_dir, maximum, "--", "nulls", "a b")
      return fakes.run("restart.sh", *words)

    def starts(self, rank=0):
      path = fakes.folder / f"starts-{rank}"
      return path.read_text().splitlines() if path.exists() else []

    def status(self):
      return int((self.state / "status").read_text())

  return Job()


def test_75_starts_the_same_command_again(job):
  job.ends(75, 75, 0)
  assert job.loop().status == 0
  assert job.starts() == ["a b"] * 3
  assert job.status() == 0


@pytest.mark.parametrize("status", [1, 2, 3, 74, 76, 130])
def test_any_other_status_ends(job, status):
  job.ends(status)
  assert job.loop().status == status
  assert len(job.starts()) == 1
  assert job.status() == status


def test_a_program_that_was_killed_ends(job):
  job.ends("K")
  assert job.loop().status == 137
  assert len(job.starts()) == 1


def test_restarts_without_progress_are_bounded(job):
  job.ends(*[75] * 9)
  done = job.loop(maximum=2)
  assert done.status == 1
  assert len(job.starts()) == 3
  assert "2 restarts in a row without a new checkpoint" in done.err


def test_a_new_checkpoint_starts_the_count_anew(job):
  job.ends(75, 75, "S75", 75, "S75", "S75", "S75", 0)
  assert job.loop(maximum=2).status == 0
  assert len(job.starts()) == 8


def test_other_names_are_no_checkpoints(job):
  job.ends(*[75] * 9)
  (job.run_dir / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
  (job.run_dir / "checkpoints" / "12").mkdir()
  done = job.loop(maximum=1)
  assert "newest step 12" in done.err
  assert (done.status, len(job.starts())) == (1, 2)


def test_checkpoints_in_a_bucket_are_listed(job, fakes):
  fakes.program(
    "gcloud",
    '#!/bin/sh\necho "gs://b/run/checkpoints/40/"\n'
    'echo "gs://b/run/checkpoints/120/"\n',
  )
  job.ends(*[75] * 9)
  assert "newest step 120" in job.loop(1, "gs://b/run/").err


def test_without_a_run_all_restarts_count(job):
  job.ends(*["S75"] * 9)
  assert job.loop(maximum=2, run_dir="").status == 1
  assert len(job.starts()) == 3


def _wait_for(condition):
  for _ in range(500):
    if condition():
      return
    time.sleep(0.02)
  raise AssertionError("nothing happened in 10 s")


def test_stop_saves_and_does_not_start_again(job, fakes):
  job.ends("W", 0)
  script = fakes.folder / "restart.sh"
  shutil.copy("launch/restart.sh", script)

  def act(*words):
    return subprocess.run(
      ["bash", str(script), *map(str, words)],
      env=fakes.environment,
      capture_output=True,
      text=True,
      check=True,
      timeout=30,
    ).stdout.split()[2:]

  start = ("start", job.state, job.run_dir, 5, "--", "nulls")
  assert act("state", job.state) == ["not", "started"]
  assert act(*start) == ["started"]
  _wait_for((fakes.folder / "waiting").exists)
  assert act("state", job.state) == ["running"]
  assert act(*start) == ["running", "already"]
  assert act("stop", job.state) == ["asked", "to", "stop"]
  _wait_for((job.state / "status").exists)
  _wait_for(lambda: act("state", job.state) == ["ended", "75"])
  assert len(job.starts()) == 1
  assert (job.run_dir / "checkpoints" / "1").is_dir()
  # A start after a stop is a new one.
  assert act(*start) == ["started"]
  _wait_for(lambda: act("state", job.state) == ["ended", "0"])
  assert len(job.starts()) == 2


def test_a_notice_to_the_loop_reaches_the_program_once_and_restarts(job, fakes):
  job.ends("W", 0)
  loop = ("loop", job.state, job.run_dir, "5", "--", "nulls")
  process = subprocess.Popen(
    ["bash", "launch/restart.sh", *loop],
    env=fakes.environment,
    stderr=subprocess.DEVNULL,
  )
  _wait_for((fakes.folder / "waiting").exists)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == 0
  assert len(job.starts()) == 2


def test_a_host_that_was_started_anew_is_told(job, fakes):
  job.state.mkdir()
  (job.state / "pid").write_text("999999999\n")
  assert "ended 137" in fakes.run("restart.sh", "state", job.state).out


@pytest.mark.parametrize(
  ("statuses", "joint"),
  [
    ((0, 0), 0),
    ((75, 75), "queued"),
    # Lost hosts leave nothing, or the status of a signal.
    ((75, None), "queued"),
    ((75, 137), "queued"),
    ((None, 137), 137),
    # srun's own status, the highest, would hide the failure.
    ((75, 1), 1),
    ((2, 137), 2),
    ((0, 75), "queued"),
  ],
)
def test_the_ranks_of_a_slurm_job_decide_together(job, fakes, statuses, joint):
  for rank, status in enumerate(statuses):
    if status is None:
      continue
    job.ends("K" if status == 137 else status, rank=rank)
    done = fakes.run(
      "restart.sh", "task", job.state, "--", "nulls", SLURM_PROCID=str(rank)
    )
    assert done.status == status
  done = fakes.run(
    "restart.sh", "requeue", job.state, job.run_dir, 3, 2, SLURM_JOB_ID="17"
  )
  queued = [["scontrol", "requeue", "17"]]
  if joint == "queued":
    assert (done.status, fakes.calls()) == (0, queued)
  else:
    assert (done.status, fakes.calls()) == (joint, [])
  # The next start begins with no one's status.
  assert not (job.state / "ranks").exists()


def test_a_slurm_job_is_not_queued_for_ever_nor_after_a_stop(job, fakes):
  def end(**extra):
    (job.state / "ranks").mkdir(parents=True)
    (job.state / "ranks" / "0").write_text("75\n")
    words = ("requeue", job.state, job.run_dir, 2, 1)
    return fakes.run("restart.sh", *words, SLURM_JOB_ID="17").status

  assert [end(), end(), end()] == [0, 0, 1]
  assert len(fakes.calls("scontrol")) == 2
  (job.state / "restarts").unlink()
  (job.state / "stop").touch()
  assert end() == 0
  assert len(fakes.calls("scontrol")) == 2


@pytest.mark.parametrize(
  "words", [(), ("loop",), ("loop", "s", "r", "3", "nulls"), ("fly", "s")]
)
def test_wrong_words_exit_2(fakes, words):
  assert fakes.run("restart.sh", *words).status == 2
