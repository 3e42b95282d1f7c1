"""The dense twin of `wiki_dedicated`: a transformer of equal active width.

Every number is `wiki_dedicated`'s but the MLP: 512 backbone neurons and the
one sink that a token would use make 513 dense neurons.
"""

import pathlib

from nulls_jax import config as run_config


def get_config() -> run_config.RunConfig:
  """Return the settings of the dense baseline."""
  path = pathlib.Path(__file__).with_name("wiki_dedicated.py")
  return run_config.dense_twin(run_config.load(path))
