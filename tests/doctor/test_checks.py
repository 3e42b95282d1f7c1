"""Checks on made-up facts: who is named, with which words."""

import copy

import pytest

from nulls_jax import config as run_config
from nulls_jax.doctor import checks, facts


def _host(name="a", **changes):
  one = {
    "name": name,
    "versions": {
      "python": "3.12.1",
      "jax": "0.10.2",
      "libtpu": None,
      "nulls_jax": "0.1.0",
      "commit": "c",
    },
    "config": {"mesh": {"fsdp": 1}, "training": {"seed": 0}},
    "config_sha256": "c" * 64,
    "data": {"path": "/data", "sha256": "d" * 64, "problem": None},
    "run": {"path": "/run", "problem": None, "free_bytes": 100 * 2**30},
    "there": {"sent": 10.0, "seen": 10.1},
    "timing": {"sent": 11.0, "seen": 11.1},
  }
  return {**one, **changes}


def _with(one, path, value):
  """Return a copy with one value changed."""
  one = copy.deepcopy(one)
  *folders, last = path.split(".")
  place = one
  for folder in folders:
    place = place[folder]
  place[last] = value
  return one


THREE = {0: _host("a"), 1: _host("b"), 2: _host("c")}


def test_equal_hosts_pass_all():
  for check in (
    checks.versions,
    checks.settings,
    checks.data,
    checks.run_path,
    checks.clocks,
  ):
    assert check(THREE).findings == (), check
    assert check(THREE).result == "ok"


@pytest.mark.parametrize(
  ("check", "path", "value", "said"),
  [
    (checks.versions, "versions.jax", "0.9.0", "jax 0.9.0, the others have 0."),
    (checks.versions, "versions.jax", None, "jax not installed, the others"),
    (checks.versions, "versions.libtpu", "1", "libtpu 1, the others have none"),
    (checks.versions, "versions.commit", "e", "commit e, the others have c"),
    (checks.data, "data.sha256", "e" * 64, "/data is another dataset"),
    (checks.data, "data.problem", "/x: gone", "/x: gone"),
    (checks.run_path, "run.problem", "/y: no", "/y: no"),
    (checks.clocks, "there.seen", 40.0, None),
  ],
)
@pytest.mark.parametrize("index", [0, 2])
def test_the_host_that_differs_is_named(check, path, value, said, index):
  known = {**THREE, index: _with(THREE[index], path, value)}
  findings = check(known).findings
  if said is None:  # A message that was long under way says nothing.
    assert findings == ()
    return
  (line,) = findings
  assert line.startswith(f"host {index} ({THREE[index]['name']}): ")
  assert said in line


def test_of_two_that_differ_the_second_is_named():
  known = {0: THREE[0], 1: _with(THREE[1], "versions.jax", "0.9.0")}
  assert checks.versions(known).findings[0].startswith("host 1 (b)")


def test_settings_name_the_fields():
  other = _with(THREE[1], "config.mesh.fsdp", 4)
  known = {**THREE, 1: {**other, "config_sha256": "e" * 64}}
  (line,) = checks.settings(known).findings
  assert line.startswith("host 1 (b): ") and "mesh.fsdp: 1 -> 4" in line


@pytest.mark.parametrize(
  ("ahead", "said"),
  [(6.0, "5.9 s ahead of host 0's"), (-60.0, "59.9 s behind host 0's")],
)
def test_a_wrong_clock_is_named(ahead, said):
  wrong = {
    **THREE[1],
    "there": {"sent": 10.0, "seen": 10.1 + ahead},
    "timing": {"sent": 11.0 + ahead, "seen": 11.1},
  }
  (line,) = checks.clocks({**THREE, 1: wrong}).findings
  assert line.startswith("host 1 (b): ") and said in line


@pytest.mark.parametrize("ahead", [-4.9, 0.0, 4.9])
def test_a_clock_within_bounds_passes(ahead):
  other = {
    **THREE[1],
    "there": {"sent": 10.0, "seen": 12.0 + ahead},
    "timing": {"sent": 11.0 + ahead, "seen": 13.0},
  }
  assert checks.clocks({**THREE, 1: other}).findings == ()


def test_space_names_the_host_and_the_need():
  known = {**THREE, 2: _with(THREE[2], "run.free_bytes", 2**30)}
  check = checks.space(known, 2**29, kept=3)
  (line,) = check.findings
  assert line.startswith("host 2 (c): 1.0 GiB free at /run, and 3 checkpoints")
  assert "need 1.5 GiB" in line
  assert checks.space(known, 2**28, kept=3).findings == ()
  bucket = {0: _with(THREE[0], "run.free_bytes", None)}
  assert checks.space(bucket, 2**60, kept=3).findings == ()


def _seen(**changes):
  one = {
    "platform": "tpu",
    "kind": "TPU v6 lite",
    "local": 4,
    "total": 12,
    "processes": 3,
  }
  return {"problem": None, "devices": {**one, **changes}}


def test_equal_devices_pass():
  found = {index: _seen() for index in THREE}
  expected = {"name": "v6e-12", "total": 12, "kind": "TPU v6 lite"}
  assert checks.devices(found, THREE, expected).findings == ()


@pytest.mark.parametrize(
  ("one", "said"),
  [
    (_seen(local=3), "host 1 (b): devices of its own 3, the others have 4"),
    (_seen(platform="cpu"), "host 1 (b): platform cpu, the others have tpu"),
    ({"problem": "it crashed"}, "host 1 (b): it crashed"),
  ],
)
def test_a_host_with_other_devices_is_named(one, said):
  found = {0: _seen(), 1: one, 2: _seen()}
  (line,) = checks.devices(found, THREE, None).findings
  assert said in line


def test_devices_of_too_few_processes_or_another_slice_are_found():
  found = {index: _seen(processes=1, total=4) for index in THREE}
  expected = {"name": "v6e-12", "total": 12, "kind": "TPU v6 lite"}
  first, second = checks.devices(found, THREE, expected).findings
  assert "JAX joined 1 processes, and 3 hosts answered" in first
  assert "devices in all: 4, and v6e-12 has 12" in second


def test_what_all_say_of_the_layout_is_said_once():
  found = {index: {"layout_problem": "mesh: no"} for index in THREE}
  assert checks.layout(found, THREE).findings == ("mesh: no",)
  found[1] = {"layout_problem": "config.json: damaged"}
  lines = checks.layout(found, THREE).findings
  assert "host 1 (b): config.json: damaged" in lines


def test_a_probe_leaves_nothing_and_needs_a_folder(tmp_path):
  facts.write_probe(tmp_path / "runs" / "run")
  assert list((tmp_path / "runs").iterdir()) == []
  (tmp_path / "runs" / "run").mkdir()
  facts.write_probe(tmp_path / "runs" / "run")
  assert list((tmp_path / "runs" / "run").iterdir()) == []
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match="file"):
    facts.write_probe(tmp_path / "file" / "run")


def test_a_host_says_what_it_cannot_write_and_read(tmp_path):
  (tmp_path / "file").touch()
  run_dir = tmp_path / "file" / "run"
  found = facts.collect(
    run_config.RunConfig(), tmp_path / "none", run_dir, 60.0
  )
  assert f"{tmp_path}/file" in found["run"]["problem"]
  assert "is no prepared dataset" in found["data"]["problem"]
  assert found["run"]["free_bytes"] > 0


def test_versions_name_what_is_installed():
  found = facts.versions()
  assert found["jax"] and found["python"] and found["nulls_jax"]
  assert set(facts.PACKAGES) < set(found)
