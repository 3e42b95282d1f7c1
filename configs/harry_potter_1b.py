"""Books among clusters of the web, at the paper's geometry, on a TPU pod.

From arXiv 2606.13873, its Harry Potter setting: the decoder, optimiser, context
and vocabulary of its Wikipedia setting (`wiki_1b` says where each is from), an
MLP of 2,500 = 500 + 2,000, 200 sinks a source; 3.8 B tokens of C4 in 5,000
semantic clusters, a source each, and the seven books as one more.

Rounded: a backbone of 500 neurons to 512, a pool of 2,000 to 2,048; 200 sinks
are 25 in each of 8 strata. This project's: one pass over the data (the paper's
number is not known here), and what is this project's in `wiki_1b`.

Documents with a "source" of their own keep it, and all others are clustered:
so the books, each a line {"source": "the books", "text": ...}, are prepared
together with the web. The clustering is this project's
(`nulls_jax/data/reading/clustering.py`); the paper's is not known here. Where
the glob stands, give as many files of C4 as have the tokens that you want.

  nulls prepare --documents c4/*.json.gz books.jsonl --sources cluster:5000 \\
    --config configs/harry_potter_1b.py --out data/books
  nulls train --data data/books --run runs/books \\
    --config configs/harry_potter_1b.py

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
    # Some 7,250 steps.
    training=dataclasses.replace(wiki.training, epochs=1),
  )
