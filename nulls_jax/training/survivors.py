"""Who is left after erasures, and which rows of the sink table are theirs.

Owns the split of a run's and a dataset's sources into erased, suspended and
taught, and the marks of table rows that follow. NumPy only.

Invariant: a source that was erased from the run, or is suspended in it, has
no routing words here, whatever the dataset's own ledger says of it.

Dimensions: N layers, G strata, R rows of a stratum.
"""

import dataclasses
import pathlib

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import routing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.revocation import revocation

# Sources whose rows are drawn at one time.
_CHUNK = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survivors:
  """The sources of a run and of a dataset after erasures.

  Attributes:
    words: `uint32 [sources + 1, 2]`, routing words by the dataset's index;
      (0, 0) for every source that is not taught.
    deleted: `bool [sources + 1]`, the dataset's sources that were erased.
    erased: the run's erased sources.
    erased_rows: their rows.
    is_erased: `bool [N, G, R]`, the same rows marked.
    movable: `bool [N, G, R]`, rows of taught sources that were not erased.
    num_retained: sources of the run that were not erased.
    num_suspended: those of them that are suspended, and so not taught.
    num_taught: those of them that the dataset has documents of.
    sinks_lost: mean and largest share of a retained source's sinks that the
      erased sources took with them.
  """

  words: np.ndarray
  deleted: np.ndarray
  erased: tuple[ledger_lib.Source, ...]
  erased_rows: plan.Rows
  is_erased: np.ndarray
  movable: np.ndarray
  num_retained: int
  num_suspended: int
  num_taught: int
  sinks_lost: tuple[float, float]


def find(
  run_dir: pathlib.Path,
  config: assignment.SinkConfig,
  num_layers: int,
  data_ledger: pathlib.Path,
) -> Survivors:
  """Sort the sources of a run and of a dataset by their 64-bit ids.

  Args:
    run_dir: an erased run.
    config: its sinks, hashed.
    num_layers: of its model.
    data_ledger: the dataset's ledger, whose indices may be others.

  Raises:
    errors.UserError: nothing was erased, the dataset has sources that the
      run never had, or it has no source that may be taught.
  """
  with ledger_lib.Ledger.open(run_dir / plan.LEDGER_FILE) as book:
    ids, table = book.ids()[1:], routing.table(config, book)[1:]
    is_active = table.any(axis=1)
    erased = tuple(book.find_by_id(int(number)) for number in ids[~is_active])
  if not erased:
    raise errors.UserError(
      f"{run_dir}: no source was erased from it, so there is nothing to repair"
    )
  suspended = np.fromiter(
    sorted(revocation.read(run_dir).suspended), dtype=np.uint64
  )
  is_suspended = is_active & np.isin(ids, suspended)
  with ledger_lib.Ledger.open(data_ledger) as book:
    data_ids, words = book.ids(), routing.table(config, book)
    _check_known(book, data_ids, ids, run_dir)
  # A dataset of fewer documents may give a source another size class; it owns
  # what the run's ledger says.
  order = np.argsort(ids)
  places = order[np.searchsorted(ids, data_ids[1:], sorter=order)]
  words[1:] = np.where(words[1:].any(axis=1, keepdims=True), table[places], 0)
  words[~np.isin(data_ids, ids[is_active & ~is_suspended])] = 0
  taught = words[words.any(axis=1)]
  if not len(taught):
    raise errors.UserError(
      f"{data_ledger.parent}: none of its {len(data_ids) - 1} sources may be "
      f"taught: all were erased from {run_dir} or are suspended there; give a "
      "dataset of retained sources"
    )
  rows = plan.rows_to_zero(config, list(erased), num_layers, run_dir)
  is_erased = np.zeros(
    (num_layers, config.strata, config.rows_per_stratum), bool
  )
  for layer, stratum, numbers in rows.inside(
    tuple(slice(0, size) for size in is_erased.shape)
  ):
    is_erased[layer, stratum, numbers] = True
  return Survivors(
    words=words,
    deleted=np.isin(data_ids, ids[~is_active]),
    erased=erased,
    erased_rows=rows,
    is_erased=is_erased,
    movable=_owned(config, taught, num_layers) & ~is_erased,
    num_retained=int(is_active.sum()),
    num_suspended=int(is_suspended.sum()),
    num_taught=len(taught),
    sinks_lost=_lost(config, table[is_active], is_erased),
  )


def _check_known(book, data_ids, ids, run_dir):
  """Refuse sources that the run's ledger does not have."""
  unknown = data_ids[1:][~np.isin(data_ids[1:], ids)]
  if len(unknown):
    first = [book.find_by_id(int(number)).key for number in unknown[:20]]
    names = [repr(key) for key in first] + [""] * (len(unknown) - len(first))
    raise errors.UserError(
      f"{book.path.parent}: {len(unknown)} of its sources are not in the "
      f"ledger of {run_dir}: {errors.listing(names)}; repair teaches what the "
      "run was trained on: give that dataset, or one prepared from its "
      "documents"
    )


def _no_row(config, num_layers) -> np.ndarray:
  return np.zeros((num_layers, config.strata, config.rows_per_stratum), bool)


def _chunks(config, words, num_layers):
  """Yield (layer, row numbers `[sources, G, rows of a source]`)."""
  for start in range(0, len(words), _CHUNK):
    for layer in range(num_layers):
      yield layer, assignment.rows(config, words[start : start + _CHUNK], layer)


def _owned(config, words, num_layers) -> np.ndarray:
  """Mark the rows of sources: `bool [N, G, R]`."""
  marks = _no_row(config, num_layers)
  for layer, rows_SxGxA in _chunks(config, words, num_layers):
    for stratum in range(config.strata):
      marks[layer, stratum, rows_SxGxA[:, stratum].reshape(-1)] = True
  return marks


def _lost(config, words, is_erased) -> tuple[float, float]:
  """Return the mean and the largest share of a source's marked rows."""
  shares = []
  for start in range(0, len(words), _CHUNK):
    part = words[start : start + _CHUNK]
    own_SxA = assignment.owned(config, part)
    lost = np.zeros(len(part))
    for layer, rows_SxGxA in _chunks(config, part, len(is_erased)):
      for stratum in range(config.strata):
        hit = is_erased[layer, stratum][rows_SxGxA[:, stratum]]
        lost += (hit & own_SxA).sum(axis=-1)
    num_cells = len(is_erased) * config.strata
    shares.append(lost / (num_cells * own_SxA.sum(axis=-1)))
  shares = np.concatenate(shares) if shares else np.zeros(1)
  return float(shares.mean()), float(shares.max())
