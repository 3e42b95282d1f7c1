"""The command that says what an erasure would cost."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from nulls_jax import errors
from nulls_jax.commands import arguments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast(arguments.SourceFlags):
  """Say what erasing sources would cost the others; changes nothing.

  Give a trained run, or --config and --ledger before there is one.

  Attributes:
    checkpoint: a run directory (its newest step) or one of its steps.
    config: a config file, or the config.json of a run, whose sinks and
      number of layers are used.
    ledger: the ledger.sqlite of a prepared dataset or of a run.
    out: folder for forecast.json, forecast.svg and forecast.html.
    loss: share of its sinks whose loss by survivors is asked about.
    erasures: also say what so many further erasures would cost; without
      named sources, only that.
    shards: devices over which the sink table is divided.
  """

  checkpoint: Annotated[
    pathlib.Path | None, tyro.conf.arg(aliases=["--run"])
  ] = None
  config: pathlib.Path | None = None
  ledger: pathlib.Path | None = None
  out: pathlib.Path | None = None
  loss: float = 0.1
  erasures: int | None = None
  shards: int = 1

  def run(self) -> None:
    from nulls_jax.unlearning.forecasting import forecast
    from nulls_jax.unlearning.forecasting import page as forecast_page

    named = self.source or self.sources_file is not None
    run_dir, pool = self._pool()
    needed = named or self.erasures is None
    keys = self.keys(run_dir) if needed else []
    if self.out is not None:
      forecast_page.check_output(self.out, run_dir)
    done = forecast.forecast(
      pool,
      keys,
      loss=self.loss,
      erasures=self.erasures,
      shards=self.shards,
      progress=lambda done, total: arguments.say_progress(
        "counting", done, total
      ),
    )
    if self.out is not None:
      forecast_page.write(done, self.out)
    print(forecast_page.summary(done))
    if self.out is not None:
      print(f"\n{self.out / forecast_page.PAGE_FILE}")

  def _pool(self):
    """Return the run, if one is given, and its pool."""
    from nulls_jax import config as run_config
    from nulls_jax.unlearning.forecasting import survey as forecast_survey

    before_training = (self.config, self.ledger)
    if self.checkpoint is not None and before_training == (None, None):
      run_dir, step = arguments.locate(self.checkpoint)
      return run_dir, forecast_survey.read_run(run_dir, step)
    if self.checkpoint is not None or None in before_training:
      raise errors.UserError(
        "give either --checkpoint RUN, or both --config FILE and --ledger "
        "FILE before there is a run"
      )
    is_json = self.config.suffix == ".json"
    read = run_config.read if is_json else run_config.load
    config = read(self.config)
    pool = forecast_survey.Pool(
      config=config.sinks,
      num_layers=config.model.num_layers,
      ledger=self.ledger,
    )
    return None, pool
