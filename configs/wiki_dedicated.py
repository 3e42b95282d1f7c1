"""Wikipedia with sinks of its own for every article, on a TPU pod.

`wiki_1b`'s decoder and data; instead of a shared pool, 6.4 M articles own one
sink in each of the 32 layers: 32 x 6.4 M x 3 x 960 = 590 G parameters, of
which a document uses 92 thousand. With two moments in float32 that are 7.1 TB
over the chips: 27.6 GB a chip on 256. `docs/scale.md` says where it fits.

Nothing here is the paper's but what `wiki_1b` takes from it: one sink a layer
is the least that a source can own, and 6.4 M is about what the snapshot has.
To train, take the number from the ledger:

  nulls train --data data/wiki --run runs/own \\
    --config configs/wiki_dedicated.py --sinks.num-sources 0

Checked here by shapes and by compiling it; nothing of this size was trained.
"""

import dataclasses
import pathlib

from nulls_jax import config as run_config
from nulls_jax.sinks.assignment import SinkConfig


def get_config() -> run_config.RunConfig:
  """Return the settings of the Wikipedia run with dedicated sinks."""
  wiki = run_config.load(pathlib.Path(__file__).with_name("wiki_1b.py"))
  return dataclasses.replace(
    wiki,
    # One sink cannot be split: fsdp cuts the rows themselves, and data cuts
    # the layers of the table.
    sinks=SinkConfig(
      kind="dedicated", sinks_per_source=1, strata=1, num_sources=6_400_000
    ),
  )
