"""The measurement of redaction, on a run that is small."""

import pytest

from nulls_jax import errors
from nulls_jax.bench import large_run, redact
from nulls_jax.bench.settings import RedactSettings


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  out = tmp_path_factory.mktemp("bench")
  settings = RedactSettings(
    gigabytes=0.004, sources=(1, 300), repeats=1, out=out
  )
  found = redact.measure(settings)
  assert list(out.iterdir()) == []
  return found


def test_measures_every_layout_against_its_floor(rows):
  assert [(row.layout, row.what) for row in rows[:7]] == [
    ("a chunk a shard", what)
    for what in (
      "copy",
      "tensorstore, 1 source",
      "erase 1 source",
      "verify 1 source",
      "tensorstore, 300 sources",
      "erase 300 sources",
      "verify 300 sources",
    )
  ]
  assert {row.layout for row in rows[7:]} == {"16 MB chunks"}
  found = {row.what: row for row in rows[:7]}
  floor = found["copy"].seconds[0] + found["tensorstore, 1 source"].seconds[0]
  erasing = found["erase 1 source"]
  assert erasing.ratios == [erasing.seconds[0] / floor]
  assert found["copy"].ratios == found["verify 1 source"].ratios == []
  assert all(30e6 < row.peaks[0] < 2e9 for row in rows)


def test_shows_a_line_a_measurement(rows):
  lines = redact.show(rows).splitlines()
  assert len(lines) == 1 + len(rows)
  assert lines[3].startswith("a chunk a shard  erase 1 source")
  assert len({len(line) for line in lines}) == 1


def test_geometry_has_the_size_that_was_asked_for():
  config = large_run.geometry(2.0)
  model, sinks = config.model, config.sinks
  table = model.num_layers * sinks.pool_size * 3 * model.d_model
  layer = model.d_model * (
    4 * model.num_heads * model.head_size + 3 * model.backbone_width
  )
  vocabulary = 2 * model.vocab_size * model.d_model
  total = 12 * (table + model.num_layers * layer + vocabulary)
  assert total == pytest.approx(2e9, rel=0.02)
  assert model.d_model == 960
  assert 0.5 < 12 * table / total < 0.65


def test_refuses_more_sources_than_there_are():
  settings = RedactSettings(sources=(1, 30_000))
  with pytest.raises(
    errors.UserError, match=r"\(1, 30000\): the run has 20000"
  ):
    redact.measure(settings)
