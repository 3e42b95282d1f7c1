"""What a request touches: its sources, the survivors, and the rows.

Owns the sorting of a ledger's sources and the sets of blocks that are zero
before and after a request. Reads a ledger and the settings of the sinks, from
a checkpoint or before there is one; reads no weights.

Invariant: nothing is written, and every source of the ledger is erased,
named or surviving, never two of them.
"""

import dataclasses
import pathlib

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import routing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib
from nulls_jax.unlearning.checkpoint import moments, plan, storage
from nulls_jax.unlearning.forecasting import count as forecast_count

_BATCH = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
  """Where the sinks are: all that a forecast needs to know of a model.

  Attributes:
    config: the settings of the sinks.
    num_layers: layers, each with a pool of its own.
    ledger: path of the ledger.
  """

  config: assignment.SinkConfig
  num_layers: int
  ledger: pathlib.Path

  def __post_init__(self):
    if self.config.kind == "none":
      raise errors.UserError(
        "the model is dense (sinks.kind none): no weight belongs to a source, "
        "so there is nothing to erase; retrain without the sources"
      )
    if self.num_layers < 1:
      raise errors.UserError(
        f"model.num_layers is {self.num_layers}; it must be at least 1"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
  """How many sources there are of each sort.

  Attributes:
    in_ledger: all, erased ones included.
    erased_before: erased by earlier requests.
    named: in this request.
    named_but_erased: of those, the ones that an earlier request has erased.
    to_erase: of those, the others.
    surviving: sources that are neither erased nor named.
  """

  in_ledger: int
  erased_before: int
  named: int
  named_but_erased: int
  to_erase: int
  surviving: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """Rows of the table: one sink each, its gate, up and down vectors.

  Attributes:
    in_stratum: rows of one stratum of one layer.
    zero_before: zero from earlier requests, `[layers][strata]`.
    newly_zero: zero after this request and not before, `[layers][strata]`.
    shards: devices over which the table is divided.
    divided: what a shard holds: "strata" (whole strata of every layer) or
      "rows" (an equal, contiguous part of the rows of every stratum).
    newly_zero_by_shard: `[layers][shards]`.
  """

  in_stratum: int
  zero_before: list[list[int]]
  newly_zero: list[list[int]]
  shards: int
  divided: str
  newly_zero_by_shard: list[list[int]]


def read_run(run_dir: pathlib.Path, step: int | None = None) -> Pool:
  """Return the pool of a run's checkpoint, the newest by default.

  Raises:
    errors.UserError: this is no run, its model is dense, its table does not
      fit its assignment, or its ledger is of another run.
  """
  step_dir = plan.find_step(run_dir, step)
  config = plan.read_assignment(step_dir / plan.STEP_FILE)
  item = step_dir / plan.ITEM
  path = ("params", *moments.SINK_PATH)
  arrays = arrays_lib.read_arrays(storage.Database.open(item))
  shapes = [array.shape for array in arrays if array.path == path]
  expected = (config.strata, config.rows_per_stratum)
  if not shapes or len(shapes[0]) != 4 or shapes[0][1:3] != expected:
    raise errors.UserError(
      f"{item}: {'.'.join(path)} is {shapes[0] if shapes else 'missing'}, "
      f"which does not fit the assignment ({config}); expected (layers, "
      f"{expected[0]}, {expected[1]}, 3 * d_model): use the release that "
      "wrote the checkpoint"
    )
  with ledger_lib.Ledger.open(run_dir / plan.LEDGER_FILE) as ledger:
    plan.check_ledger(step_dir / plan.STEP_FILE, ledger)
  return Pool(config=config, num_layers=shapes[0][0], ledger=ledger.path)


class Survey:
  """The ledger's sources and the blocks that a request concerns.

  A dedicated table has the same rows in every layer and stratum, so that one
  set stands for all.

  Attributes:
    pool: where the sinks are; a dedicated table's rows laid out.
    named: the sources of the request, erased ones among them.
    sources: how many there are of each sort.
    ids: `uint64 [1 + sources]`, by index.
    indices: of the surviving sources, ascending.
    surviving_sizes: how many survivors there are of each size class.
    erased_sizes: the same of the sources that are erased after the request.
    before: `bool [layers, strata, blocks]` of a hashed pool, `[1, 1, blocks]`
      of a dedicated table: the blocks that are zero before the request.
    after: the same, after the request.
  """

  def __init__(self, pool: Pool, ledger: ledger_lib.Ledger, keys: list[str]):
    """Read the ledger.

    Raises:
      errors.UserError: keys are unknown, or the ledger is of another run.
    """
    self.pool = pool = _with_all_sources(pool, ledger)
    self.named = ledger.find(keys, allow_erased=True)
    self.ids = ids = ledger.ids()
    erased = [source.index for source in ledger.erased()]
    active = [s.index for s in self.named if s.status == ledger_lib.ACTIVE]
    survives = np.ones(len(ids), bool)
    survives[[0, *erased, *active]] = False
    self.indices = np.flatnonzero(survives)
    self.sources = Sources(
      in_ledger=len(ids) - 1,
      erased_before=len(erased),
      named=len(self.named),
      named_but_erased=len(self.named) - len(active),
      to_erase=len(active),
      surviving=len(self.indices),
    )
    words = routing.all_words(pool.config, ledger)
    self.before = _zero_blocks(pool, words[erased])
    self.after = self.before | _zero_blocks(pool, words[active])
    self._words = words[self.indices]
    self.surviving_sizes = self._sizes(self._words)
    self.erased_sizes = self._sizes(words[[*erased, *active]])

  def _sizes(self, words_Sx2: np.ndarray) -> np.ndarray:
    classes = assignment.size_class(self.pool.config, words_Sx2)
    return np.bincount(classes, minlength=self.pool.config.size_classes)

  @property
  def num_owned(self) -> int:
    """Most blocks that a source owns in all layers and strata."""
    config = self.pool.config
    return self.pool.num_layers * config.strata * config.blocks_per_source

  @property
  def sizes(self) -> np.ndarray:
    """How many sources the ledger has of each size class."""
    return self.surviving_sizes + self.erased_sizes

  @property
  def num_erased(self) -> int:
    """Sources that are erased after the request."""
    return self.sources.erased_before + self.sources.to_erase

  def count(
    self,
    threads: int | None = None,
    progress: forecast_count.Progress | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Return the survivors' lost blocks before and after the request.

    Out of `num_owned` for every survivor: for one that owns half as many,
    each lost block counts twice.
    """
    config = self.pool.config
    if config.kind == "dedicated":
      return (np.zeros(len(self.indices), np.uint32),) * 2
    sets = [self.before, self.after]
    if not self.sources.to_erase:
      sets.pop()
    counts = forecast_count.lost_blocks(
      config, self._words, sets, threads=threads, progress=progress
    )
    if config.size_classes > 1:
      classes = assignment.size_class(config, self._words)
      counts <<= (config.size_classes - 1 - classes).astype(np.uint32)
    return counts[0], counts[-1]

  def rows(self, shards: int) -> Rows:
    """Return the rows that the request makes zero.

    Raises:
      errors.UserError: so many shards divide neither strata nor rows.
    """
    config = self.pool.config
    divided = _division(config, shards)
    size, parts = config.block_size, shards if divided == "rows" else 1
    new = np.repeat(self.after & ~self.before, size, axis=2)
    new_NxGxP = new.reshape(*new.shape[:2], parts, -1).sum(axis=3)
    shape = (self.pool.num_layers, config.strata)
    new_NxGxP = np.broadcast_to(new_NxGxP, (*shape, parts))
    by_shard = new_NxGxP.sum(axis=1)
    if divided == "strata":
      by_shard = new_NxGxP.reshape(shape[0], shards, -1).sum(axis=2)
    before = np.broadcast_to(size * self.before.sum(axis=2), shape)
    return Rows(
      in_stratum=config.rows_per_stratum,
      zero_before=before.tolist(),
      newly_zero=new_NxGxP.sum(axis=2).tolist(),
      shards=shards,
      divided=divided,
      newly_zero_by_shard=by_shard.tolist(),
    )


def _with_all_sources(pool: Pool, ledger: ledger_lib.Ledger) -> Pool:
  """Lay the rows of a dedicated table out for the ledger, as training does."""
  try:
    config = routing.lay_out(pool.config, ledger)
  except routing.NoRoomError as error:
    raise errors.UserError(f"{error}; this is another run's ledger") from error
  return dataclasses.replace(pool, config=config)


def _division(config: assignment.SinkConfig, shards: int) -> str:
  """Return what a shard holds: strata where they divide, else rows."""
  if shards >= 1 and config.strata % shards == 0:
    return "strata"
  if shards >= 1 and config.rows_per_stratum % shards == 0:
    return "rows"
  raise errors.UserError(
    f"{shards} shards divide neither the {config.strata} strata nor the "
    f"{config.rows_per_stratum} rows of a stratum; give a number that divides "
    "one of them"
  )


def _zero_blocks(pool: Pool, words_Sx2: np.ndarray) -> np.ndarray:
  """Return which blocks belong to any of the sources."""
  config, num_layers = pool.config, pool.num_layers
  if config.kind == "dedicated":
    config, num_layers = (
      dataclasses.replace(
        config, strata=1, sinks_per_source=config.rows_per_share
      ),
      1,
    )
  zero = np.zeros((num_layers, config.strata, config.blocks_per_stratum), bool)
  strata = np.arange(config.strata)[:, None]
  for start in range(0, len(words_Sx2), _BATCH):
    part = words_Sx2[start : start + _BATCH]
    for layer in range(num_layers):
      zero[layer, strata, assignment.blocks(config, part, layer)] = True
  return zero
