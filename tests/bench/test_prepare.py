"""The measurement of preparation, on documents that are few."""

import json

from nulls_jax.bench import prepare
from nulls_jax.bench.settings import PrepareSettings


def test_measures_the_command_and_leaves_nothing(tmp_path):
  said = []
  settings = PrepareSettings(
    megabytes=0.2, workers=(1,), rounds=1, vocab_size=600, out=tmp_path
  )
  report = prepare.measure(settings, said.append)
  assert not list(tmp_path.iterdir())
  assert said == ["writing documents", "round 1 of 1: 1 workers"]
  assert 200_000 <= report.text_bytes < 300_000
  (run,) = report.runs[1]
  assert run.seconds > 0 and 30e6 < run.peak_bytes < 1e9


def test_the_table():
  runs = {
    1: [prepare.Run(seconds=s, peak_bytes=200_000_000) for s in (20, 25, 10)],
    2: [prepare.Run(seconds=s, peak_bytes=300_000_000) for s in (10, 20, 8)],
  }
  report = prepare.Report(
    text_bytes=100_000_000, file_bytes=110_000_000, documents=9, runs=runs
  )
  assert prepare.show(report).splitlines() == [
    "100 MB of text, 110 MB of JSON Lines, 9 documents",
    "workers    MB/s  (least to most)     memory",
    "      1    5.00  (4.00 to 10.00)     200 MB",
    "      2   10.00  (5.00 to 12.50)     300 MB",
    "2 workers over 1: 2.00 x (1.25 to 2.00)",
  ]


def test_the_documents_are_a_function_of_size_and_seed(tmp_path):
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    text_bytes, count = prepare.generate(tmp_path / name, 0.3, seed)
    lines = (tmp_path / name).read_text().splitlines()
    assert len(lines) == count
    assert sum(len(json.loads(line)["text"]) for line in lines) == text_bytes
  assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
  assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_more_workers_than_cores(refused):
  line = refused("bench", "prepare", "--workers", 1, 5000)
  assert "workers=5000, but this process may use" in line
