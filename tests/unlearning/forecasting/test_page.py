"""What a forecast writes: whole files, true figures, nothing unescaped."""

import dataclasses
import json
import xml.etree.ElementTree

import pytest

from nulls_jax import errors
from nulls_jax.data import ledger_writing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import forecast
from nulls_jax.unlearning.forecasting import page as forecast_page
from nulls_jax.unlearning.forecasting import survey as forecast_survey

CONFIG = assignment.SinkConfig(pool_size=256, sinks_per_source=16, strata=2)
ODD = "<script>alert(1)</script>\x1b[31m\nsecond line " + "x" * 80


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A forecast in which a hostile key is among the worst ten."""
  path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
  with ledger_writing.Writer.create(path) as ledger:
    ledger.add_documents((key, 1, {}) for key in ("a", "b", "c", ODD))
    ledger.erase(["a"])
  pool = forecast_survey.Pool(config=CONFIG, num_layers=6, ledger=path)
  return forecast.forecast(pool, ["b"], erasures=4, shards=2, loss=0.3)


def test_writes_json_plot_and_page(done, tmp_path):
  forecast_page.write(done, tmp_path / "out")
  names = sorted(path.name for path in (tmp_path / "out").iterdir())
  assert names == ["forecast.html", "forecast.json", "forecast.svg"]
  text = (tmp_path / "out" / "forecast.json").read_text("utf-8")
  found = json.loads(text)
  assert found["format"] == "nulls forecast 1"
  assert found["loss"]["exact"] == dataclasses.asdict(done.loss.exact)
  assert found["outlook"]["until_mean"] == done.outlook.until_mean
  assert "ledger" not in found
  again = dataclasses.replace(done, seconds=0.0)
  forecast_page.write(again, tmp_path / "out")
  assert (tmp_path / "out" / "forecast.json").read_text("utf-8") != text


def test_the_plot_is_svg_and_the_same_each_time(done, tmp_path):
  for name in ("one", "two"):
    forecast_page.write(done, tmp_path / name)
  one, two = (
    (tmp_path / name / "forecast.svg").read_bytes() for name in ("one", "two")
  )
  assert one == two
  assert xml.etree.ElementTree.fromstring(one).tag.endswith("svg")


def test_keys_are_escaped_on_the_page(done):
  page = forecast_page.page(done, "<svg></svg>")
  assert "<script>" not in page
  assert "&lt;script&gt;" in page
  assert page.count("<svg>") == 1


def test_keys_stay_on_their_line_of_a_terminal(done):
  lines = forecast_page.summary(done).splitlines()
  odd = [line for line in lines if "<script>" in line]
  assert len(odd) == 1
  assert "\x1b" not in odd[0] and "..." in odd[0]


def test_summary_has_the_figures(done):
  text = forecast_page.summary(done)
  assert text.startswith(
    "1 source to erase; 1 erased by earlier requests; 2 of 4 in the ledger "
    "survive"
  )
  for share in (done.loss.exact.mean, done.loss.expected.quantile_99):
    assert f"{100 * share:.2f} %" in text
  assert f"after {done.outlook.until_mean} more" in text
  assert "2 shards: 1 of 2 strata of every layer a shard" in text
  assert f"Advice: {done.advice.action}. " in text
  # Six layers are shortened to the first two and the last.
  first = [line.split()[0] for line in text.splitlines() if line.strip()]
  assert first[3:7] == ["0", "1", "...", "5"]


@pytest.mark.parametrize(
  ("share", "words"),
  [
    (0, "0.00 %"),
    (0.1234, "12.34 %"),
    (1, "100.00 %"),
    (0.00001, "0.001 %"),
    (0.99998859, "99.9989 %"),
    (None, "-"),
  ],
)
def test_shares_never_look_whole_that_are_not(share, words):
  assert forecast_page._percent(share) == words


def test_output_inside_the_run_is_refused(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "run")
  with pytest.raises(errors.UserError, match="lies inside the run"):
    forecast_page.check_output(tmp_path / "link" / "b", tmp_path / "run")
  forecast_page.check_output(tmp_path / "new", None)
