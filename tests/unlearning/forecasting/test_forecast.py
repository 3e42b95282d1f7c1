"""A forecast of real ledgers and runs, against brute force; bad input."""

import dataclasses
import json

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.commands import forecast as command
from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import forecast
from nulls_jax.unlearning.forecasting import page as forecast_page
from nulls_jax.unlearning.forecasting import survey as forecast_survey

HASHED = assignment.SinkConfig(
  pool_size=512, sinks_per_source=16, strata=2, block_size=2, seed=3
)
DEDICATED = assignment.SinkConfig(
  kind="dedicated", sinks_per_source=8, strata=2
)
NUM_LAYERS = 3
KEYS = tuple(f"source {number}" for number in range(200))
ERASED, NAMED = KEYS[20:25], KEYS[40:48]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
  """A ledger of 200 sources, five of them erased."""
  path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
  with ledger_writing.Writer.create(path) as sources:
    sources.add_documents((key, 1, {}) for key in KEYS)
    sources.erase(ERASED)
  return path


@pytest.fixture(scope="module")
def pool(ledger):
  return forecast_survey.Pool(
    config=HASHED, num_layers=NUM_LAYERS, ledger=ledger
  )


@pytest.fixture(scope="module")
def done(pool):
  """The forecast of erasing eight sources, one of which is erased already."""
  return forecast.forecast(pool, [*NAMED, ERASED[0]], erasures=5, shards=2)


def _rows(keys):
  """The rows of sources, as a set of (layer, stratum, row) for each."""
  ids = np.array([assignment.source_id(key) for key in keys], np.uint64)
  words = assignment.routing_words(HASHED, ids, np.arange(len(ids)))
  return [
    {
      (layer, stratum, int(row))
      for layer in range(NUM_LAYERS)
      for stratum, rows in enumerate(assignment.rows(HASHED, word, layer))
      for row in rows
    }
    for word in words
  ]


def _survivors():
  return [key for key in KEYS if key not in ERASED + NAMED]


def test_sources_are_counted_by_what_becomes_of_them(done):
  assert dataclasses.astuple(done.sources) == (200, 5, 9, 1, 8, 187)
  ids = [assignment.source_id(key) for key in [*NAMED, ERASED[0]]]
  assert done.source_ids == [f"{number:016x}" for number in ids]


def test_rows_are_those_of_the_sources_each_once(done):
  before = set.union(*_rows(ERASED))
  new = set.union(*_rows(NAMED)) - before
  for found, rows in (
    (done.rows.zero_before, before),
    (done.rows.newly_zero, new),
  ):
    expected = np.zeros((NUM_LAYERS, 2), int)
    for layer, stratum, _ in rows:
      expected[layer, stratum] += 1
    assert found == expected.tolist()
  assert (done.rows.divided, done.rows.in_stratum) == ("strata", 256)
  assert done.rows.newly_zero_by_shard == done.rows.newly_zero


def test_shards_that_do_not_divide_the_strata_divide_the_rows(pool):
  rows = forecast.forecast(pool, NAMED, shards=4).rows
  assert rows.divided == "rows"
  expected = np.zeros((NUM_LAYERS, 4), int)
  for layer, _, row in set.union(*_rows(NAMED)) - set.union(*_rows(ERASED)):
    expected[layer, row // 64] += 1
  assert rows.newly_zero_by_shard == expected.tolist()


def test_losses_are_those_of_every_survivor(done):
  before = set.union(*_rows(ERASED))
  after = before | set.union(*_rows(NAMED))
  owned = _rows(_survivors())
  shares = np.array([len(rows & after) / len(rows) for rows in owned])
  earlier = np.array([len(rows & before) / len(rows) for rows in owned])
  for figures, values in (
    (done.loss.exact, shares),
    (done.loss.exact_by_request, shares - earlier),
  ):
    assert figures.mean == pytest.approx(values.mean())
    assert figures.standard_deviation == pytest.approx(values.std())
    assert figures.median == pytest.approx(
      np.quantile(values, 0.5, method="inverted_cdf")
    )
    assert figures.maximum == pytest.approx(values.max())
  assert done.loss.blocks_of_a_source == NUM_LAYERS * 8
  blocks, numbers = np.unique(
    np.round(shares * NUM_LAYERS * 8), return_counts=True
  )
  expected = list(zip(blocks.tolist(), numbers.tolist(), strict=True))
  assert done.loss.sources_by_blocks_lost == expected
  order = sorted(range(len(shares)), key=lambda place: -shares[place])[:10]
  assert [hit.key for hit in done.worst] == [
    _survivors()[place] for place in order
  ]
  first = done.worst[0]
  assert KEYS[first.index - 1] == first.key
  assert first.share == pytest.approx(shares[order[0]])
  assert first.share_by_request == pytest.approx(
    shares[order[0]] - earlier[order[0]]
  )


def test_formulas_stand_beside_the_counts(done):
  hit = 1 - (1 - 4 / 128) ** 13
  assert done.loss.expected.mean == pytest.approx(hit)
  assert done.loss.expected_given_rows.mean == pytest.approx(
    np.sum([done.rows.zero_before, done.rows.newly_zero]) / (6 * 256)
  )
  assert abs(done.loss.exact.mean - hit) < 0.03
  assert sum(
    number for _, number in done.loss.expected_sources_by_blocks_lost
  ) == pytest.approx(187, abs=3)


def test_outlook_goes_on_from_what_was_counted(pool, done):
  lost = done.loss.expected_given_rows.mean
  outlook = done.outlook
  assert outlook.asked.mean == pytest.approx(
    1 - (1 - lost) * (1 - 4 / 128) ** 5
  )
  assert (outlook.until_mean, outlook.until_quantile_99) == (0, 0)
  far = forecast.forecast(pool, NAMED, loss=0.6).outlook
  needed = np.log(0.4 / (1 - lost)) / np.log(1 - 4 / 128)
  assert far.until_mean == np.ceil(needed)
  assert 0 < far.until_quantile_99 < far.until_mean
  assert far.erased[0] == 1 and 13 in range(*far.erased[:: len(far.erased) - 1])
  assert far.mean == sorted(far.mean)
  assert all(np.greater(far.quantile_99, far.mean)[:-1])


def test_an_erased_request_costs_nothing_more(pool):
  again = forecast.forecast(pool, ERASED)
  assert dataclasses.astuple(again.sources) == (200, 5, 5, 5, 0, 195)
  assert not np.any(again.rows.newly_zero)
  assert again.loss.exact_by_request.maximum == 0
  assert again.loss.exact.mean > 0


def test_erasures_alone_need_no_names(pool):
  only = forecast.forecast(pool, [], erasures=3)
  assert only.sources.to_erase == 0
  assert only.outlook.asked.mean > only.loss.exact.mean > 0
  assert f"{only.outlook.asked.mean:.1%}" in only.advice.reason


def test_dedicated_rows_cost_nobody_anything(ledger):
  pool = forecast_survey.Pool(
    config=DEDICATED, num_layers=NUM_LAYERS, ledger=ledger
  )
  done = forecast.forecast(pool, NAMED, shards=2)
  assert done.pool.config.num_sources == 200
  assert done.rows.newly_zero == [[32, 32]] * NUM_LAYERS
  assert done.rows.zero_before == [[20, 20]] * NUM_LAYERS
  assert done.rows.newly_zero_by_shard == [[32, 32]] * NUM_LAYERS
  # Rows 160 to 191 of 800 are theirs: the first of four parts has none.
  by_rows = forecast.forecast(pool, NAMED, shards=5).rows
  assert by_rows.newly_zero_by_shard == [[0, 64, 0, 0, 0]] * NUM_LAYERS
  assert done.loss.exact.maximum == done.loss.expected.quantile_99 == 0
  assert (done.worst, done.outlook.until_mean) == ([], None)
  assert done.advice.action == "erase"


def test_nobody_survives(pool):
  done = forecast.forecast(pool, [key for key in KEYS if key not in ERASED])
  assert (done.loss, done.worst, done.sources.surviving) == (None, [], 0)
  assert "No source would survive" in done.advice.reason
  assert "0 of 200 in the ledger survive" in forecast_page.summary(done)


# -- A run, and the command


def _content(folder):
  return {
    path: (path.read_bytes(), path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_a_run_is_read_and_not_changed(kind, make_run, keys, tmp_path, capsys):
  run = make_run(kind=kind)
  before = _content(run.path)
  command.Forecast(
    checkpoint=run.path, source=keys[:2], out=tmp_path / "out"
  ).run()
  assert _content(run.path) == before
  out = capsys.readouterr().out
  assert out.startswith("2 sources to erase; 6 of 8 in the ledger survive\n")
  found = json.loads((tmp_path / "out" / "forecast.json").read_text("utf-8"))
  assert found["assignment"] == {**dataclasses.asdict(run.config), "version": 1}
  assert found["num_layers"] == 2


def test_a_config_and_a_ledger_do_before_training(tiny_run, capsys):
  flags = {"loss": 0.2, "source": (tiny_run.keys[0],)}
  command.Forecast(checkpoint=tiny_run.path, **flags).run()
  of_run = capsys.readouterr().out
  command.Forecast(
    config=tiny_run.path / "config.json",
    ledger=tiny_run.data / "ledger.sqlite",
    **flags,
  ).run()
  assert capsys.readouterr().out == of_run


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "no source named; give at least one source, or a number"),
    ({"keys": ["source 7", "sauce 8", "x"]}, "2 unknown in .*'sauce 8' .did"),
    ({"loss": 0.0, "keys": NAMED}, "loss asked about is 0; give a share"),
    ({"loss": 1.0, "keys": NAMED}, "loss asked about is 1; give a share"),
    ({"loss": float("nan"), "keys": NAMED}, "loss asked about is nan"),
    ({"erasures": 0, "keys": NAMED}, "number of erasures is 0; give at"),
    ({"shards": 3, "keys": NAMED}, "3 shards divide neither the 2 strata nor"),
    ({"shards": 0, "keys": NAMED}, "0 shards divide neither"),
  ],
)
def test_refuses_what_makes_no_sense(arguments, message, pool):
  with pytest.raises(errors.UserError, match=message):
    forecast.forecast(pool, **{"keys": (), **arguments})


def test_refuses_pools_that_are_none(ledger):
  with pytest.raises(errors.UserError, match="the model is dense"):
    forecast_survey.Pool(
      config=assignment.SinkConfig(kind="none"), num_layers=2, ledger=ledger
    )
  with pytest.raises(errors.UserError, match="num_layers is 0"):
    forecast_survey.Pool(config=HASHED, num_layers=0, ledger=ledger)
  small = dataclasses.replace(DEDICATED, num_sources=199)
  pool = forecast_survey.Pool(config=small, num_layers=2, ledger=ledger)
  with pytest.raises(errors.UserError, match=r"200 sources, .* for 199; this"):
    forecast.forecast(pool, NAMED)


def _edit_metadata(run, change):
  path = run.step_dir / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text("utf-8"))
  change(content["custom_metadata"])
  path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda meta: meta.pop("assignment"), "assignment of version None"),
    (
      lambda meta: meta["assignment"].update(strata=4),
      r"table is \(2, 2, 256, 12\), which does not fit .*\(layers, 4, 128,",
    ),
    (
      lambda meta: meta.update(ledger_fingerprint="00"),
      "the ledger of another run",
    ),
  ],
)
def test_refuses_runs_that_do_not_fit(change, message, own_run):
  run = own_run()
  _edit_metadata(run, change)
  with pytest.raises(errors.UserError, match=message):
    forecast_survey.read_run(run.path)


def test_refuses_a_dense_run(make_run):
  with pytest.raises(errors.UserError, match="is a dense model"):
    forecast_survey.read_run(make_run(kind="none").path)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({}, "give either --checkpoint RUN, or both --config FILE and --ledger"),
    (
      {"checkpoint": "run", "config": "file", "ledger": "file"},
      "give either --checkpoint RUN",
    ),
    ({"config": "config.json"}, "give either --checkpoint RUN"),
    ({"checkpoint": "run", "source": ()}, "no source named; give --source"),
    ({"checkpoint": "run", "out": "run/here"}, "lies inside the run"),
    ({"checkpoint": "run", "out": "file"}, "is not a folder; give another"),
  ],
)
def test_the_command_refuses(flags, message, make_run, tmp_path):
  run = make_run()
  (tmp_path / "file").write_text("")
  places = {
    name: run.path / path.removeprefix("run").lstrip("/")
    if path.startswith("run")
    else tmp_path / path
    for name, path in flags.items()
    if name != "source"
  }
  with pytest.raises(errors.UserError, match=message):
    command.Forecast(**{"source": ("a",), **flags, **places}).run()
