"""What one model knows, of whom, in which mode: one JSON file of results.

Owns what is asked and the file's format (`FORMAT`): columns of single
results, from which every table is made without the model, and beside them
the figures of each group. The formulas are `metrics`', the forward passes
`scoring`'s, who is asked in which mode `populations`'.

Invariant: the file depends on the run, the inputs and the sample alone, and
runs that share their sources are asked the same questions.
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from nulls_jax import errors
from nulls_jax.data import readers
from nulls_jax.evaluation import (
  examples,
  metrics,
  nearest,
  populations,
  probes,
  scoring,
)
from nulls_jax.inference import restore

FORMAT = "nulls evaluation 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """How much is asked, so that time stays bounded.

  Attributes:
    seed: of the drawn sources.
    retained: retained sources whose probes are asked.
    truth_ratios: retained and held-out sources whose unique facts also get
      truth ratios; all facts of the forget population do.
    retained_documents: retained sources whose first document is scored.
    examples: sources of the forget population with shown completions.
  """

  seed: int = 0
  retained: int = 150
  truth_ratios: int = 40
  retained_documents: int = 5000
  examples: int = 4


def evaluate(
  run_dir: str | os.PathLike,
  out_path: str | os.PathLike,
  *,
  documents: str | os.PathLike | None = None,
  held_out: str | os.PathLike | None = None,
  probes_path: str | os.PathLike | None = None,
  forget: Collection[str] = (),
  step: int | None = None,
  sample: Sample | None = None,
) -> dict[str, Any]:
  """Score a run and write the results as one JSON file.

  Args:
    run_dir: a run directory: trained, erased, retrained or dense.
    out_path: the file to write; appears only when it is whole.
    documents: JSON Lines with texts of the trained sources, and of those in
      `forget` also where the run was trained without them.
    held_out: JSON Lines with texts of never-trained sources.
    probes_path: JSON Lines with probes of all of them.
    forget: keys of the sources that are, or were, to be erased.
    step: the checkpoint, the newest by default.
    sample: how much is asked.

  Returns:
    What was written.

  Raises:
    errors.UserError: no run, bad files, nothing to score, or sources that do
      not fit the run (see `populations.of_run`).
    errors.MachineError: the file cannot be written.
  """
  start = time.monotonic()
  run = restore.restore(run_dir, step)
  inputs = _read_inputs(documents, held_out, probes_path)
  whom = populations.of_run(
    run, forget, inputs.held_out_keys, inputs.trained_keys
  )
  sample = sample or Sample()
  texts = inputs.texts_by_population(whom, sample)
  scored = {
    (name, "off"): scoring.documents_in_full(
      run, texts[name].texts, whom.routes(name, "off", texts[name].owners)
    )
    for name in populations.NAMES
    if texts[name].texts
  }
  neighbours = _neighbours(texts, scored)
  if neighbours and ("retained", "on") in whom.words:
    whom = whom.with_nearest(
      run, {entry["source"]: entry["neighbour"] for entry in neighbours}
    )
  for name in populations.NAMES:
    for mode in whom.modes(name):
      if mode != "off" and texts[name].texts:
        scored[name, mode] = scoring.documents_in_full(
          run, texts[name].texts, whom.routes(name, mode, texts[name].owners)
        )
  results = {
    "format": FORMAT,
    "run": str(run_dir),
    "step": run.step,
    "sinks": dataclasses.asdict(run.config.sinks),
    "forget": {"status": whom.status, "keys": list(whom.members["forget"])},
    "num_sources": {name: len(keys) for name, keys in whom.members.items()},
    "head_digest": scoring.head_digest(run),
    "neighbours": neighbours,
    "documents": [
      _document_group(name, mode, texts[name].owners, scores)
      for (name, mode), scores in scored.items()
    ],
    **_score_probes(run, whom, inputs.probes, neighbours, sample),
    "examples": examples.complete(
      run, whom, inputs.probes, texts["forget"], sample.examples
    ),
  }
  results["seconds"] = time.monotonic() - start
  write_json(pathlib.Path(out_path), results)
  return results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """Documents of one population: n texts and the source of each."""

  texts: list[str]
  owners: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
  """What was read: texts by source in their order, and probes."""

  documents: dict[str, list[str]]
  held_out: dict[str, list[str]]
  probes: list[probes.Probe]

  @property
  def held_out_keys(self) -> set[str]:
    asked = {probe.source for probe in self.probes if probe.held_out}
    return asked | set(self.held_out)

  @property
  def trained_keys(self) -> set[str]:
    asked = {probe.source for probe in self.probes if not probe.held_out}
    return asked | set(self.documents)

  def texts_by_population(self, whom, sample) -> dict[str, Texts]:
    """All texts, but only the first of each (drawn) retained source."""
    retained = _draw(
      [key for key in whom.members["retained"] if key in self.documents],
      sample.retained_documents,
      sample.seed,
    )
    chosen = {
      "forget": [
        (key, text)
        for key in whom.members["forget"]
        for text in self.documents.get(key, ())
      ],
      "retained": [(key, self.documents[key][0]) for key in retained],
      "held_out": [
        (key, text)
        for key in whom.members["held_out"]
        for text in self.held_out.get(key, ())
      ],
    }
    return {
      name: Texts(
        texts=[text for _, text in pairs], owners=[key for key, _ in pairs]
      )
      for name, pairs in chosen.items()
    }


def _read_inputs(documents, held_out, probes_path) -> _Inputs:
  found = _Inputs(
    documents=_read_texts(documents),
    held_out=_read_texts(held_out),
    probes=[] if probes_path is None else probes.read(probes_path),
  )
  if not found.documents and not found.held_out and not found.probes:
    raise errors.UserError(
      "nothing to score; give --documents, --held-out or --probes"
    )
  return found


def _read_texts(path) -> dict[str, list[str]]:
  found: dict[str, list[str]] = {}
  if path is not None:
    for document in readers.read_documents(path, allow_no_source=True):
      if document.source:
        found.setdefault(document.source, []).append(document.text)
  return found


def _draw(keys: Sequence[str], count: int, seed: int) -> list[str]:
  """Draw `count` of the keys, in their order; all if there are fewer."""
  if len(keys) <= count:
    return list(keys)
  rng = np.random.default_rng([seed, len(keys)])
  places = np.sort(rng.choice(len(keys), count, replace=False))
  return [keys[place] for place in places]


def _neighbours(texts, scored) -> list[dict[str, Any]]:
  """Find the nearest retained source of each source to forget."""
  if not texts["forget"].texts or not texts["retained"].texts:
    return []
  keys, pooled = {}, {}
  for name in ("forget", "retained"):
    keys[name] = list(dict.fromkeys(texts[name].owners))
    number = {key: place for place, key in enumerate(keys[name])}
    pooled[name] = nearest.pool(
      scored[name, "off"].embedding,
      [number[key] for key in texts[name].owners],
      len(number),
    )
  chosen, cosines = nearest.by_cosine(pooled["forget"], pooled["retained"])
  return [
    {
      "source": key,
      "neighbour": keys["retained"][place],
      "cosine": float(cosine),
    }
    for key, place, cosine in zip(keys["forget"], chosen, cosines, strict=True)
  ]


def _document_group(name, mode, owners, scores) -> dict[str, Any]:
  """Sum the scores of each source's documents."""
  keys = list(dict.fromkeys(owners))
  number = {key: place for place, key in enumerate(keys)}
  places = [number[key] for key in owners]
  losses = np.bincount(places, scores.loss, minlength=len(keys))
  targets = np.bincount(places, scores.num_targets, minlength=len(keys))
  items = {
    "source": keys,
    "loss": losses.tolist(),
    "num_targets": targets.astype(int).tolist(),
  }
  if name == "retained":
    items["digest"] = scores.digest
  return {
    "population": name,
    "mode": mode,
    "loss": metrics.ratio(losses, targets).to_dict(),
    "items": items,
  }


def _score_probes(run, whom, asked, neighbours, sample) -> dict[str, Any]:
  """Ask all probes of all groups in one pass."""
  groups = _probe_groups(whom, asked, neighbours, sample)
  with_ratio = {
    name: set(_draw(keys, sample.truth_ratios, sample.seed))
    for name, keys in _asked_keys(whom, asked, sample).items()
  }
  with_ratio["forget"] = set(whom.members["forget"])
  pairs, routes, places = [], [], []
  for (name, mode), chosen in groups.items():
    words = whom.routes(name, mode, [asked[i].source for i in chosen])
    for i, word in zip(chosen, words, strict=True):
      probe = asked[i]
      wrong = ()
      if probe.source in with_ratio[name] and (
        name == "forget" or probe.kind == "unique"
      ):
        wrong = probe.distractors
      places.append((name, mode, i, len(pairs), len(wrong)))
      pairs += [(probe.prompt, text) for text in (probe.answer, *wrong)]
      routes += [word] * (1 + len(wrong))
  extra = _leak_only(whom, asked, groups)
  first_extra = len(pairs)
  pairs += [(asked[i].prompt, asked[i].answer) for _, i in extra]
  routes += [np.zeros(2, np.uint32)] * len(extra)
  if not pairs:
    return {"probes": [], "leak": None}
  scores = scoring.answers(run, pairs, np.stack(routes))
  rows = [_row(asked, scores, *place) for place in places]
  leak_rows = [
    (name, asked[i].source, float(scores.log_probability[first_extra + n]))
    for n, (name, i) in enumerate(extra)
  ] + [
    ("held_out" if row["population"] == "held_out" else "trained",
     row["source"], row["log_probability"])
    for row in rows
    if row["mode"] == "off" and row["kind"] == "unique"
  ]
  return {"probes": _tabulate(rows), "leak": _leak(leak_rows)}
