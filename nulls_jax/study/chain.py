"""The main experiment: train, erase, retrain, compare, show.

Owns the chain behind `nulls demo` and its folder:

    corpus/       texts, probes, erased.txt         study.json   the settings
    data/, data-retained/     prepared datasets     steps/       records
    runs/<run>-seed<n>/       run directories       logs/        outputs
    evaluation/<run>-seed<n>.json                   summary.json, report.html
    evaluation/verify-<kind>-seed<n>.json

Runs: each kind of assignment trained on all, erased (and the erasure
verified), and retrained without the erased; a dense model of equal active
width.

Invariant: a step that is done is not done again; the same folder with other
settings is refused.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors, files
from nulls_jax.data import ledger
from nulls_jax.data.preparation import dataset
from nulls_jax.jobs import display, runner
from nulls_jax.study import (
  columns,
  corpus,
  figures,
  folder,
  report,
  steps,
  summary,
  terminal,
  verdicts,
)
from nulls_jax.unlearning.forecasting import survey as forecast_survey
from nulls_jax.unlearning.receipts import receipt

FORMAT = "nulls study 1"
# Sizes where none are given: of the encyclopedia, and of real text.
_SOURCES = 600
_GENERATED = {"num_erased": 30, "num_never_trained": 200}
_REAL = {"num_erased": 50, "num_never_trained": 50}


def run_study(
  config_path: str | os.PathLike,
  out_dir: str | os.PathLike,
  *,
  documents: str | os.PathLike | None = None,
  num_sources: int = _SOURCES,
  num_erased: int | None = None,
  num_never_trained: int | None = None,
  kinds: Sequence[str] = ("hashed", "dedicated"),
  seeds: int = 1,
) -> dict[str, Any]:
  """Run the whole chain, or what is left of it; return the summary.

  Args:
    config_path: a config file; sink kind and seed are set by the chain.
    out_dir: the study's folder.
    documents: JSON Lines of real text; the generated encyclopedia if None.
    num_sources: trained sources of the encyclopedia.
    num_erased: sources to erase; 30 people, or 50 sources of real text.
    num_never_trained: sources kept from every model; 200 or 50.
    kinds: assignments to train: "hashed", "dedicated".
    seeds: trainings of every model.

  Raises:
    errors.UserError: bad input, or a folder of a study with other settings.
    errors.MachineError: a step failed.
  """
  defaults = _GENERATED if documents is None else _REAL
  wanted = corpus.CorpusConfig(
    documents=None if documents is None else pathlib.Path(documents),
    num_sources=num_sources,
    num_erased=defaults["num_erased"] if num_erased is None else num_erased,
    num_never_trained=(
      defaults["num_never_trained"]
      if num_never_trained is None
      else num_never_trained
    ),
  )
  study = Study(
    config_path=pathlib.Path(config_path).absolute(),
    config=run_config.load(config_path),
    directory=pathlib.Path(out_dir).absolute(),
    corpus_config=wanted,
    kinds=tuple(kinds),
    seeds=seeds,
  )
  study.check()
  with runner.lock(study.directory):
    study.claim()
    return study.run()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """One study: its settings and its folder."""

  config_path: pathlib.Path
  config: run_config.RunConfig
  directory: pathlib.Path
  corpus_config: corpus.CorpusConfig
  kinds: tuple[str, ...]
  seeds: int

  def check(self) -> None:
    """Refuse settings that make no study; raises `UserError`."""
    unknown = sorted(set(self.kinds) - {"hashed", "dedicated"})
    wrong = []
    if unknown or not self.kinds:
      wrong.append(f"kinds={self.kinds} (choose of hashed, dedicated)")
    if self.seeds < 1:
      wrong.append(f"seeds={self.seeds} (at least 1)")
    if self.corpus_config.num_erased < 1:
      wrong.append(f"num_erased={self.corpus_config.num_erased} (at least 1)")
    if self.corpus_config.num_never_trained < 1:
      wrong.append(
        f"num_never_trained={self.corpus_config.num_never_trained} (at least 1)"
      )
    if wrong:
      raise errors.UserError(f"study: {errors.listing(wrong)}")

  def claim(self) -> None:
    """Take the folder; kinds and seeds may change from call to call."""
    folder.claim(self.directory, FORMAT, self.config, self.corpus_config)

  def run(self) -> dict[str, Any]:
    """Do what is left, then write summary and report."""
    with display.Display("nulls demo") as shown:
      shown.say(f"everything is in {self.directory}")
      texts = corpus.make(self.corpus_config, self.directory / "corpus")
      counts = folder.prepare_all(self.directory, texts, self.config)
      shown.say(
        f"prepared {counts['sources']} sources, {counts['tokens']:,} tokens, "
        f"{counts['rows']:,} rows"
      )
      records = runner.run_all(self.plan(texts), self.directory, shown)
    results = columns.Results(
      [
        {
          run: json.loads(self._evaluation(run, seed).read_text())
          for run in self.runs
        }
        for seed in range(self.seeds)
      ]
    )
    outcome = self._summary(texts, results, records)
    files.write_whole(self.directory / "summary.json", folder.to_json(outcome))
    page = self.directory / "report.html"
    files.write_whole(page, report.render(outcome, results, self._curves()))
    terminal.show(outcome, page, terminal.standard_output())
    return outcome

  @property
  def runs(self) -> list[str]:
    """Names of the runs of one seed."""
    return [
      *(f"{kind}{part}" for part in ("", "-retrained") for kind in self.kinds),
      "dense",
      *(f"{kind}-erased" for kind in self.kinds),
    ]

  def _evaluation(self, run: str, seed: int) -> pathlib.Path:
    return self.directory / "evaluation" / f"{run}-seed{seed}.json"

  def _checks(self, kind: str, seed: int) -> pathlib.Path:
    return self.directory / "evaluation" / f"verify-{kind}-seed{seed}.json"

  def _receipt(self, kind: str) -> dict[str, Any]:
    """Return the first seed's receipt page and what `verify` found."""
    erased = self._steps.run_dir(f"{kind}-erased", 0)
    (page,) = (erased / receipt.DIRECTORY).glob("*.html")
    found = json.loads(self._checks(kind, 0).read_text())
    return {
      "page": str(page.relative_to(self.directory)),
      "verified": found["verified"],
      "checks": found["checks"],
    }

  def plan(self, texts: corpus.Corpus) -> list[runner.Job]:
    """Return all steps: trainings first, they are the longest."""
    seeds = range(self.seeds)
    trained = [run for run in self.runs if not run.endswith("-erased")]
    pairs = [(kind, seed) for seed in seeds for kind in self.kinds]
    return [
      *(self._train(run, seed) for seed in seeds for run in trained),
      *(self._steps.erase(*pair, texts) for pair in pairs),
      *(self._steps.verify(*pair, self._checks(*pair)) for pair in pairs),
      *(
        self._steps.score(run, seed, texts, self._evaluation(run, seed))
        for seed in seeds
        for run in self.runs
      ),
    ]

  @property
  def _steps(self) -> steps.Steps:
    return steps.Steps(
      directory=self.directory,
      config_path=self.config_path,
      seed=self.config.training.seed,
    )

  def _train(self, run: str, seed: int) -> runner.Job:
    if run == "dense":
      # Equal active width: what every token uses, backbone and own sinks.
      width = (
        self.config.model.backbone_width + self.config.sinks.sinks_per_source
      )
      kind = ("--sinks.kind", "none", "--model.backbone-width", str(width))
    else:
      kind = ("--sinks.kind", run.removesuffix("-retrained"))
    data = "data-retained" if run.endswith("-retrained") else "data"
    return self._steps.train(run, seed, kind, data)

  def _sinks_lost(self, texts: corpus.Corpus) -> dict[str, np.ndarray]:
    """Return each retained source's share of lost sinks, by kind."""
    lost = {}
    for kind in self.kinds:
      pool = forecast_survey.read_run(self._steps.run_dir(kind, 0))
      with ledger.Ledger.open(pool.ledger) as book:
        survey = forecast_survey.Survey(pool, book, texts.erased_keys)
      lost[kind] = survey.count()[1] / survey.num_owned
    return lost

  def _summary(self, texts, results, records) -> dict[str, Any]:
    found = figures.compute(results, self.kinds, self._sinks_lost(texts))
    manifest = dataset.Prepared.open(self.directory / "data").manifest
    return {
      "format": summary.FORMAT,
      "kinds": list(self.kinds),
      "seeds": self.seeds,
      "corpus": {
        "generated": texts.probes is not None,
        "name": (
          "generated encyclopedia"
          if texts.probes is not None
          else self.corpus_config.documents.name
        ),
        "sources": manifest["counts"]["sources"],
        "erased": len(texts.erased_keys),
        "never_trained": self.corpus_config.num_never_trained,
        "documents": manifest["counts"]["documents_out"],
        "tokens": manifest["counts"]["tokens"],
        "vocab_size": manifest["vocab_size"],
      },
      "figures": found,
      "verdicts": [
        verdict.to_dict()
        for verdict in verdicts.judge(
          found, self.kinds, texts.probes is not None
        )
      ],
      "receipts": {kind: self._receipt(kind) for kind in self.kinds},
      **summary.circumstances(records, self.directory),
      "config_file": summary.short_path(self.config_path),
      "config": run_config.to_dict(self.config),
    }

  def _curves(self) -> dict[str, list[dict[str, Any]]]:
    """Return the logged steps of the first seed's trainings."""
    curves = {}
    for run in (*self.kinds, "dense"):
      path = self._steps.run_dir(run, 0) / "metrics.jsonl"
      curves[run] = [json.loads(line) for line in path.read_text().splitlines()]
    return curves
