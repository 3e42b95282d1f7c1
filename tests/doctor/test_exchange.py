"""The exchange alone: threads in the place of hosts, clocks that are wrong."""

import concurrent.futures
import json
import shutil
import time

import pytest

from nulls_jax.doctor import exchange


def _meet(folder, index, count, limit=60.0, ahead=0.0, late=0.0):
  """One host's part; `ahead` is its clock's error, `late` its start."""
  time.sleep(late)
  messages = exchange.Exchange(
    str(folder),
    index,
    count,
    limit,
    clock=lambda: time.time() + ahead,
  )
  missing = messages.open()
  there = messages.opened
  parts = messages.gather("facts", {"from": index})
  return missing, there, parts, messages


def _together(folder, *parts):
  with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
    jobs = [
      pool.submit(_meet, folder, index, len(parts), **settings)
      for index, settings in enumerate(parts)
    ]
    return [job.result() for job in jobs]


def test_every_host_gets_what_every_host_wrote(tmp_path):
  found = _together(tmp_path / "x", {}, {}, {})
  for missing, _, parts, _ in found:
    assert missing == ()
    assert {index: part["from"] for index, part in parts.items()} == {
      0: 0,
      1: 1,
      2: 2,
    }
  assert found[0][2] == found[2][2]


def test_the_folder_is_taken_away_when_all_have_said_goodbye(tmp_path):
  found = _together(tmp_path / "x", {}, {})
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda one: one[3].close(), found))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("late", [0, 1])
def test_what_an_earlier_exchange_left_is_no_answer(tmp_path, late):
  folder = tmp_path / "x"
  _together(folder, {}, {}, {})
  left = {path.name for path in folder.iterdir()}
  assert "session.json" in left and "hello-2.json" in left
  # Now only two of three come, in whichever order.
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    jobs = [
      pool.submit(_meet, folder, index, 3, 2.0, 0.0, 0.3 * (index == late))
      for index in (0, 1)
    ]
    for job in jobs:
      missing, _, parts, _ = job.result()
      assert missing == (2,)
      assert sorted(parts) == [0, 1]


def test_without_the_first_host_there_is_silence(tmp_path, monkeypatch):
  monkeypatch.setattr(exchange, "_GRACE", 0.1)
  with pytest.raises(exchange.Silence, match="host 0 did not answer") as info:
    _meet(tmp_path / "x", 1, 2, limit=0.2)
  assert info.value.missing == (0,)


def test_a_host_that_dies_between_two_messages_is_left_out(tmp_path):
  found = _together(tmp_path / "x", {"limit": 2.0}, {})
  first = found[0][3]
  parts = first.gather("more", {"x": 1})
  assert sorted(parts) == [0]


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 90.0])
def test_the_error_of_a_clock_lies_between_its_bounds(tmp_path, ahead):
  found = _together(tmp_path / "x", {}, {"ahead": ahead, "late": 0.1})
  _, there, _, _ = found[1]
  back = exchange.Timing(**found[0][2][1]["timing"])
  low, high = exchange.skew(there, back)
  assert low <= ahead <= high
  assert high - low < 60


def test_nobody_reads_half_a_message(tmp_path):
  # A message in the making has another name.
  folder = tmp_path / "x"
  messages = exchange.Exchange(str(folder), 0, 1, 1.0)
  messages.open()
  (folder / "word-1.partial").write_text('{"sent": 1, "bo')
  parts = messages.gather("word", {})
  assert sorted(parts) == [0]
  assert all(json.loads(path.read_text()) for path in folder.glob("*.json"))


def test_a_folder_that_was_cleared_meanwhile_is_silence(tmp_path):
  found = _together(tmp_path / "x", {}, {})
  shutil.rmtree(tmp_path / "x")
  with pytest.raises(exchange.Silence, match="host 0 has cleared"):
    found[1][3].gather("more", {})
  found[1][3].close()


def test_a_host_says_hello_again_when_the_first_one_clears(tmp_path):
  folder = tmp_path / "x"
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    second = pool.submit(_meet, folder, 1, 2)
    while not (folder / "hello-1.json").exists():
      time.sleep(0.01)
    shutil.rmtree(folder)
    first = pool.submit(_meet, folder, 0, 2)
    assert first.result()[0] == second.result()[0] == ()
