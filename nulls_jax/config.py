"""The settings of a whole run, as one frozen value.

A file under `configs/` has `get_config() -> RunConfig`. The resolved value
is written into the run and into every checkpoint. Imports no JAX.
"""

import dataclasses
import importlib.util
import json
import pathlib
import traceback

from nulls_jax import errors
from nulls_jax.data.config import DataConfig
from nulls_jax.model.config import ModelConfig
from nulls_jax.sinks.assignment import SinkConfig
from nulls_jax.training.config import (
  CheckpointConfig,
  MeshConfig,
  OptimizerConfig,
  TrainingConfig,
)

# Sections that may change when a run is taken up again: they say how and
# where it runs, not what is computed.
MOVABLE = ("mesh", "checkpoint")

# A config file is its user's program: these are that user's to mend.
_CONFIG_ERRORS = (
  ArithmeticError,
  AssertionError,
  AttributeError,
  ImportError,
  LookupError,
  NameError,
  OSError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
  """Everything that defines a run.

  Attributes:
    model: the decoder.
    sinks: the pool and its assignment.
    data: how documents become rows.
    optimizer: AdamW, backbone and sinks.
    training: batches, steps, seed.
    mesh: arrangement of the devices.
    checkpoint: when to save, what to keep.
  """

  model: ModelConfig = ModelConfig()
  sinks: SinkConfig = SinkConfig()
  data: DataConfig = DataConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  training: TrainingConfig = TrainingConfig()
  mesh: MeshConfig = MeshConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()


def validate(config: RunConfig) -> None:
  """Check what concerns several sections; raises `UserError`."""
  chunk = config.model.loss_chunk
  if chunk and config.data.row_length % chunk:
    raise errors.UserError(
      f"data.row_length={config.data.row_length} is not a multiple of "
      f"model.loss_chunk={chunk}; change one of them, or set it 0"
    )
  num_steps, share = config.training.num_steps, config.optimizer.warmup_fraction
  if num_steps and round(share * num_steps) >= num_steps:
    raise errors.UserError(
      f"optimizer.warmup_fraction={share} of training.num_steps={num_steps} "
      "leaves no step after the warm-up; lower it"
    )
  tensor = config.mesh.tensor
  divided = {
    "model.num_heads": config.model.num_heads,
    "model.num_kv_heads": config.model.num_kv_heads,
    "model.backbone_width": config.model.backbone_width,
  }
  if config.sinks.kind != "none":
    divided["sinks.strata"] = config.sinks.strata
  bad = [f"{name}={value}" for name, value in divided.items() if value % tensor]
  if bad:
    raise errors.UserError(
      f"mesh.tensor={tensor} does not divide {errors.listing(bad)}; choose "
      "values that it divides, or a smaller mesh.tensor"
    )
  if (
    config.sinks.kind == "dedicated" and config.model.implementation == "masked"
  ):
    raise errors.UserError(
      "model.implementation=masked trains whole tables, and a dedicated one is "
      "trained row by row; use implementation gather, or hashed sinks"
    )
  if config.sinks.kind == "none" and config.training.learn == "sinks":
    raise errors.UserError(
      "training.learn=sinks with sinks.kind=none leaves nothing to learn; use "
      "learn all, or a model with sinks"
    )
  if config.model.d_model % config.mesh.fsdp:
    raise errors.UserError(
      f"mesh.fsdp={config.mesh.fsdp} does not divide "
      f"model.d_model={config.model.d_model}; change one of them"
    )


def load(path: str | pathlib.Path) -> RunConfig:
  """Run a config file and return its `get_config()`; raises `UserError`."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise errors.UserError(
      f"{path}: no such config file; see the files under configs/"
    )
  spec = importlib.util.spec_from_file_location(
    f"nulls_config_{path.stem}", path
  )
  if spec is None or spec.loader is None:
    raise errors.UserError(f"{path}: a config is a Python file (.py)")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config() if hasattr(module, "get_config") else None
  except _CONFIG_ERRORS as error:
    raise errors.UserError(
      f"{_place(error, path, spec.origin)}: {_reason(error)}; mend this file"
    ) from error
  if config is None:
    raise errors.UserError(
      f"{path}: has no function get_config() that returns a RunConfig; "
      "configs/demo.py is an example"
    )
  if not isinstance(config, RunConfig):
    raise errors.UserError(
      f"{path}: get_config() returns {type(config).__name__}; it must return a "
      "RunConfig"
    )
  return config


def _place(error: Exception, path: pathlib.Path, origin: str | None) -> str:
  """Return `path:line` of the last line of the file that was running."""
  if isinstance(error, SyntaxError) and error.filename == origin:
    return f"{path}:{error.lineno}"
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == origin
  ]
  return f"{path}:{lines[-1]}" if lines else str(path)


def _reason(error: Exception) -> str:
  if isinstance(error, SyntaxError):
    return error.msg
  if isinstance(error, errors.UserError):
    return str(error)
  return f"{type(error).__name__}: {error}"


def dense_twin(config: RunConfig) -> RunConfig:
  """Return the run of a dense transformer of equal active width.

  Everything is the same but the MLP: its backbone neurons and the sinks that
  a source activates make one dense layer.
  """
  active = config.model.backbone_width
  if config.sinks.kind != "none":
    active += config.sinks.sinks_per_source
  return dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, backbone_width=active),
    sinks=SinkConfig(kind="none"),
    # It has no sinks that could learn alone.
    training=dataclasses.replace(config.training, learn="all"),
  )


def for_more_training(config: RunConfig) -> RunConfig:
  """Return a run's settings for a new run that starts from it.

  Its number of steps follows from the epochs again.
  """
  return dataclasses.replace(
    config, training=dataclasses.replace(config.training, num_steps=0)
  )


def to_dict(config: RunConfig) -> dict:
  """Return plain nested dicts, as JSON stores them."""
  return dataclasses.asdict(config)


def from_dict(values: dict, where: str) -> RunConfig:
  """Build a config from `to_dict`'s result; `where` names it in errors."""
  sections = {}
  for field in dataclasses.fields(RunConfig):
    kind = type(getattr(RunConfig, field.name))
    try:
      sections[field.name] = kind(**values[field.name])
    except (KeyError, TypeError, errors.UserError) as error:
      raise errors.UserError(
        f"{where}: section {field.name!r} is damaged or of another version "
        f"({error}); use the release that wrote it, or a copy of it"
      ) from error
  return RunConfig(**sections)


def read(path: str | pathlib.Path) -> RunConfig:
  """Read a run's `config.json`; raises `UserError`."""
  path = pathlib.Path(path)
  try:
    values = json.loads(path.read_text("utf-8"))
  except FileNotFoundError as error:
    raise errors.UserError(
      f"{path}: not found; is {path.parent} a run directory?"
    ) from error
  except ValueError as error:
    raise errors.UserError(
      f"{path}: damaged, not JSON ({error}); put a copy of it back"
    ) from error
  return from_dict(values, str(path))


def differences(old: RunConfig, new: RunConfig) -> list[str]:
  """List the fields that differ and must not, as `section.field: old -> new`.

  >>> a = RunConfig()
  >>> b = dataclasses.replace(a, training=TrainingConfig(seed=1))
  >>> differences(a, b)
  ['training.seed: 0 -> 1']
  """
  found = []
  for section in dataclasses.fields(RunConfig):
    if section.name in MOVABLE:
      continue
    before, after = getattr(old, section.name), getattr(new, section.name)
    for field in dataclasses.fields(before):
      was, now = getattr(before, field.name), getattr(after, field.name)
      if was != now:
        found.append(f"{section.name}.{field.name}: {was} -> {now}")
  return found
