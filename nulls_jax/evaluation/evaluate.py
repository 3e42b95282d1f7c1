"""What one model knows, of whom, in which mode: one JSON file of results.

Owns the file's format (`FORMAT`): columns of single results, from which every
table is made without the model, and beside them the figures of each group.
The formulas are `metrics`', the forward passes `scoring`'s.

Invariant: the file depends on the run, the inputs and the sample alone, and
appears under its name only when it is whole.
"""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Collection
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import readers
from nulls_jax.evaluation import (
  examples,
  metrics,
  nearest,
  populations,
  questions,
  scoring,
)
from nulls_jax.evaluation import probes as probes_lib
from nulls_jax.inference import restore

FORMAT = "nulls evaluation 1"


def evaluate(
  run_dir: str | os.PathLike,
  out_path: str | os.PathLike,
  *,
  documents: str | os.PathLike | None = None,
  held_out: str | os.PathLike | None = None,
  probes: str | os.PathLike | None = None,
  forget: Collection[str] = (),
  step: int | None = None,
  sample: questions.Sample | None = None,
) -> dict[str, Any]:
  """Score a run and write the results as one JSON file.

  Args:
    run_dir: a run directory: trained, erased, retrained or dense.
    out_path: the file to write.
    documents: JSON Lines with texts of the trained sources, and of those in
      `forget` also where the run was trained without them.
    held_out: JSON Lines with texts of never-trained sources.
    probes: JSON Lines with probes of all of them.
    forget: keys of the sources that are, or were, to be erased.
    step: the checkpoint, the newest by default.
    sample: how much is asked.

  Suspended sources are asked through the backbone alone, and erased ones
  have rows of zeros: neither has an "on" mode or is anybody's neighbour.

  Returns:
    What was written.

  Raises:
    errors.UserError: no run, bad files, nothing to score, or sources that do
      not fit the run (see `populations.of_run`).
    errors.MachineError: the file cannot be written.
  """
  start = time.monotonic()
  sample = sample or questions.Sample()
  inputs = _read_inputs(documents, held_out, probes)
  run = restore.restore(run_dir, step)
  whom = populations.of_run(
    run, forget, inputs.held_out_keys, inputs.trained_keys
  )
  run = whom.admitted(run)
  revocations = run.revocations
  texts = inputs.texts_by_population(whom, sample)
  groups = {
    (name, "off"): _score_documents(run, whom, name, "off", texts[name])
    for name in populations.NAMES
    if texts[name].texts
  }
  neighbours = _neighbours(texts, groups)
  served_by = {entry["source"]: entry["neighbour"] for entry in neighbours}
  if served_by and ("retained", "on") in whom.words:
    whom = whom.with_nearest(run, served_by)
  for name in populations.NAMES:
    for mode in whom.modes(name):
      if mode != "off" and texts[name].texts:
        groups[name, mode] = _score_documents(
          run, whom, name, mode, texts[name]
        )
  results = {
    "format": FORMAT,
    "run": str(run_dir),
    "step": run.step,
    "sinks": dataclasses.asdict(run.config.sinks),
    "forget": {"status": whom.status, "keys": list(whom.members["forget"])},
    "revocations": {
      "version": revocations.version,
      "head": revocations.head,
      "num_suspended": whom.num_suspended,
    },
    "num_sources": {name: len(keys) for name, keys in whom.members.items()},
    "head_digest": scoring.head_digest(run),
    "neighbours": neighbours,
    "documents": [
      _document_group(name, mode, texts[name].owners, scores)
      for (name, mode), scores in groups.items()
    ],
    **questions.ask(run, whom, inputs.probes, served_by, sample),
    "examples": examples.complete(
      run,
      whom,
      inputs.probes,
      {key: found[0] for key, found in inputs.documents.items()},
      sample.examples,
    ),
  }
  results["seconds"] = time.monotonic() - start
  files.write_whole(
    pathlib.Path(out_path), json.dumps(results, allow_nan=False) + "\n"
  )
  return results


def suspended_line(results: dict[str, Any]) -> str | None:
  """Say in one line what was not asked for with its sinks, if anything."""
  found = results["revocations"]
  if not found["num_suspended"]:
    return None
  return (
    f"{found['num_suspended']} suspended sources (revocation list version "
    f"{found['version']}) were asked through the backbone alone, if at all"
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Texts:
  """n documents of one population and the source of each."""

  texts: list[str]
  owners: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
  """What was read: texts by source, and probes."""

  documents: dict[str, list[str]]
  held_out: dict[str, list[str]]
  probes: list[probes_lib.Probe]

  @property
  def held_out_keys(self) -> set[str]:
    asked = {probe.source for probe in self.probes if probe.held_out}
    return asked | set(self.held_out)

  @property
  def trained_keys(self) -> set[str]:
    asked = {probe.source for probe in self.probes if not probe.held_out}
    return asked | set(self.documents)

  def texts_by_population(self, whom, sample) -> dict[str, _Texts]:
    """Return all texts, but only the first of each drawn retained source."""
    texts = {
      "forget": self.documents,
      "retained": {key: found[:1] for key, found in self.documents.items()},
      "held_out": self.held_out,
    }
    chosen = {}
    for name, by_source in texts.items():
      keys = [key for key in whom.members[name] if key in by_source]
      if name == "retained":
        keys = questions.draw(keys, sample.documents, sample.seed)
      chosen[name] = _Texts(
        texts=[text for key in keys for text in by_source[key]],
        owners=[key for key in keys for _ in by_source[key]],
      )
    return chosen


def _read_inputs(documents, held_out, probes) -> _Inputs:
  found = _Inputs(
    documents=_read_texts(documents),
    held_out=_read_texts(held_out),
    probes=[] if probes is None else probes_lib.read(probes),
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


def _score_documents(run, whom, name, mode, chosen) -> scoring.DocumentScores:
  routes = whom.routes(name, mode, chosen.owners)
  return scoring.documents_in_full(run, chosen.texts, routes)


def _neighbours(texts, groups) -> list[dict[str, Any]]:
  """Find the nearest retained source of each source to forget."""
  if not texts["forget"].texts or not texts["retained"].texts:
    return []
  keys, pooled = {}, {}
  for name in ("forget", "retained"):
    keys[name], places = _number(texts[name].owners)
    pooled[name] = nearest.pool(
      groups[name, "off"].embedding, places, len(keys[name])
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


def _number(owners) -> tuple[list[str], list[int]]:
  """Return the different keys, and each item's place among them."""
  keys = list(dict.fromkeys(owners))
  number = {key: place for place, key in enumerate(keys)}
  return keys, [number[key] for key in owners]


def _document_group(name, mode, owners, scores) -> dict[str, Any]:
  """Sum the scores of each source's documents."""
  keys, places = _number(owners)
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
