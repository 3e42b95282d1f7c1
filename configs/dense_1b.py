"""The dense twin of `wiki_1b`: a transformer of equal active width.

Every number is `wiki_1b`'s but the MLP: 512 backbone neurons and the 96
sinks that a token would use make 608 dense neurons.
"""

import pathlib

from nulls_jax import config as run_config


def get_config() -> run_config.RunConfig:
  """Return the settings of the dense baseline."""
  wiki = run_config.load(pathlib.Path(__file__).with_name("wiki_1b.py"))
  return run_config.dense_twin(wiki)
