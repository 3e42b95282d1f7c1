"""`nulls doctor` on one process, and on two that are real."""

import dataclasses
import json
import os
import shutil
import socket
import sys
import time
import types

import pytest
from etils.epath import gpath

from nulls_jax import config as run_config

NO_DEVICES = "--no-devices"


@pytest.fixture
def doctor(nulls, dataset, flags, tmp_path):
  """Run the command in this process; the run is at tmp_path/run."""

  def run(*words, data=None, run_dir=None):
    return nulls(
      "doctor",
      f"--data={data or dataset}",
      f"--run={run_dir or tmp_path / 'run'}",
      *flags,
      *words,
    )

  return run


def _failures(err):
  """The lines of what is wrong, without the last, which counts them."""
  lines = err.splitlines()
  assert all(line.startswith("nulls: ") for line in lines), err
  assert "to mend before training" in lines[-1]
  return [line.removeprefix("nulls: ") for line in lines[:-1]]


def test_two_hosts_that_are_well_agree_and_leave_nothing(hosts):
  done = hosts.end(hosts.start(0, "--json"), hosts.start(1))
  assert [one.status for one in done] == [0, 0], done
  # The second says nothing: sixty-four of them would.
  assert (done[1].out, done[1].err) == ("", "")
  report = json.loads(done[0].out)
  assert report["ok"] and report["hosts"] == 2
  assert [check["name"] for check in report["checks"]] == [
    "hosts",
    "versions",
    "settings",
    "data",
    "run path",
    "clocks",
    "devices",
    "mesh and batch",
    "space",
  ]
  assert {check["result"] for check in report["checks"]} == {"ok"}
  assert report["devices"]["1"]["devices"] == {
    "platform": "cpu",
    "kind": "cpu",
    "local": 4,
    "total": 8,
    "processes": 2,
  }
  assert report["devices"]["0"]["checkpoint_bytes"] > 100_000
  # Nothing is in the way of `nulls train --run`.
  assert list(hosts.run_dir.parent.iterdir()) == []


def test_a_host_that_is_missing_is_named_within_the_limit(hosts):
  (done,) = hosts.end(hosts.start(0, "--limit-seconds=1", count=3))
  assert done.status == 1
  first, second = _failures(done.err)
  assert first.startswith("hosts: host 1: did not answer within 1 s; start")
  assert second.startswith("hosts: host 2: did not answer within 1 s; start")
  # Starting devices would wait for it.
  assert "first mend hosts" in done.out
  assert list(hosts.run_dir.parent.iterdir()) == []


def test_other_versions_settings_and_data_are_named(hosts, tmp_path):
  # What is installed is found in the order of the path.
  other = tmp_path / "other" / "flax-0.0.1.dist-info"
  other.mkdir(parents=True)
  (other / "METADATA").write_text("Name: flax\nVersion: 0.0.1\n")
  data = tmp_path / "copy"
  shutil.copytree(hosts.data, data)
  with (data / "manifest.json").open("a") as file:
    file.write("\n")
  python_path = f"{other.parent}:{os.environ.get('PYTHONPATH', '')}"
  done = hosts.end(
    hosts.start(0),
    hosts.start(1, "--training.seed=7", data=data, PYTHONPATH=python_path),
  )
  assert [one.status for one in done] == [1, 1]
  for one in done:
    lines = _failures(one.err)
    assert len(lines) == 3 and all("host 1 (" in line for line in lines)
    assert "versions: " in lines[0] and "flax 0.0.1, the others" in lines[0]
    assert "settings: " in lines[1] and "training.seed: 0 -> 7" in lines[1]
    assert f"{data} is another dataset" in lines[2]
  # Joining hosts of other versions would fail in other words.
  assert "first mend versions, settings" in done[0].out


def test_a_path_that_one_host_cannot_write_is_named_by_both(hosts, tmp_path):
  (tmp_path / "file").touch()
  done = hosts.end(
    hosts.start(0, NO_DEVICES, "--limit-seconds=2"),
    hosts.start(1, NO_DEVICES, run_dir=tmp_path / "file" / "run"),
  )
  assert [one.status for one in done] == [1, 1]
  (first,) = _failures(done[0].err)
  assert first.startswith("hosts: host 1: did not answer within 2 s")
  (second,) = _failures(done[1].err)
  assert second.startswith("run path: host 1 (")
  assert f"{tmp_path}/file" in second and "cannot be written" in second


@pytest.fixture
def look_here(monkeypatch):
  """Look at devices in this process; the first test starts real ones."""
  from nulls_jax.doctor import devices

  monkeypatch.setattr(
    devices, "look", lambda asked, limit_seconds: devices.answer(asked)
  )


@pytest.mark.usefixtures("look_here")
def test_one_process_needs_no_other(doctor):
  status, out, err = doctor()
  assert (status, err) == (0, "")
  assert "1 of 1 answered" in out
  assert "8 of cpu, 8 a host" in out
  assert "data 8 x fsdp 1 x tensor 1, batch 8" in out


@pytest.mark.usefixtures("look_here")
@pytest.mark.parametrize(
  ("words", "said"),
  [
    (("--mesh.fsdp=3",), "mesh and batch: mesh: data=-1 x fsdp=3 x tensor=1"),
    (("--training.batch-size=6",), "gives 6 rows, which data x fsdp = 8"),
    (("--data.tile=32",), "data.tile is 32 in the config and 64 in the"),
    (("--topology=v6e-8",), "kind of device: cpu, and v6e-8 has TPU v6 lite"),
  ],
)
def test_devices_that_do_not_fit_are_found(doctor, words, said):
  status, _, err = doctor(*words)
  assert status == 1
  assert any(said in line for line in _failures(err)), err


@pytest.mark.usefixtures("look_here")
def test_a_run_of_another_config_is_found(doctor, tmp_path):
  old = run_config.RunConfig()
  old = dataclasses.replace(
    old, training=dataclasses.replace(old.training, seed=9)
  )
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text(
    json.dumps(run_config.to_dict(old))
  )
  status, _, err = doctor()
  assert status == 1
  (line,) = _failures(err)
  assert "this run was started with another config" in line
  assert "training.seed: 9 -> 0" in line


def test_what_is_wrong_with_the_data_is_said(doctor, dataset, tmp_path):
  status, _, err = doctor(NO_DEVICES, data=tmp_path / "none")
  assert status == 1
  (line,) = _failures(err)
  assert line.startswith("data: host 0 (") and "is no prepared dataset" in line
  data = tmp_path / "copy"
  shutil.copytree(dataset, data)
  rows = next(data.glob("rows-*"))
  rows.write_bytes(rows.read_bytes()[:-1])
  status, _, err = doctor(NO_DEVICES, data=data)
  assert status == 1 and "is damaged" in err


def test_a_bucket_without_its_library_is_one_line(doctor, monkeypatch):
  # None in this place is how Python is told that a module is not there.
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  status, _, err = doctor(NO_DEVICES, run_dir="gs://bucket/run")
  assert status == 1
  (line,) = _failures(err)
  assert "gs://bucket/run: cannot be written" in line
  assert "extra [gcs]" in line


class NotLoggedIn(Exception):
  """As the libraries of stores have them: neither an `OSError` nor ours."""


@pytest.fixture
def store(monkeypatch):
  """Return a function that has each access to gs:// do what it is given."""
  module = types.SimpleNamespace(GoogleAuthError=NotLoggedIn)
  monkeypatch.setitem(sys.modules, "google.auth.exceptions", module)

  def behave(access):
    backend = types.SimpleNamespace(exists=access, makedirs=access)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", backend)

  return behave


def test_a_bucket_without_a_login_is_one_line(
  doctor, dataset, flags, refused, store
):
  def refuse(*_, **__):
    raise NotLoggedIn("no credentials;\nsee a page")

  store(refuse)
  status, out, err = doctor(NO_DEVICES, run_dir="gs://bucket/run")
  assert status == 1
  (line,) = _failures(err)
  assert line.startswith(f"run path: host 0 ({socket.gethostname()}): gs://bu")
  assert "gs://bucket/run: cannot be reached (no credentials; see a" in line
  assert "log in on this host" in line
  # The other hosts would be asked through the same bucket.
  assert "no way to the other hosts" in out
  words = ("--data", dataset, "--run", "gs://bucket/run")
  line = refused("train", *words, *flags, status=1)
  assert "gs://bucket/run cannot be reached (no credentials; see a" in line


def test_a_bucket_that_does_not_answer_is_given_up(doctor, store):
  store(lambda *_, **__: time.sleep(30))
  words = (NO_DEVICES, "--limit-seconds=0.5")
  status, _, err = doctor(*words, run_dir="gs://bucket/run")
  assert status == 1
  (line,) = _failures(err)
  assert "gs://bucket/run: did not answer within 0.5 s; see whether" in line


def test_devices_that_do_not_come_up_are_given_up(doctor):
  status, out, err = doctor("--limit-seconds=0.5")
  assert status == 1
  (line,) = _failures(err)
  assert "its devices did not come up within 0.5 s" in line
  assert "FAILED" in out


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "1e9"])
def test_a_limit_that_is_none_is_refused(dataset, tmp_path, refused, limit):
  assert "--limit-seconds" in refused(
    "doctor",
    f"--data={dataset}",
    f"--run={tmp_path}/run",
    f"--limit-seconds={limit}",
  )


def test_a_topology_that_is_none_is_refused(dataset, tmp_path, refused):
  assert "no TPU topology 'v6e-7'" in refused(
    "doctor", f"--data={dataset}", f"--run={tmp_path}/run", "--topology=v6e-7"
  )
