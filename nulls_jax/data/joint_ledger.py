"""The ledger of several datasets: the same key in two of them is one source.

Owns the numbers that sources have in the joint ledger. Streams: memory grows
with the number of sources by some words each.

Invariant: the sources of the first ledger keep their numbers and are followed
by what each next one adds, in its order.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from nulls_jax.data import config as data_config
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import ledger_writing


def join(
  path: pathlib.Path,
  ledgers: Sequence[pathlib.Path],
  config: data_config.DataConfig,
) -> None:
  """Write the ledger of all sources of some ledgers, in their order.

  Args:
    path: its place; must not exist.
    ledgers: without erased sources.
    config: of all their datasets; says what size classes are.

  Raises:
    errors.UserError: two keys have one id.
    errors.MachineError: the disk is full.
  """
  if not ledgers:
    ledger_writing.Writer.create(path).close()
    return
  with ledger_writing.Writer.copy(path, ledgers[0]) as joint:
    for other in ledgers[1:]:
      with ledger_lib.Ledger.open(other) as book:
        joint.add_documents(
          (source.key, source.num_documents, source.metadata) for source in book
        )
    joint.add_num_tokens(_num_tokens(joint.ids(), ledgers[1:]))
    if config.class_tokens and len(ledgers) > 1:
      num_tokens = [0, *(source.num_tokens for source in joint)]
      joint.set_size_classes(config.size_classes(np.array(num_tokens)))


def numbers(
  joint: ledger_lib.Ledger, path: pathlib.Path, no_source: bool = False
) -> np.ndarray:
  """Return the joint numbers of a ledger's sources, `uint32 [sources + 1]`.

  Args:
    joint: has all its sources.
    path: the ledger.
    no_source: give all of them the number 0.
  """
  with ledger_lib.Ledger.open(path) as book:
    own_ids = book.ids()
  if no_source:
    return np.zeros(len(own_ids), np.uint32)
  ids = joint.ids()
  order = np.argsort(ids)
  places = np.searchsorted(ids, own_ids, sorter=order)
  return order[places].astype(np.uint32)


def _num_tokens(ids: np.ndarray, ledgers: Sequence[pathlib.Path]) -> np.ndarray:
  """Return the tokens of all sources in these ledgers, `int64 [sources + 1]`.

  Args:
    ids: `uint64 [sources + 1]` of the joint ledger.
    ledgers: of sets; it has all their sources.
  """
  order = np.argsort(ids)
  result = np.zeros(len(ids), np.int64)
  for path in ledgers:
    with ledger_lib.Ledger.open(path) as book:
      tokens = np.fromiter((source.num_tokens for source in book), np.int64)
      places = np.searchsorted(ids, book.ids()[1:], sorter=order)
    result[order[places]] += tokens
  return result
