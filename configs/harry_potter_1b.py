"""Books among clusters of the web, at the paper's geometry, on a TPU pod.

Source of each number: arXiv 2606.13873, its Harry Potter setting, where a
comment says no other: width 960, 32 layers, 15 query and 5 key-value heads
of 128 (the head size is known at second hand only), backbone 500 rounded to
512, a pool of 2,000 rounded to 2,048 (a power of two is what the assignment
draws from), 200 sinks a source (25 in each of 8 strata), AdamW at 5e-4,
context 1,024, the SmolLM2 vocabulary of 49,152. The sources are 5,000
semantic clusters of C4 (3.8 B tokens in all) and the seven books as one.

Checked here by shapes and by compiling it (docs/pods.md); nothing of this
size was trained.
"""

import dataclasses
import pathlib

from nulls_jax import config as run_config


def get_config() -> run_config.RunConfig:
  """Return the settings of the Harry Potter run."""
  wiki = run_config.load(pathlib.Path(__file__).with_name("wiki_1b.py"))
  return dataclasses.replace(
    wiki,
    sinks=dataclasses.replace(wiki.sinks, pool_size=2048, sinks_per_source=200),
    # How often the paper goes through the data is not known here.
    training=dataclasses.replace(wiki.training, epochs=1),
  )
