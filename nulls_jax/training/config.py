"""Settings of training; no JAX, so that any tool may read a run's config."""

import dataclasses
import math
from typing import Literal

from nulls_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """AdamW with a cosine schedule; sinks have settings of their own.

  Attributes:
    learning_rate: peak rate.
    warmup_fraction: share of the steps with a linearly rising rate.
    final_fraction: the last step's rate over the peak.
    b1: decay of the first moment.
    b2: decay of the second moment.
    epsilon: added to the root of the second moment.
    weight_decay: decoupled decay of the backbone's matrices.
    sink_weight_decay: decoupled decay of a hashed pool. It acts in every
      step, whether or not a sink's sources were seen.
    row_weight_decay: decoupled decay of a dedicated row, in the steps in which
      its source was seen, so that it does not grow with the dataset. None
      takes sink_weight_decay.
    sink_learning_rate_scale: rate of a hashed pool's sinks over that of the
      backbone.
    row_learning_rate_scale: that of dedicated rows, which are updated in the
      steps in which their source was seen, and do not drift on between them
      as a pool does. None takes sink_learning_rate_scale.
    clip_norm: global gradient norm above which gradients are scaled down.
  """

  learning_rate: float = 3e-3
  warmup_fraction: float = 0.05
  final_fraction: float = 0.0
  b1: float = 0.9
  b2: float = 0.95
  epsilon: float = 1e-8
  weight_decay: float = 0.1
  sink_weight_decay: float = 0.0
  row_weight_decay: float | None = None
  sink_learning_rate_scale: float = 1.0
  row_learning_rate_scale: float | None = None
  clip_norm: float = 1.0

  @property
  def for_rows(self) -> tuple[float, float]:
    """Rate over that of the backbone, and decay, of dedicated rows."""
    scale, decay = self.row_learning_rate_scale, self.row_weight_decay
    return (
      self.sink_learning_rate_scale if scale is None else scale,
      self.sink_weight_decay if decay is None else decay,
    )

  def __post_init__(self):
    for field in dataclasses.fields(self):
      name, value = field.name, getattr(self, field.name)
      if value is None:
        continue
      positive = name in ("epsilon", "clip_norm")
      below = 1 if name in ("warmup_fraction", "b1", "b2") else math.inf
      if not 0 <= value < below or (positive and not value):
        least = "more than 0" if positive else "at least 0"
        most = "finite" if below == math.inf else f"less than {below}"
        raise errors.UserError(
          f"optimizer.{name} is {value}; it must be {least} and {most}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
  """What is trained on, for how long.

  Attributes:
    batch_size: rows a step over all devices and accumulation parts.
    accumulation: parts of a batch that are computed one after the other.
    epochs: passes over the prepared rows; used when num_steps is 0.
    num_steps: updates; 0 takes them from epochs when training starts.
    off_share: probability that a visit to a document uses no sinks.
    learn: what the updates may change: "all", or "sinks", the sink table
      alone, while every other parameter keeps every bit. With dedicated
      sinks a source that has no documents then answers as it did, to the
      bit; in a hashed pool the sources share rows, and all may change.
    seed: key of the initial parameters, the data order and the off draws.
    log_every: steps between two lines of metrics.
  """

  batch_size: int = 32
  accumulation: int = 1
  epochs: float = 1.0
  num_steps: int = 0
  off_share: float = 0.2
  learn: Literal["all", "sinks"] = "all"
  seed: int = 0
  log_every: int = 10

  def __post_init__(self):
    for name in ("batch_size", "accumulation", "log_every"):
      if getattr(self, name) < 1:
        raise errors.UserError(
          f"training.{name} is {getattr(self, name)}; it must be at least 1"
        )
    if self.batch_size % self.accumulation:
      raise errors.UserError(
        f"training.batch_size={self.batch_size} is not a multiple of "
        f"training.accumulation={self.accumulation}"
      )
    if self.num_steps < 0 or not 0 < self.epochs < math.inf:
      raise errors.UserError(
        f"training.num_steps={self.num_steps} must be at least 0 and "
        f"training.epochs={self.epochs} more than 0"
      )
    if not 0 <= self.off_share <= 1:
      raise errors.UserError(
        f"training.off_share={self.off_share} is not between 0 and 1"
      )
    if not 0 <= self.seed < 2**32:
      raise errors.UserError(
        f"training.seed={self.seed} does not fit 32 bits (0 to 4294967295)"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """How devices are arranged; nothing in a checkpoint depends on it.

  Attributes:
    data: copies of the parameters, each with its part of the batch; -1 takes
      the devices that the other axes leave.
    fsdp: parts into which parameters are cut along the model width; also
      partitions the batch.
    tensor: parts of heads, MLP neurons, strata and vocabulary.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def __post_init__(self):
    if min(self.fsdp, self.tensor) < 1:
      raise errors.UserError(
        f"mesh.fsdp={self.fsdp} and mesh.tensor={self.tensor} must be at least "
        "1"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
  """When checkpoints are written and which are kept.

  Attributes:
    every_steps: steps between two saves; the last step is always saved.
    keep_last: newest checkpoints that are kept.
    keep_every: steps at whose multiples a checkpoint is kept for good; 0
      keeps none but the newest.
  """

  every_steps: int = 1000
  keep_last: int = 2
  keep_every: int = 0

  def __post_init__(self):
    if self.every_steps < 1 or self.keep_last < 1 or self.keep_every < 0:
      raise errors.UserError(
        f"checkpoint: every_steps={self.every_steps} and "
        f"keep_last={self.keep_last} must be at least 1, "
        f"keep_every={self.keep_every} at least 0"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepairConfig:
  """How the sinks that an erasure left are trained on.

  Attributes:
    epochs: passes over the prepared rows; used when num_steps is 0.
    num_steps: updates; 0 takes them from epochs.
    learning_rate: peak rate of the sinks; 0 takes a third of the rate that
      the run gave them.
    weight_decay: decoupled decay of the sinks that are trained; it acts in
      every step, also on a sink whose sources are seldom seen. None takes the
      run's, which keeps sinks from learning what the backbone knows.
    batch_size: rows a step; 0 takes the run's.
    accumulation: parts of a batch that are computed one after the other; 0
      takes the run's.
    mesh: arrangement of the devices.
  """

  epochs: float = 3.0
  num_steps: int = 0
  learning_rate: float = 0.0
  weight_decay: float | None = None
  batch_size: int = 0
  accumulation: int = 0
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self):
    for name in ("num_steps", "learning_rate", "weight_decay", "batch_size"):
      value = getattr(self, name)
      if value is not None and not 0 <= value < math.inf:
        raise errors.UserError(
          f"{name} is {value}; it must be at least 0 and finite"
        )
    if self.accumulation < 0 or not 0 < self.epochs < math.inf:
      raise errors.UserError(
        f"accumulation={self.accumulation} must be at least 0 and "
        f"epochs={self.epochs} more than 0"
      )
