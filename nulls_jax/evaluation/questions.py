"""Probes put to a run: who is asked what in which mode, as columns.

Owns the choice of probes and the columns of their results. The formulas are
`metrics`', who can be asked in which mode `populations`'.

Invariant: runs that share their sources are asked the same questions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nulls_jax.evaluation import metrics, populations, probes, scoring
from nulls_jax.inference import restore


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """How much is asked, so that time stays bounded.

  Attributes:
    seed: of the drawn sources.
    retained: retained sources that are asked with their sinks.
    off: retained and held-out sources that are asked without sinks; the leak
      is theirs.
    truth_ratios: retained and held-out sources whose unique facts also get
      truth ratios; all facts of the forget population do.
    documents: retained sources whose first document is scored.
    examples: sources of the forget population with shown completions.
  """

  seed: int = 0
  retained: int = 150
  off: int = 2000
  truth_ratios: int = 40
  documents: int = 5000
  examples: int = 3


def draw(keys: Sequence[str], count: int, seed: int) -> list[str]:
  """Draw `count` of the keys, in their order; all if there are fewer."""
  if len(keys) <= count:
    return list(keys)
  rng = np.random.default_rng([seed, len(keys)])
  places = np.sort(rng.choice(len(keys), count, replace=False))
  return [keys[place] for place in places]


def ask(
  run: restore.Restored,
  whom: populations.Populations,
  asked: Sequence[probes.Probe],
  neighbours: Mapping[str, str],
  sample: Sample,
) -> dict[str, Any]:
  """Put the probes to a run.

  Args:
    run: the run.
    whom: its populations.
    asked: all probes of the corpus.
    neighbours: the nearest surviving source of each source to forget.
    sample: how much is asked.

  Returns:
    `{"probes": groups, "leak": estimate or None}`. A group has `population`,
    `mode`, `kind`, `context`, the figures `n`, `accuracy`,
    `log_truth_ratio`, the same for each bin of support, and `items`, columns
    of equal length: `probe` (its number in the file, from 0), `source`,
    `cluster`, `support`, `greedy` (0 or 1), `log_probability` (nats, of the
    whole answer), `num_tokens`, `log_truth_ratio` (None where not asked).
  """
  chosen = _choose(whom, asked, neighbours, sample)
  rows = _score(run, whom, asked, chosen, _with_ratio(whom, asked, sample))
  return {"probes": _groups(rows), "leak": _leak(rows)}


def _sampled(whom, asked, count, seed) -> set[str]:
  """Draw retained and held-out sources among those that have probes."""
  with_probes = {probe.source for probe in asked}
  drawn: set[str] = set()
  for name in ("retained", "held_out"):
    keys = [key for key in whom.members[name] if key in with_probes]
    drawn.update(draw(keys, count, seed))
  return drawn


def _with_ratio(whom, asked, sample) -> set[int]:
  """Return the numbers of the probes that also get truth ratios."""
  forget = set(whom.members["forget"])
  drawn = _sampled(whom, asked, sample.truth_ratios, sample.seed)
  return {
    number
    for number, probe in enumerate(asked)
    if probe.distractors
    and (
      probe.source in forget
      or (probe.source in drawn and probe.kind == "unique")
    )
  }


def _choose(
  whom, asked, neighbours, sample
) -> dict[tuple[str, str], list[int]]:
  """Return the probes' numbers by population and mode."""
  sampled = _sampled(whom, asked, sample.retained, sample.seed)
  sampled_off = _sampled(whom, asked, sample.off, sample.seed)
  population = {
    key: name for name in populations.NAMES for key in whom.members[name]
  }
  values = {(probe.source, probe.attribute): probe.answer for probe in asked}
  chosen: dict[tuple[str, str], list[int]] = {}
  for number, probe in enumerate(asked):
    name = population.get(probe.source)
    if name is None:
      continue
    for mode in whom.modes(name):
      wanted = sampled_off if mode == "off" else sampled
      if name != "forget" and probe.source not in wanted:
        continue
      if mode == "nearest":
        other = neighbours[probe.source], probe.attribute
        # Scored only on what the neighbour does not state itself.
        if values.get(other) == probe.answer:
          continue
      chosen.setdefault((name, mode), []).append(number)
  return chosen


def _score(run, whom, asked, chosen, with_ratio) -> list[dict[str, Any]]:
  """Score all groups in one pass, so that few shapes are compiled."""
  pairs, routes, first = [], [], []
  for (name, mode), numbers in chosen.items():
    words = whom.routes(name, mode, [asked[i].source for i in numbers])
    for number, word in zip(numbers, words, strict=True):
      probe = asked[number]
      wrong = probe.distractors if number in with_ratio else ()
      first.append((name, mode, number, len(pairs), len(wrong)))
      pairs += [(probe.prompt, text) for text in (probe.answer, *wrong)]
      routes += [word] * (1 + len(wrong))
  if not pairs:
    return []
  scores = scoring.answers(run, pairs, np.stack(routes))
  rows = []
  for name, mode, number, place, num_wrong in first:
    probe = asked[number]
    log_truth_ratio = None
    if num_wrong:
      wrong = slice(place + 1, place + 1 + num_wrong)
      log_truth_ratio = float(
        metrics.log_truth_ratio(
          scores.log_probability[place : place + 1],
          scores.num_tokens[place : place + 1],
          scores.log_probability[None, wrong],
          scores.num_tokens[None, wrong],
        )[0]
      )
    rows.append(
      {
        "group": (name, mode, probe.kind, probe.context),
        "probe": number,
        "source": probe.source,
        "cluster": probe.cluster,
        "support": probe.support,
        "greedy": int(scores.greedy[place]),
        "log_probability": float(scores.log_probability[place]),
        "num_tokens": int(scores.num_tokens[place]),
        "log_truth_ratio": log_truth_ratio,
      }
    )
  return rows


def _groups(rows) -> list[dict[str, Any]]:
  members: dict[tuple, list] = {}
  for row in rows:
    members.setdefault(row["group"], []).append(row)
  groups = []
  for (name, mode, kind, context), inside in members.items():
    by_support = {}
    for edge in probes.SUPPORT_EDGES:
      part = [
        row for row in inside if probes.support_bin(row["support"]) == edge
      ]
      if part and kind == "shared":
        by_support[probes.bin_name(edge)] = _figures(part)
    columns = {
      column: [row[column] for row in inside]
      for column in inside[0]
      if column != "group"
    }
    groups.append(
      {
        "population": name,
        "mode": mode,
        "kind": kind,
        "context": context,
        **_figures(inside),
        "by_support": by_support,
        "items": columns,
      }
    )
  return groups


def _figures(rows) -> dict[str, Any]:
  clusters = [row["cluster"] for row in rows]
  ratios = [row for row in rows if row["log_truth_ratio"] is not None]
  figures = {
    "n": len(rows),
    "accuracy": metrics.accuracy(
      [row["greedy"] for row in rows], clusters
    ).to_dict(),
    "log_truth_ratio": None,
  }
  if ratios:
    figures["log_truth_ratio"] = metrics.mean(
      [row["log_truth_ratio"] for row in ratios],
      [row["cluster"] for row in ratios],
    ).to_dict()
  return figures


def _leak(rows) -> dict[str, Any] | None:
  """Return the leak from the unique facts that were asked without sinks."""
  sides: dict[bool, list] = {True: [], False: []}
  for row in rows:
    name, mode, kind, _ = row["group"]
    if mode == "off" and kind == "unique":
      sides[name == "held_out"].append(row)
  if not sides[True] or not sides[False]:
    return None
  return metrics.leak(
    [row["log_probability"] for row in sides[False]],
    [row["source"] for row in sides[False]],
    [row["log_probability"] for row in sides[True]],
    [row["source"] for row in sides[True]],
  ).to_dict()
