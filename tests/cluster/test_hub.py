"""The star of connections: who came, who failed, who fell silent."""

import contextlib
import json
import socket
import time

import pytest

from nulls_jax import cli, errors
from nulls_jax.cluster import hub, places


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(hub, "BEAT_SECONDS", 0.05)


@pytest.fixture
def star(free_port):
  """Return a function that opens a hub and connects some of its processes."""
  with contextlib.ExitStack() as stack:

    def connect(count, ranks, join_seconds=30.0, silent_seconds=0.5):
      place = places.Place(
        host="127.0.0.1",
        port=free_port,
        num_processes=count,
        process_id=0,
        join_seconds=join_seconds,
        silent_seconds=silent_seconds,
      )
      center = hub.Hub(place)
      stack.callback(center.close)
      return place, [stack.enter_context(_joined(place, r)) for r in ranks]

    yield connect


@contextlib.contextmanager
def _joined(place, rank):
  inbox = hub.Inbox()
  own = places.dataclasses.replace(place, process_id=rank)
  line = hub.connect(own, inbox)
  yield line, inbox
  line.close()


def take(inbox, key):
  """Return the next message, which has the key."""
  name, message = inbox.get(timeout=10)
  assert name == "hub" and key in message, message
  return message[key]


def test_all_are_welcomed_when_the_last_has_come(star):
  _, members = star(3, [2, 0, 1])
  (port,) = {take(inbox, "welcome")["port"] for _, inbox in members}
  assert port > 0


def test_a_meeting_gathers_what_each_brings_by_rank(star):
  _, members = star(2, [1, 0])
  for line, inbox in members:
    take(inbox, "welcome")
    line.send({"meet": "here", "facts": {"line": id(line)}})
  expected = [{"line": id(line)} for line, _ in reversed(members)]
  for _, inbox in members:
    assert take(inbox, "facts") == expected
  # A name may be used again.
  for line, _ in members:
    line.send({"meet": "here", "facts": None})
  for _, inbox in members:
    assert take(inbox, "facts") == [None, None]


def test_those_that_never_came_are_named(star):
  _, members = star(4, [0, 2], join_seconds=0.3)
  for _, inbox in members:
    stop = take(inbox, "stop")
    assert (stop["status"], stop["rank"]) == (1, None)
    assert stop["line"].startswith(
      "processes 1, 3 of 4 did not answer within 0 s; see whether the same "
      "command runs there and reaches process 0 at 127.0.0.1:"
    )


def test_a_process_that_fails_stops_all_and_the_first_reason_counts(star):
  _, members = star(3, [0, 1, 2])
  for _, inbox in members:
    take(inbox, "welcome")
  for rank in (1, 2):
    members[rank][0].send({"fail": {"status": 2, "line": f"by {rank}"}})
    if rank == 1:
      for _, inbox in members:
        stop = take(inbox, "stop")
        assert stop == {"rank": 1, "status": 2, "line": "by 1"}
  assert members[0][1].empty()


@pytest.mark.parametrize(
  "how", ["ended the connection", "was silent for 0.5 s"]
)
def test_a_process_that_is_lost_is_named(star, how):
  _, members = star(3, [0, 1, 2])
  for _, inbox in members:
    take(inbox, "welcome")
  if "ended" in how:
    members[1][0].close()
  deadline = time.monotonic() + 10
  while members[0][1].empty() and time.monotonic() < deadline:
    for rank in (0, 2):  # Rank 1 alone says nothing.
      members[rank][0].send({})
    time.sleep(0.05)
  for rank in (0, 2):
    stop = take(members[rank][1], "stop")
    assert stop == {"rank": 1, "status": 75, "lost": f"its host {how}"}


def test_a_pod_of_many_hosts_meets_and_hears_of_a_lost_one(star):
  count = 256
  ranks = [(rank * 77) % count for rank in range(count)]
  _, members = star(count, ranks, silent_seconds=60)
  for rank, (line, inbox) in zip(ranks, members, strict=True):
    take(inbox, "welcome")
    line.send({"meet": "here", "facts": rank})
  for _, inbox in members:
    assert take(inbox, "facts") == list(range(count))
  members[100][0].close()
  for rank, (_, inbox) in zip(ranks, members, strict=True):
    if rank != ranks[100]:
      stop = take(inbox, "stop")
      assert (stop["rank"], stop["status"]) == (ranks[100], 75)


def test_those_that_leave_are_not_lost(star):
  _, members = star(2, [0, 1])
  for line, inbox in members:
    take(inbox, "welcome")
    line.send({"leave": 0})
    line.close()
  assert members[0][1].get(timeout=10) == ("hub", None)


@pytest.mark.parametrize(
  ("said", "line"),
  [
    ({"num_processes": 5}, "it was started with {'num_processes': 5, 'version"),
    ({"version": "0"}, "and process 0 with {'num_processes': 2, 'version': "),
    ({"rank": 0}, "there are two processes with the number 0"),
  ],
)
def test_processes_that_do_not_fit_are_refused(star, said, line):
  place, members = star(2, [0])
  hello = {"rank": 1, "num_processes": 2, "version": hub.__version__, **said}
  with socket.create_connection((place.host, place.port)) as connection:
    connection.sendall(json.dumps(hello).encode() + b"\n")
    answer = json.loads(connection.makefile().readline())
  stop = take(members[0][1], "stop")
  assert answer == {"stop": stop}
  assert (stop["rank"], stop["status"]) == (hello["rank"], 2)
  assert line in stop["line"]


def test_process_0_hears_of_a_refusal_before_it_came(star):
  place, _ = star(2, [])
  hello = {"rank": 1, "num_processes": 5, "version": hub.__version__}
  with socket.create_connection((place.host, place.port)) as connection:
    connection.sendall(json.dumps(hello).encode() + b"\n")
    answer = json.loads(connection.makefile().readline())
  time.sleep(0.1)  # The hub goes around once more, and must not end.
  with _joined(place, 0) as (_, inbox):
    assert take(inbox, "stop") == answer["stop"]


def test_strangers_are_passed_over(star):
  place, members = star(2, [0])
  for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"[1]\n", b"{}\n"):
    with socket.create_connection((place.host, place.port)) as connection:
      connection.sendall(noise)
  with _joined(place, 1) as (_, inbox):
    take(inbox, "welcome")
    take(members[0][1], "welcome")


def command(tmp_path, port, rank):
  return (
    "train",
    f"--data={tmp_path}",
    f"--run={tmp_path}/run",
    f"--cluster.coordinator=127.0.0.1:{port}",
    "--cluster.num-processes=3",
    f"--cluster.process-id={rank}",
    "--cluster.join-seconds=0.5",
  )


def test_the_command_names_who_did_not_answer(refused, free_port, tmp_path):
  line = refused(*command(tmp_path, free_port, 0), status=1)
  assert "processes 1, 2 of 3 did not answer within 0 s; see whether" in line
  line = refused(*command(tmp_path, free_port, 2), status=1)
  assert "process 2 of 3: process 0 at 127.0.0.1:" in line
  assert "did not answer within 0 s (Connection refused); see whether" in line


def test_a_port_that_is_taken_is_named(refused, free_port, tmp_path):
  with socket.create_server(("", free_port)):
    line = refused(*command(tmp_path, free_port, 0), status=1)
  assert f"port {free_port} of this host cannot be opened (Address" in line


def test_the_command_refuses_half_of_a_place(refused, tmp_path):
  words = ("train", f"--data={tmp_path}", f"--run={tmp_path}/run")
  line = refused(*words, "--cluster.process-id=1")
  assert "process_id given without --cluster.coordinator (NULLS_COO" in line
  assert cli.COMMANDS["train"].__doc__ and not (tmp_path / "run").exists()
  assert errors.START_AGAIN == 75
