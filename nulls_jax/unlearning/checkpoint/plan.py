"""What an erasure will edit, and the refusal of what is not accounted for.

Owns the layout of a run directory and of a checkpoint step as redaction
sees it, the reading of what a step says about itself (assignment, ledger),
and which rows of its tables belong to sources. Writes nothing. `moments`
says which arrays have such rows.

Invariant: a step passes only if every file in it is known, and only with the
ledger of the run that it is from.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import routing
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib
from nulls_jax.unlearning.checkpoint import storage

CHECKPOINT_FORMAT = 1

# Settings of an assignment that came after the first release. Without them
# every source owns one share.
_LATER_FIELDS = frozenset({"size_classes", "num_shares"})

# A run directory.
CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.model"
LEDGER_FILE = "ledger.sqlite"
# Of a run that started from another one.
GROWN_FILE = "grown.json"
CHECKPOINTS = "checkpoints"

# What may lie in a step and in its item; anything else could hold rows.
ITEM = "state"
STEP_FILE = "_CHECKPOINT_METADATA"
STEP_FILES = frozenset({STEP_FILE, "commit_success.txt"})
ITEM_FILES = frozenset(
  {arrays_lib.TREE_FILE, "_sharding", "array_metadatas", "commit_success.txt"}
)
_DATABASE_FILES = frozenset({storage.MANIFEST_FILE, storage.DATA_DIRECTORY})
_PROCESS_PREFIX = "ocdbt.process_"

_REMEDY = "use another step or a backup of the checkpoint"


def find_step(run_dir: pathlib.Path, step: int | None) -> pathlib.Path:
  """Return the directory of one step, the newest by default.

  Raises:
    UserError: this is no run directory, or it has no such step.
  """
  steps = find_steps(run_dir)
  found = [path for path in steps if step in (None, int(path.name))]
  if not found:
    raise errors.UserError(
      f"{run_dir / CHECKPOINTS} has no step {step}; it has "
      f"{errors.listing(path.name for path in steps)}"
    )
  return found[-1]


def find_steps(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Return the directories of all kept steps, ascending.

  Raises:
    UserError: this is no run directory, or it has no checkpoint.
  """
  if not run_dir.is_dir():
    raise errors.UserError(f"{run_dir} does not exist; give a run directory")
  needed = (CONFIG_FILE, TOKENIZER_FILE, LEDGER_FILE, CHECKPOINTS)
  missing = [name for name in needed if not (run_dir / name).exists()]
  if missing:
    raise errors.UserError(
      f"{run_dir} is not a run directory: {errors.listing(missing)} missing; "
      "give the directory that training wrote"
    )
  root = run_dir / CHECKPOINTS
  steps = [
    path
    for path in root.iterdir()
    if path.name.isascii() and path.name.isdigit() and path.is_dir()
  ]
  if not steps:
    raise errors.UserError(
      f"{root} holds no checkpoint; let training save one first"
    )
  return sorted(steps, key=lambda path: int(path.name))


def read_assignment(path: pathlib.Path) -> assignment.SinkConfig:
  """Return the sink settings that the checkpoint was trained with.

  Args:
    path: the step's metadata, `_CHECKPOINT_METADATA`.

  Raises:
    UserError: there are none, none that this release knows, or the model is
      dense.
  """
  return parse_assignment(read_custom_metadata(path).get("assignment"), path)


def parse_assignment(record: Any, path: pathlib.Path) -> assignment.SinkConfig:
  """Return the sink settings of an assignment's record.

  Args:
    record: the fields of `SinkConfig` and the assignment's "version".
    path: where it stands, for the errors.

  Raises:
    UserError: as `read_assignment`.
  """
  fields = dict(record) if isinstance(record, dict) else {}
  found = fields.pop("version", None)
  known = {field.name for field in dataclasses.fields(assignment.SinkConfig)}
  missing = known - set(fields) - _LATER_FIELDS
  if found != assignment.VERSION or missing or set(fields) - known:
    raise errors.UserError(
      f"{path}: assignment of version {found!r} with fields "
      f"{sorted(fields)}; this release knows version {assignment.VERSION} "
      f"with {sorted(known)}: use the release that wrote the checkpoint"
    )
  kind = fields["kind"]
  if kind == "none":
    raise errors.UserError(
      f"{path.parent} is a dense model (sinks.kind none): no weight belongs "
      "to a source, so there is nothing to erase; retrain without the sources"
    )
  bad = [
    f"{name}={value!r}"
    for name, value in fields.items()
    if name != "kind" and type(value) is not int
  ]
  if kind not in ("hashed", "dedicated"):
    bad.append(f"kind={kind!r}")
  if bad:
    raise errors.UserError(
      f"{path}: assignment has {errors.listing(bad)}; {_REMEDY}"
    )
  try:
    return assignment.SinkConfig(**fields)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: assignment: {error}; {_REMEDY}") from error


def check_ledger(path: pathlib.Path, ledger: ledger_lib.Ledger) -> str:
  """Refuse a ledger of another run than the step's; return its fingerprint.

  Args:
    path: the step's metadata, `_CHECKPOINT_METADATA`.
    ledger: the open ledger.

  Raises:
    UserError: its sources are not those that the checkpoint was trained with,
      or the checkpoint does not say which those were.
  """
  expected = read_custom_metadata(path).get("ledger_fingerprint")
  if expected is None:
    raise errors.UserError(
      f"{path} has no ledger_fingerprint, so nothing shows that the ledger is "
      "this checkpoint's; train again with this release"
    )
  found = ledger.fingerprint()
  if found != expected:
    raise errors.UserError(
      f"{ledger.path} is the ledger of another run (fingerprint "
      f"{found[:12]}, the checkpoint's is {str(expected)[:12]}): its sources "
      "own other rows; put the run's own ledger back"
    )
  return found


def read_custom_metadata(path: pathlib.Path) -> dict:
  """Return what a step says about itself; raises `UserError`."""
  try:
    custom = json.loads(path.read_text(encoding="utf-8"))["custom_metadata"]
  except FileNotFoundError as error:
    raise errors.UserError(
      f"{path} is missing, so this is no whole checkpoint; {_REMEDY}"
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(f"{path} is damaged ({error}); {_REMEDY}") from error
  custom = custom if isinstance(custom, dict) else {}
  if custom.get("format") != CHECKPOINT_FORMAT:
    raise errors.UserError(
      f"{path}: custom_metadata has the format {custom.get('format')!r}; this "
      f"release knows {CHECKPOINT_FORMAT}: use the release that wrote the "
      "checkpoint"
    )
  return custom


def check_files(step_dir: pathlib.Path) -> None:
  """Refuse a step that holds more than this module knows."""
  if not (step_dir / ITEM).is_dir():
    raise errors.UserError(
      f"{step_dir / ITEM} is missing, so this is no whole checkpoint; use "
      "another step or a backup of it"
    )
  unknown = [
    path
    for path in step_dir.iterdir()
    if path.name not in STEP_FILES and path.name != ITEM
  ]
  unknown += [
    path
    for path in (step_dir / ITEM).iterdir()
    if path.name not in ITEM_FILES | _DATABASE_FILES
    and not path.name.startswith(_PROCESS_PREFIX)
  ]
  if unknown:
    names = sorted(str(path.relative_to(step_dir)) for path in unknown)
    raise errors.UserError(
      f"{step_dir}: unaccounted for: {errors.listing(names)}; it could hold "
      "what is to be erased: remove it, or use the release that wrote it"
    )


class Rows:
  """The rows to zero, as sorted row numbers by layer and stratum."""

  def __init__(self, numbers: list[list[np.ndarray]]):
    self._numbers = numbers

  def counts(self) -> tuple[tuple[int, ...], ...]:
    """Return how many there are, `[layers][strata]`."""
    return tuple(tuple(map(len, layer)) for layer in self._numbers)

  def inside(
    self, domain: tuple[slice, ...]
  ) -> list[tuple[int, int, np.ndarray]]:
    """Return (layer, stratum, rows) within a chunk, counted from its start.

    Rows 3 and 9 of layer 1, stratum 0 are (1, 0, [1]) in the chunk of layers
    0-1, strata 0-1, rows 8-15.
    """
    layers, strata, rows = domain[:3]
    found = []
    for layer in range(layers.start, layers.stop):
      for stratum in range(strata.start, strata.stop):
        numbers = self._numbers[layer][stratum]
        low, high = np.searchsorted(numbers, (rows.start, rows.stop))
        if low < high:
          place = (layer - layers.start, stratum - strata.start)
          found.append((*place, numbers[low:high] - rows.start))
    return found


def rows_to_zero(
  config: assignment.SinkConfig,
  sources: list[ledger_lib.Source],
  num_layers: int,
  run_dir: pathlib.Path,
) -> Rows:
  """Return the rows of the sources in every layer; shared ones count once.

  Args:
    config: the assignment, as the checkpoint has it.
    sources: what is asked for is their ids and indices. Size classes are read
      from the ledger, and only if the assignment has any.
    num_layers: of the model.
    run_dir: the run with the ledger.

  Raises:
    UserError: a source of the ledger has no rows in the table, or the ledger
      does not have a source.
  """
  words_Sx2 = _routing_words(config, sources, run_dir / LEDGER_FILE)
  numbers = []
  for layer in range(num_layers):
    rows_SxGxA = assignment.rows(config, words_Sx2, layer).astype(np.int64)
    numbers.append(
      [np.unique(rows_SxGxA[:, stratum]) for stratum in range(config.strata)]
    )
  return Rows(numbers)


def _routing_words(config, sources, path: pathlib.Path) -> np.ndarray:
  """Return the words `uint32 [S, 2]` of sources known by id and index."""
  if config.size_classes > 1:
    with ledger_lib.Ledger.open(path) as ledger:
      known = [ledger.find_by_id(source.id) for source in sources]
      moved = [
        f"{one.id:016x}"
        for one, source in zip(known, sources, strict=True)
        if one.index != source.index
      ]
      if moved:
        raise errors.UserError(
          f"{path} has other numbers for {errors.listing(moved)}; this is "
          "another run's ledger"
        )
      return routing.words(config, ledger, known)
  indices = np.asarray([source.index for source in sources], np.int64)
  if config.kind == "dedicated" and indices.max() > config.shares:
    raise errors.UserError(
      f"{path} has a source {indices.max()}, the checkpoint rows for "
      f"{config.shares} sources; this is another run's ledger"
    )
  ids = np.asarray([source.id for source in sources], np.uint64)
  return assignment.routing_words(config, ids, indices)
