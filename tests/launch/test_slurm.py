"""SLURM jobs, with stand-ins for its commands; the batch file really runs."""

import subprocess

import pytest


@pytest.fixture
def folder(tmp_path):
  return tmp_path / "job"


@pytest.fixture
def cluster(fakes):
  """sbatch gives a number; srun runs every rank one after the other."""
  record = (fakes.path / "squeue").read_text()
  fakes.program("sbatch", record + "echo '4711;cluster'\n")
  fakes.program(
    "srun",
    record + 'while [ "${1#--}" != "$1" ]; do shift; done\nhighest=0\n'
    "for rank in 0 1; do\n"
    '  status=0; SLURM_PROCID=$rank "$@" || status=$?\n'
    '  if [ "$status" -gt "$highest" ]; then highest=$status; fi\n'
    'done\nexit "$highest"\n',
  )
  return fakes


def _submit(cluster, folder, *words):
  return cluster.run(
    "slurm.sh", "run", "--folder", folder, "--nodes", 2, *words
  )


def test_the_file_that_is_submitted(cluster, folder):
  done = _submit(
    cluster, folder, "--time", "1-00:00:00", "--partition", "a100,h100",
    "--cpus", 12, "--", "nulls", "train", "--run", "it's",
  )  # fmt: skip
  assert done.status == 0, done.err
  assert cluster.calls("sbatch") == [
    ["sbatch", "--parsable", f"{folder}/job.sbatch"]
  ]
  assert (folder / "id").read_text() == "4711\n"
  lines = (folder / "job.sbatch").read_text().splitlines()
  assert [line for line in lines if line.startswith("#SBATCH")] == [
    "#SBATCH --job-name=train",
    "#SBATCH --nodes=2",
    "#SBATCH --ntasks-per-node=1",
    "#SBATCH --gpus-per-node=8",
    "#SBATCH --cpus-per-task=12",
    "#SBATCH --time=1-00:00:00",
    "#SBATCH --partition=a100,h100",
    f"#SBATCH --output={folder}/log",
    "#SBATCH --open-mode=append",
    "#SBATCH --signal=TERM@300",
    "#SBATCH --requeue",
  ]


@pytest.mark.parametrize(
  ("body", "status", "queued"),
  [
    ("exit 0", 0, 0),
    ("exit 75", 0, 1),
    ('exit "$((SLURM_PROCID ? 75 : 1))"', 1, 0),
    ('test "$SLURM_PROCID" = 0 && exit 75; kill -KILL $$', 0, 1),
  ],
)
def test_the_file_queues_the_job_again_after_75_only(
  cluster, folder, body, status, queued
):
  cluster.program("nulls", f"#!/usr/bin/env bash\n{body}\n")
  # Not the package of this checkout, where there is one.
  venv = ("--venv", folder / "none")
  assert _submit(cluster, folder, *venv, "--", "nulls", "train").status == 0
  (folder / "ranks").mkdir()
  (folder / "ranks" / "1").write_text("2\n")  # Of a start that is over.
  done = subprocess.run(
    ["bash", str(folder / "job.sbatch")],
    env={**cluster.environment, "SLURM_JOB_ID": "4711"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status, done.stderr
  assert cluster.calls("scontrol") == [["scontrol", "requeue", "4711"]] * queued


def test_shellcheck_would_pass_the_file_in_bash(cluster, folder):
  assert _submit(cluster, folder, "--", "nulls", "a 'b' $c").status == 0
  subprocess.run(["bash", "-n", str(folder / "job.sbatch")], check=True)


def test_one_job_at_a_time(cluster, folder):
  assert _submit(cluster, folder, "--", "nulls").status == 0
  cluster.program("squeue", "#!/bin/sh\necho 4711 RUNNING\n")
  done = _submit(cluster, folder, "--", "nulls")
  assert done.status == 1
  assert "queued or running already (job 4711)" in done.err


def test_stop_lets_it_save_and_delete_does_not(cluster, folder):
  assert _submit(cluster, folder, "--", "nulls").status == 0
  assert cluster.run("slurm.sh", "stop", "--folder", folder).status == 0
  assert (folder / "stop").exists()
  assert cluster.run("slurm.sh", "delete", "--folder", folder).status == 0
  assert cluster.calls("scancel") == [
    ["scancel", "--signal=TERM", "4711"],
    ["scancel", "4711"],
  ]
  # A new submission is not stopped.
  assert _submit(cluster, folder, "--", "nulls").status == 0
  assert not (folder / "stop").exists()


def test_status_asks_the_queue_and_the_accounts(cluster, folder):
  assert _submit(cluster, folder, "--", "nulls").status == 0
  assert cluster.run("slurm.sh", "status", "--folder", folder).status == 0
  assert cluster.calls("squeue")[-1] == ["squeue", "--jobs=4711"]
  assert cluster.calls("sacct")[-1][1:3] == ["--jobs=4711", "--duplicates"]
