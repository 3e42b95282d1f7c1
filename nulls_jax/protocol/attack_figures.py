"""Figures of the attacks, from what their units returned.

Owns the dotted names below `reenabling`, `membership`,
`extraction` and `prompt_search`, see `figures`. `relearning` and
`quantisation` have modules of their own.

Invariant: a model is compared with retrained models on the same items, and
with all of their seeds.
"""

from collections.abc import Iterator

import numpy as np

from nulls_jax.evaluation import columns as columns_lib
from nulls_jax.evaluation import membership_scores, metrics
from nulls_jax.protocol import book as book_lib
from nulls_jax.protocol import comparisons
from nulls_jax.protocol import protocol as protocol_lib
from nulls_jax.protocol import scored as scored_lib

_PLACES = {
  place: name
  for name, place in protocol_lib.CONDITIONS.items()
  if name != "control"
}
# What a run is when its forgotten sources are asked as it would be served.
SERVED = {
  "full": "backbone",
  "suspended": "suspended",
  "erased": "erased",
  "repaired": "repaired",
  "retrained": "retrained",
  "dense": "dense",
  "dense_retrained": "dense_retrained",
}


def add(book: book_lib.Book, scored: scored_lib.Scored) -> None:
  """Add the figures of all attacks that were made."""
  _add_reenabling(book, scored)
  _add_reenabled_texts(book, scored)
  _add_membership(book, scored)
  _add_extraction(book, scored)
  _add_prompt_search(book, scored)


def found(
  scored: scored_lib.Scored, attack: str
) -> Iterator[tuple[str, int, dict]]:
  """Yield role, seed and result of every unit of an attack."""
  for role in scored.results.roles:
    for seed in range(scored.results.num_seeds(role)):
      result = scored.results.attack(attack, role, seed)
      if result is not None:
        yield role, seed, result


def condition_of(role: str, mode: str) -> str | None:
  """Return the condition that a mode of a role is, if it is one.

  A run given as erased that still has its sources "on" is its own condition.
  """
  if role in ("erased", "repaired") and mode == "on":
    return role
  return _PLACES.get((role, mode))


def _gather(scored, parts) -> columns_lib.Columns | None:
  joined = columns_lib.join(parts)
  return columns_lib.without(joined, scored.excluded)


def _add_reenabled_texts(book, scored):
  """The attacker reads the sources' texts with their own rows."""
  rows: dict[str, list] = {}
  for role, seed, result in found(scored, "reenabling"):
    if "own" in result["documents"]:
      items = result["documents"]["own"]["items"]
      rows.setdefault(role, []).append(columns_lib.of_items(items, seed))
  for role, parts in rows.items():
    own = _gather(scored, parts)
    if own is None:
      continue
    book.add(
      f"reenabling.{role}.loss",
      book_lib.ratio(own["loss"], own["num_tokens"], own),
      "nats a token",
    )
    book.add(
      f"reenabling.{role}.verbatim_tokens",
      book_lib.mean(own["continued"], own, "source"),
      "tokens",
    )


def _add_reenabling(book, scored):
  """An attacker with the weights asks the sources' own rows."""
  facts, zero, gains = {}, {}, {}
  for role, seed, result in found(scored, "reenabling"):
    if result["zero_share"] is not None:
      zero.setdefault(role, []).append(result["zero_share"])
    groups = {
      name: columns_lib.of_items(group["items"], seed)
      for name, group in result["facts"].items()
      if name in ("own", "off")
    }
    for name, columns in groups.items():
      columns["log_odds"] = metrics.log_odds(columns["log_probability"])
      columns["probe"] = columns["item"]
      facts.setdefault((role, name), []).append(columns)
    if set(groups) == {"own", "off"}:
      gap = groups["own"]["log_probability"] - groups["off"]["log_probability"]
      gains.setdefault(role, []).append(np.abs(gap).max())
  for role, values in zero.items():
    book.plain(
      f"reenabling.{role}.zero_rows",
      min(values),
      "share",
      n=len(values),
      by_seed=values,
      note="least of all seeds, counted: no interval",
      title="numbers of the attacked rows that are zero",
    )
  for role, values in gains.items():
    book.plain(
      f"reenabling.{role}.largest_gain",
      max(values),
      "nats",
      n=len(values),
      by_seed=values,
      note="largest over all answers: no interval",
      title="log probability of an answer, own rows against none",
    )
  before = scored.facts(scored_lib.FORGET["on"], "unique")
  gold = scored.facts(scored_lib.FORGET["retrained"], "unique")
  for role in dict.fromkeys(role for role, _ in facts):
    own = _gather(scored, facts.get((role, "own"), []))
    if own is None:
      continue
    name = f"reenabling.{role}"
    book.add(
      f"{name}.accuracy",
      book_lib.mean(own["greedy"], own),
      "share",
      widen="share",
    )
    book.add(f"{name}.log_odds", book_lib.mean(own["log_odds"], own), "nats")
    for other, against in (("on", before), ("retrained", gold)):
      book.add(
        f"reenabling.{role}_over_{other}.accuracy",
        comparisons.change(own, against, "probe", "greedy"),
        "points",
        widen="paired",
      )


def membership(
  scored: scored_lib.Scored,
) -> dict[tuple[str, str], membership_scores.Scores]:
  """Return the scores of all seeds, by condition and score."""
  return scored.once("membership", _membership)


def _membership(scored):
  sides: dict[tuple[str, str, str], list] = {}
  for role, seed, result in found(scored, "membership"):
    for mode, both in result["modes"].items():
      condition = condition_of(role, mode)
      if condition is None:
        continue
      for side in ("members", "non_members"):
        columns = columns_lib.of_items(both[side], seed)
        if side == "members":
          columns = columns_lib.without(columns, scored.excluded)
        for name in both["scores"]:
          sides.setdefault((condition, name, side), []).append(columns)
  joined = {key: columns_lib.join(parts) for key, parts in sides.items()}
  scores = {}
  for condition, name, side in joined:
    members = joined[condition, name, "members"]
    others = joined[condition, name, "non_members"]
    if side == "members" and members is not None and others is not None:
      scores[condition, name] = membership_scores.Scores(
        members=members[name],
        member_clusters=members["source"],
        member_seeds=members["seed"],
        others=others[name],
        other_clusters=others["source"],
        other_seeds=others["seed"],
      )
  return scores


def _add_membership(book, scored):
  scores = membership(scored)
  for (condition, name), own in scores.items():
    prefix = f"membership.{condition}.{name}"
    seeds = [one_seed(own, seed) for seed in np.unique(own.member_seeds)]
    areas = [membership_scores.area(one) for one in seeds]
    book.put(
      f"{prefix}.auc",
      membership_scores.auc(own, book.settings),
      "auc",
      areas,
    )
    if len(own.others) >= membership_scores.fewest_others():
      book.put(
        f"{prefix}.tpr_at_1_percent",
        membership_scores.tpr_at_fpr(own, book.settings),
        "share",
      )
    gold = scores.get(("retrained", name))
    if gold is None or condition == "retrained":
      continue
    reference = membership_scores.area(gold)
    if _same_documents(own, gold):
      book.put(
        f"membership.{condition}_minus_retrained.{name}.auc",
        membership_scores.auc_difference(own, gold, book.settings),
        "auc",
        [area - reference for area in areas],
      )
    if name == "min_k" and reference < 1:
      book.plain(
        f"membership.{condition}.privleak",
        membership_scores.privleak(membership_scores.area(own), reference),
        "percent",
        n=len(own.members) + len(own.others),
        note="MUSE's figure, a ratio of two AUCs: see their difference",
      )


def one_seed(scores: membership_scores.Scores, seed: int):
  """Return the scores of one seed's model."""
  mine, theirs = scores.member_seeds == seed, scores.other_seeds == seed
  return membership_scores.one_model(
    scores.members[mine],
    scores.member_clusters[mine],
    scores.others[theirs],
    scores.other_clusters[theirs],
  )


def _same_documents(first, second) -> bool:
  return all(
    set(getattr(first, side)) == set(getattr(second, side))
    for side in ("member_clusters", "other_clusters")
  )


def _group_condition(role, name, mode):
  """Return the condition of a group of the extraction attack."""
  if name == "held_out":
    return "control" if role == "full" else f"{role}_control"
  if name == "retained":
    return None
  if name == "own":
    return "on" if role == "full" else None
  return condition_of(role, mode) or SERVED.get(role)


def _add_extraction(book, scored):
  rows: dict[tuple[str, str, str], list] = {}
  for role, seed, result in found(scored, "extraction"):
    for part in ("prefixes", "paraphrases", "samples"):
      for name, group in result.get(part, {}).items():
        mode = result["groups"][name]["mode"]
        condition = _group_condition(role, name, mode)
        if condition is None:
          continue
        if part != "prefixes":
          columns = columns_lib.of_items(group["items"], seed)
          rows.setdefault((part, "", condition), []).append(columns)
          continue
        items = dict(group["items"])
        continued, asked = items.pop("continued"), items.pop("asked")
        for length in continued:
          columns = columns_lib.of_items(
            items | {"continued": continued[length], "asked": asked[length]},
            seed,
          )
          rows.setdefault((part, length, condition), []).append(columns)
  joined = {key: _gather(scored, parts) for key, parts in rows.items()}
  for (part, length, condition), columns in joined.items():
    gold = joined.get((part, length, "retrained"))
    for measure, values, unit, widen in _extracted(part, columns):
      name = f"{part}.{length}" if length else part
      book.add(
        f"extraction.{condition}.{name}.{measure}",
        book_lib.mean(values["value"], values),
        unit,
        widen="share" if widen else None,
      )
      if condition == "retrained" or condition.endswith("control"):
        continue
      other = {one[0]: one[1] for one in _extracted(part, gold)}.get(measure)
      book.add(
        f"extraction.{condition}_over_retrained.{name}.{measure}",
        comparisons.change(values, other, "item", "value"),
        "points" if unit == "share" else unit,
        widen="paired" if widen else None,
      )


def _extracted(part, columns):
  """Yield measure, columns with "value", unit and whether it is a share."""
  if columns is None:
    return
  if part == "prefixes":
    asked = columns_lib.select(columns, columns["asked"] > 0)
    if asked is not None:
      value = asked["continued"].astype(np.float64)
      yield "tokens", asked | {"value": value}, "tokens", False
      whole = (asked["continued"] >= asked["asked"]).astype(np.float64)
      yield "verbatim", asked | {"value": whole}, "share", True
  elif part == "paraphrases":
    value = (columns["num_greedy"] > 0).astype(np.float64)
    yield "any_wording", columns | {"value": value}, "share", True
    value = metrics.log_odds(columns["best_log_probability"])
    yield "best_log_odds", columns | {"value": value}, "nats", False
  else:
    value = (columns["prompted"] > 0).astype(np.float64)
    yield "any_sample", columns | {"value": value}, "share", True


def _add_prompt_search(book, scored):
  rows: dict[str, list] = {}
  for role, seed, result in found(scored, "prompt_search"):
    for group in result["groups"]:
      condition = condition_of(role, group["mode"]) or SERVED[role]
      if group["population"] == "held_out":
        condition = f"{condition}_floor"
      items = {
        name: group["items"][name]
        for name in ("source", "ratio", "prompt_tokens", "best_loss")
      }
      rows.setdefault(condition, []).append(columns_lib.of_items(items, seed))
  joined = {name: _gather(scored, parts) for name, parts in rows.items()}
  for condition, columns in joined.items():
    if columns is None:
      continue
    name = f"prompt_search.{condition}"
    book.add(
      f"{name}.compression_ratio",
      book_lib.mean(columns["ratio"], columns, "source"),
      "ratio",
    )
    hit = (columns["ratio"] > 1).astype(np.float64)
    hit[np.isnan(columns["prompt_tokens"].astype(np.float64))] = 0.0
    book.add(
      f"{name}.compressed",
      book_lib.mean(hit, columns, "source"),
      "share",
      widen="share",
    )
    if condition == "retrained" or condition.endswith("floor"):
      continue
    own = columns | {"cluster": columns["source"]}
    book.add(
      f"prompt_search.{condition}_over_retrained.compression_ratio",
      comparisons.change(own, joined.get("retrained"), "source", "ratio"),
      "ratio",
    )
