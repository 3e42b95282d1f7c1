"""Which arrays of a checkpoint hold sinks, and what an erasure does to each.

Owns the accounting: every array is a parameter, the moment of one, a scalar,
or too small to hold a sink's gate vector; anything else is refused. Knows the
moments that end in their parameter's path: full ones (Adam, Lion, momentum,
averages, accumulated gradients), the factored ones of Adafactor (Shazeer and
Stern, arXiv 1804.04235; `optax.scale_by_factored_rms`) and the updates that
row-sparse training counts for every row.

Invariant: what `find` passes is either edited or holds no row of a sink.
"""

import dataclasses
import fractions
import math
import pathlib
from collections.abc import Iterable

import numpy as np
import tensorstore as ts

from nulls_jax import errors
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib

# Every leaf that ends so is a sink table: parameters, moments, averages.
SINK_PATH = ("layers", "sinks", "table")

# What is left when the optimiser's state is dropped.
WITHOUT_OPTIMIZER = frozenset({"params", "step"})

# Names of factored second moments; `v` is theirs where nothing is factored.
_FACTORED = ("v_row", "v_col")
_PLACEHOLDER = (1,)
# Updates of each row, in the optimiser's state of a dedicated table.
_COUNT = "count"
# Their values have 24 bits at most, so that sums of them can be exact.
_STATISTIC_TYPES = ("float32", "bfloat16", "float16")

_DROP = (
  "save the checkpoint without it, or give --drop-optimizer to leave all but "
  "the parameters out"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkArrays:
  """The arrays that an erasure edits.

  Attributes:
    tables: `[N, G, R, 3D]`, the parameters first; named rows become zero.
    row_statistics: `[N, G, R]`, one value a row, such as how often it was
      updated; those of named rows become zero.
    column_statistics: `[N, G, 3D]`, each with its row statistics. A column
      mixes all rows, so every column becomes the mean of the surviving row
      statistics of its layer and stratum: what is left of it says nothing
      of any row.
  """

  tables: tuple[arrays_lib.Array, ...]
  row_statistics: tuple[arrays_lib.Array, ...] = ()
  column_statistics: tuple[tuple[arrays_lib.Array, arrays_lib.Array], ...] = ()

  @property
  def with_rows(self) -> tuple[arrays_lib.Array, ...]:
    """The arrays in which the named rows become zero."""
    return self.tables + self.row_statistics

  @property
  def edited(self) -> tuple[arrays_lib.Array, ...]:
    """All arrays that are not byte for byte the source's."""
    return self.with_rows + tuple(
      column for column, _ in self.column_statistics
    )


def find(
  item: pathlib.Path,
  arrays: Iterable[arrays_lib.Array],
  config: assignment.SinkConfig,
) -> SinkArrays:
  """Return the arrays to edit; every other one is known to hold no sink.

  Raises:
    UserError: there is no table, an array of sinks does not fit the
      assignment, or an array may hold sinks in a way that is not known.
  """
  arrays = list(arrays)
  named = {array.path: array for array in arrays}
  first = named.get(("params", *SINK_PATH))
  if first is None:
    raise errors.UserError(
      f"{item}: no array params.{'.'.join(SINK_PATH)}, though the "
      f"assignment is {config.kind}; use the release that wrote the checkpoint"
    )
  accounts = _Accounts(arrays, first)
  kinds = {array.path: accounts.kind(array) for array in arrays}
  groups = {
    kind: [array for array in arrays if kinds[array.path] == kind]
    for kind in _KINDS
  }
  expected = (config.strata, config.rows_per_stratum)
  shape = first.shape
  if len(shape) != 4 or shape[1:3] != expected or shape[3] % 3:
    groups["unfit"].insert(0, first)
  pairs = [(array, _partner(array)) for array in groups["columns"]]
  groups["unfit"] += [
    column for column, row in pairs if kinds.get(row) != "rows"
  ]
  _refuse(item, config, groups)
  groups["table"].sort(key=lambda array: (array is not first, array.name))
  return SinkArrays(
    tables=tuple(groups["table"]),
    row_statistics=tuple(groups["rows"]),
    column_statistics=tuple((array, named[row]) for array, row in pairs),
  )


def _refuse(item, config, groups) -> None:
  if groups["unfit"]:
    raise errors.UserError(
      f"{item}: {_listing(groups['unfit'])} does not fit the assignment "
      f"({config}); expected (layers, {config.strata}, "
      f"{config.rows_per_stratum}, 3 * d_model), the same in parameters and "
      "moments, or its row and column statistics as float32, bfloat16 or "
      f"float16; {_DROP}"
    )
  if groups["ambiguous"]:
    raise errors.UserError(
      f"{item}: rows and columns of {_listing(groups['ambiguous'])} cannot be "
      "told apart, because there are as many rows a stratum as 3 * d_model; "
      f"{_DROP}"
    )
  if groups["unknown"]:
    raise errors.UserError(
      f"{item}: may hold sinks, but are not known: "
      f"{_listing(groups['unknown'])}; use the release that wrote the "
      f"checkpoint, {_DROP}"
    )


_KINDS = (
  "table",
  "rows",
  "columns",
  "other",
  "unfit",
  "ambiguous",
  "unknown",
)


class _Accounts:
  """Says of single arrays what they are, given all parameters."""

  def __init__(self, arrays, table):
    self._table = table
    self._parameters = {
      array.path[1:]: array.shape
      for array in arrays
      if array.path[0] == "params" and array.path[1:] != SINK_PATH
    }

  def kind(self, array: arrays_lib.Array) -> str:
    if array.path[-len(SINK_PATH) :] == SINK_PATH:
      return self._sink_kind(array)
    # A scalar, such as the count of an optimiser's group, holds no row.
    if not array.shape:
      return "other"
    is_parameter = array.path[0] == "params"
    if not is_parameter and self._is_moment(array):
      return "other"
    mentions = any("sinks" in part for part in array.path)
    if mentions or array.shape == self._table.shape:
      return "unknown"
    fits = math.prod(array.shape) >= self._table.shape[-1] // 3
    return "unknown" if fits and not is_parameter else "other"

  def _sink_kind(self, array) -> str:
    table = self._table.shape
    if array.shape == table:
      return "table"
    if array.path[-len(SINK_PATH) - 1] == _COUNT:
      fits = array.shape == table[:3] and array.data_type == "int32"
      return "rows" if fits else "unfit"
    factored = [part for part in array.path if part in (*_FACTORED, "v")]
    if len(factored) != 1 or array.path[0] == "params" or len(table) != 4:
      return "unfit"
    if array.shape == _PLACEHOLDER:
      return "other"
    rows, columns = table[:3], (*table[:2], table[3])
    if factored[0] == "v" or array.data_type not in _STATISTIC_TYPES:
      return "unfit"
    if rows == columns == array.shape:
      return "ambiguous"
    return {rows: "rows", columns: "columns"}.get(array.shape, "unfit")

  def _is_moment(self, array) -> bool:
    """Say whether the array belongs to another parameter than the table."""
    for start in range(1, len(array.path)):
      shape = self._parameters.get(array.path[start:])
      if shape is not None:
        reduced = [shape[:i] + shape[i + 1 :] for i in range(len(shape))]
        return array.shape in (shape, _PLACEHOLDER, *reduced)
    return False


def _partner(array) -> tuple[str, ...]:
  """Return the path of a column statistic's row statistic, or back."""
  swapped = dict(zip(_FACTORED, reversed(_FACTORED), strict=True))
  return tuple(swapped.get(part, part) for part in array.path)


def _listing(arrays) -> str:
  return errors.listing(f"{array.name} {array.shape}" for array in arrays)


class Mean:
  """The mean of some values, exact until it is rounded once.

  So it is the same in whatever order and chunks the values come. Values that
  are not finite are left out; the mean of nothing is 0.
  """

  def __init__(self):
    self._sum = fractions.Fraction(0)
    self._count = 0

  def add(self, values: np.ndarray) -> None:
    """Take values of at most 24 significant bits."""
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    mantissas, exponents = np.frexp(values)
    for exponent in np.unique(exponents).tolist():
      # Whole numbers below 2**24, which float64 adds exactly.
      whole = (mantissas[exponents == exponent] * 2**24).sum()
      scale = fractions.Fraction(2) ** (exponent - 24)
      self._sum += int(whole) * scale
    self._count += values.size

  def value(self) -> float:
    return float(self._sum / self._count) if self._count else 0.0


def reset_values(array: arrays_lib.Array, means: np.ndarray) -> np.ndarray:
  """Return the `[N, G, 1]` values that every column takes."""
  kind = ts.dtype(array.data_type).numpy_dtype
  return means.astype(kind)[:, :, None]
