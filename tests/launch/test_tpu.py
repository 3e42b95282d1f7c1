"""The life of a slice, with real processes in the place of its hosts."""

import time

import pytest

NAME = ("my-pod", "--zone", "us-east5-b")
KEEP = ("keep", *NAME, "--type", "v6e-16", "--spot", "--package", "nulls_jax")


def _verbs(fakes):
  """Name gcloud's calls: the verb, or what ran on the hosts."""
  verbs = []
  for call in fakes.calls("gcloud"):
    verb = call[4]
    if verb == "ssh":
      command = next(word for word in call if word.startswith("--command="))
      known = ("pip", "start", "state", "stop")
      verb = next(
        (
          word
          for word in known
          if f"restart.sh {word} " in command or f"-m {word} " in command
        ),
        "tail",
      )
    verbs.append(verb)
  return verbs


def _seen(fakes):
  """The verbs that change something."""
  seen = ("create", "delete", "pip", "start", "stop")
  return [verb for verb in _verbs(fakes) if verb in seen]


def _program(homes, text):
  for home in homes:
    folder = home / "nulls" / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "nulls").write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / "nulls").chmod(0o755)


def _create(fakes, *words):
  return fakes.run("tpu.sh", "create", *NAME, "--type", "v5e-16", *words)


def test_a_slice_that_is_there_is_reused(fakes):
  assert _create(fakes).status == 0
  assert _verbs(fakes) == ["describe", "describe"]


def test_a_slice_that_is_not_there_is_requested_and_waited_for(fakes):
  fakes.states(
    ["NONE", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], ["READY"]
  )
  done = _create(fakes, "--reserved", "--internal-ip", "--project", "p")
  assert done.status == 0
  (call,) = [call for call in fakes.calls("gcloud") if call[4] == "create"]
  assert call[1:] == [
    "compute",
    "tpus",
    "queued-resources",
    "create",
    "my-pod",
    "--zone=us-east5-b",
    "--project=p",
    "--node-id=my-pod",
    "--accelerator-type=v5litepod-16",
    "--runtime-version=v2-alpha-tpuv5-lite",
    "--reserved",
    "--internal-ips",
  ]
  assert "my-pod is WAITING_FOR_RESOURCES" in done.err


@pytest.mark.parametrize(
  ("requests", "machines"),
  [
    (["SUSPENDED", "NONE", "ACTIVE"], ["READY"]),
    (["FAILED", "NONE", "ACTIVE"], ["READY"]),
    (["ACTIVE", "NONE", "ACTIVE"], ["PREEMPTED", "READY"]),
  ],
)
def test_what_is_left_of_a_lost_slice_is_deleted_first(
  fakes, requests, machines
):
  fakes.states(requests, machines)
  assert _create(fakes).status == 0
  assert _seen(fakes) == ["delete", "create"]


def test_nothing_is_deleted_because_the_network_failed(fakes):
  fakes.states(["fault", "ACTIVE", "ACTIVE"], ["fault", "READY"])
  done = _create(fakes)
  assert done.status == 0
  assert "cannot describe my-pod: ERROR: (gcloud) network" in done.err
  assert _seen(fakes) == []


def test_waiting_ends(fakes):
  fakes.states(["WAITING_FOR_RESOURCES"], ["NONE"])
  done = _create(fakes, "--wait-minutes", "1")
  assert done.status == 1
  assert "WAITING_FOR_RESOURCES after 1 minutes" in done.err


def test_run_status_logs_and_stop_are_real_on_every_host(fakes):
  homes = fakes.hosts(2)
  _program(
    homes,
    'echo "step 1 of $3"; trap "exit 75" TERM; '
    "while :; do /bin/sleep 0.02; done",
  )
  install = fakes.run("tpu.sh", "install", *NAME, "--package", "nulls_jax==1")
  assert install.status == 0, install.err
  assert [call[1:3] for call in fakes.calls("python3")] == [
    ["-m", "pip"],
    ["-m", "uv"],
    ["-m", "uv"],
  ] * 2
  run = fakes.run("tpu.sh", "run", *NAME, "--", "nulls", "train", "--run", "r")
  assert run.status == 0, run.err
  assert run.out.splitlines() == [
    f"nulls-job: host-{i} started" for i in (0, 1)
  ]
  status = fakes.run("tpu.sh", "status", *NAME)
  assert status.out.splitlines() == [
    "ACTIVE",
    "nulls-job: host-0 running",
    "nulls-job: host-1 running",
  ]
  # Once more is not twice.
  again = fakes.run(
    "tpu.sh", "run", *NAME, "--", "nulls", "train", "--run", "r"
  )
  assert again.out.count("running already") == 2
  for home in homes:
    log = home / "nulls" / "jobs" / "train" / "log"
    for _ in range(200):
      if log.read_text():
        break
      time.sleep(0.02)
    assert log.read_text() == "step 1 of r\n"
  assert fakes.run("tpu.sh", "stop", *NAME).status == 0
  for _ in range(100):
    status = fakes.run("tpu.sh", "status", *NAME).out
    if status.count("ended 75") == 2:
      break
  assert status.count("ended 75") == 2


def test_exec_waits_and_gives_the_status(fakes):
  homes = fakes.hosts(2)
  _program(homes, 'echo "$@"; case $HOME in *-1) exit 1 ;; esac')
  for home in homes:
    (home / "nulls" / "source").mkdir()
  done = fakes.run("tpu.sh", "exec", *NAME, "--", "nulls", "doctor", "a  b")
  assert done.status == 1
  assert done.out == "doctor a  b\n" * 2


def test_keep_goes_on_after_a_preemption(fakes):
  homes = fakes.hosts(2)
  # Ends by itself only on the second slice.
  _program(homes, 'test -e "$FAKES/second" || exec /bin/sleep 3')
  gcloud = fakes.path / "gcloud"
  gcloud.write_text(
    gcloud.read_text().replace(
      "resources delete'*)", 'resources delete\'*) touch "$FAKES/second"'
    )
  )
  # The checkout is packed once: its code does not change on the way.
  fakes.program(
    "git",
    (fakes.path / "xpk").read_text()
    + 'for word; do case $word in --output=*) tar -czf "${word#*=}" '
    "-T /dev/null ;; esac; done\n",
  )
  fakes.states(
    ["NONE", *["ACTIVE"] * 4, "NONE", "ACTIVE"],
    ["READY", "READY", "PREEMPTED", "PREEMPTED", "READY"],
  )
  done = fakes.run("tpu.sh", *KEEP[:-2], "--", "nulls", "train")
  assert done.status == 0, done.err
  assert len(fakes.calls("git")) == 1
  assert "start 1 of at most 10" in done.err
  once = ["create", "pip", "start"]
  assert _seen(fakes) == [*once, "delete", *once], done.err


def test_keep_gives_up_without_progress(fakes):
  fakes.hosts(1)
  _program([fakes.folder / "host-0"], "kill -KILL $PPID")
  done = fakes.run("tpu.sh", *KEEP, "--max-restarts", "2", "--", "nulls", "x")
  assert done.status == 1
  assert "was lost 3 times in a row without a new checkpoint" in done.err
  assert _seen(fakes).count("start") == 3


def test_keep_ends_with_a_failure_and_stops_the_others(fakes):
  homes = fakes.hosts(2)
  _program(
    homes,
    'case $HOME in *-1) exit 2 ;; esac; trap "exit 75" TERM; '
    "while :; do /bin/sleep 0.02; done",
  )
  done = fakes.run("tpu.sh", *KEEP, "--", "nulls", "train")
  assert done.status == 1
  assert "nulls-job: host-1 ended 2" in done.err
  assert _seen(fakes)[-1] == "stop"


def test_delete_asks_unless_told_otherwise(fakes):
  assert fakes.run("tpu.sh", "delete", *NAME).status == 0
  assert fakes.run("tpu.sh", "delete", *NAME, "--yes").status == 0
  asks, told = fakes.calls("gcloud")
  assert asks[-1] == "--force" and told[-1] == "--quiet"


def test_a_program_that_is_missing_is_named(fakes):
  # Of the machine's own programs only these are seen.
  (fakes.path / "gcloud").unlink()
  for name in ("bash", "dirname", "sed"):
    (fakes.path / name).symlink_to(f"/usr/bin/{name}")
  done = fakes.run("tpu.sh", "stop", *NAME, PATH=str(fakes.path))
  assert done.status == 1
  assert done.err == (
    "tpu.sh: gcloud is not installed; install the Google Cloud CLI\n"
  )
