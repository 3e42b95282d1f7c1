"""What every launch script has in common: lint, help, refusals, quoting."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
COMMON = (ROOT / "launch" / "common.sh").read_text()

# A program whose words a careless script would break.
HARD = (
  "nulls",
  "train",
  "--run",
  'gs://bucket/it\'s a "run"',
  "--note=$HOME `id` \\ ; && * é",
  "",
)
TPU = ("my-pod", "--zone", "us-east5-b")
GKE = ("--cluster", "my-cluster", "--zone", "us-east5-b", "--type", "v6e-256")


def _shellcheck():
  beside = pathlib.Path(sys.executable).with_name("shellcheck")
  return str(beside) if beside.exists() else shutil.which("shellcheck")


@pytest.mark.skipif(
  _shellcheck() is None,
  reason="shellcheck is not installed; launch/test.sh installs it ([dev])",
)
def test_shellcheck_finds_nothing():
  done = subprocess.run(
    [_shellcheck(), "-x", *(str(path.relative_to(ROOT)) for path in SCRIPTS)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
  ("name", "few"),
  [("tpu.sh", 16), ("gke.sh", 12), ("slurm.sh", 13), ("local.sh", 4)],
)
def test_help_names_every_flag_that_is_read(fakes, name, few):
  done = fakes.run(name, "--help")
  text = (ROOT / "launch" / name).read_text()
  assert (done.status, done.err) == (0, "")
  assert f"bash launch/{name}" in done.out
  assert "set -euo pipefail" in text
  # The lists that `parse` reads.
  lists = re.findall(r"^(?:value_flags|switches)=\(([^)]*)\)", text, re.M)
  flags = " ".join(lists).split()
  assert len(flags) >= few
  for flag in ("--dry-run", *flags):
    assert re.search(rf"{flag}\b", done.out), f"{name} --help lacks {flag}"
    # What is read is a variable with a value of its own.
    assert re.search(rf"\b{flag[2:].replace('-', '_')}=", text + COMMON), flag


def test_help_of_the_restarts(fakes):
  done = fakes.run("restart.sh", "--help")
  assert (done.status, done.err) == (0, "")
  assert "bash launch/restart.sh loop " in done.out


@pytest.mark.parametrize(
  ("name", "words", "said"),
  [
    ("tpu.sh", ["create", *TPU, "--tpye", "v6e-8"], "no flag --tpye"),
    ("tpu.sh", [], "no action given"),
    ("tpu.sh", ["explode", *TPU], "no action 'explode'"),
    ("tpu.sh", ["create", "my-pod"], "no zone"),
    ("tpu.sh", ["create", "My Pod", "--zone", "z"], "slice name 'My Pod'"),
    ("tpu.sh", ["create", *TPU], "no --type given"),
    ("tpu.sh", ["create", *TPU, "--type", "v9-8"], "--type v9-8"),
    ("tpu.sh", ["create", *TPU, "--type"], "--type needs a value"),
    ("tpu.sh", ["create", *TPU, "--spot", "--reserved"], "choose one"),
    ("tpu.sh", ["run", *TPU], "no program"),
    ("tpu.sh", ["run", *TPU, "nulls"], "one word too many"),
    ("tpu.sh", ["stop", *TPU, "--", "nulls"], "takes no program"),
    (
      "tpu.sh",
      ["run", *TPU, "--max-restarts", "-1", "--", "nulls"],
      "--max-restarts -1: not a whole number",
    ),
    (
      "tpu.sh",
      ["run", *TPU, "--", "env", "HF_TOKEN=abc", "nulls"],
      "HF_TOKEN=...: a secret in a command line",
    ),
    ("tpu.sh", ["run", *TPU, "--", "a\nb"], "a line break"),
    ("gke.sh", ["run", *GKE], "no program"),
    ("gke.sh", ["run", *GKE, "--", "nulls", "$(HOME)"], "Kubernetes would"),
    ("gke.sh", ["run", *GKE[:4], "--", "nulls"], "no --type given"),
    ("gke.sh", ["create", *GKE, "--spot", "--on-demand"], "choose one"),
    ("gke.sh", ["status", "--zone", "z"], "no cluster"),
    ("gke.sh", ["run", *GKE, "--job", "a" * 41, "--", "x"], "40 letters"),
    ("slurm.sh", ["run", "--nodes", "four", "--", "x"], "--nodes four"),
    ("slurm.sh", ["run", "--time", "1 day", "--", "x"], "--time '1 day'"),
    ("slurm.sh", ["run", "--folder", "a b", "--", "x"], "SLURM takes no space"),
    ("slurm.sh", ["stop", "--folder", "none"], "no job was submitted"),
    ("local.sh", ["2", "--devices"], "--devices needs a value"),
    ("local.sh", ["2", "3", "--", "x"], "'3' is one word too many"),
  ],
)
def test_wrong_words_are_refused_in_one_line(fakes, name, words, said):
  done = fakes.run(name, *words)
  first = done.err.splitlines()[0] if said == "a line break" else done.err
  assert (done.status, done.out) == (2, ""), done
  assert done.err.count("\n") == 1, done.err
  assert first.startswith(f"{name}: ") and said in done.err
  assert fakes.calls() == []


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("tpu.sh", ["keep", *TPU, "--type", "v6e-256", "--", *HARD]),
    ("tpu.sh", ["delete", *TPU]),
    ("gke.sh", ["run", *GKE, "--", *HARD]),
    ("gke.sh", ["logs", *GKE]),
    ("slurm.sh", ["run", "--folder", "{folder}/new", "--", *HARD]),
    ("slurm.sh", ["stop", "--folder", "{folder}/new"]),
  ],
)
def test_a_dry_run_runs_nothing_and_prints_what_a_shell_reads(
  fakes, tmp_path, name, words
):
  words = [word.replace("{folder}", str(tmp_path)) for word in words]
  before = sorted(tmp_path.rglob("*"))
  done = fakes.run(name, words[0], "--dry-run", *words[1:])
  assert (done.status, done.err) == (0, "")
  assert fakes.calls() == []
  assert sorted(tmp_path.rglob("*")) == before
  known = {
    "bash",
    "cd",
    "mkdir",
    "exec",
    "gcloud",
    "git",
    "kubectl",
    "rm",
    "sbatch",
  }
  known |= {"scancel", "srun", "touch", "xpk"}
  for line in done.out.splitlines():
    if not line.startswith(("#", "export ", "set ")):
      assert shlex.split(line)[0] in known


@pytest.mark.parametrize(
  ("words", "run"),
  [
    (["nulls", "train", "--run", "a b"], "a b"),
    (["nulls", "train", "--run=a b"], "a b"),
    (
      ["bash", "-c", "cd x && exec nulls train --run gs://b/r --seed 1"],
      "gs://b/r",
    ),
    (["nulls", "prepare"], ""),
  ],
)
def test_the_run_whose_checkpoints_are_counted(fakes, words, run):
  out = fakes.run("tpu.sh", "run", *TPU, "--dry-run", "--", *words).out
  command = shlex.split(out)[-1].removeprefix("--command=")
  after = shlex.split(command)
  assert after[after.index("../jobs/train") + 1] == run


def test_hard_words_survive_two_shells(fakes):
  (home,) = fakes.hosts(1)
  (home / "nulls" / "source").mkdir(parents=True)
  shutil.copy(ROOT / "launch" / "restart.sh", home / "nulls")
  # The program only notes its words.
  (home / "nulls" / "venv" / "bin").mkdir(parents=True)
  shutil.copy(fakes.path / "xpk", home / "nulls" / "venv" / "bin" / "nulls")
  assert fakes.run("tpu.sh", "run", *TPU, "--", *HARD).status == 0
  for _ in range(100):
    if fakes.calls("nulls"):
      break
    subprocess.run([fakes.path / "sleep"], check=True)
  assert fakes.calls("nulls") == [list(HARD)]


def test_hard_words_survive_xpk(fakes):
  assert fakes.run("gke.sh", "run", *GKE, "--", *HARD).status == 0
  (call,) = fakes.calls("xpk")
  (command,) = [
    word.removeprefix("--command=")
    for word in call
    if word.startswith("--command=")
  ]
  # XPK puts the words into `bash -c`, in a subshell, as they are.
  command = command.replace("python -m pip", "true")
  shutil.copy(fakes.path / "xpk", fakes.path / "nulls")
  subprocess.run(
    ["bash", "-c", f"({command}) & wait $!"], env=fakes.environment, check=True
  )
  assert fakes.calls("nulls") == [list(HARD)]


def test_the_notice_that_xpk_hands_on_reaches_the_program(fakes):
  fakes.program(
    "nulls",
    "#!/usr/bin/env bash\n"
    "trap 'exit 75' TERM; touch \"$FAKES/ready\"\n"
    "while :; do /bin/sleep 0.02; done\n",
  )
  fakes.run("gke.sh", "run", *GKE, "--", "nulls")
  (call,) = fakes.calls("xpk")
  command = call[-1].removeprefix("--command=").replace("python -m pip", "true")
  # Newer shells do that by themselves; the image's need not.
  assert command.endswith("&& exec nulls")
  # As XPK does it: the command in a subshell, which is told.
  wrapper = (
    f"({command}) & pid=$!; "
    'until [ -e "$FAKES/ready" ]; do /bin/sleep 0.02; done; '
    'kill -TERM "$pid"; wait "$pid"'
  )
  done = subprocess.run(
    ["bash", "-c", wrapper], env=fakes.environment, check=False, timeout=30
  )
  assert done.returncode == 75


def test_what_a_dry_run_prints_is_what_runs(fakes):
  words = ("run", *GKE, "--spot", "--", *HARD)
  printed = fakes.run("gke.sh", "--dry-run", *words).out
  subprocess.run(["bash", "-c", printed], env=fakes.environment, check=True)
  assert fakes.run("gke.sh", *words).status == 0
  by_hand, by_script = fakes.calls("xpk")
  assert by_hand == by_script
