import types

import numpy as np
import pytest

from nulls_jax.evaluation import intervals
from nulls_jax.protocol import book as book_lib
from nulls_jax.protocol import quantisation_figures

_KEYS = ("ann", "bo", "cy")


def _level(bits, losses, greedy):
  return {
    "bits": bits,
    "facts": [
      {
        "population": "forget",
        "mode": "erased",
        "kind": kind,
        "context": "bare",
        "items": {
          "probe": [0, 1, 2],
          "source": list(_KEYS),
          "cluster": list(_KEYS),
          "greedy": greedy,
          "log_probability": [-0.5, -1.0, -2.0],
        },
      }
      for kind in ("unique", "shared")
    ],
    "documents": [
      {
        "population": population,
        "mode": "erased",
        "items": {
          "source": list(_KEYS),
          "loss": losses,
          "num_targets": [10, 20, 30],
        },
      }
      for population in ("forget", "held_out")
    ],
  }


def _figures(by_seed, excluded=frozenset()):
  results = types.SimpleNamespace(
    roles=("erased",),
    num_seeds=lambda role: len(by_seed),
    attack=lambda attack, role, seed: {"levels": by_seed[seed]},
  )
  book = book_lib.Book(intervals.Settings(resamples=400))
  quantisation_figures.add(
    book, types.SimpleNamespace(results=results, excluded=set(excluded))
  )
  return book.figures


def test_texts_and_facts_at_each_level():
  seeds = [
    [
      _level(32, [40.0, 90.0, 130.0], [0, 0, 1]),
      _level(4, [39.0, 86.0, 133.0], [1, 0, 1]),
    ],
    [
      _level(32, [50.0, 80.0, 110.0], [0, 0, 0]),
      _level(4, [46.0, 80.0, 110.0], [0, 0, 0]),
    ],
  ]
  found = _figures(seeds)
  name = "quantisation.erased.bits_4"
  assert found[f"{name}.loss"]["value"] == pytest.approx(494 / 120)
  assert found[f"{name}.loss"]["n"] == 6
  # Pairs of one seed: -1, -4, +3 and -4, 0, 0.
  assert found[f"{name}_over_32.loss"]["value"] == pytest.approx(-6 / 120)
  assert found[f"{name}_over_32.loss"]["by_seed"] == pytest.approx(
    [-2 / 60, -4 / 60]
  )
  assert found[f"{name}.accuracy"]["value"] == pytest.approx(2 / 6)
  assert found[f"{name}_over_32.accuracy"]["value"] == pytest.approx(1 / 6)
  odds = [p / (1 - p) for p in np.exp([-0.5, -1.0, -2.0])]
  assert found[f"{name}.log_odds"]["value"] == pytest.approx(
    np.log(odds).mean()
  )
  assert "quantisation.erased.bits_32_over_32.loss" not in found


def test_excluded_sources_are_in_no_figure():
  seeds = [[_level(32, [40.0, 90.0, 130.0], [0, 0, 1])]]
  found = _figures(seeds, {"cy"})
  assert found["quantisation.erased.bits_32.loss"]["value"] == pytest.approx(
    130 / 30
  )
  assert found["quantisation.erased.bits_32.accuracy"]["n"] == 2
  assert not _figures(seeds, set(_KEYS))
