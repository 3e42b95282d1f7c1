"""What a run says of its sources: counts, states, dead rows, history."""

import json
import re

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.commands import revocation as commands
from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.revocation import revocation, status

KEYS = tuple(f"person {number}" for number in range(40))
SINKS = {
  "hashed": {
    "kind": "hashed",
    "pool_size": 128,
    "sinks_per_source": 8,
    "strata": 2,
  },
  "dedicated": {
    "kind": "dedicated",
    "sinks_per_source": 4,
    "strata": 2,
    "num_sources": 40,
  },
  "none": {"kind": "none"},
}


@pytest.fixture
def make(tmp_path):
  """Return a function that makes a run of which five sources are erased."""

  def write(kind="hashed"):
    path = tmp_path / kind
    (path / "checkpoints" / "100").mkdir(parents=True)
    (path / "checkpoints" / "20").mkdir()
    (path / "checkpoints" / "120.orbax-checkpoint-tmp").mkdir()
    settings = {"model": {"num_layers": 3}, "sinks": SINKS[kind]}
    (path / "config.json").write_text(json.dumps(settings))
    with ledger_writing.Writer.create(path / "ledger.sqlite") as sources:
      sources.add_documents((key, 1, {}) for key in KEYS)
      if kind != "none":
        revocation.suspend(path, KEYS[4:9], reference="DPO-7")
        sources.erase(KEYS[:5])
    return path

  return write


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_counts_and_dead_rows(kind, make):
  path = make(kind)
  (path / "receipts").mkdir()
  (path / "receipts" / "0001-ab.json").touch()
  found = status.read(path)
  # Source 4 was suspended and then erased.
  assert found.num_active == 31
  assert (found.num_suspended, found.num_erased) == (4, 5)
  assert found.steps == (20, 100)
  assert found.receipts == ("0001-ab.json",)
  config = assignment.SinkConfig(**SINKS[kind])
  assert found.rows_per_stratum == config.rows_per_stratum
  dead = np.zeros((3, 2, config.rows_per_stratum), bool)
  for index, key in enumerate(KEYS[:5], start=1):
    words = assignment.routing_words(
      config, np.array(assignment.source_id(key)), np.array(index)
    )
    for layer in range(3):
      for stratum, rows in enumerate(assignment.rows(config, words, layer)):
        dead[layer, stratum, rows] = True
  assert found.dead_rows == tuple(map(tuple, dead.sum(axis=-1)))
  if kind == "dedicated":
    assert found.dead_rows == ((10, 10),) * 3


def test_states_of_named_sources(make):
  path = make()
  keys = (KEYS[20], KEYS[5], KEYS[4])
  found = status.read(path, keys).sources
  assert [(one.state, one.version, one.index) for one in found] == [
    ("active", None, 21),
    ("suspended", 1, 6),
    ("erased", None, 5),
  ]
  revocation.restore(path, [KEYS[5]])
  (found,) = status.read(path, [KEYS[5]]).sources
  assert found.state == "active"
  with pytest.raises(errors.UserError, match=r"2 unknown in .*'x'.*'y'"):
    status.read(path, ["x", KEYS[0], "y"])


def test_settings_that_are_damaged(make):
  path = make()
  for content in (
    {"sinks": {"kind": "hashed", "pool_size": 3}, "model": {"num_layers": 1}},
    {"sinks": {"colour": 3}, "model": {"num_layers": 1}},
    {"sinks": SINKS["hashed"]},
  ):
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(errors.UserError, match=r"config\.json is damaged \("):
      status.read(path)


def test_an_older_list_than_expected(make):
  path = make()
  assert status.read(path, expect_version=1).revocations.version == 1
  with pytest.raises(errors.UserError, match="has version 1, but had 2: lines"):
    status.read(path, expect_version=2)


# -- The commands


def test_status_says_it(make, capsys):
  path = make()
  revocation.restore(path, [KEYS[5]], reason="a mistake")
  commands.Status(
    checkpoint=path / "checkpoints" / "20", source=KEYS[3:7]
  ).run()
  first, second, *rest = capsys.readouterr().out.splitlines()
  assert first == f"{path}: 32 sources active, 3 suspended, 5 erased"
  head = revocation.read(path).head
  assert second == f"the revocation list has version 2, head {head}"
  assert re.fullmatch(
    r"  1  20\S+  suspend 5 sources; reference 'DPO-7'", rest[0]
  )
  assert re.fullmatch(
    r"  2  20\S+  restore 1 source; reason 'a mis.*'", rest[1]
  )
  dead = status.read(path).dead_rows
  assert rest[2].startswith(
    f"dead rows: {sum(map(sum, dead)) / (6 * 64):.3%} of the pool; of 64 in "
    f"each stratum, layer 0: {dead[0][0]} + {dead[0][1]}; layer 1: "
  )
  assert rest[3] == "steps: 20, 100"
  states = [line.split(" (id ")[0] for line in rest[4:]]
  assert states == [
    "'person 3': erased",
    "'person 4': erased",
    "'person 5': active",
    "'person 6': suspended by version 1",
  ]


def test_status_as_json(make, capsys):
  path = make()
  commands.Status(checkpoint=path, source=KEYS[6:7], json=True).run()
  found = json.loads(capsys.readouterr().out)
  assert found["num_sources"] == {"active": 31, "suspended": 4, "erased": 5}
  assert found["revocations"]["version"] == 1
  assert found["revocations"]["head"] == revocation.read(path).head
  (entry,) = found["revocations"]["history"]
  assert (entry["action"], entry["num_sources"]) == ("suspend", 5)
  assert found["sources"] == [
    {
      "key": KEYS[6],
      "id": f"{assignment.source_id(KEYS[6]):016x}",
      "index": 7,
      "state": "suspended",
      "version": 1,
    }
  ]


def test_status_shows_the_last_of_a_long_history(make, capsys):
  path = make()
  for _ in range(6):
    revocation.restore(path, [KEYS[5]])
    revocation.suspend(path, [KEYS[5]])
  commands.Status(checkpoint=path).run()
  out = capsys.readouterr().out.splitlines()
  assert out[2] == "  1 older entries (--json has all)"
  assert out[3].startswith("  2  ") and out[14].startswith("  13  ")


def test_a_run_of_which_nothing_was_done(make, capsys):
  path = make("none")
  commands.Status(checkpoint=path).run()
  assert capsys.readouterr().out.splitlines() == [
    f"{path}: 40 sources active, 0 suspended, 0 erased",
    "the revocation list has version 0 (empty)",
    "a dense model: no sinks",
    "steps: 20, 100",
  ]
  with pytest.raises(errors.UserError, match="--expect-version -1 must be at"):
    commands.Status(checkpoint=path, expect_version=-1).run()


def test_suspend_and_restore_say_what_they_did(make, capsys, tmp_path):
  path = make()
  file = tmp_path / "keys.txt"
  file.write_text(f"{KEYS[20]}\n{KEYS[6]}\n{KEYS[0]}\n")
  commands.Suspend(checkpoint=path, sources_file=file, reference="DPO-8").run()
  first, second, third = capsys.readouterr().out.splitlines()
  head = revocation.read(path).head
  assert first == (
    f"{path}: 1 source suspended; the revocation list has version 2, head "
    f"{head}"
  )
  assert second == "1 were suspended before: 'person 6'"
  assert third == "already erased, nothing to suspend: 'person 0'"
  commands.Restore(checkpoint=path, source=(KEYS[20], KEYS[30])).run()
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith(f"{path}: 1 source restored; the revocation list ha")
  assert second == "1 were not suspended: 'person 30'"
  with pytest.raises(errors.UserError, match="erased and cannot be restored"):
    commands.Restore(checkpoint=path, source=(KEYS[0],)).run()
