"""What a training step costs: bytes of state, FLOPs a token, a roofline.

Owns the arithmetic beside the compiler: what the state takes by its shapes,
what a token costs by the matrices it meets, the extrapolation from one and
two layers, and the times that a chip's peaks allow. All times are bounds, no
measurements.

Dimensions: L length, D model, H heads, J key-value heads, K head size,
F backbone width, A active sinks, V vocabulary.
"""

import dataclasses
import math

import jax

from nulls_jax.config import RunConfig
from nulls_jax.planning import chips

# A TPU's memory is laid out in tiles of so many 4-byte values.
_TILE = (8, 128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
  """Seconds of one step that each part of a chip needs at its peak.

  Attributes:
    compute: FLOPs over the bf16 peak.
    memory: bytes accessed over the memory's bandwidth.
    interconnect: bytes sent over the bandwidth of all links together.
    binds: name of the longest of them.
    seconds: the longest; a step takes at least this long.
    tokens_per_second: at most, of all chips together.
    utilisation: model FLOPs over the peak's, at most.
  """

  compute: float
  memory: float
  interconnect: float
  binds: str
  seconds: float
  tokens_per_second: float
  utilisation: float


def roofline(
  chip: chips.Chip,
  *,
  flops: float,
  accessed: float,
  sent: float,
  tokens: int,
  num_chips: int,
  model_flops: float,
) -> Roofline:
  """Return the bounds of a step.

  Args:
    chip: whose peaks.
    flops: of one chip in one step.
    accessed: bytes that one chip reads and writes.
    sent: bytes that one chip sends.
    tokens: of all chips in one step.
    num_chips: in all.
    model_flops: of one token, without recomputation.
  """
  times = {
    "compute": flops / chip.peak_flops,
    "memory": accessed / chip.hbm_bandwidth,
    "interconnect": sent / chip.ici_bandwidth,
  }
  binds = max(times, key=times.get)
  seconds = times[binds]
  rate = tokens / seconds
  return Roofline(
    **times,
    binds=binds,
    seconds=seconds,
    tokens_per_second=rate,
    utilisation=rate * model_flops / (num_chips * chip.peak_flops),
  )


def held_bytes(tree) -> int:
  """Return the bytes that one chip holds of a tree, by shapes alone.

  Args:
    tree: of `ShapeDtypeStruct`s with shardings (`training.state.abstract`).
  """
  return sum(map(shard_bytes, jax.tree.leaves(tree)))


def state_bytes(abstract_state) -> dict[str, int]:
  """Return bytes a chip of `params` and `opt_state`, by shapes alone."""
  return {
    part: held_bytes(abstract_state[part]) for part in ("params", "opt_state")
  }


def table_bytes(abstract_state) -> int:
  """Return bytes a chip of the sink table and of its optimiser state."""
  return sum(
    shard_bytes(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state)
    if "sinks" in [getattr(entry, "key", None) for entry in path]
  )


def parameters(abstract_state) -> int:
  """Return how many parameters there are, all chips together."""
  return sum(
    math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_state["params"])
  )


def shard_bytes(leaf) -> int:
  """Return the bytes that one chip holds of an abstract array.

  An array whose layout is given (a sink table) fills whole tiles of a TPU
  along its last two axes; others are laid out so that little is lost.
  """
  shape = list(leaf.sharding.shard_shape(leaf.shape))
  if leaf.format is not None and leaf.format.layout is not None:
    shape[-2:] = (
      -(-size // tile) * tile
      for size, tile in zip(shape[-2:], _TILE, strict=True)
    )
  return math.prod(shape) * leaf.dtype.itemsize


def analytic_flops(config: RunConfig, fused: bool = False) -> float:
  """Return FLOPs of one trained token, nothing computed a second time.

  Two a weight for each of the forward pass, the gradients of inputs and those
  of weights, and attention. Norms, softmax and the optimiser are left out.

  Args:
    config: complete.
    fused: whether a kernel computes attention: over what is not masked, half
      a row on average; plain XLA computes the whole row.
  """
  layer, head = forward_flops(config, fused)
  return 3.0 * (config.model.num_layers * layer + head)


def attention_flops(config: RunConfig, fused: bool) -> float:
  """Return FLOPs of one trained token in scores and their sums of values."""
  return 3.0 * config.model.num_layers * _score_flops(config, fused)


def recomputed_flops(config: RunConfig, fused: bool = False) -> float:
  """Return FLOPs of one token that remat makes the backward pass repeat.

  Attention's output is kept by every policy, and the loss computes its
  gradients beside it, in chunks or not. What attention does again inside its
  own backward pass is left out.
  """
  model = config.model
  layer, _ = forward_flops(config, fused)
  # "dots" keeps products of matrices; sinks' have batch dimensions, and the
  # backward pass needs their gate and up again.
  products = 4.0 * model.d_model * _active_sinks(config)
  whole = layer - _score_flops(config, fused)
  again = {"none": 0.0, "dots": products, "full": whole}
  return model.num_layers * again[model.remat]


def forward_flops(config: RunConfig, fused: bool) -> tuple[float, float]:
  """Return FLOPs of a token forward, in one layer and in the logits."""
  model = config.model
  heads = 2 * model.num_heads + 2 * model.num_kv_heads
  active = model.backbone_width + _active_sinks(config)
  matrices = model.d_model * (heads * model.head_size + 3 * active)
  head = model.d_model * model.vocab_size
  return 2.0 * matrices + _score_flops(config, fused), 2.0 * head


def _active_sinks(config: RunConfig) -> int:
  """Return the sinks that a token computes: as many as the largest source's."""
  sinks = config.sinks
  if sinks.kind == "none":
    return 0
  return sinks.strata * sinks.active_per_stratum


def _score_flops(config: RunConfig, fused: bool) -> float:
  model = config.model
  whole = 4.0 * model.num_heads * model.head_size * config.data.row_length
  return whole / 2 if fused else whole


def extrapolate(one: float, two: float, num_layers: int) -> float:
  """Return what `num_layers` cost, given what one and two layers cost.

  >>> extrapolate(10.0, 13.0, 32)
  103.0
  """
  return one + (two - one) * (num_layers - 1)


def measuring(config: RunConfig, num_layers: int) -> RunConfig:
  """Return the configuration whose program has no loop that hides work.

  Compilers count the body of a loop once: so one accumulation part, the loss
  in one chunk, and layers that the caller unrolls. Nothing is recomputed,
  because an unrolled program keeps what a loop computes again;
  `recomputed_flops` says how much that is.
  """
  training = dataclasses.replace(
    config.training,
    batch_size=config.training.batch_size // config.training.accumulation,
    accumulation=1,
  )
  model = dataclasses.replace(
    config.model, num_layers=num_layers, loss_chunk=0, remat="none"
  )
  return dataclasses.replace(config, model=model, training=training)
