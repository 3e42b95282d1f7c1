"""The benchmark of the input reads real datasets by the real pipeline."""

import json

import pytest

from nulls_jax.bench import input as input_lib
from nulls_jax.bench.settings import InputSettings


@pytest.fixture
def settings(tmp_path, monkeypatch):
  monkeypatch.setattr(input_lib, "_SOURCES", 50)
  return InputSettings(
    lengths=(128,),
    tile=32,
    batch=8,
    tokens=20_000,
    repeats=1,
    seconds=0.05,
    out=tmp_path,
  )


def test_the_report(settings):
  said = []
  out = input_lib.run(settings, said.append)
  assert said == ["rows of 128 tokens"]
  report = json.loads((settings.out / "input.json").read_text())
  assert [row["what"] for row in report["rows"]] == [
    "one dataset",
    "mixture of 3",
  ]
  for row in report["rows"]:
    assert 0 < row["least"] <= row["median"] <= row["most"]
    assert f"| 128 | {row['what']} | {row['median'] / 1e6:.1f} (" in out
  assert out.endswith(str(settings.out / "input.json"))


def test_what_is_too_slow_is_named():
  row = {"length": 64, "what": "x", "least": 1.0, "most": 1.0, "from_disk": 1.0}
  fast, slow = (
    row | {"median": rate, "processor_median": 2e6} for rate in (1e6, 1e6 - 1)
  )
  machine = input_lib.machine.describe()
  for rows, verdict in (
    ([fast], "a core: held"),
    ([fast, slow | {"what": "y"}], "a core: missed (y of 64)"),
  ):
    assert input_lib.table({"machine": machine, "rows": rows}).endswith(verdict)


def test_bad_input(settings, refused):
  bench = ("bench", "input", "--out", settings.out, "--lengths", 128)
  line = refused(*bench, "--batch=8", "--tokens=1000")
  assert "1000 tokens are 2 rows of 128 in each of 3 datasets" in line
  assert "data.row_length=128 is not a multiple of" in refused(
    *bench, "--tile=48"
  )
  assert "--repeats=0 and --batch=8 must be" in refused(
    *bench, "--batch=8", "--repeats=0"
  )
  assert not (settings.out / "input.json").exists()
