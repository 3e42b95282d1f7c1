"""The dense twin of `wiki_dedicated`: a transformer of equal active width."""

import pathlib

from nulls_jax import config as run_config


def get_config() -> run_config.RunConfig:
  """Return the settings of the dense baseline."""
  path = pathlib.Path(__file__).with_name("wiki_dedicated.py")
  return run_config.dense_twin(run_config.load(path))
