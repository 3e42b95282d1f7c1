"""Real bash, and stand-ins for the programs of a cloud.

The stand-ins note how they were called; that of gcloud runs what is sent to
the hosts of a slice in a folder each, so that starting, watching and stopping
are real processes. Nothing outside of the test's folder is reached: the
stand-ins come first on PATH, and the tests fail if one is missing.
"""

import contextlib
import dataclasses
import os
import pathlib
import subprocess

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

_RECORD = """#!/usr/bin/env bash
printf '%s\\x1f' "${0##*/}" "$@" >>"$FAKES/calls"
printf '\\x1e' >>"$FAKES/calls"
"""

_GCLOUD = (
  _RECORD
  + r"""
next() { # line of a file, the last one again and again
  head -n 1 "$FAKES/$1"
  if [ "$(wc -l <"$FAKES/$1")" -gt 1 ]; then sed -i 1d "$FAKES/$1"; fi
}
answer() { # file of states; "fault" is a failure of the network
  local now
  now=$(next "$1")
  case $now in
    NONE) echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2; exit 1 ;;
    fault) echo "ERROR: (gcloud) network is unreachable" >&2; exit 1 ;;
  esac
  echo "$now"
}
case "$*" in
  *'queued-resources describe'*) answer requests ;;
  *'queued-resources delete'*) ;;
  *'queued-resources create'*) rm -rf "$FAKES"/host-*/nulls/jobs ;;
  *'tpu-vm describe'*) answer machines ;;
  *'tpu-vm scp'*)
    for word in "$@"; do
      if [ -f "$word" ]; then
        for host in "$FAKES"/host-*; do cp "$word" "$host/"; done
      fi
    done
    ;;
  *'tpu-vm ssh'*)
    for word in "$@"; do
      case $word in --command=*) command=${word#--command=} ;; esac
    done
    status=0
    for host in "$FAKES"/host-*; do
      (cd "$host" && HOME=$host PATH="$host/bin:$PATH" bash -c "$command") ||
        status=$?
    done
    exit "$status"
    ;;
esac
"""
)

_SLEEP = """#!/usr/bin/env bash
exec /bin/sleep 0.05
"""


@dataclasses.dataclass(frozen=True)
class Done:
  """What a script did: exit status, stdout, stderr."""

  status: int
  out: str
  err: str


class Fakes:
  """A folder of stand-ins, and how they were called."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.path = folder / "bin"
    self.path.mkdir(parents=True)
    for name in ("xpk", "kubectl", "sbatch", "scancel", "squeue", "sacct"):
      self.program(name, _RECORD)
    self.program("scontrol", _RECORD)
    self.program("gcloud", _GCLOUD)
    self.program("sleep", _SLEEP)
    self.environment = {
      "PATH": f"{self.path}:{os.environ['PATH']}",
      "HOME": str(folder),
      "FAKES": str(folder),
      "LC_ALL": "C.UTF-8",
    }
    self.states(["ACTIVE"], ["READY"])

  def program(self, name: str, text: str) -> None:
    (self.path / name).write_text(text)
    (self.path / name).chmod(0o755)

  def states(self, requests, machines) -> None:
    """Set what gcloud says of the slice, one after the other."""
    (self.folder / "requests").write_text("\n".join(requests) + "\n")
    (self.folder / "machines").write_text("\n".join(machines) + "\n")

  def hosts(self, count: int) -> list[pathlib.Path]:
    """Make the homes of a slice's hosts; nothing is ever installed there."""
    homes = [self.folder / f"host-{index}" for index in range(count)]
    for index, home in enumerate(homes):
      (home / "bin").mkdir(parents=True)
      for name, text in (
        ("uname", f"#!/bin/sh\necho host-{index}\n"),
        ("python3", _RECORD),
      ):
        (home / "bin" / name).write_text(text)
        (home / "bin" / name).chmod(0o755)
    return homes

  def calls(self, name: str | None = None) -> list[list[str]]:
    """Return the words of every call, in order; of one program."""
    path = self.folder / "calls"
    text = path.read_text() if path.exists() else ""
    calls = [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]
    return [call for call in calls if name in (None, call[0])]

  def run(self, script: str, *words, cwd=ROOT, timeout=60, **extra) -> Done:
    """Run a script of launch/ to its end."""
    done = subprocess.run(
      ["bash", str(ROOT / "launch" / script), *map(str, words)],
      cwd=cwd,
      env={**self.environment, **extra},
      capture_output=True,
      text=True,
      check=False,
      timeout=timeout,
      stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def fakes(tmp_path):
  """Stand-ins for the programs of a cloud; what they started is ended."""
  yield Fakes(tmp_path / "fakes")
  for path in tmp_path.rglob("pid"):
    with contextlib.suppress(psutil.Error, ValueError):
      loop = psutil.Process(int(path.read_text()))
      if any(word.endswith("restart.sh") for word in loop.cmdline()):
        for process in (*loop.children(recursive=True), loop):
          process.kill()
