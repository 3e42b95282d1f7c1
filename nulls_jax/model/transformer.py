"""The decoder, behind a functional seam: init, apply, losses.

Owns the stacking of layers and the public parameter paths. Everyone outside
`model/` and `sinks/` sees plain dicts of arrays and these functions, never
a Flax module.

Invariant: with `sinks.kind == "none"` this is the dense baseline, line for
line the same code.

Dimensions: B batch, L length, T tiles, D model, V vocabulary, N layers.
"""

import contextvars
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from nulls_jax import sharding
from nulls_jax.model import attention, blockwise_attention, loss
from nulls_jax.model import config as model_config
from nulls_jax.sinks import assignment, layer, table

# Layers that a program writes out one after the other instead of in a loop.
# Compilers count a loop's body once: who counts costs unrolls it.
UNROLL = contextvars.ContextVar("UNROLL", default=1)

# Attention keeps its output and a number a token and head in any case: little
# memory, and the forward kernel does not run twice.
_KEEP_ATTENTION = jax.checkpoint_policies.save_only_these_names(
  blockwise_attention.RESIDUALS
)
_REMAT_POLICIES = {
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _KEEP_ATTENTION
  ),
  "full": _KEEP_ATTENTION,
}


class RMSNorm(nn.Module):
  """Root-mean-square normalisation in float32."""

  epsilon: float

  @nn.compact
  def __call__(self, x_BxLxD):
    scale_D = self.param(
      "scale",
      nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",)),
      (x_BxLxD.shape[-1],),
      jnp.float32,
    )
    x32_BxLxD = x_BxLxD.astype(jnp.float32)
    mean_BxLx1 = jnp.mean(jnp.square(x32_BxLxD), axis=-1, keepdims=True)
    normal = x32_BxLxD * jax.lax.rsqrt(mean_BxLx1 + self.epsilon)
    return (normal * scale_D[None, None]).astype(x_BxLxD.dtype)


class Block(nn.Module):
  """One decoder layer: attention and the sink MLP, each on a residual."""

  config: model_config.ModelConfig
  sinks: assignment.SinkConfig

  @nn.compact
  def __call__(self, x_BxLxD, inputs, number, rows_BxTxGxAxE, cache):
    config = self.config
    # Residual branches start small enough that depth does not add up.
    residual = (2 * config.num_layers) ** -0.5
    x_BxLxD = _constrain(x_BxLxD)
    attended_BxLxD, cache = attention.Attention(
      config,
      residual * (config.num_heads * config.head_size) ** -0.5,
      name="attention",
    )(
      RMSNorm(config.norm_epsilon, name="norm_attention")(x_BxLxD),
      inputs["positions"],
      inputs["segments"],
      cache,
    )
    x_BxLxD = _constrain(x_BxLxD + attended_BxLxD)
    mlp_config = layer.LayerConfig(
      d_model=config.d_model,
      backbone_width=config.backbone_width,
      down_scale=residual * config.backbone_width**-0.5,
      sinks=self.sinks,
      implementation=config.implementation,
      backbone_gradient=config.backbone_gradient,
      dtype=jnp.dtype(config.compute_dtype),
    )
    sinks = rows_BxTxGxAxE
    if self.sinks.kind != "none" and config.implementation == "masked":
      sinks = layer.SinkTable(mlp_config, name="sinks")()
    y_BxLxD = layer.SinkMLP(mlp_config, name="mlp")(
      RMSNorm(config.norm_epsilon, name="norm_mlp")(x_BxLxD),
      sinks,
      inputs["sources"],
      number,
    )
    return x_BxLxD + y_BxLxD, cache


def _constrain(x_BxLxD):
  return sharding.constrain(x_BxLxD, "batch", None, None)


class Transformer(nn.Module):
  """Embedding, scanned layers, final norm; returns hidden states."""

  config: model_config.ModelConfig
  sinks: assignment.SinkConfig

  def setup(self):
    config = self.config
    block = Block
    if config.remat != "none":
      block = nn.remat(
        Block, policy=_REMAT_POLICIES[config.remat], prevent_cse=False
      )
    stack = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, 0, 0, 0),
      length=config.num_layers,
      unroll=UNROLL.get(),
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    self.embedding = Embedding(config)
    self.layers = stack(config, self.sinks)
    self.norm = RMSNorm(config.norm_epsilon)
    self.head = Head(config)

  def __call__(self, inputs, rows_NxBxTxGxAxE=None, cache=None):
    """Return final states `[B, L, D]`, the head `[D, V]` and the cache."""
    x_BxLxD = self.embedding(inputs["tokens"])
    numbers_N = jnp.arange(self.config.num_layers, dtype=jnp.uint32)
    x_BxLxD, cache = self.layers(
      x_BxLxD, inputs, numbers_N, rows_NxBxTxGxAxE, cache
    )
    return self.norm(x_BxLxD), self.head(), cache


class Embedding(nn.Module):
  """Token embedding `[V, D]`."""

  config: model_config.ModelConfig

  @nn.compact
  def __call__(self, tokens_BxL):
    config = self.config
    table_VxD = self.param(
      "table",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ("vocabulary", "embed")
      ),
      (config.vocab_size, config.d_model),
      jnp.float32,
    )
    # Looked up where the table is, as sinks are; then to its documents.
    at_table = ("batch", None, "embed")
    shape = (*tokens_BxL.shape, config.d_model)
    tokens_BxL = sharding.constrain(tokens_BxL, *at_table, of=shape)
    x_BxLxD = table_VxD[tokens_BxL].astype(jnp.dtype(config.compute_dtype))
    return _constrain(sharding.constrain(x_BxLxD, *at_table))


class Head(nn.Module):
  """Output projection `[D, V]`, not tied to the embedding."""

  config: model_config.ModelConfig

  @nn.compact
  def __call__(self):
    config = self.config
    kernel_DxV = self.param(
      "kernel",
      nn.with_logical_partitioning(
        nn.initializers.normal(config.d_model**-0.5), ("embed", "vocabulary")
      ),
      (config.d_model, config.vocab_size),
      jnp.float32,
    )
    return kernel_DxV.astype(jnp.dtype(config.compute_dtype))


def _init_boxed(config, sinks, key):
  inputs = {
    "tokens": jnp.zeros((1, 1), jnp.int32),
    "positions": jnp.zeros((1, 1), jnp.int32),
    "segments": jnp.zeros((1, 1), jnp.int32),
    "sources": jnp.zeros((1, 1, 2), jnp.uint32),
  }
  # The implementation that reads the table in every layer makes it, too.
  config = dataclasses.replace(config, implementation="masked")
  return Transformer(config, sinks).init(key, inputs)["params"]


def init(config, sinks, key):
  """Return freshly drawn parameters: nested dicts of float32 arrays.

  Bit-equal on any mesh (`jax_threefry_partitionable`, JAX's default).

  Args:
    config: `ModelConfig` with vocab_size set.
    sinks: `SinkConfig`, num_sources set if dedicated.
    key: a JAX random key.
  """
  return nn.meta.unbox(_init_boxed(config, sinks, key))


def logical_axes(config, sinks):
  """Return the tree of logical axis names, a tuple for each parameter."""
  boxed = jax.eval_shape(
    functools.partial(_init_boxed, config, sinks), jax.random.key(0)
  )
  axes = jax.tree.map(
    lambda box: tuple(box.names),
    boxed,
    is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata),
  )
  if sinks.kind == "none":
    return axes
  _, others = table.detach(axes)
  return table.attach((table.layers_axis(sinks), *table.AXES), others)


def look_up(config, sinks, params, sources_BxTx2):
  """Return the rows of a batch's sources and the parameters without the table.

  The rows are `[N, B, T, G, A, E]` in the compute dtype, see `table.lookup`.
  None, and all parameters, where the model does not want rows: for a dense
  one, and for the implementation "masked".

  Args:
    config, sinks: the model's settings.
    params: the parameter tree.
    sources_BxTx2: uint32 routing words of each tile.
  """
  if sinks.kind == "none" or config.implementation == "masked":
    return None, params
  table_NxGxRxE, others = table.detach(params)
  rows_NxBxTxGxAxE = table.lookup(
    sinks, table_NxGxRxE, sources_BxTx2, jnp.dtype(config.compute_dtype)
  )
  return rows_NxBxTxGxAxE, others


def hidden_states(config, sinks, params, batch, rows_NxBxTxGxAxE=None):
  """Return final states `[B, L, D]` and the head `[D, V]`.

  Args:
    config, sinks: the model's settings.
    params: the parameter tree; without the sink table if rows are given.
    batch: dict with tokens, segments, positions `[B, L]` and sources
      `uint32 [B, T, 2]` (data.pipeline gives it).
    rows_NxBxTxGxAxE: what `look_up` gave for the batch's sources; None looks
      them up here.
  """
  if rows_NxBxTxGxAxE is None:
    rows_NxBxTxGxAxE, params = look_up(config, sinks, params, batch["sources"])
  inputs = {
    "tokens": batch["tokens"],
    "positions": batch["positions"],
    "segments": batch["segments"],
    "sources": batch["sources"],
  }
  states_BxLxD, head_DxV, _ = Transformer(config, sinks).apply(
    {"params": params}, inputs, rows_NxBxTxGxAxE
  )
  return states_BxLxD, head_DxV


def token_losses(config, sinks, params, batch, rows_NxBxTxGxAxE=None):
  """Return the loss of each target in nats, `float32 [B, L]`, unweighted.

  Arguments as for `hidden_states`.
  """
  states_BxLxD, head_DxV = hidden_states(
    config, sinks, params, batch, rows_NxBxTxGxAxE
  )
  return loss.token_losses(
    states_BxLxD, head_DxV, batch["targets"], config.loss_chunk
  )


def weighted_losses(config, sinks, params, batch, rows_NxBxTxGxAxE=None):
  """Return the sum of the losses by the batch's weights, and the losses.

  The sum (float32 scalar, nats) is what to train on, see
  `loss.weighted_losses`; the losses `float32 [B, L]` are unweighted and carry
  no gradient. Arguments as for `hidden_states`; the batch also has targets
  and weights `[B, L]`.
  """
  states_BxLxD, head_DxV = hidden_states(
    config, sinks, params, batch, rows_NxBxTxGxAxE
  )
  return loss.weighted_losses(
    states_BxLxD,
    head_DxV,
    batch["targets"],
    batch["weights"],
    config.loss_chunk,
  )


def logits(config, sinks, params, batch):
  """Return logits `float32 [B, L, V]`; for evaluation and small models."""
  states_BxLxD, head_DxV = hidden_states(config, sinks, params, batch)
  return jnp.einsum(
    "bld,dv->blv", states_BxLxD, head_DxV, preferred_element_type=jnp.float32
  )


def decode(
  config,
  sinks,
  params,
  cache,
  tokens_BxL,
  start,
  sources_Bx2,
  rows_NxBxTxGxAxE=None,
):
  """Run new tokens of one document a row against the cache.

  Args:
    config, sinks: the model's settings.
    params: the parameter tree; without the sink table if rows are given.
    cache: from `attention.empty_cache`, holding tokens before `start`.
    tokens_BxL: the new tokens; padding may follow them and is overwritten
      by the next call.
    start: position of the first new token, an integer scalar.
    sources_Bx2: uint32 routing words of each row.
    rows_NxBxTxGxAxE: what `look_up` gave for them, T being 1, so that a text
      of many tokens looks them up once; None looks them up here.

  Returns:
    logits `float32 [B, L, V]` and the updated cache.
  """
  length = tokens_BxL.shape[1]
  positions_BxL = jnp.broadcast_to(
    start + jnp.arange(length, dtype=jnp.int32)[None], tokens_BxL.shape
  )
  inputs = {
    "tokens": tokens_BxL,
    "positions": positions_BxL,
    "segments": None,
    "sources": sources_Bx2[:, None],
  }
  if rows_NxBxTxGxAxE is None:
    rows_NxBxTxGxAxE, params = look_up(config, sinks, params, inputs["sources"])
  states_BxLxD, head_DxV, cache = Transformer(config, sinks).apply(
    {"params": params}, inputs, rows_NxBxTxGxAxE, cache
  )
  logits_BxLxV = jnp.einsum(
    "bld,dv->blv", states_BxLxD, head_DxV, preferred_element_type=jnp.float32
  )
  return logits_BxLxV, cache
