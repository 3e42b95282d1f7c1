"""The sink layer: a gated MLP of backbone neurons plus a source's own sinks.

`y = down(silu(gate(x)) * up(x)) + sum over the source's sinks of
down_j * silu(gate_j . x) * (up_j . x)`

Owns the two implementations of the sinks' sum (`gather`, from the rows that
`table.lookup` found; `masked`, the oracle, dense over the pool) and the
gradient modes of the backbone. Does not know attention, losses or devices.

Invariant: a token whose source is (0, 0) gets exactly the backbone's output,
and no sink gets a gradient from it.

Source: Ghosal, Maini, Raghunathan, "Natively Unlearnable Large Language
Models" (arXiv 2606.13873), the MLP; routed gradients are this project's.

Where a mesh cuts the hidden neurons, each part of them is computed by itself,
and nothing is added up between parts before backbone and sinks have met. So
tensor parallelism costs one reduction each way, of the size that a dense MLP
needs.

Dimensions: B batch, L length, D model, F backbone width, T tiles, S tokens
of a tile, G strata, R rows of a stratum, A active rows of a stratum, P parts,
W neurons of a part (F / P).
"""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from nulls_jax import sharding
from nulls_jax.sinks import assignment, table

Implementation = Literal["gather", "masked"]
BackboneGradient = Literal["full", "routed", "down_blocked"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerConfig:
  """Settings of one sink layer.

  Attributes:
    d_model: width D of the residual stream.
    backbone_width: hidden neurons F that every token uses.
    down_scale: standard deviation of the initial down projections.
    sinks: the pool; kind "none" makes a plain gated MLP.
    implementation: "gather" (only active rows) or "masked" (whole pool).
    backbone_gradient: what documents with active sinks may teach the
      backbone's MLP: "full" everything (the paper), "routed" nothing,
      "down_blocked" all but its down projection.
    dtype: compute dtype; parameters stay float32.
  """

  d_model: int
  backbone_width: int
  down_scale: float
  sinks: assignment.SinkConfig
  implementation: Implementation
  backbone_gradient: BackboneGradient
  dtype: jnp.dtype


@jax.custom_vjp
def blocked_dot(x_BxLxI, weight_IxO, learn_BxL):
  """`x @ weight`, where only tokens with `learn` 1 teach `weight`.

  The gradient for `x` is the usual one for every token; the gradient for
  `weight` sums over the tokens whose `learn` is 1. Costs one multiplication
  a token over the plain product.
  """
  del learn_BxL
  return x_BxLxI @ weight_IxO


def _blocked_dot_forward(x_BxLxI, weight_IxO, learn_BxL):
  return x_BxLxI @ weight_IxO, (x_BxLxI, weight_IxO, learn_BxL)


def _blocked_dot_backward(residuals, gradient_BxLxO):
  x_BxLxI, weight_IxO, learn_BxL = residuals
  taught_BxLxO = gradient_BxLxO * learn_BxL[..., None].astype(
    gradient_BxLxO.dtype
  )
  return (
    gradient_BxLxO @ weight_IxO.T,
    jnp.einsum("bli,blo->io", x_BxLxI, taught_BxLxO),
    jnp.zeros_like(learn_BxL),
  )


blocked_dot.defvjp(_blocked_dot_forward, _blocked_dot_backward)


def active(sources_BxTx2):
  """Return `bool [B, T]`: whether a tile has a source."""
  return jnp.any(sources_BxTx2 != 0, axis=-1)


def gather_sum(config, rows_BxTxGxAxE, x_BxLxD, sources_BxTx2):
  """The sinks' sum from the active rows only; cost does not see the pool.

  Args:
    config: the pool's `SinkConfig`.
    rows_BxTxGxAxE: this layer's rows of each tile's source, see
      `table.lookup`, in the compute dtype; of all strata or of some.
    x_BxLxD: the layer's input, in the compute dtype.
    sources_BxTx2: uint32 routing words of each tile.

  Returns:
    `[B, L, D]`, zero where a tile has no source.
  """
  batch, length, d_model = x_BxLxD.shape
  num_tiles = sources_BxTx2.shape[1]
  gate, up, down = table.split(rows_BxTxGxAxE)
  x_BxTxSxD = x_BxLxD.reshape(batch, num_tiles, -1, d_model)
  gate_BxTxSxGxA = jnp.einsum("btsd,btgad->btsga", x_BxTxSxD, gate)
  up_BxTxSxGxA = jnp.einsum("btsd,btgad->btsga", x_BxTxSxD, up)
  owned_BxTx1x1xA = assignment.owned(config, sources_BxTx2)[:, :, None, None]
  hidden_BxTxSxGxA = (
    nn.silu(gate_BxTxSxGxA)
    * up_BxTxSxGxA
    * owned_BxTx1x1xA.astype(x_BxLxD.dtype)
  )
  y_BxTxSxD = jnp.einsum("btsga,btgad->btsd", hidden_BxTxSxGxA, down)
  return y_BxTxSxD.reshape(batch, length, d_model)


def masked_sum(config, table_GxRxE, x_BxLxD, sources_BxTx2, layer):
  """The sinks' sum over the whole pool under a mask: the oracle.

  What the paper's formula says literally; cost grows with the pool.

  Args:
    config: the pool's `SinkConfig`.
    table_GxRxE: one layer's table.
    x_BxLxD: the layer's input, in the compute dtype.
    sources_BxTx2: uint32 routing words of each tile.
    layer: number of the layer, an integer scalar.

  Returns:
    `[B, L, D]`, zero where a tile has no source.
  """
  num_tiles = sources_BxTx2.shape[1]
  numbers_BxTxGxA = assignment.rows(config, sources_BxTx2, layer)
  owned_BxTx1xA = assignment.owned(config, sources_BxTx2)[:, :, None]
  # Every draw is distinct, so the sum of one-hots is a 0/1 mask.
  mask_BxTxGxR = (
    jax.nn.one_hot(
      numbers_BxTxGxA, config.rows_per_stratum, dtype=x_BxLxD.dtype
    )
    * owned_BxTx1xA[..., None].astype(x_BxLxD.dtype)
  ).sum(axis=-2)
  mask_BxLxGxR = jnp.repeat(mask_BxTxGxR, x_BxLxD.shape[1] // num_tiles, axis=1)
  gate, up, down = table.split(table_GxRxE.astype(x_BxLxD.dtype))
  gate_BxLxGxR = jnp.einsum("bld,grd->blgr", x_BxLxD, gate)
  up_BxLxGxR = jnp.einsum("bld,grd->blgr", x_BxLxD, up)
  hidden_BxLxGxR = nn.silu(gate_BxLxGxR) * up_BxLxGxR * mask_BxLxGxR
  return jnp.einsum("blgr,grd->bld", hidden_BxLxGxR, down)


def _in_parts(values_PxBxLxD):
  """Keep what is computed for each part where that part is."""
  return sharding.constrain(values_PxBxLxD, "parts", "batch", None, None)


def _cut_weights(parts: int, gate_DxF, up_DxF, down_FxD):
  """Return gate and up `[P, D, W]` and down `[P, W, D]`."""
  d_model = len(gate_DxF)

  def cut(weight_DxF):
    return weight_DxF.reshape(d_model, parts, -1).swapaxes(0, 1)

  return cut(gate_DxF), cut(up_DxF), down_FxD.reshape(parts, -1, d_model)


def _cut_strata(parts: int, rows_BxTxGxAxE):
  """Return `[P, B, T, G / P, A, E]`."""
  batch, tiles, strata, *row = rows_BxTxGxAxE.shape
  cut = rows_BxTxGxAxE.reshape(batch, tiles, parts, strata // parts, *row)
  return jnp.moveaxis(cut, 2, 0)


class SinkMLP(nn.Module):
  """The MLP of one transformer layer: backbone neurons and sinks."""

  config: LayerConfig

  @nn.compact
  def __call__(self, x_BxLxD, sinks, sources_BxTx2, layer):
    """Return the MLP's output `[B, L, D]`.

    Args:
      x_BxLxD: normalised input in the compute dtype; L is a multiple of T.
      sinks: for "gather" this layer's rows `[B, T, G, A, E]` from
        `table.lookup`, for "masked" its table `[G, R, E]`, None for a plain
        MLP.
      sources_BxTx2: uint32 routing words, one source a tile, (0, 0) none.
      layer: number of the layer, an integer scalar.
    """
    config = self.config
    weights = self._backbone_weights()
    is_gathered = config.implementation == "gather"
    rows = sinks if is_gathered and config.sinks.kind != "none" else None
    parts = sharding.num_parts("mlp", config.backbone_width)
    if parts == 1:
      y_BxLxD = self._part(sources_BxTx2, x_BxLxD, weights, rows)
    else:
      y_PxBxLxD = jax.vmap(functools.partial(self._part, sources_BxTx2))(
        _in_parts(jnp.broadcast_to(x_BxLxD[None], (parts, *x_BxLxD.shape))),
        _cut_weights(parts, *weights),
        None if rows is None else _cut_strata(parts, rows),
      )
      y_BxLxD = _in_parts(y_PxBxLxD).sum(axis=0)
    if config.sinks.kind != "none" and not is_gathered:
      y_BxLxD += masked_sum(config.sinks, sinks, x_BxLxD, sources_BxTx2, layer)
    return y_BxLxD

  def _part(self, sources_BxTx2, x_BxLxD, weights, rows_BxTxGxAxE):
    """Return what some of the hidden neurons, and some strata, add up to."""
    config = self.config
    if config.sinks.kind == "none" or config.backbone_gradient == "full":
      dots = (jnp.matmul, jnp.matmul, jnp.matmul)
    else:
      on_BxT = active(sources_BxTx2)
      tile = x_BxLxD.shape[1] // on_BxT.shape[1]
      learn_BxL = jnp.repeat(~on_BxT, tile, axis=1).astype(config.dtype)

      def blocked(x, weight):
        return blocked_dot(x, weight, learn_BxL)

      first = blocked if config.backbone_gradient == "routed" else jnp.matmul
      dots = (first, first, blocked)
    gate_DxW, up_DxW, down_WxD = weights
    gate_BxLxW = dots[0](x_BxLxD, gate_DxW)
    up_BxLxW = dots[1](x_BxLxD, up_DxW)
    y_BxLxD = dots[2](nn.silu(gate_BxLxW) * up_BxLxW, down_WxD)
    if rows_BxTxGxAxE is not None:
      y_BxLxD += gather_sum(
        config.sinks, rows_BxTxGxAxE, x_BxLxD, sources_BxTx2
      )
    return y_BxLxD

  def _backbone_weights(self):
    """Return gate and up `[D, F]` and down `[F, D]` in the compute dtype."""
    config = self.config
    wide = nn.initializers.normal(config.d_model**-0.5)
    narrow = nn.initializers.normal(config.down_scale)
    shape = (config.d_model, config.backbone_width)
    weights = (
      self._weight("gate", wide, ("embed", "mlp"), shape),
      self._weight("up", wide, ("embed", "mlp"), shape),
      self._weight("down", narrow, ("mlp", "embed"), shape[::-1]),
    )
    return tuple(weight.astype(config.dtype) for weight in weights)

  def _weight(self, name, init, axes, shape):
    return self.param(
      name, nn.with_logical_partitioning(init, axes), shape, jnp.float32
    )


class SinkTable(nn.Module):
  """Holds one layer's table `[strata, rows, 3 * d_model]` in float32."""

  config: LayerConfig

  @nn.compact
  def __call__(self):
    config = self.config
    init = table.initializer(config.d_model, config.down_scale)
    return self.param(
      "table",
      nn.with_logical_partitioning(init, table.AXES),
      table.layer_shape(config.sinks, config.d_model),
      jnp.float32,
    )
