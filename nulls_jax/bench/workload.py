"""One variant, compiled and ready to be timed: training and generation.

Owns the calls of the production code that are timed, and what the compiler
says of their memory. Takes no medians.

Invariant: what runs is what `nulls train` and `nulls generate` run:
`training.step.make`, its gradients, and `inference.generate.generate`.

Dimensions: B batch, L length.
"""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax import errors
from nulls_jax.bench import geometries
from nulls_jax.config import RunConfig
from nulls_jax.inference import generate
from nulls_jax.training import metrics, partitioning, state, step

# Batches that steps take in turn, so that no step finds its rows in a cache
# because the step before used the same ones.
_NUM_BATCHES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes:
  """Memory of a compiled program on one device, as the compiler plans it.

  Attributes:
    arguments: state and batch.
    outputs: state and metrics.
    aliased: outputs that take the place of arguments.
    temporaries: everything in between.
  """

  arguments: int
  outputs: int
  aliased: int
  temporaries: int

  @property
  def peak(self) -> int:
    return self.arguments + self.outputs - self.aliased + self.temporaries


class Workload:
  """A run that no dataset and no disk belong to."""

  def __init__(
    self,
    name: str,
    config: RunConfig,
    mesh,
    *,
    sources_a_row: int,
    new_tokens: int,
    seed: int = 0,
  ):
    """Describe the run; allocates nothing on the devices.

    Args:
      name: of the variant.
      config: the run's settings.
      mesh: of `partitioning.make_mesh`.
      sources_a_row: that each row is divided among.
      new_tokens: of one call of `generate`; 0 makes none.
      seed: of tokens and sources.
    """
    partitioning.check_batch(
      config.training.batch_size, config.training.accumulation, mesh
    )
    self.name = name
    self.config = config
    self.new_tokens = new_tokens
    self.sources_a_row = sources_a_row
    self.tokens_a_step = config.training.batch_size * config.data.row_length
    self.flops_a_token = metrics.flops_per_token(config)
    # Forward only, over a text that grows from nothing to its length.
    text = dataclasses.replace(
      config.data, row_length=max(new_tokens, 1), tile=1
    )
    written = dataclasses.replace(config, data=text)
    self.flops_a_new_token = metrics.flops_per_token(written) / 3
    self._mesh = mesh
    self._abstract = state.abstract(config, mesh)
    self._batches = [
      geometries.batch(config, sources_a_row, seed + number)
      for number in range(_NUM_BATCHES)
    ]
    self._count = 0
    self._loss = None
    self._copy = None

  @property
  def parameter_bytes(self) -> int:
    """Bytes of the parameters on one device."""
    return _bytes(self._abstract["params"])

  @property
  def state_bytes(self) -> int:
    """Bytes of the training state on one device."""
    return _bytes(self._abstract)

  @property
  def num_parameters(self) -> int:
    """Parameters, sinks of all sources included."""
    return sum(leaf.size for leaf in jax.tree.leaves(self._abstract["params"]))

  def lower(self):
    """Trace the step, and its gradients alone; return both, not compiled."""
    sharding = partitioning.batch_sharding(self._mesh)
    batch = {
      name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
      for name, value in self._batches[0].items()
    }
    gradients = functools.partial(_gradients_of(self.config), self.config)
    with partitioning.context(self._mesh):
      return (
        step.make(self.config, self._mesh).lower(self._abstract, batch),
        jax.jit(gradients).lower(self._abstract["params"], batch),
      )

  def compile(self) -> None:
    """Compile both; notes the seconds and the memory of the step."""
    start = time.perf_counter()
    whole, gradients = self.lower()
    self._step = whole.compile()
    self.compile_seconds = time.perf_counter() - start
    self._gradients = gradients.compile()
    self.bytes = _memory(self._step)

  def start(self) -> None:
    """Draw the parameters and put the batches on the devices."""
    self._state = state.create(self.config, self._mesh)
    self._batches = [
      partitioning.to_devices(self._mesh, batch) for batch in self._batches
    ]
    jax.block_until_ready((self._state, self._batches))

  # -- What is timed

  def step(self, count: int) -> None:
    """Make `count` updates."""
    for _ in range(count):
      self._state, found = self._step(self._state, self._next_batch())
    self._loss = found["loss"]
    jax.block_until_ready((self._state, found))

  def gradients(self, count: int) -> None:
    """Take `count` gradients: forward and backward, no update."""
    found = None
    for _ in range(count):
      # Freed first: two sets of gradients would not fit where one does.
      del found
      found = self._gradients(self._state["params"], self._next_batch())
    jax.block_until_ready(found)

  def generation(self, count: int) -> None:
    """Write `count` texts of one source, from no prompt."""
    for _ in range(count):
      generate.generate(
        _Loaded(self.config, self._params()),
        "",
        self._route(),
        max_new_tokens=self.new_tokens,
      )

  def check(self) -> None:
    """Raise where the loss is no number: such steps measure nothing."""
    if self._loss is not None and not math.isfinite(float(self._loss)):
      raise errors.MachineError(
        f"{self.name}: the loss of a timed step is {float(self._loss)}; its "
        "figures would mean nothing"
      )

  def _next_batch(self):
    self._count += 1
    return self._batches[self._count % _NUM_BATCHES]

  def _params(self):
    """Parameters on the first device, as a loaded run has them."""
    if self._mesh.size == 1:
      return self._state["params"]
    if self._copy is None:
      params = jax.device_put(self._state["params"], jax.devices()[0])
      # What is there already is shared, and the next step takes it away.
      self._copy = jax.tree.map(jnp.copy, params)
    return self._copy

  def _route(self) -> np.ndarray:
    return np.asarray(self._batches[0]["sources"])[0, 0]


def _gradients_of(config: RunConfig):
  """Return forward and backward without what costs as much as the pool.

  With looked-up rows the gradient ends as rows; to scatter them into a
  gradient of the whole table is a part of the pool's update.
  """
  if config.sinks.kind != "none" and config.model.implementation == "gather":
    return step.row_gradients
  return step.gradients


class _Loaded:
  """What `generate` takes of a `Restored` run, without one on a disk."""

  def __init__(self, config: RunConfig, params: Any):
    self.config = _long_enough(config)
    self.params = params
    self.tokenizer = _NoText()

  def admit(self, words) -> np.ndarray:
    return np.asarray(words, np.uint32)


def _long_enough(config: RunConfig) -> RunConfig:
  """Allow any length of text: nothing here was trained on rows."""
  data = dataclasses.replace(config.data, row_length=2**20, tile=1)
  return dataclasses.replace(config, data=data)


class _NoText:
  """A tokenizer whose end token never comes."""

  bos_id = 1
  eos_id = -1

  def encode(self, text: str) -> list[int]:
    return []

  def decode_continuation(self, tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


def _bytes(abstract) -> int:
  """Bytes of the part of a tree that one device holds."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(abstract)
  )


def _memory(compiled) -> Bytes | None:
  """Return the compiler's plan, None where it gives none."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  return Bytes(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes,
    aliased=found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
  )
