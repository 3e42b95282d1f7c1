"""`launch/local.sh`: real processes, of programs that answer at once."""

import os
import pathlib
import shlex
import signal
import subprocess
import time

import pytest

from nulls_jax.cluster import places

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESTARTED = "restart: status 75: start {} of at most 2 in a row without a new"


def command(*words) -> list[str]:
  return ["bash", str(ROOT / "launch" / "local.sh"), *map(str, words)]


def run(*words, cwd=None) -> tuple[int, str, str]:
  done = subprocess.run(
    command(*words), capture_output=True, text=True, check=False, cwd=cwd
  )
  return done.returncode, done.stdout, done.stderr


def test_a_dry_run_prints_what_each_process_gets(tmp_path):
  program = ("nulls", "train", "--run", "it's a run", "--note=$HOME `id`")
  words = ("3", "--devices", "4", "--port", "20100", "--dry-run", "--")
  status, out, err = run(*words, *program)
  assert (status, err) == (0, "")
  for rank, line in enumerate(out.splitlines()):
    env, *rest = shlex.split(line)
    assert (env, tuple(rest[-len(program) :])) == ("env", program)
    variables = dict(word.split("=", 1) for word in rest[: -len(program)])
    assert places.find(places.ClusterFlags(), variables) == places.Place(
      host="127.0.0.1", port=20100, num_processes=3, process_id=rank
    )
    assert variables["JAX_PLATFORMS"] == "cpu"
    assert variables["JAX_NUM_CPU_DEVICES"] == "4"
  assert rank == 2


def test_lines_bear_the_rank_and_are_kept(tmp_path):
  program = 'echo "here"; echo "  there" >&2; printf "no end"'
  words = ("2", "--logs", tmp_path / "logs", "--", "bash", "-c", program)
  status, out, err = run(*words)
  assert status == 0
  assert sorted(out.splitlines()) == [
    "[0] here",
    "[0] no end",
    "[1] here",
    "[1] no end",
  ]
  assert sorted(err.splitlines()) == ["[0]   there", "[1]   there"]
  for rank in (0, 1):
    kept = (tmp_path / "logs" / f"rank-{rank}").read_text().splitlines()
    assert sorted(kept) == ["  there", "here", "no end"]


@pytest.mark.parametrize(
  ("statuses", "expected"),
  [
    ((0, 0, 0), 0),
    ((75, 2, 75), 2),  # A failure of its own is not started again.
    ((75, 75, 1), 1),
    ((0, 0, 137), 137),
  ],
)
def test_one_status_of_all(statuses, expected):
  program = f"set -- {' '.join(map(str, statuses))}; shift $NULLS_PROCESS_ID"
  words = ("3", "--restarts", 2, "--", "bash", "-c", f"{program}; exit $1")
  status, _, err = run(*words)
  assert status == expected
  assert RESTARTED.format(1) not in err


def test_starts_again_on_75_as_often_as_it_may(tmp_path):
  """One was killed, the other has seen it; then both say 75; then neither."""
  run_dir = tmp_path / "run"
  program = f"""
    starts=$(cat starts-$NULLS_PROCESS_ID 2>/dev/null || echo 0)
    echo $((starts + 1)) >starts-$NULLS_PROCESS_ID
    case $starts-$NULLS_PROCESS_ID in
      0-1) kill -KILL $$ ;;
      4-*) exit 0 ;;
    esac
    case $starts-$NULLS_PROCESS_ID in 2-0) mkdir -p {run_dir}/checkpoints/7 ;;
    esac
    exit 75
  """
  (tmp_path / "program").write_text(program)
  words = ("2", "--restarts", "2", "--", "bash", "program", "--run", run_dir)
  status, _, err = run(*words, cwd=tmp_path)
  # The checkpoint in between lets the count begin anew.
  assert [RESTARTED.format(n) in err for n in (1, 2, 3)] == [True, True, False]
  assert (status, err.count("start ")) == (0, 4), err
  assert (tmp_path / "starts-0").read_text() == "5\n"

  words = ("2", "--restarts", "2", "--", "bash", "-c", "exit 75")
  status, _, err = run(*words)
  assert status == 75
  assert "2 restarts in a row without a new checkpoint" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_signal_has_all_end_and_a_second_one_kills(
  number, stubborn, tmp_path
):
  action = "touch got-$NULLS_PROCESS_ID" + ("" if stubborn else "; exit 75")
  program = (
    f"trap '{action}' TERM; "
    "touch up-$NULLS_PROCESS_ID; while :; do sleep 0.05; done"
  )
  started = subprocess.Popen(
    command("2", "--", "bash", "-c", program), cwd=tmp_path, text=True
  )

  def wait_for(pattern):
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(pattern))) < 2:
      assert time.monotonic() < deadline
      time.sleep(0.02)

  try:
    wait_for("up-*")
    started.send_signal(number)
    wait_for("got-*")
    if stubborn:
      started.send_signal(number)
    assert started.wait(60) == (137 if stubborn else 75)
  finally:
    started.kill()
    started.wait()


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ([], "no number of processes given"),
    (["two", "--", "x"], "number of processes two: not a whole number"),
    (["0", "--", "x"], "0 processes: give at least 1"),
    (["2"], "no program; give it after --"),
    (["2", "nulls"], "'nulls' is one word too many"),
    (["2", "--devices", "0", "--", "x"], "--devices 0: give at least 1"),
    (["2", "--restarts", "-1", "--", "x"], "--restarts -1: not a whole"),
    (["2", "--restarts"], "--restarts needs a value"),
    (["2", "--lgs", "--", "x"], "no flag --lgs"),
    (["2", "--", "A_TOKEN=1"], "a secret in a command line"),
  ],
)
def test_wrong_words_are_refused_in_one_line(words, said):
  status, out, err = run(*words)
  assert (status, out, err.count("\n")) == (2, "", 1)
  assert err.startswith("local.sh: ") and said in err


def test_help_names_every_flag():
  status, out, err = run("--help")
  assert (status, err) == (0, "")
  for flag in ("--devices", "--port", "--logs", "--restarts", "--dry-run"):
    assert f"  {flag} " in out
  assert os.access(ROOT / "launch" / "local.sh", os.R_OK)
