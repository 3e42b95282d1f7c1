"""The revocation list: kept whole, changed by one at a time, or refused."""

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from nulls_jax import errors
from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.revocation import record as revocation_list
from nulls_jax.unlearning.revocation import revocation

KEYS = tuple(f"https://example.org/article/{number}" for number in range(8))
SETTINGS = {
  "model": {"num_layers": 2},
  "sinks": {"kind": "hashed", "pool_size": 64, "sinks_per_source": 8},
}


def write_run(path: pathlib.Path, keys=KEYS) -> pathlib.Path:
  """Write what of a run the list depends on: its settings and its ledger."""
  path.mkdir()
  (path / "config.json").write_text(json.dumps(SETTINGS))
  with ledger_writing.Writer.create(path / "ledger.sqlite") as sources:
    sources.add_documents((key, 1, {}) for key in keys)
  return path


@pytest.fixture
def run(tmp_path):
  return write_run(tmp_path / "run")


@pytest.fixture
def listed(run):
  """A run whose list has four lines; sources 0, 2 and 3 are suspended."""
  revocation.suspend(run, KEYS[:2], reference="DPO-1", reason="a complaint")
  revocation.suspend(run, KEYS[2:4])
  revocation.restore(run, KEYS[1:3], reference="DPO-2")
  revocation.suspend(run, [KEYS[2]])
  return run


def source_ids(*numbers):
  return {assignment.source_id(KEYS[number]) for number in numbers}


def lines(run) -> list[dict]:
  content = (run / revocation.FILE).read_text()
  return [json.loads(line) for line in content.splitlines()]


def child(run, code):
  """Start a process that has `run` and `KEYS`."""
  start = (
    "import pathlib, sys\n"
    "from nulls_jax.unlearning.revocation import revocation\n"
    f"run, KEYS = pathlib.Path({str(run)!r}), {KEYS!r}\n"
  )
  return subprocess.Popen(
    [sys.executable, "-c", start + code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_a_run_without_a_list(run):
  found = revocation.read(run)
  assert (found.version, found.head) == (0, None)
  assert found.suspended == frozenset()


def test_suspends_and_restores(listed):
  found = revocation.read(listed)
  assert found.version == 4
  assert found.suspended == source_ids(0, 2, 3)
  by = {number: entry.version for number, entry in found.suspended_by.items()}
  assert [by[number] for key in (0, 2, 3) for number in source_ids(key)] == [
    *(1, 4, 2)
  ]
  assert found.entries[0].sources == tuple(
    (assignment.source_id(key), index) for index, key in enumerate(KEYS[:2], 1)
  )
  assert found.entries[2].reference == "DPO-2"
  assert found.entries[2].reason is None


def test_every_line_is_canonical_and_names_the_one_before(listed):
  """As its format says, so that others can check it without this package."""
  content = (listed / revocation.FILE).read_bytes()
  previous = None
  for number, line in enumerate(content.splitlines(), start=1):
    fields = json.loads(line)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert text.encode() == line
    digest = fields.pop("sha256")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    assert (fields["version"], fields["previous"]) == (number, previous)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:]{8}\+00:00", fields["time"])
    previous = digest
  assert revocation.read(listed).head == previous
  assert b"example" not in content and b"article" not in content
  first = lines(listed)[0]
  source = {"id": f"{assignment.source_id(KEYS[0]):016x}", "index": 1}
  assert first["sources"][0] == source
  assert (first["reference"], first["reason"]) == ("DPO-1", "a complaint")
  assert [path.name for path in listed.glob("*.partial*")] == []


def test_the_list_only_grows(listed):
  before = (listed / revocation.FILE).read_bytes()
  revocation.suspend(listed, [KEYS[7]])
  after = (listed / revocation.FILE).read_bytes()
  assert after.startswith(before) and after.count(b"\n") == 5


def test_what_changes_nothing_writes_nothing(listed):
  before = (listed / revocation.FILE).stat()
  done = revocation.suspend(listed, [KEYS[0], KEYS[3], KEYS[0]])
  assert (done.changed, done.unchanged) == ((), (KEYS[0], KEYS[3]))
  assert done.revocations.version == 4
  done = revocation.restore(listed, [KEYS[6]])
  assert (done.changed, done.unchanged) == ((), (KEYS[6],))
  assert (listed / revocation.FILE).stat() == before
  done = revocation.suspend(listed, [KEYS[6], KEYS[0]])
  assert (done.changed, done.unchanged) == ((KEYS[6],), (KEYS[0],))
  assert len(lines(listed)[-1]["sources"]) == 1


def test_erased_sources_are_not_suspended_and_never_restored(listed):
  with ledger_writing.Writer.open(listed / "ledger.sqlite") as book:
    book.erase([KEYS[0], KEYS[5]])
  done = revocation.suspend(listed, [KEYS[5], KEYS[6]])
  assert (done.changed, done.erased) == ((KEYS[6],), (KEYS[5],))
  before = (listed / revocation.FILE).read_bytes()
  with pytest.raises(
    errors.UserError, match=r"1 sources were erased and cannot be restored: '"
  ):
    revocation.restore(listed, [KEYS[0], KEYS[3]])
  assert (listed / revocation.FILE).read_bytes() == before


@pytest.mark.parametrize("action", ["suspend", "restore"])
def test_unknown_keys_are_all_named_and_nothing_is_done(action, listed):
  before = (listed / revocation.FILE).read_bytes()
  with pytest.raises(errors.UserError, match=r"2 unknown in .*'x'.*'y'"):
    getattr(revocation, action)(listed, [KEYS[4], "x", KEYS[0], "y"])
  assert (listed / revocation.FILE).read_bytes() == before


NOTES = {
  "two\nlines": r"--reference 'two.nlines' must be one line",
  " ": r"must be one line of 1 to 1000 printable",
  "x" * 1001: r"must be one line of 1 to 1000 printable",
  "a\udcff": r"must be one line of 1 to 1000 printable",
  f"about {KEYS[1]}": r"--reference contains the source key '.*article/1', but",
}


@pytest.mark.parametrize("text", NOTES)
def test_a_reference_that_cannot_be_kept(text, run):
  with pytest.raises(errors.UserError, match=NOTES[text]):
    revocation.suspend(run, KEYS[:2], reference=text)
  with pytest.raises(errors.UserError, match="--reason "):
    revocation.suspend(run, KEYS[:2], reason=text)
  assert not (run / revocation.FILE).exists()


def test_refuses_what_is_no_run_or_has_no_sinks(run, tmp_path):
  with pytest.raises(errors.UserError, match="no source keys given"):
    revocation.suspend(run, [])
  (tmp_path / "empty").mkdir()
  for path in (tmp_path / "empty", tmp_path / "none", run / "config.json"):
    with pytest.raises(errors.UserError, match=r"is not a run|cannot be writ"):
      revocation.suspend(path, KEYS[:1])
  for content, expected in (
    ("{", r"config\.json is damaged"),
    ("[]", r"config\.json has no settings of sinks"),
    ('{"sinks": {"kind": "none"}}', "a dense model has no sinks"),
  ):
    (run / "config.json").write_text(content)
    with pytest.raises(errors.UserError, match=expected):
      revocation.suspend(run, KEYS[:1])
  assert not (run / revocation.FILE).exists()


# -- A list that was changed by something else


def _edited(rows):
  rows[1] = rows[1].replace(b'"suspend"', b'"restore"')


def _last_edited(rows):
  rows[3] = rows[3].replace(b'"index":3', b'"index":2')


def _edited_with_digest(rows, place=1, **values):
  fields = {**json.loads(rows[place]), **values}
  del fields["sha256"]
  text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
  fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
  text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
  rows[place] = text.encode() + b"\n"


def _no_list(rows):
  _edited_with_digest(rows, 3, sources=[{"id": 5}])


def _suspended_twice(rows):
  _edited_with_digest(rows, 3, sources=json.loads(rows[0])["sources"])


def _swapped(rows):
  rows[0], rows[1] = rows[1], rows[0]


def _cut_off(rows):
  rows[3] = rows[3][:-20]


def _spaces(rows):
  rows[2] = rows[2].replace(b":", b": ")


def _other_format(rows):
  rows[0] = rows[0].replace(b'"format":1', b'"format":2')


TAMPERINGS = {
  "an edited line": (_edited, "line 2 was edited"),
  "the last line edited": (_last_edited, "line 4 was edited"),
  "edited with its digest": (
    lambda rows: _edited_with_digest(rows, reason="x"),
    r"line 3 \(version 3\) does not follow",
  ),
  "a line removed": (
    lambda rows: rows.pop(1),
    r"line 2 \(version 3\) does not follow the line before it: lines were rem",
  ),
  "the first line removed": (
    lambda rows: rows.pop(0),
    r"line 1 \(version 2\) does not follow",
  ),
  "lines swapped": (_swapped, r"line 1 \(version 2\) does not follow"),
  "a line twice": (
    lambda rows: rows.append(rows[3]),
    r"line 5 \(version 4\) does not follow",
  ),
  "a line cut off": (_cut_off, "line 4 is cut off"),
  "an empty line": (lambda rows: rows.append(b"\n"), "line 5 is not JSON"),
  "no JSON": (lambda rows: rows.insert(0, b"{\n"), "line 1 is not JSON"),
  "not UTF-8": (lambda rows: rows.append(b"\xff\n"), "line 5 is not JSON"),
  "no object": (lambda rows: rows.append(b"7\n"), "5 is not of format 1"),
  "spaces": (_spaces, "line 3 is not as this program writes it"),
  "another format": (_other_format, "line 1 is not of format 1"),
  "another version": (
    lambda rows: _edited_with_digest(rows, 3, version=7),
    r"line 4 \(version 7\) does not follow",
  ),
  "another action": (
    lambda rows: _edited_with_digest(rows, 3, action="restore"),
    "line 4 cannot restore its sources",
  ),
  "no list": (_no_list, "line 4 has no list of sources"),
  "suspended twice": (_suspended_twice, "line 4 cannot suspend its sources"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_list_that_was_changed_is_refused_by_all(tampering, listed):
  change, expected = TAMPERINGS[tampering]
  path = listed / revocation.FILE
  rows = path.read_bytes().splitlines(keepends=True)
  change(rows)
  path.write_bytes(b"".join(rows))
  for attempt in (
    lambda: revocation.read(listed),
    lambda: revocation.suspend(listed, [KEYS[6]]),
    lambda: revocation.restore(listed, [KEYS[0]]),
    lambda: revocation.Watch(listed),
  ):
    with pytest.raises(
      errors.UserError, match=f"{expected}.*; a list that was ch"
    ):
      attempt()
  assert path.read_bytes() == b"".join(rows)


def test_a_list_of_another_run_is_refused(listed, tmp_path):
  content = (listed / revocation.FILE).read_bytes()
  # Sources of other names, and the same ones in another order.
  for name, keys in (("a", ["x", "y"]), ("b", KEYS[::-1])):
    other = write_run(tmp_path / name, keys)
    (other / revocation.FILE).write_bytes(content)
    with pytest.raises(errors.UserError, match="the ledger, of another run"):
      revocation.read(other)


def test_a_list_that_cannot_be_read_is_not_passed_over(run):
  (run / revocation.FILE).mkdir()
  with pytest.raises(errors.UserError, match="cannot be read: Is a directory"):
    revocation.read(run)


def test_lines_missing_at_the_end_are_seen_by_who_knows_the_version(listed):
  """As the docstring says: the list alone does not show it."""
  path = listed / revocation.FILE
  content = path.read_bytes()
  watch = revocation.Watch(listed)
  path.write_bytes(b"".join(content.splitlines(keepends=True)[:3]))
  assert revocation.read(listed, at_least=3).version == 3
  for attempt in (
    watch.current,
    lambda: revocation.read(listed, at_least=4),
  ):
    with pytest.raises(errors.UserError, match="has version 3, but had 4: lin"):
      attempt()
  path.unlink()
  with pytest.raises(errors.UserError, match="has version 0, but had 4"):
    watch.current()
  path.write_bytes(content)
  assert watch.current().version == 4


def test_a_watch_reads_when_the_list_changes_and_only_then(run, monkeypatch):
  reads = []
  parse = revocation_list.parse

  def counted(*arguments):
    reads.append(arguments)
    return parse(*arguments)

  watch = revocation.Watch(run)
  monkeypatch.setattr(revocation_list, "parse", counted)
  assert watch.current().version == 0 and not reads
  revocation.suspend(run, [KEYS[0]])
  reads.clear()
  for _ in range(5):
    assert watch.current().suspended == source_ids(0)
  assert len(reads) == 1
  revocation.restore(run, [KEYS[0]])
  assert watch.current().suspended == frozenset()
  # Another history of the same length.
  (run / revocation.FILE).unlink()
  for _ in range(2):
    revocation.suspend(run, [KEYS[1]])
    revocation.restore(run, [KEYS[1]])
  with pytest.raises(errors.UserError, match="not the list that it was"):
    watch.current()


# -- Several programs, killed programs, full disks


def test_changes_at_once_are_all_kept(run):
  """Real processes: none undoes another's."""
  children = [
    child(
      run,
      f"for number in range(10):\n"
      f"  revocation.suspend(run, [KEYS[{place}]])\n"
      f"  revocation.restore(run, [KEYS[{place}]])\n"
      f"revocation.suspend(run, [KEYS[{place}]])\n",
    )
    for place in range(4)
  ]
  for one in children:
    _, err = one.communicate()
    assert one.returncode == 0, err
  found = revocation.read(run)
  assert found.version == 4 * 21
  assert found.suspended == source_ids(0, 1, 2, 3)


def test_a_lock_that_is_held_is_waited_for(run, monkeypatch):
  directory = os.open(run, os.O_RDONLY)
  try:
    fcntl.flock(directory, fcntl.LOCK_EX)
    monkeypatch.setattr(revocation, "_LOCK_SECONDS", 0.05)
    with pytest.raises(errors.UserError, match="another program has been chan"):
      revocation.suspend(run, [KEYS[0]])
  finally:
    os.close(directory)
  assert revocation.suspend(run, [KEYS[0]]).revocations.version == 1


def test_killed_at_random_it_loses_nothing(run):
  """What a process has said to be done is in the list, which is whole."""
  draw = random.Random(3)
  code = (
    "while True:\n"
    "  for change in (revocation.suspend, revocation.restore):\n"
    "    print(change(run, KEYS[:3]).revocations.version, flush=True)\n"
  )
  said = 0
  for _ in range(6):
    with child(run, code) as one:
      one.stdout.readline()
      time.sleep(draw.uniform(0.0, 0.02))
      one.send_signal(signal.SIGKILL)
      rest = one.stdout.read()
    assert one.returncode == -signal.SIGKILL
    said = max([said, *(int(line) for line in rest.splitlines())])
    # At most one was renamed but not said.
    assert said <= revocation.read(run).version
  assert revocation.read(run).version > 6
  revocation.suspend(run, [KEYS[5]])
  names = {path.name for path in run.iterdir()}
  assert names == {"config.json", "ledger.sqlite", revocation.FILE}


def test_a_write_that_fails_changes_nothing(listed):
  content = (listed / revocation.FILE).read_bytes()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 10, limits[1]))
  try:
    with pytest.raises(errors.MachineError, match="cannot be written: File to"):
      revocation.suspend(listed, [KEYS[6]])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert (listed / revocation.FILE).read_bytes() == content
  assert revocation.suspend(listed, [KEYS[6]]).revocations.version == 5


def test_suspending_opens_nothing_big_and_no_jax(run):
  """Whatever the size of the checkpoints: in seconds, as a real process."""
  (run / "checkpoints" / "1").mkdir(parents=True)
  hook = (
    "opened = set()\n"
    "def note(event, arguments):\n"
    "  if event in ('open', 'os.listdir', 'os.scandir', 'sqlite3.connect'):\n"
    "    path = str(arguments[0]).split('?')[0].removeprefix('file://')\n"
    "    if path.startswith(str(run)): opened.add(path[len(str(run)) + 1:])\n"
    "sys.addaudithook(note)\n"
    "from nulls_jax import commands\n"
    "from nulls_jax.commands import revocation as command\n"
    "command.Suspend(checkpoint=run, source=KEYS[:2]).run()\n"
    "big = {'jax', 'orbax', 'flax', 'tensorstore'} & set(sys.modules)\n"
    "assert not big, big\n"
    "print(sorted(opened))\n"
  )
  start = time.monotonic()
  one = child(run, hook)
  out, err = one.communicate()
  assert one.returncode == 0, err
  assert time.monotonic() - start < 5
  first, last = out.splitlines()
  assert first.startswith(
    f"{run}: 2 sources suspended; the revocation list has version 1, head "
  )
  written = (revocation.FILE, f"{revocation.FILE}.partial")
  assert last == str(["", "config.json", "ledger.sqlite", *written])


def test_entries_are_what_the_file_says(listed):
  for entry, fields in zip(
    revocation.read(listed).entries, lines(listed), strict=True
  ):
    found = dataclasses.asdict(entry)
    del found["sources"], fields["sources"], fields["format"]
    assert found == fields
