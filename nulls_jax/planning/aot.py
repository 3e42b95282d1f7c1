"""Compiling a training step ahead of time, and what the compiler says of it.

Owns the abstract arguments of a step and the reading of the compiler's
answers (bytes, FLOPs, a refusal). The step itself is `training.step`'s.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

from nulls_jax.config import RunConfig
from nulls_jax.training import partitioning, state, step

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# Two wordings of libtpu, for what is and what is not known before layout.
_TOO_LARGE = (
  re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
  re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
)


class TooLarge(Exception):
  """The compiler refused a program that its chip's memory cannot hold.

  Attributes:
    needed: bytes a chip that the program asks for.
    available: bytes a chip that a program can have.
  """

  def __init__(self, needed: int, available: int):
    super().__init__(f"needs {needed} bytes of {available}")
    self.needed = needed
    self.available = available


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
  """Bytes of one chip's memory that a compiled step takes.

  Attributes:
    arguments: the state and the batch, padded to tiles.
    outputs: the new state and the metrics.
    donated: outputs that take the place of arguments.
    temporaries: what lives within the step.
    program: the instructions.
  """

  arguments: int
  outputs: int
  donated: int
  temporaries: int
  program: int

  @property
  def total(self) -> int:
    """Bytes of one chip while a step runs."""
    return (
      self.arguments
      + self.outputs
      - self.donated
      + self.temporaries
      + self.program
    )


def abstract_batch(config: RunConfig, mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Return a batch as `data.pipeline` makes it, as shapes with shardings."""
  rows, length = config.training.batch_size, config.data.row_length
  dtypes = dict.fromkeys(step.BATCH_FIELDS, jnp.int32)
  dtypes |= {"weights": jnp.float32, "sources": jnp.uint32}
  shapes = dict.fromkeys(step.BATCH_FIELDS, (rows, length))
  shapes["sources"] = (rows, length // config.data.tile, 2)
  sharding = partitioning.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(shapes[name], dtypes[name], sharding=sharding)
    for name in step.BATCH_FIELDS
  }


def compile_step(
  config: RunConfig, mesh, options: dict | None = None
) -> jax.stages.Compiled:
  """Compile `training.step` for the mesh's devices; minutes for a large one.

  Args:
    config: complete: vocabulary, steps and sources are set.
    mesh: over devices of `topologies.devices`, or any.
    options: of the compiler.

  Raises:
    TooLarge: the compiler refuses it for its memory.
  """
  abstract_state = state.abstract(config, mesh)
  update_fn = step.make(config, mesh)
  with partitioning.context(mesh):
    lowered = update_fn.lower(abstract_state, abstract_batch(config, mesh))
  try:
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    refusal = too_large(str(error))
    if refusal is None:
      raise
    raise refusal from error


def too_large(message: str) -> TooLarge | None:
  """Read a refusal for memory out of a compiler's message, None if it is none.

  >>> refusal = too_large(
  ...   "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory "
  ...   "required for HLO temporaries (20.00G) exceeds available HBM (15.75G)."
  ... )
  >>> refusal.needed / 2**30, refusal.available / 2**30
  (20.0, 15.75)
  """
  if "RESOURCE_EXHAUSTED" not in message:
    return None
  for pattern in _TOO_LARGE:
    found = pattern.search(message)
    if found:
      number, unit, limit, limit_unit = found.groups()
      return TooLarge(
        round(float(number) * _UNITS[unit]),
        round(float(limit) * _UNITS[limit_unit]),
      )
  return None


def memory(compiled: jax.stages.Compiled) -> Memory:
  """Return the bytes a chip that the compiler has laid out."""
  stats = compiled.memory_analysis()
  return Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    donated=stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    program=stats.generated_code_size_in_bytes,
  )


def counted(compiled: jax.stages.Compiled) -> tuple[float, float]:
  """Return FLOPs and bytes accessed, a chip, each loop's body counted once."""
  costs = compiled.cost_analysis()
  return costs["flops"], costs["bytes accessed"]
