"""Real processes that train one run, and what they share.

The runs of this folder are one chain, trained once a session: two processes
from the start until one of them is told to end; and copies of what they saved,
taken up by one process and by four.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import socket
import subprocess
import sys
import time

import pytest

from nulls_jax import cli

PATIENCE_SECONDS = 600


@pytest.fixture(scope="session")
def data(tmp_path_factory):
  """Twenty people, prepared in rows of 128 tokens."""
  root = tmp_path_factory.mktemp("corpus")
  layout = ("--data.row-length=128", "--data.tile=64", "--data.vocab-size=600")
  for words in (
    ("encyclopedia", "--out", root, "--sources=20", "--held-out=2"),
    ("prepare", "--documents", root / "documents.jsonl", *layout),
  ):
    out = ("--out", root / "prepared") if words[0] == "prepare" else ()
    assert cli.main([str(word) for word in (*words, *out)]) == 0
  return root / "prepared"


@pytest.fixture
def free_port() -> int:
  """Return a port that is free, and the next one too."""
  return find_free_port()


def find_free_port() -> int:
  while True:
    port = random.randrange(20000, 32000)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
      for number in (port, port + 1):
        stack.enter_context(socket.create_server(("127.0.0.1", number)))
      return port


@dataclasses.dataclass(frozen=True)
class Processes:
  """The ranks of one run.

  Attributes:
    ranks: their processes.
    folder: holds `out-R` and `err-R` of each.
  """

  ranks: list[subprocess.Popen]
  folder: pathlib.Path

  def wait(self) -> list[int]:
    """Return the statuses of all when they have ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    return [
      rank.wait(max(1, deadline - time.monotonic())) for rank in self.ranks
    ]

  def wait_for_line(self, path: pathlib.Path, count: int) -> None:
    """Return once a file has so many lines; all are alive."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not path.exists() or len(path.read_text().splitlines()) < count:
      assert all(rank.poll() is None for rank in self.ranks), self.said()
      assert time.monotonic() < deadline, self.said()
      time.sleep(0.02)

  def out(self, rank: int) -> str:
    return (self.folder / f"out-{rank}").read_text()

  def err(self, rank: int) -> str:
    return (self.folder / f"err-{rank}").read_text()

  def line(self, rank: int) -> str:
    """Return the one line of a failure."""
    found = [
      line for line in self.err(rank).splitlines() if line[:5] != "step "
    ]
    assert len(found) == 1, self.said()
    assert found[0].startswith("nulls: ")
    return found[0]

  def said(self) -> str:
    return "\n".join(
      f"rank {rank}: {self.out(rank)}{self.err(rank)}"
      for rank in range(len(self.ranks))
    )


@pytest.fixture
def start(start_once):
  """Return `start_once` for one test."""
  with contextlib.ExitStack() as stack:
    yield lambda *arguments, **more: stack.enter_context(
      start_once(*arguments, **more)
    )


@pytest.fixture(scope="session")
def start_once(tmp_path_factory, compiled):
  """Return a context manager that starts `nulls train` as several processes.

  Its arguments: devices of each process; for each process its flags, besides
  those that say where it is.
  """

  @contextlib.contextmanager
  def run(devices, commands, *, ranks=None, join_seconds=300, before=()):
    folder = tmp_path_factory.mktemp("processes")
    address = f"127.0.0.1:{find_free_port()}"
    started = []
    for rank, flags in enumerate(commands):
      environment = {
        **os.environ,
        **compiled,
        "NULLS_COORDINATOR": address,
        "NULLS_NUM_PROCESSES": str(ranks or len(commands)),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "NPROC": "64",
        # What is compiled runs for some steps only.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      }
      with (
        (folder / f"out-{rank}").open("w") as out,
        (folder / f"err-{rank}").open("w") as err,
      ):
        started.append(
          subprocess.Popen(
            [
              *(before if rank else ()),
              *(sys.executable, "-m", "nulls_jax.cli", "train"),
              f"--cluster.process-id={rank}",
              f"--cluster.join-seconds={join_seconds}",
              *map(str, flags),
            ],
            env=environment,
            stdout=out,
            stderr=err,
          )
        )
    processes = Processes(started, folder)
    try:
      yield processes
    finally:
      for one in started:
        one.kill()
        one.wait()

  return run
