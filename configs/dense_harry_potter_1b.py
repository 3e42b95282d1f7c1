"""The dense twin of `harry_potter_1b`: a transformer of equal active width.

Every number is `harry_potter_1b`'s but the MLP: 512 backbone neurons and the
200 sinks that a token would use make 712 dense neurons.
"""

import pathlib

from nulls_jax import config as run_config


def get_config() -> run_config.RunConfig:
  """Return the settings of the dense baseline."""
  books = run_config.load(
    pathlib.Path(__file__).with_name("harry_potter_1b.py")
  )
  return run_config.dense_twin(books)
