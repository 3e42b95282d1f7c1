"""Columns of several runs and seeds, side by side."""

import numpy as np
import pytest

from nulls_jax.evaluation import metrics
from nulls_jax.study import columns


def group(mode, sources, greedy, support=1):
  return {
    "population": "forget",
    "mode": mode,
    "kind": "unique",
    "context": "bare",
    "items": {
      "probe": list(range(len(sources))),
      "source": sources,
      "cluster": sources,
      "support": [support] * len(sources),
      "greedy": greedy,
      "log_truth_ratio": [None] * len(sources),
    },
  }


def results(*by_seed):
  return columns.Results([{"run": {"probes": groups}} for groups in by_seed])


def test_probes_of_all_seeds_are_joined():
  found = results(
    [group("on", ["a", "b"], [1, 0]), group("off", ["a"], [0])],
    [group("on", ["a", "b"], [1, 1])],
  ).probes("run", "forget", "on", "unique")
  assert found["greedy"].tolist() == [1, 0, 1, 1]
  assert found["seed"].tolist() == [0, 0, 1, 1]
  assert np.isnan(found["log_truth_ratio"]).all()


def test_what_was_not_asked_is_none():
  held = results([group("on", ["a"], [1], support=20)])
  assert held.probes("run", "forget", "erased", "unique") is None
  assert held.probes("other", "forget", "on", "unique") is None
  assert held.probes("run", "forget", "on", "unique", edge=2) is None
  assert held.probes("run", "forget", "on", "unique", edge=15) is not None


def test_pair_goes_by_item_not_by_position():
  first = {
    "seed": np.array([0, 0, 1]),
    "probe": np.array([5, 6, 5]),
    "greedy": np.array([1, 2, 3]),
  }
  second = {
    "seed": np.array([1, 0]),
    "probe": np.array([5, 5]),
    "greedy": np.array([30, 10]),
  }
  left, right = columns.pair(first, second, "probe")
  assert left["greedy"].tolist() == [1, 3]
  assert right["greedy"].tolist() == [10, 30]


def test_pair_of_strangers_is_none():
  one = {"seed": np.array([0]), "probe": np.array([1])}
  other = {"seed": np.array([0]), "probe": np.array([2])}
  assert columns.pair(one, other, "probe") is None
  assert columns.pair(one, None, "probe") is None


def test_figure_pools_seeds_and_gives_each():
  found = columns.figure(
    {"seed": np.array([0, 0, 1]), "x": np.array([0.0, 1.0, 1.0])},
    lambda part: metrics.mean(part["x"]),
  )
  assert found["value"] == pytest.approx(2 / 3)
  assert found["by_seed"] == pytest.approx([0.5, 1.0])
  assert found["n"] == 3
