"""From what the units measured to the report's figures, plots and gates.

Owns the list of what a report gets, and the joining of gates; the names are
given where the figures are made. A figure is described in
`report/report.schema.json`: value, interval, n, clusters, unit, by seed.

`compute(results)` returns what `report.json` takes over as it is:

    {"gates", "figures", "distributions", "curves", "items", "not_measured"}

Of the `results.Results` it uses `score`, `gates`, `attack`, `baseline`,
`baselines`, `collateral`, `num_seeds`, `roles` and `protocol`.

Conditions are those of `protocol.CONDITIONS`. FACT is "unique",
"shared_bare" or "shared_in_context", the last two also
"shared_….support_<least number of supporting sources>".

    evaluation.erased_runs, evaluation.comparable_runs,
      evaluation.excluded_sources
    forget.FACT.CONDITION.accuracy
    forget.unique.CONDITION.log_odds | probability | log_truth_ratio |
      knowledge | tofu_forget_truth_ratio | open_unlearning_forget_truth_ratio
      | rouge_l_recall_stemmed | …
    forget.text.CONDITION.loss | perplexity | exact_memorisation |
      extraction_strength | verbatim_tokens
    forget.FACT.CONDITION_over_retrained.accuracy     paired, points
    forget.unique.CONDITION_over_retrained.log_odds | log_truth_ratio
    forget.text.CONDITION_over_retrained.loss
    forget.text.gap_closed, forget.unique.gap_closed  of "erased"; of others
      forget.text.CONDITION.gap_closed
    forget.unique.CONDITION.accuracy_z | log_odds_z, forget.text.….loss_z
    forget.unique.CONDITION_over_control.accuracy     against never trained
    retained.…, held_out.…                            as forget
    retained.unique.CONDITION_over_on.accuracy, retained.text.….loss
    retained.identical
    held_out.text.backbone_over_dense.loss            ratio
    leak.ROLE                                         nats
    forget_quality.CONDITION.ks | ks_p | ks_high | tost_p | equivalent
    utility.CONDITION
    relearning.ARM.GROUP.CONDITION.log_odds_area | log_odds_gain |
      accuracy_at_end | steps_to_half_recovery   (texts: minus_loss_…)
    relearning.ARM.GROUP.CONDITION_over_retrained.log_odds_area | …_gain
    relearning.ARM.GROUP.CONDITION_over_best_baseline.log_odds_area | …_gain,
      relearning.ARM.GROUP.CONDITION_excess_over_best_baseline.log_odds_area
    reenabling.ROLE.accuracy | log_odds | zero_rows | largest_gain,
      reenabling.ROLE_over_on.accuracy, reenabling.ROLE_over_retrained.accuracy
    membership.CONDITION.SCORE.auc | tpr_at_1_percent,
      membership.CONDITION.privleak,
      membership.CONDITION_minus_retrained.SCORE.auc
    extraction.CONDITION.prefixes.LENGTH.tokens | verbatim,
      extraction.CONDITION.paraphrases.any_wording | best_log_odds,
      extraction.CONDITION.samples.any_sample, and CONDITION_over_retrained
    prompt_search.CONDITION.compression_ratio | compressed, and over retrained
    quantisation.CONDITION.bits_N.accuracy | log_odds | loss,
      bits_N_over_32.accuracy | loss
    collateral.erased_K.accuracy | loss | lost_sinks, collateral.erased_apart,
      collateral.alone.own.on | erased | backbone.accuracy | loss,
      collateral.alone.others.loss_change | greedy_change | lost
    placebo_deletion.MODE.unique | texts.log_probability_change |
      accuracy_change | largest_change | num_changed_unshared
    baselines.METHOD.GROUP.accuracy | log_odds | loss,
      baselines.METHOD.forgotten | kept

Sources that a gate excluded, in any seed, are in no figure of the sources to
forget; `evaluation.excluded_sources` counts them.

Invariant: a figure that was not measured is absent, never 0.
"""

from typing import Any

from nulls_jax.evaluation import intervals
from nulls_jax.protocol import (
  attack_figures,
  charts,
  collateral_figures,
  comparisons,
  forgetting,
  items,
  quantisation_figures,
  relearning_figures,
)
from nulls_jax.protocol import book as book_lib
from nulls_jax.protocol import results as results_lib
from nulls_jax.protocol import scored as scored_lib


def compute(results: results_lib.Results) -> dict[str, Any]:
  """Return gates, figures and plots; see the module."""
  protocol = results.protocol
  gates, excluded = join_gates(results)
  scored = scored_lib.Scored(results, excluded)
  book = book_lib.Book(
    intervals.Settings(
      confidence=protocol.confidence,
      resamples=protocol.resamples,
      seed=protocol.seed,
    )
  )
  forgetting.add(book, scored)
  comparisons.add(book, scored)
  relearning_figures.add(book, scored)
  attack_figures.add(book, scored)
  quantisation_figures.add(book, scored)
  collateral_figures.add(book, scored)
  return {
    "gates": gates,
    "figures": book.figures,
    "distributions": charts.distributions(scored),
    "curves": charts.curves(book, scored),
    "items": items.collect(scored),
    "not_measured": book.not_measured,
  }


def join_gates(
  results: results_lib.Results,
) -> tuple[list[dict[str, Any]], set[str]]:
  """Return each gate once, over all runs, and the sources that fail one.

  A gate passes if it passes in every run that could be asked it. Its rate is
  the least of these runs' rates, its n that run's.
  """
  found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
  excluded: set[str] = set()
  for role in results.roles:
    for seed in range(results.num_seeds(role)):
      measured = results.gates(role, seed)
      if measured is None:
        continue
      excluded.update(measured["excluded"])
      for gate in measured["gates"]:
        found.setdefault(gate["name"], []).append((f"{role} {seed}", gate))
  return [_joined(name, gates) for name, gates in found.items()], excluded


def _joined(name, gates) -> dict[str, Any]:
  asked = [one for one in gates if one[1]["passed"] is not None]
  if not asked:
    return {**gates[0][1], "name": name}
  where, worst = min(
    asked,
    key=lambda one: (
      one[1]["passed"],
      1.0 if one[1]["rate"] is None else one[1]["rate"],
    ),
  )
  notes = [f"{len(asked)} runs; shown: {where}"] if len(asked) > 1 else []
  if worst["note"]:
    notes.append(worst["note"])
  return {
    **worst,
    "excluded": sorted({key for _, one in asked for key in one["excluded"]}),
    "note": "; ".join(notes),
  }
