"""A small dataset, and hosts that are real processes on this machine."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def flags(model_flags):
  """Of a tiny model that fits the dataset."""
  return (*model_flags, "--data.row-length=256")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
  """A prepared dataset of six sources."""
  from nulls_jax import cli

  root = tmp_path_factory.mktemp("doctor")
  documents = root / "documents.jsonl"
  words = "a host that is well says so and a host that is not is named"
  documents.write_text(
    "".join(
      json.dumps({"source": f"s{number}", "text": f"{words} {number}"}) + "\n"
      for number in range(6)
    )
  )
  layout = ("--data.row-length=256", "--data.tile=64", "--data.vocab-size=300")
  words = ("prepare", "--documents", documents, "--out", root / "data", *layout)
  assert cli.main([str(word) for word in words]) == 0
  return root / "data"


@dataclasses.dataclass(frozen=True)
class Done:
  """What a host said: exit status, stdout, stderr."""

  status: int
  out: str
  err: str


class Hosts:
  """Processes that examine each other."""

  def __init__(self, data, run_dir, port, flags):
    self.data = data
    self.run_dir = run_dir
    self._port = port
    self._flags = flags

  def start(self, index, *words, count=2, data=None, run_dir=None, **variables):
    """Start one host; returns the process."""
    words = (
      f"--data={data or self.data}",
      f"--run={run_dir or self.run_dir}",
      "--limit-seconds=100",
      *self._flags,
      *words,
    )
    environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "4",
      "NULLS_COORDINATOR": f"127.0.0.1:{self._port}",
      "NULLS_NUM_PROCESSES": str(count),
      "NULLS_PROCESS_ID": str(index),
      **variables,
    }
    return subprocess.Popen(
      [sys.executable, "-m", "nulls_jax.cli", "doctor", *words],
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def end(self, *processes) -> list[Done]:
    """Wait for hosts, for a limited time; none is left behind."""
    try:
      said = [process.communicate(timeout=240) for process in processes]
    finally:
      for process in processes:
        process.kill()
    return [
      Done(process.returncode, *texts)
      for process, texts in zip(processes, said, strict=True)
    ]


@pytest.fixture
def hosts(dataset, tmp_path, free_port, flags):
  return Hosts(dataset, tmp_path / "runs" / "run", free_port, flags)


@pytest.fixture
def free_port():
  """A port that was free a moment ago, and the next one, too."""
  for _ in range(100):
    with socket.socket() as first, socket.socket() as second:
      first.bind(("127.0.0.1", 0))
      port = first.getsockname()[1]
      try:
        second.bind(("127.0.0.1", port + 1))
      except OSError:
        continue
      return port
  raise AssertionError("no two free ports")
