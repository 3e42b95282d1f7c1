"""Workloads side by side in one process: memory check, compiling, timing.

Owns the order of these and the figures that come out. Prints no table.

Invariant: nothing is allocated on the devices before it is known to fit.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.bench import geometries, machine, rounds, workload
from nulls_jax.bench.settings import TimingSettings
from nulls_jax.training import partitioning

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
  """What was measured of one workload.

  Attributes:
    config: the run's settings, as `config.json` has them.
    sources_a_row: that each row is divided among.
    num_parameters: sinks of all sources included.
    parameter_bytes: on one device.
    state_bytes: parameters, moments and counts, on one device.
    tokens_a_step: of all rows.
    flops_a_token: model FLOPs of training, see `metrics.flops_per_token`.
    new_tokens: of one text; 0 if none was written.
    flops_a_new_token: model FLOPs of writing one token.
    compile_seconds: of the step; tracing it and its gradients included.
    bytes: of the compiled step on one device; None if not told.
    step: seconds of one whole step, by round.
    gradients: seconds of forward and backward alone, by round.
    generation: seconds of one text, by round; empty if none was written.
  """

  config: dict[str, Any]
  sources_a_row: int
  num_parameters: int
  parameter_bytes: int
  state_bytes: int
  tokens_a_step: int
  flops_a_token: float
  new_tokens: int
  flops_a_new_token: float
  compile_seconds: float
  bytes: workload.Bytes | None
  step: list[float]
  gradients: list[float]
  generation: list[float]

  @property
  def update(self) -> list[float]:
    """Seconds of a step that forward and backward do not explain."""
    return [a - b for a, b in zip(self.step, self.gradients, strict=True)]


def check(settings: TimingSettings) -> None:
  """Refuse numbers that make no sense; raises `UserError`."""
  if settings.repeats < 1 or not 0 < settings.seconds < 3600:
    raise errors.UserError(
      f"--repeats {settings.repeats} must be at least 1, --seconds "
      f"{settings.seconds} more than 0 and less than 3600"
    )
  if not 0 <= settings.seed < 2**32:
    raise errors.UserError(
      f"--seed {settings.seed} does not fit 32 bits (0 to 4294967295)"
    )


def prepare(
  name: str,
  geometry: geometries.Geometry,
  variant: geometries.Variant,
  settings: TimingSettings,
  new_tokens: int = 0,
) -> workload.Workload:
  """Return the workload of a variant on this machine; allocates nothing.

  Args:
    name: of the workload.
    geometry: its size; each part of the mesh that has rows of its own gets
      as many as this says.
    variant: its MLP.
    settings: mesh and seed are used.
    new_tokens: of one generated text; 0 generates none.

  Raises:
    errors.UserError: geometry, variant and mesh do not fit together.
  """
  mesh = partitioning.make_mesh(settings.mesh)
  parts = math.prod(mesh.shape[axis] for axis in partitioning.BATCH)
  config = geometries.settings(
    geometry,
    variant,
    rows=geometry.rows * parts,
    dtype=compute_dtype(),
    mesh=settings.mesh,
  )
  return workload.Workload(
    name,
    config,
    mesh,
    sources_a_row=variant.sources_a_row,
    new_tokens=new_tokens,
    seed=settings.seed,
  )


def compute_dtype() -> str:
  """Return the dtype of the arithmetic: CPUs have no fast bfloat16."""
  return "float32" if jax.devices()[0].platform == "cpu" else "bfloat16"


def measure(
  workloads: Sequence[workload.Workload],
  repeats: int,
  seconds: float,
  progress: Progress,
) -> dict[str, Figures]:
  """Time workloads in turn; return their figures by name.

  Args:
    workloads: names must differ.
    repeats: rounds.
    seconds: least length of one block.
    progress: told what goes on.

  Raises:
    errors.UserError: they do not fit the memory.
    errors.MachineError: a loss is not finite.
  """
  # The states alone refuse most of what is too large, before compiling.
  _check_memory(workloads, [one.state_bytes for one in workloads])
  for number, one in enumerate(workloads):
    progress(f"compiling {one.name} ({number + 1} of {len(workloads)})")
    one.compile()
  _check_memory(
    workloads,
    [one.bytes.peak if one.bytes else one.state_bytes for one in workloads],
  )
  for one in workloads:
    one.start()
  taken = rounds.take(
    {
      (kind, one.name): getattr(one, kind)
      for kind in ("step", "gradients", "generation")
      for one in workloads
      if kind != "generation" or one.new_tokens
    },
    rounds=repeats,
    seconds=seconds,
    progress=progress,
  )
  for one in workloads:
    one.check()
  return {one.name: _figures(one, taken) for one in workloads}


def _figures(one: workload.Workload, taken) -> Figures:
  return Figures(
    config=run_config.to_dict(one.config),
    sources_a_row=one.sources_a_row,
    num_parameters=one.num_parameters,
    parameter_bytes=one.parameter_bytes,
    state_bytes=one.state_bytes,
    tokens_a_step=one.tokens_a_step,
    flops_a_token=one.flops_a_token,
    new_tokens=one.new_tokens,
    flops_a_new_token=one.flops_a_new_token,
    compile_seconds=one.compile_seconds,
    bytes=one.bytes,
    step=taken["step", one.name],
    gradients=taken["gradients", one.name],
    generation=taken.get(("generation", one.name), []),
  )


def _check_memory(workloads, peaks: Sequence[int]) -> None:
  """Refuse what does not fit: all states at once, and one of them at work."""
  free = machine.free_bytes()
  if free is None:
    return
  states = sum(one.state_bytes for one in workloads)
  working = max(
    peak - one.state_bytes for one, peak in zip(workloads, peaks, strict=True)
  )
  if states + working > free:
    sizes = [f"{one.name} {one.state_bytes / 1e9:.1f}" for one in workloads]
    beside = f" and {working / 1e9:.1f} GB to work in" if working else ""
    raise errors.UserError(
      f"the training states of {', '.join(sizes)} GB{beside} make "
      f"{(states + working) / 1e9:.1f} GB a device, which has "
      f"{free / 1e9:.1f} GB left; measure fewer of them, give --layers, or use "
      "a larger machine"
    )
