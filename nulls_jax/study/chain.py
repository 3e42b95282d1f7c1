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
from nulls_jax.data import ledger, prepare
from nulls_jax.study import (
  columns,
  corpus,
  display,
  figures,
  jobs,
  report,
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
  with jobs.lock(study.directory):
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
    """Write `study.json`, or refuse a folder of other settings.

    Kinds and seeds may change from call to call, and so may what says how
    and where to run, not what is computed.
    """
    path = self.directory / "study.json"
    settings = {
      "format": FORMAT,
      "config": {
        section: fields
        for section, fields in run_config.to_dict(self.config).items()
        if section not in run_config.MOVABLE
      },
      "corpus": self.corpus_config.to_dict(),
    }
    if path.exists():
      before = json.loads(path.read_text())
      changed = _differences(before, json.loads(_to_json(settings)))
      if changed:
        raise errors.UserError(
          f"{self.directory}: holds a study with other settings: "
          f"{errors.listing(changed)}; give another --out, or delete it"
        )
      return
    files.write_whole(path, _to_json(settings))

  def run(self) -> dict[str, Any]:
    """Do what is left, then write summary and report."""
    with display.Display("nulls demo") as shown:
      shown.say(f"everything is in {self.directory}")
      texts = corpus.make(self.corpus_config, self.directory / "corpus")
      self._prepare(texts, shown)
      steps = self.steps(texts)
      records = jobs.run_all(steps, self.directory, shown)
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
    files.write_whole(self.directory / "summary.json", _to_json(outcome))
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

  def _run_dir(self, run: str, seed: int) -> pathlib.Path:
    return self.directory / "runs" / f"{run}-seed{seed}"

  def _evaluation(self, run: str, seed: int) -> pathlib.Path:
    return self.directory / "evaluation" / f"{run}-seed{seed}.json"

  def _checks(self, kind: str, seed: int) -> pathlib.Path:
    return self.directory / "evaluation" / f"verify-{kind}-seed{seed}.json"

  def _receipt(self, kind: str) -> dict[str, Any]:
    """Return the first seed's receipt page and what `verify` found."""
    folder = self._run_dir(f"{kind}-erased", 0) / receipt.DIRECTORY
    (page,) = folder.glob("*.html")
    found = json.loads(self._checks(kind, 0).read_text())
    return {
      "page": str(page.relative_to(self.directory)),
      "verified": found["verified"],
      "checks": found["checks"],
    }

  def _prepare(self, texts: corpus.Corpus, shown: display.Display) -> None:
    """Prepare all, and all but the erased with the same tokenizer."""
    whole = self.directory / "data"
    counts = prepare.prepare(texts.documents, whole, self.config.data)["counts"]
    shown.say(
      f"prepared {counts['sources']} sources, {counts['tokens']:,} tokens, "
      f"{counts['rows']:,} rows"
    )
    prepare.prepare(
      texts.documents,
      self.directory / "data-retained",
      self.config.data,
      tokenizer_path=whole / prepare.TOKENIZER,
      exclude=frozenset(texts.erased_keys),
    )

  def steps(self, texts: corpus.Corpus) -> list[jobs.Job]:
    """Return all steps: trainings first, they are the longest."""
    seeds = range(self.seeds)
    trained = [run for run in self.runs if not run.endswith("-erased")]
    return [
      *(self._train(run, seed) for seed in seeds for run in trained),
      *(
        self._erase(kind, seed, texts) for seed in seeds for kind in self.kinds
      ),
      *(self._verify(kind, seed) for seed in seeds for kind in self.kinds),
      *(
        self._evaluate(run, seed, texts) for seed in seeds for run in self.runs
      ),
    ]

  def _train(self, run: str, seed: int) -> jobs.Job:
    if run == "dense":
      # Equal active width: what every token uses, backbone and own sinks.
      width = (
        self.config.model.backbone_width + self.config.sinks.sinks_per_source
      )
      kind = ("--sinks.kind", "none", "--model.backbone-width", str(width))
    else:
      kind = ("--sinks.kind", run.removesuffix("-retrained"))
    data = "data-retained" if run.endswith("-retrained") else "data"
    return jobs.Job(
      name=f"train-{run}-seed{seed}",
      arguments=(
        "train",
        *("--config", str(self.config_path)),
        *("--data", str(self.directory / data)),
        *("--run", str(self._run_dir(run, seed))),
        *kind,
        *("--training.seed", str(self.config.training.seed + seed)),
      ),
      output=self._run_dir(run, seed),
      resumable=True,
    )

  def _erase(self, kind: str, seed: int, texts: corpus.Corpus) -> jobs.Job:
    out = self._run_dir(f"{kind}-erased", seed)
    return jobs.Job(
      name=f"erase-{kind}-seed{seed}",
      arguments=(
        "erase",
        *("--run", str(self._run_dir(kind, seed))),
        *("--out", str(out)),
        *("--sources-file", str(texts.erased)),
      ),
      output=out,
      needs=(f"train-{kind}-seed{seed}",),
    )

  def _verify(self, kind: str, seed: int) -> jobs.Job:
    out = self._checks(kind, seed)
    return jobs.Job(
      name=f"verify-{kind}-seed{seed}",
      arguments=(
        "verify",
        str(self._run_dir(f"{kind}-erased", seed)),
        *("--checkpoint", str(self._run_dir(kind, seed))),
        *("--out", str(out)),
      ),
      output=out,
      needs=(f"erase-{kind}-seed{seed}",),
    )

  def _evaluate(self, run: str, seed: int, texts: corpus.Corpus) -> jobs.Job:
    out = self._evaluation(run, seed)
    kind = run.removesuffix("-erased")
    step = "train" if kind == run else "erase"
    asked = ("--probes", str(texts.probes)) if texts.probes else ()
    return jobs.Job(
      name=f"evaluate-{run}-seed{seed}",
      arguments=(
        "evaluate",
        *("--run", str(self._run_dir(run, seed))),
        *("--out", str(out)),
        *("--documents", str(texts.documents)),
        *("--held-out", str(texts.held_out)),
        *asked,
        *("--forget", str(texts.erased)),
      ),
      output=out,
      needs=(f"{step}-{kind}-seed{seed}",),
    )

  def _sinks_lost(self, texts: corpus.Corpus) -> dict[str, np.ndarray]:
    """Return each retained source's share of lost sinks, by kind."""
    lost = {}
    for kind in self.kinds:
      pool = forecast_survey.read_run(self._run_dir(kind, 0))
      with ledger.Ledger.open(pool.ledger) as book:
        survey = forecast_survey.Survey(pool, book, texts.erased_keys)
      lost[kind] = survey.count()[1] / survey.num_owned
    return lost

  def _summary(self, texts, results, records) -> dict[str, Any]:
    found = figures.compute(results, self.kinds, self._sinks_lost(texts))
    manifest = prepare.Prepared.open(self.directory / "data").manifest
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
      path = self._run_dir(run, 0) / "metrics.jsonl"
      curves[run] = [json.loads(line) for line in path.read_text().splitlines()]
    return curves


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
  """List the leaves of nested dicts that differ, as `a.b: old -> new`."""
  if isinstance(before, dict) and isinstance(after, dict):
    return [
      line
      for name in sorted(before.keys() | after.keys())
      for line in _differences(
        before.get(name), after.get(name), f"{path}.{name}".lstrip(".")
      )
    ]
  return [] if before == after else [f"{path}: {before} -> {after}"]


def _to_json(value: Any) -> str:
  return json.dumps(value, indent=2, allow_nan=False) + "\n"
