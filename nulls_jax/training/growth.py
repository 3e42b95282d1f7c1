"""Growing: a new run that starts from what a trained one has learned.

Owns the first state of such a run, the record of where it came from
(`grown.json`) and what may not differ between the two. Making a dataset whose
ledger goes on where a run's ends is `nulls prepare --extend`.

The new run has all parameters of the old one. A dedicated table gets rows for
new sources at its end, freshly drawn; a hashed pool keeps its size, and new
sources draw from it. The schedule starts anew, and so do the optimiser's
moments, except those of a dedicated table: they are its rows' own, each
with its count of updates, and go on with them.

Invariant: an old row of a dedicated table, its moments and its count are bit
for bit and in their place what they were; the first state is a function of
the old step, the settings and the seed, on any mesh.

Dimensions: N layers, G strata, R rows of a stratum, E values of a row.
"""

import dataclasses
import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors, files
from nulls_jax.data import ledger, routing, tokenizer
from nulls_jax.data.preparation import dataset
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import checkpoint, partitioning, state
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.revocation import revocation

FILE = plan.GROWN_FILE
FORMAT = "nulls growth 1"

# How a model is computed and taught, not what it is.
_FREE = frozenset(
  f"model.{name}"
  for name in (
    "compute_dtype",
    "remat",
    "loss_chunk",
    "attention",
    "implementation",
    "backbone_gradient",
    # The dataset decides; that the tokenizer is the same is checked.
    "vocab_size",
  )
)
# A table may be larger than the old one.
_SIZES = frozenset({"sinks.num_sources", "sinks.num_shares"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """Where a grown run came from; the content of `grown.json`.

  Attributes:
    run: absolute path of the old run, as it was given.
    step: its step.
    metadata_sha256: of that step's custom metadata, checksums included.
    ledger_fingerprint: of the old run's sources.
    tokenizer_fingerprint: of both runs' tokenizer.
    num_sources: in the old run's ledger.
    num_erased: those of them that were erased.
    table_sources: the old `sinks.num_sources`.
    table_shares: the old `sinks.num_shares`.
    settings: what differs between the configs, as `section.field: old -> new`.
  """

  run: str
  step: int
  metadata_sha256: str
  ledger_fingerprint: str
  tokenizer_fingerprint: str
  num_sources: int
  num_erased: int
  table_sources: int
  table_shares: int
  settings: tuple[str, ...] = ()


def find(
  run_dir: pathlib.Path,
  grow_from: str | os.PathLike | None,
  step: int | None,
  config: run_config.RunConfig,
  prepared: dataset.Prepared,
) -> Origin | None:
  """Return where a run comes from; None if it starts from nothing.

  Args:
    run_dir: the run, started or not.
    grow_from: the old run, if one is asked for; a run that was started goes
      on with its own.
    step: of the old run; the newest where it is None.
    config: the run's settings, resolved or not.
    prepared: its dataset.

  Raises:
    errors.UserError: the run was started from something else; or, for one
      that was not started, the old run cannot be read, has sources that are
      suspended, or another model or other sinks, or the dataset has another
      tokenizer, or other sources than the old run's and more.
  """
  # In this order: another process may be creating the run.
  is_started = (run_dir / "config.json").exists()
  recorded = _read(run_dir / FILE)
  origin = _choose(run_dir, is_started, recorded, grow_from, step)
  if origin is not None and not is_started:
    old_dir = pathlib.Path(origin.run)
    _check_settings(old_dir, config)
    _check_dataset(old_dir, prepared)
    _check_suspended(old_dir)
  return origin


def _choose(run_dir, is_started, recorded, grow_from, step) -> Origin | None:
  if grow_from is None:
    return recorded
  place = os.path.abspath(grow_from)
  if recorded is None:
    if is_started:
      raise errors.UserError(
        f"{run_dir}: this run was not grown from another; leave --grow-from "
        "out to take it up, or give another --run"
      )
    return _read_origin(pathlib.Path(place), step)
  if place != recorded.run or step not in (None, recorded.step):
    asked = place if step is None else f"step {step} of {place}"
    raise errors.UserError(
      f"{run_dir}: this run was grown from step {recorded.step} of "
      f"{recorded.run}, not from {asked}; leave --grow-from out to take it up, "
      "or give another --run"
    )
  return recorded


def _read(path: pathlib.Path) -> Origin | None:
  try:
    values = json.loads(path.read_text("utf-8"))
    if values.pop("format") != FORMAT:
      raise ValueError("another format")
    return Origin(**{**values, "settings": tuple(values["settings"])})
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f"{path} is damaged or of another version ({error}); put a copy of it "
      "back"
    ) from error


def _read_origin(old_dir: pathlib.Path, step: int | None) -> Origin:
  step = checkpoint.newest(old_dir, step)
  metadata = checkpoint.read_metadata(old_dir, step)
  sinks = run_config.read(old_dir / "config.json").sinks
  with ledger.Ledger.open(old_dir / "ledger.sqlite") as book:
    return Origin(
      run=str(old_dir),
      step=step,
      metadata_sha256=files.json_sha256(metadata),
      ledger_fingerprint=book.fingerprint(),
      tokenizer_fingerprint=metadata["tokenizer_fingerprint"],
      num_sources=book.num_sources,
      num_erased=len(book.erased()),
      table_sources=sinks.num_sources,
      table_shares=sinks.num_shares,
    )


def lay_out(
  origin: Origin | None,
  config: run_config.RunConfig,
  prepared: dataset.Prepared,
) -> run_config.RunConfig:
  """Make room for the dataset's sources in a dedicated table.

  A table that has spare rows for them keeps its shape. Sizes in the config
  that are neither 0 nor the old run's are what is asked for.

  Raises:
    errors.UserError: fewer rows are asked for than the old table has, or
      than the sources own.
  """
  sinks = config.sinks
  if origin is None or sinks.kind != "dedicated":
    return config
  old = {"num_sources": origin.table_sources, "num_shares": origin.table_shares}
  asked = {
    name: 0 if getattr(sinks, name) == size else getattr(sinks, name)
    for name, size in old.items()
  }
  for name, size in asked.items():
    if 0 < size < old[name]:
      raise errors.UserError(
        f"sinks.{name}={size} is less than the {old[name]} of {origin.run}: a "
        "table of sinks grows and never shrinks; leave it out"
      )
  try:
    with ledger.Ledger.open(prepared.ledger_path) as book:
      least = routing.lay_out(dataclasses.replace(sinks, **asked), book)
  except routing.NoRoomError as error:
    raise errors.UserError(
      f"{error}; ask for at least as many, or leave sinks.num_sources and "
      "sinks.num_shares out"
    ) from error
  num_sources = max(least.num_sources, origin.table_sources)
  num_shares = 0
  if least.num_shares or origin.table_shares:
    before = origin.table_shares or origin.table_sources
    num_shares = max(least.shares, before)
  grown = dataclasses.replace(
    sinks, num_sources=num_sources, num_shares=num_shares
  )
  return dataclasses.replace(config, sinks=grown)


def write(
  run_dir: pathlib.Path, origin: Origin, config: run_config.RunConfig
) -> None:
  """Record where a run comes from, and the settings that differ.

  Args:
    run_dir: the run, which is being created.
    origin: of the run.
    config: its settings, resolved.
  """
  if (run_dir / FILE).exists():
    return
  changed = _changed(pathlib.Path(origin.run), config)
  origin = dataclasses.replace(origin, settings=tuple(changed))
  values = {"format": FORMAT, **dataclasses.asdict(origin)}
  files.write_whole(run_dir / FILE, json.dumps(values, indent=2) + "\n")


def _changed(old_dir: pathlib.Path, config) -> list[str]:
  return run_config.differences(
    run_config.read(old_dir / "config.json"), config
  )


def _check_settings(old_dir: pathlib.Path, config) -> None:
  """Refuse another model or other sinks."""
  fixed = [
    text for text in _changed(old_dir, config) if _is_fixed(text.split(":")[0])
  ]
  if fixed:
    raise errors.UserError(
      f"{old_dir}: a run that is grown from it has its model and its sinks; "
      f"these settings differ: {errors.listing(fixed)}"
    )


def _is_fixed(name: str) -> bool:
  if name.startswith("model."):
    return name not in _FREE
  return name.startswith("sinks.") and name not in _SIZES


def _check_dataset(old_dir: pathlib.Path, prepared: dataset.Prepared) -> None:
  """Refuse a dataset that does not go on where the old run ends."""
  old, new = (
    tokenizer.Tokenizer.load(path).fingerprint
    for path in (old_dir / "tokenizer.model", prepared.tokenizer_path)
  )
  if old != new:
    raise errors.UserError(
      f"{prepared.directory}: its tokenizer is not that of {old_dir}; prepare "
      f"the documents with --extend {old_dir}"
    )
  _check_sources(old_dir, prepared)


def _check_suspended(old_dir: pathlib.Path) -> None:
  revocations = revocation.read(old_dir)
  if revocations.suspended:
    number = errors.counted(len(revocations.suspended), "suspended source")
    raise errors.UserError(
      f"{old_dir}: it has {number} (revocation list version "
      f"{revocations.version}), and training could teach them again; restore "
      "them with `nulls restore`, or erase them with `nulls erase` and grow "
      "what it writes"
    )


def _check_sources(old_dir: pathlib.Path, prepared: dataset.Prepared) -> None:
  """Refuse a dataset whose ledger is not the old run's and more."""
  remedy = f"prepare the documents with --extend {old_dir}"
  refused = prepared.manifest.get("extends", {}).get("sources_erased", 0)
  with (
    ledger.Ledger.open(old_dir / "ledger.sqlite") as old,
    ledger.Ledger.open(prepared.ledger_path) as new,
  ):
    count = old.num_sources
    same = new.num_sources >= count and all(
      np.array_equal(before, after[: count + 1])
      for before, after in (
        (old.ids(), new.ids()),
        (old.size_classes(), new.size_classes()),
      )
    )
    if not same:
      raise errors.UserError(
        f"{prepared.directory}: its {new.num_sources} sources do not begin "
        f"with the {count} of {old_dir}, in the same order and of the same "
        f"size classes; {remedy}"
      )
    before = {source.index for source in old.erased()}
    after = {source.index for source in new.erased()}
  # What was refused when the dataset was made is not in its rows.
  if before != after or len(after) != refused:
    raise errors.UserError(
      f"{prepared.directory}: {len(after - before)} sources are erased in it "
      f"and not in {old_dir}, {len(before - after)} the other way round; "
      f"{remedy}"
    )


def create(origin: Origin, config: run_config.RunConfig, mesh):
  """Return the first state of a grown run, bit-equal on any mesh.

  Every array of the old step is read onto its own shardings, and one program
  puts the old rows at the start of a larger table; no device and no host holds
  more than its parts, of the old arrays and the new state.

  Args:
    origin: where it comes from.
    config: its settings, resolved.
    mesh: the mesh.

  Raises:
    errors.UserError: the old step is not there, damaged, or another than it
      was; or it has no moments, which a dedicated table needs.
  """
  old_dir = pathlib.Path(origin.run)
  checkpoint.newest(old_dir, origin.step)
  metadata = checkpoint.read_metadata(old_dir, origin.step)
  if files.json_sha256(metadata) != origin.metadata_sha256:
    raise errors.UserError(
      f"{old_dir}: step {origin.step} is not what it was when the run that is "
      "grown from it was started; delete that run and start it again"
    )
  sinks = config.sinks
  if sinks.kind == "dedicated":
    sinks = dataclasses.replace(
      sinks, num_sources=origin.table_sources, num_shares=origin.table_shares
    )
  abstract_old = state.abstract(dataclasses.replace(config, sinks=sinks), mesh)
  part = {"params": abstract_old["params"]}
  if state.updates_rows(sinks):
    part["opt_state"] = {"rows": abstract_old["opt_state"]["rows"]}
  old = checkpoint.load_part(old_dir, origin.step, part)
  # A key of this growth's own: with the same seed the larger table's first
  # values would be those of the old one, and not in the same places.
  key = jax.random.fold_in(
    jax.random.key(config.training.seed), sinks.rows_per_stratum
  )
  with partitioning.context(mesh):
    return compile_growth(config, mesh)(key, old)


def compile_growth(config: run_config.RunConfig, mesh):
  """Return the jitted function of (key, old arrays) that gives the state."""
  places = partitioning.placements(state.abstract(config, mesh))
  return jax.jit(functools.partial(_grown, config), out_shardings=places)


def _grown(config, key, old):
  fresh = state.initial(config, key)
  if not state.updates_rows(config.sinks):
    return {**fresh, "params": old["params"]}
  table_NxGxRxE, _ = table_lib.detach(fresh["params"])
  old_table, others = table_lib.detach(old["params"])
  return {
    "step": fresh["step"],
    "params": table_lib.attach(_over_start(table_NxGxRxE, old_table), others),
    "opt_state": {
      "dense": fresh["opt_state"]["dense"],
      "rows": jax.tree.map(
        _over_start, fresh["opt_state"]["rows"], old["opt_state"]["rows"]
      ),
    },
  }


def _over_start(array_NxGxR_, old_NxGxR_):
  """Put old rows in the place of the first of each layer and stratum."""
  # Not by a scatter, which would gather the layers on all devices.
  new_NxGxR_ = array_NxGxR_[:, :, old_NxGxR_.shape[2] :]
  return jnp.concatenate([old_NxGxR_, new_NxGxR_], axis=2)
