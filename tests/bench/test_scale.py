"""The benchmark of many sources, with few: each stage does what it says.

No time is asserted.
"""

import functools
import hashlib
import json
import os

import pytest

from nulls_jax import errors
from nulls_jax.bench import (
  alone,
  corpus,
  dictionary,
  forecast,
  large_run,
  scale,
  scale_stages,
)
from nulls_jax.bench.settings import ScaleSettings
from nulls_jax.data import ledger

COUNT = 400


# -- In a process of its own


def test_a_peak_is_of_the_process_alone():
  # Some 134 MB while it runs, and nothing to give back.
  greedy = functools.partial(
    hashlib.scrypt, b"", salt=b"", n=2**14, r=64, p=1, maxmem=2**28
  )
  (_, large), (same, small) = alone.run(greedy), alone.run(abs, -3)
  assert same == 3
  # These tests hold more than that themselves.
  assert small < 120e6 < large < 400e6


def test_errors_come_out_of_the_process(tmp_path):
  with pytest.raises(errors.UserError, match="none does not exist"):
    alone.run(ledger.Ledger.open, tmp_path / "none")
  with pytest.raises(errors.MachineError, match="ended early"):
    alone.run(os._exit, 3)


# -- The stages, in this process


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """Settings, and what each stage gave, by name."""
  settings = ScaleSettings(
    out=tmp_path_factory.mktemp("scale"),
    sources=COUNT,
    erase=(1, 40),
    suspend=30,
    hosts=(1, 4),
    batch=8,
    seconds=0.01,
    rows=20,
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(corpus, "_NUM_WORDS", 2000)
    patch.setattr(corpus, "_TOKENIZER_TEXTS", 400)
    patch.setattr(corpus, "_SOURCES_A_PART", 150)
    patch.setattr(forecast, "NUM_LAYERS", 2)
    # The devices are here already.
    patch.setattr(large_run, "write", large_run.write_here)
    scale_stages.write_parts(settings)
    found = {}
    for name, stage in scale_stages.stages(settings).items():
      made = stage.needs
      if made and not (settings.out / made.file).exists():
        made.write(settings)
      found[name] = stage.action(settings)
  return settings, found


def test_the_ledger_has_every_source_in_no_order(done):
  settings, found = done
  with ledger.Ledger.open(settings.out / "ledger.sqlite") as book:
    keys = [source.key for source in book]
    assert book.erased() == []
  assert len(set(keys)) == len(keys) == COUNT
  assert keys == [corpus.title(number) for number in range(1, COUNT + 1)]
  assert keys != sorted(keys)
  written = found["ledger written"]
  size = (settings.out / "ledger.sqlite").stat().st_size
  assert written.facts == {"bytes on disk": size}
  assert not (settings.out / "parts").exists()


def test_every_stage_took_time_for_what_it_counts(done):
  _, found = done
  for name, one in found.items():
    if name != "nothing but imports":
      assert one.count > 0 < one.taken.clock, name
  assert found["routing table, hashed"].facts["bytes in memory"] == 8 * (
    COUNT + 1
  )
  assert found["1 key found and routed"].count == 1
  assert found["1,000 keys found and routed"].count == COUNT


def test_sinks_serve_as_many_sources_as_by_chance(done):
  _, found = done
  hashed = found["sinks drawn in a layer, hashed"].facts
  assert hashed["on average"] == COUNT * 96 / 8192
  fewest = hashed["fewest sources of a sink"]
  assert fewest < hashed["on average"] < hashed["at most"]
  ratio = hashed["standard deviation over that by chance"]
  assert ratio == pytest.approx(1, abs=0.03)
  dedicated = found["sinks drawn in a layer, dedicated"].facts
  assert list(dedicated.values()) == [1, 1, 1]


def test_forecasts_are_of_the_sources_that_were_asked_for(done):
  _, found = done
  losses = {
    name: one.facts["mean loss of survivors"]
    for name, one in found.items()
    if "forecast" in name
  }
  share = 96 / 8192
  assert losses["erasure of 1 forecast, hashed"] == pytest.approx(
    share, rel=0.1
  )
  assert losses["erasure of 40 forecast, hashed"] == pytest.approx(
    1 - (1 - share) ** 40, rel=0.02
  )
  assert losses["erasure of 40 forecast, dedicated"] == 0


def test_a_host_reads_its_part_of_the_batch(done):
  _, found = done
  for hosts in (1, 4):
    one = found[f"input of 1 host of {hosts}"]
    rows = one.facts["rows of a batch"]
    assert rows == 8 // hosts
    assert one.count == one.facts["batches"] * rows * 1024
  assert found["dataset opened"].count == 20


def test_requests_change_copies_alone(done):
  settings, found = done
  assert found["30 suspended"].count == found["list of 30 read"].count == 30
  assert found["status with 30 suspended"].count == 30
  erased = found["40 erased"]
  ledger_bytes = erased.facts["bytes of the ledger"]
  assert erased.count == 40 and ledger_bytes > 20 * COUNT
  # Of two layers of the pool and both moments, 24 numbers wide; two thirds
  # are zero or packed.
  table_bytes = 3 * 2 * 8192 * 24 * 4
  assert erased.facts["bytes in all"] - ledger_bytes > table_bytes / 3
  assert found["erasure of 40 verified"].count == 40
  assert not list(settings.out.glob("without-*"))


# -- The command


def test_the_command_measures_again_what_is_named(tmp_path, nulls, refused):
  flags = ("bench", "scale", f"--out={tmp_path}", "--sources=50",
           "--suspend=5", "--erase=7")  # fmt: skip
  status, out, err = nulls(*flags, "--only=fingerprinted", "--repeats=2")
  assert status == 0
  assert err.splitlines() == [
    "writing sources", "ledger written", "ledger fingerprinted"
  ]  # fmt: skip
  assert "| ledger fingerprinted | 50 sources |" in out
  first = json.loads((tmp_path / scale.REPORT).read_text())["rows"]
  assert list(first) == ["ledger written", "ledger fingerprinted"]
  assert len(first["ledger fingerprinted"]["repeats"]) == 2
  assert 30e6 < first["ledger written"]["peak_memory_bytes"] < 400e6
  status, _, err = nulls(*flags, "--only=imports", "--repeats=1")
  assert (status, err) == (0, "nothing but imports\n")
  second = json.loads((tmp_path / scale.REPORT).read_text())["rows"]
  assert list(second) == ["nothing but imports", *first]
  assert second["ledger written"] == first["ledger written"]
  line = refused("bench", "scale", f"--out={tmp_path}", "--sources=60",
                 "--suspend=5", "--erase=7")  # fmt: skip
  assert "has 50 sources, not 60; choose another --out" in line


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (("--erase", 9), "below the 9 --sources"),
    (("--erase", 0), "give numbers from 1"),
    (("--suspend", 9, "--erase", 1), "below the 9 --sources"),
    (("--repeats", 0, "--erase", 1), "--repeats 0: give a number from 1"),
    (
      ("--suspend", 2, "--erase", 1, "--only", "speed"),
      "--only speed names no stage; there are nothing but imports, ledger",
    ),
  ],
)
def test_what_is_refused(flags, expected, tmp_path, refused):
  line = refused("bench", "scale", f"--out={tmp_path}", "--sources=9", *flags)
  assert expected in line
  assert not list(tmp_path.iterdir())


def test_the_table():
  taken = [{"clock": 9.0, "processor": 2.0}, {"clock": 1.0, "processor": 0.5}]
  report = {
    "sources": 6_400_000,
    "machine": {
      "platform": "cpu", "processor": "P", "cores": 2, "memory_bytes": 25e9,
      "jax": "1", "date": "today", "load_before": None,
    },
    "rows": {
      "nothing": {
        "count": 0, "unit": "sources", "repeats": taken, "taken": taken[0],
        "facts": {}, "peak_memory_bytes": 76e6,
      },
      "read": {
        "count": 1000, "unit": "rows", "repeats": taken, "taken": taken[1],
        "facts": {"bytes on disk": 2_500_000, "batches": 3, "loss": 0.25},
        "peak_memory_bytes": 1234e6,
      },
    },
  }  # fmt: skip
  lines = scale.table(report).splitlines()
  assert lines[0] == "6,400,000 sources; P, 2 cores, 25 GB, jax 1, today"
  assert lines[4] == "| nothing |  |  |  |  | 76 |  |"
  assert lines[5] == (
    "| read | 1,000 rows | 0.5 (0.5-2) | 1 | 2,000 | 1,234 | 2.5 MB on disk; "
    "batches 3; loss 0.25 |"
  )


# -- The dictionary


def test_a_dictionary_is_a_function_of_its_size_and_seed(tmp_path, nulls):
  path = tmp_path / "entries.jsonl"
  status, out, _ = nulls(
    "bench", "dictionary", f"--out={path}", "--sources=300"
  )
  assert status == 0
  assert out == f"{path}: 300 articles, {path.stat().st_size / 1e6:,.1f} MB\n"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert lines == list(dictionary.articles(300, seed=0))
  assert lines != list(dictionary.articles(300, seed=1))
  assert len({line["source"] for line in lines}) == 300
  sizes = [len(line["text"].encode()) for line in lines]
  assert 90 < min(sizes) < 200 < max(sizes) < 400
  # Each tells its own number, and its headword names its source.
  for number, line in enumerate(lines, start=1):
    assert f" {number}: " in line["text"]
    head = line["text"].split(",")[0].lower()
    assert line["source"] == f"entry/{head}"


def test_a_dictionary_replaces_nothing(tmp_path, refused):
  path = tmp_path / "entries.jsonl"
  path.write_text("mine")
  line = refused("bench", "dictionary", f"--out={path}")
  assert "exists; give another --out" in line
  line = refused(
    "bench", "dictionary", f"--out={tmp_path / 'x'}", "--sources=1"
  )
  assert "--sources 1: give 2 to 40,960,000" in line
  assert path.read_text() == "mine"
