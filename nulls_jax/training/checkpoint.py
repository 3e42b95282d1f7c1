"""Checkpoints of a run: the only module, benchmarks apart, that imports Orbax.

A step holds one item, "state", and custom metadata with the resolved config,
the assignment, the fingerprints of tokenizer and ledger and a checksum of
every array, so that a step directory can be read, redacted and checked, and a
ledger of another run told from its own.

Invariant: a step is either whole or not there; a save that fails raises, and
so does a load of other values than were saved.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import layout
from orbax.checkpoint import v1 as ocp

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.sinks import assignment
from nulls_jax.training import checkpoint_errors as failures
from nulls_jax.training import partitioning, storage
from nulls_jax.training.config import CheckpointConfig

FORMAT = 1
FOLDER = "checkpoints"
_ITEM = "state"
_METADATA = "_CHECKPOINT_METADATA"
# Small chunks bound the memory of redaction, which rewrites whole chunks.
_CHUNK_BYTES = 16 * 2**20


def metadata(
  config: run_config.RunConfig,
  tokenizer_fingerprint: str,
  ledger_fingerprint: str,
) -> dict:
  """Return what every step says about itself.

  Args:
    config: the resolved settings.
    tokenizer_fingerprint: `Tokenizer.fingerprint`.
    ledger_fingerprint: `Ledger.fingerprint`, which no erasure changes.
  """
  return {
    "format": FORMAT,
    "config": run_config.to_dict(config),
    "assignment": {
      **dataclasses.asdict(config.sinks),
      "version": assignment.VERSION,
    },
    "tokenizer_fingerprint": tokenizer_fingerprint,
    "ledger_fingerprint": ledger_fingerprint,
  }


def checksums(tree) -> dict[str, int]:
  """Return the sum of each array's words modulo 2**32, by path.

  A word is an element's bits as an unsigned integer. The order of the words
  does not matter, so the sum is the same on any mesh; NumPy tools find it
  with `unlearning.arrays.Digest`.

  >>> checksums({"a": {"b": jnp.array([1.0, -2.0], jnp.float32)}})
  {'a.b': 4286578688}
  """
  sums, _ = jax.tree_util.tree_flatten_with_path(_word_sums(tree))
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): int(value)
    for path, value in jax.device_get(sums)
  }


@jax.jit
def _word_sums(tree):
  def word_sum(leaf):
    word = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    words = jax.lax.bitcast_convert_type(leaf, word)
    return words.astype(jnp.uint32).sum(dtype=jnp.uint32)

  return jax.tree.map(word_sum, tree)


def _context(partial: bool = False):
  context = ocp.Context()
  context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
  context.pytree.loading.partial_load = partial
  return context


class Checkpoints:
  """The checkpoints of one run directory; use as a context manager."""

  def __init__(
    self,
    run_dir: str | os.PathLike,
    config: CheckpointConfig,
    last_step: int,
    tell: Callable[[int, str], None] | None = None,
  ):
    """Open `run_dir/checkpoints` for writing.

    Args:
      run_dir: the run directory.
      config: when to save and what to keep.
      last_step: the step that is saved in any case.
      tell: told of a save that fails here alone, see `member.Member.fail`.
    """
    self._folder = storage.root(run_dir) / FOLDER
    self._pending = None
    self._listener = None
    if tell is not None and jax.process_count() > 1:
      self._listener = failures.Listener(self._folder, tell)
      self._listener.start()
    saving = ocp.training.save_decision_policies
    keeping = ocp.training.preservation_policies
    kept = [keeping.LatestN(config.keep_last)]
    if config.keep_every:
      kept.append(keeping.EveryNSteps(config.keep_every))
    with failures.saving(self._folder):
      self._checkpointer = ocp.training.Checkpointer(
        storage.absolute(self._folder),
        context=_context(),
        save_decision_policy=saving.AnySavePolicy(
          [
            saving.FixedIntervalPolicy(config.every_steps),
            saving.SpecificStepsPolicy([last_step]),
          ]
        ),
        preservation_policy=keeping.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=True,
      )

  def __enter__(self):
    return self

  def __exit__(self, kind, error, _):
    if (
      kind is not None
      and jax.process_count() > 1
      and not getattr(error, "is_agreed", False)
    ):
      return  # The others are not going to finish what was begun.
    try:
      with failures.saving(self._folder):
        self._checkpointer.close()
      if self._listener is not None:
        self._listener.stop()
    except errors.MachineError:
      # After a failure the pending save's own would hide the first one.
      if kind is None:
        raise

  @property
  def latest_step(self) -> int | None:
    """The newest whole step, or None."""
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  def save(
    self, step: int, state, custom_metadata: dict, force: bool = False
  ) -> bool:
    """Save if the policy says so, in the background; True if it does.

    Args:
      step: completed updates.
      state: the training state.
      custom_metadata: see `metadata`.
      force: save whatever the policy says.

    Raises:
      errors.MachineError: this save or, more likely, the previous one failed.
    """
    if step == 0:
      return False
    custom_metadata = {**custom_metadata, "checksums": checksums(state)}
    with failures.saving(self._folder):
      response = self._checkpointer.save_checkpointables_async(
        step, {_ITEM: state}, custom_metadata=custom_metadata, force=force
      )
    self._pending = response or self._pending
    return response is not None

  def wait(self) -> None:
    """Return when the last save is whole; raises `MachineError` if it fails."""
    if self._pending is not None:
      with failures.saving(self._folder):
        self._pending.result()

  def restore(self, step: int, abstract_state):
    """Load a step onto its abstract state's shardings; raises `UserError`."""
    return _load(self._folder / str(step), abstract_state, partial=False)


def steps(run_dir: pathlib.Path) -> list[int]:
  """List the whole steps of a run, ascending; raises `UserError`."""
  folder = storage.root(run_dir) / FOLDER
  if not folder.is_dir():
    raise errors.UserError(
      f"{run_dir}: holds no {FOLDER}/; give the directory of a run, as "
      "`nulls train --run` wrote it"
    )
  return sorted(
    int(path.name)
    for path in folder.iterdir()
    if path.name.isdigit() and (path / _ITEM).is_dir()
  )


def newest(run_dir: pathlib.Path, step: int | None = None) -> int:
  """Return the given or the newest step of a run; raises `UserError`."""
  found = steps(run_dir)
  if not found:
    raise errors.UserError(
      f"{run_dir}: holds no finished checkpoint; train it first, or wait for "
      "its first save"
    )
  if step is not None and step not in found:
    raise errors.UserError(
      f"{run_dir}: no checkpoint of step {step}; there are "
      f"{errors.listing(found)}"
    )
  return found[-1] if step is None else step


def load_params(run_dir: pathlib.Path, step: int, abstract_params):
  """Load only the parameters of a step onto the given shardings."""
  return load_part(run_dir, step, {"params": abstract_params})["params"]


def load_part(run_dir: pathlib.Path, step: int, abstract_part):
  """Load some arrays of a step's state onto the given shardings.

  Args:
    run_dir: a run directory.
    step: one of its steps.
    abstract_part: the state's tree without the branches that are not wanted.

  Raises:
    errors.UserError: the step is damaged or has not got all of them.
  """
  folder = storage.root(run_dir) / FOLDER / str(step)
  return _load(folder, abstract_part, partial=True)


def read_metadata(run_dir: pathlib.Path, step: int) -> dict:
  """Return the custom metadata of a step; raises `UserError`."""
  return _read_metadata(storage.root(run_dir) / FOLDER / str(step))


def _read_metadata(folder: pathlib.Path) -> dict:
  # Orbax passes over damaged JSON, or ends in several tracebacks.
  item = folder / _ITEM
  paths = [folder / _METADATA, item / "_METADATA"]
  for path in paths + sorted((item / "array_metadatas").glob("*")):
    try:
      json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
      raise errors.UserError(f"{path} is missing; {failures.REMEDY}") from error
    except ValueError as error:
      raise errors.UserError(
        f"{path} is damaged ({failures.one_line(error)}); {failures.REMEDY}"
      ) from error
  with failures.reading(folder):
    found = ocp.checkpointables_metadata(
      storage.absolute(folder)
    ).custom_metadata
  if not found or found.get("format") != FORMAT:
    raise errors.UserError(
      f"{folder}: not a checkpoint of this package (format "
      f"{(found or {}).get('format')}, expected {FORMAT}); use the release "
      "that wrote it"
    )
  return found


@dataclasses.dataclass(frozen=True)
class _Wanted:
  """An array to load, with the layout that `ShapeDtypeStruct` hides."""

  shape: tuple[int, ...]
  dtype: jnp.dtype
  sharding: jax.sharding.Sharding | layout.Format

  @classmethod
  def of(cls, abstract: jax.ShapeDtypeStruct) -> "_Wanted":
    place = partitioning.placement(abstract)
    return cls(abstract.shape, abstract.dtype, place)


def _load(folder: pathlib.Path, abstract_state, partial: bool):
  expected = _read_metadata(folder).get("checksums")
  _check_paths(folder, abstract_state)
  with failures.reading(folder), _context(partial):
    loaded = ocp.load_checkpointables(
      storage.absolute(folder),
      {_ITEM: jax.tree.map(_Wanted.of, abstract_state)},
    )[_ITEM]
  if expected is not None:
    wrong = [
      name
      for name, checksum in checksums(loaded).items()
      if expected.get(name) != checksum
    ]
    if wrong:
      raise errors.UserError(
        f"{folder} is damaged: {errors.listing(wrong)}: other values than "
        f"were saved; {failures.REMEDY}"
      )
  return loaded


def _check_paths(folder: pathlib.Path, abstract_state) -> None:
  """Say what a step lacks of what is asked for; Orbax does in many words."""
  content = json.loads((folder / _ITEM / "_METADATA").read_text("utf-8"))
  try:
    stored = {
      ".".join(str(key["key"]) for key in leaf["key_metadata"])
      for leaf in content["tree_metadata"].values()
    }
  except (AttributeError, KeyError, TypeError) as error:
    raise errors.UserError(
      f"{folder / _ITEM / '_METADATA'} is damaged ({error!r}); "
      f"{failures.REMEDY}"
    ) from error
  wanted, _ = jax.tree_util.tree_flatten_with_path(abstract_state)
  names = [
    jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in wanted
  ]
  missing = [name for name in names if name not in stored]
  if not missing:
    return
  if all(name.startswith("opt_state.") for name in missing) and not any(
    name.startswith("opt_state.") for name in stored
  ):
    raise errors.UserError(
      f"{folder} has no optimiser state, as an erasure with --drop-optimizer "
      "leaves it: it can be used and measured, but not trained on; use a step "
      "that has it"
    )
  if any(".sinks." in name for name in missing) and not any(
    ".sinks." in name for name in stored
  ):
    raise errors.UserError(
      f"{folder} has no sinks, though its settings have some: it is of another "
      f"model; {failures.REMEDY}"
    )
  raise errors.UserError(
    f"{folder} lacks {errors.listing(missing)}: it is damaged or of another "
    f"model; {failures.REMEDY}"
  )
