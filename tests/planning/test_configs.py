"""The full-size configurations, by shapes, at no cost."""

import math
import pathlib

import jax
import pytest

from nulls_jax import config as run_config
from nulls_jax.model import transformer

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def load(name):
  config = run_config.load(CONFIGS / f"{name}.py")
  run_config.validate(config)
  return config


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    ("harry_potter_1b", 487_650_240),
    ("dense_harry_potter_1b", 317_338_560),
    ("wiki_dedicated", 590_122_906_560),
    ("dense_wiki_dedicated", 298_998_720),
  ],
)
def test_full_size_parameters(name, parameters):
  config = load(name)
  shapes = jax.eval_shape(
    lambda key: transformer.init(config.model, config.sinks, key),
    jax.random.key(0),
  )
  found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  assert found == parameters


@pytest.mark.parametrize(
  ("name", "dense", "width"),
  [
    ("wiki_1b", "dense_1b", 608),
    ("harry_potter_1b", "dense_harry_potter_1b", 712),
    ("wiki_dedicated", "dense_wiki_dedicated", 513),
  ],
)
def test_a_dense_twin_has_the_active_width_and_nothing_else(name, dense, width):
  config, twin = load(name), load(dense)
  assert twin.sinks.kind == "none"
  assert twin.model.backbone_width == width
  assert [
    line
    for line in run_config.differences(config, twin)
    if not line.startswith("sinks.")
  ] == [f"model.backbone_width: 512 -> {width}"]
  assert run_config.dense_twin(twin).model == twin.model
