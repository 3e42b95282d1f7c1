"""Figures that set two models, or two populations, against each other.

Owns the dotted names below `leak` and `forget_quality`, and those of two
conditions below `forget`, `retained` and `held_out`, see `figures`.

Invariant: two models are compared item by item; retrained models by their
mean over seeds, so that every seed of ours meets all of theirs.
"""

import numpy as np

from nulls_jax.evaluation import columns as columns_lib
from nulls_jax.evaluation import equivalence, intervals, probes
from nulls_jax.protocol import book as book_lib
from nulls_jax.protocol import forgetting
from nulls_jax.protocol import scored as scored_lib

_COMPARED = {
  "accuracy": ("greedy", "points", "paired"),
  "log_odds": ("log_odds", "nats", None),
  "log_truth_ratio": ("log_truth_ratio", "nats a token", None),
}


def add(book: book_lib.Book, scored: scored_lib.Scored) -> None:
  """Add all figures of two conditions; `forgetting.add` comes first."""
  for condition, place in scored_lib.FORGET.items():
    if condition != "retrained":
      _add_over_retrained(book, scored, condition, place)
      _add_quality(book, scored, condition, place)
    _add_gap(book, scored, condition, place)
  _add_control(book, scored)
  _add_kept(book, scored)
  _add_z(book)


def _add_over_retrained(book, scored, condition, place):
  """Paired differences: the same items, retrained's mean over its seeds."""
  gold = scored_lib.FORGET["retrained"]
  name = f"{condition}_over_retrained"
  for fact in columns_lib.FACTS:
    edges = [None] if fact == "unique" else [None, *probes.SUPPORT_EDGES]
    for edge in edges:
      own, other = (
        scored.facts(place, fact, edge),
        scored.facts(gold, fact, edge),
      )
      middle = fact if edge is None else f"{fact}.support_{edge}"
      for measure, (column, unit, widen) in _COMPARED.items():
        if fact != "unique" and measure != "accuracy":
          continue
        book.add(
          f"forget.{middle}.{name}.{measure}",
          change(forgetting.with_numbers(own, column), other, "probe", column),
          unit,
          widen=widen,
        )
  book.add(
    f"forget.text.{name}.loss",
    loss_change(scored.sources(place), scored.sources(gold)),
    "nats a token",
  )


def change(columns, other, key: str, column: str) -> book_lib.Ratio | None:
  """Return the mean of a column minus the other model's, item by item."""
  both = columns_lib.against(columns, other, key, [column])
  if both is None:
    return None
  return book_lib.mean(both[0][column] - both[1][column], both[0])


def loss_change(columns, other, key: str = "source") -> book_lib.Ratio | None:
  """Return the loss a token minus the other model's, the same texts."""
  both = columns_lib.against(columns, other, key, ["loss"])
  if both is None:
    return None
  return book_lib.ratio(
    both[0]["loss"] - both[1]["loss"], both[0]["num_targets"], both[0]
  )


def _add_gap(book, scored, condition, place):
  """Gap closed, of text loss and of unique facts' log-odds."""
  if condition in ("on", "retrained", "dense", "dense_retrained"):
    return
  middle = "" if condition == "erased" else f".{condition}"
  for what, get, key, column in (
    ("text", scored.sources, "source", "loss"),
    ("unique", lambda one: scored.facts(one, "unique"), "probe", "log_odds"),
  ):
    own = get(place)
    full = columns_lib.against(own, get(scored_lib.FORGET["on"]), key, [column])
    gold = columns_lib.against(
      own, get(scored_lib.FORGET["retrained"]), key, [column]
    )
    if full is None or gold is None:
      continue
    if len(full[0][key]) != len(own[key]) or len(gold[0][key]) != len(own[key]):
      continue
    before, after = full[1][column], gold[1][column]
    book.add(
      f"forget.{what}{middle}.gap_closed",
      book_lib.ratio(before - own[column], before - after, own),
      "ratio",
    )


def _add_quality(book, scored, condition, place):
  """Forget quality: KS against retrained seed by seed, and equivalence."""
  own = forgetting.with_numbers(
    scored.facts(place, "unique"), "log_truth_ratio"
  )
  gold = forgetting.with_numbers(
    scored.facts(scored_lib.FORGET["retrained"], "unique"), "log_truth_ratio"
  )
  pairs = _seed_pairs(own, gold)
  if not pairs:
    return
  first, second, clusters = (
    np.concatenate([pair[place] for pair in pairs]) for place in range(3)
  )
  pooled = equivalence.compare(first, second, clusters, book.settings)
  single = [equivalence.ks_test(*pair[:2]) for pair in pairs]
  name = f"forget_quality.{condition}"
  shared = {"n": pooled.n, "clusters": pooled.clusters}
  worst = "worst seed; items taken as independent, as TOFU does: no interval"
  book.plain(
    f"{name}.ks",
    max(one[0] for one in single),
    "statistic",
    by_seed=[one[0] for one in single],
    note=worst,
    **shared,
  )
  book.plain(
    f"{name}.ks_p",
    min(one[1] for one in single),
    "p",
    by_seed=[one[1] for one in single],
    note=worst,
    **shared,
  )
  if pooled.equivalent is None:
    return
  bound = "an upper bound (one-sided, 95 %) by cluster bootstrap"
  settings = equivalence.Settings()
  book.plain(
    f"{name}.ks_high", pooled.ks_high, "statistic", note=bound, **shared
  )
  book.plain(
    f"{name}.tost_p",
    pooled.tost_p,
    "p",
    note=f"of a difference of {settings.margin:g} nats a token or more",
    **shared,
  )
  book.plain(
    f"{name}.equivalent",
    float(pooled.equivalent),
    "count",
    note=(
      f"1: mean log truth ratios shown to differ by less than "
      f"{settings.margin:g} nats a token, and distributions by a KS distance "
      f"of less than {settings.distance:g}; 0: not shown"
    ),
    **shared,
  )


def _seed_pairs(own, gold):
  """Return log truth ratios of the same items, seed beside retrained seed."""
  if own is None or gold is None:
    return []
  pairs = []
  seeds = np.unique(gold["seed"])
  for place, seed in enumerate(np.unique(own["seed"])):
    both = columns_lib.against(
      columns_lib.select(own, own["seed"] == seed),
      columns_lib.select(gold, gold["seed"] == seeds[place % len(seeds)]),
      "probe",
      ["log_truth_ratio"],
    )
    if both is not None:
      pairs.append(
        (
          both[0]["log_truth_ratio"],
          both[1]["log_truth_ratio"],
          both[0]["source"],
        )
      )
  return pairs


def _add_control(book, scored):
  """Trained against never-trained sources: the leak, and who knows what."""
  for role in ("full", "erased", "repaired", "retrained", "dense"):
    strangers = scored.facts((role, "off", "held_out"), "unique")
    trained = columns_lib.join(
      [
        scored.facts((role, "off", name), "unique")
        for name in ("forget", "retained")
      ]
    )
    if role != "retrained":
      _add_apart(book, f"leak.{role}", trained, strangers, "log_odds", "nats")
  places = scored_lib.FORGET
  for condition in ("retrained", "backbone", "erased"):
    role = places[condition][0]
    _add_apart(
      book,
      f"forget.unique.{condition}_over_control.accuracy",
      scored.facts(places[condition], "unique"),
      scored.facts((role, "off", "held_out"), "unique"),
      "greedy",
      "points",
    )


def _add_apart(book, name, first, second, column, unit):
  """Difference of the means of two populations of the same models."""
  if first is None or second is None:
    return
  seeds = np.intersect1d(first["seed"], second["seed"])

  def means(columns):
    return [float(columns[column][columns["seed"] == s].mean()) for s in seeds]

  between = (
    intervals.share_difference if unit == "points" else intervals.difference
  )
  book.put(
    name,
    between(
      first[column],
      first["source"],
      second[column],
      second["source"],
      book.settings,
    ),
    unit,
    [a - b for a, b in zip(means(first), means(second), strict=True)],
  )


def _add_kept(book, scored):
  """What erasing cost the retained sources, and capability."""
  before = scored_lib.RETAINED["on"]
  for condition in ("suspended", "erased", "repaired", "retrained"):
    place = scored_lib.RETAINED[condition]
    name = f"{condition}_over_on"
    book.add(
      f"retained.unique.{name}.accuracy",
      change(
        scored.facts(place, "unique"),
        scored.facts(before, "unique"),
        "probe",
        "greedy",
      ),
      "points",
      widen="paired",
    )
    book.add(
      f"retained.text.{name}.loss",
      loss_change(scored.sources(place), scored.sources(before)),
      "nats a token",
    )
  _add_identical(book, scored)
  dense = scored.sources(scored_lib.HELD_OUT["dense"])
  for condition in ("control", "erased", "repaired", "retrained"):
    own = scored.sources(scored_lib.HELD_OUT[condition])
    both = columns_lib.against(own, dense, "source", ["loss"])
    if both is not None:
      name = "backbone" if condition == "control" else condition
      book.add(
        f"held_out.text.{name}_over_dense.loss",
        book_lib.ratio(both[0]["loss"], both[1]["loss"], both[0]),
        "ratio",
      )


def _add_identical(book, scored):
  """Share of retained sources whose final states are the same bits."""
  found = [
    scored.sources(scored_lib.RETAINED[name]) for name in ("on", "erased")
  ]
  if found[0] is None or found[1] is None:
    return
  same, sources, seeds = [], [], []
  for seed in np.intersect1d(found[0]["seed"], found[1]["seed"]):
    digests = [
      dict(zip(one["source"][own], one["digest"][own], strict=True))
      for one in found
      for own in [one["seed"] == seed]
    ]
    heads = {
      scored.results.score(role, int(seed))["head_digest"]
      for role in ("full", "erased")
    }
    for source in digests[0].keys() & digests[1].keys():
      alike = digests[0][source] == digests[1][source] and len(heads) == 1
      same.append(float(alike))
      sources.append(source)
      seeds.append(seed)
  if same:
    columns = {"source": np.array(sources), "seed": np.array(seeds)}
    counted = book_lib.mean(np.array(same), columns, "source")
    book.plain(
      "retained.identical",
      float(np.mean(same)),
      "share",
      n=len(same),
      clusters=len(set(sources)),
      by_seed=counted.by_seed(),
      note="compared bit for bit: no interval",
      title="retained sources with the same logits, bit for bit",
    )


def _add_z(book):
  """Distance to retraining in deviations over retrained seeds."""
  for what, measure in (
    ("unique", "accuracy"),
    ("unique", "log_odds"),
    ("text", "loss"),
  ):
    gold = book.figures.get(f"forget.{what}.retrained.{measure}")
    if gold is None or len(gold["by_seed"]) < 2:
      continue
    for condition in scored_lib.FORGET:
      own = book.figures.get(f"forget.{what}.{condition}.{measure}")
      if own is None or condition == "retrained":
        continue
      z = intervals.z_score(own["value"], gold["by_seed"])
      if z is not None:
        book.plain(
          f"forget.{what}.{condition}.{measure}_z",
          z,
          "z",
          n=own["n"],
          clusters=own["clusters"],
          by_seed=[
            intervals.z_score(value, gold["by_seed"])
            for value in own["by_seed"]
          ],
          note=(
            f"in standard deviations over {len(gold['by_seed'])} retrained "
            "seeds: no interval"
          ),
        )
