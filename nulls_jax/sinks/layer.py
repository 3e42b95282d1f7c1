"""The sink layer: a gated MLP of backbone neurons plus a source's own sinks.

`y = down(silu(gate(x)) * up(x)) + sum over the source's sinks of
down_j * silu(gate_j . x) * (up_j . x)`

Owns the two implementations of the sinks' sum (`masked`, the oracle, dense
over the pool; `gather`, which touches only the active rows) and the gradient
modes of the backbone. Does not know attention, losses or devices.

Invariant: a token whose source is (0, 0) gets exactly the backbone's output,
and no sink gets a gradient from it.

Source: Ghosal, Maini, Raghunathan, "Natively Unlearnable Large Language
Models" (arXiv 2606.13873), the MLP; routed gradients are this project's.

Dimensions: B batch, L length, D model, F backbone width, T tiles, S tokens
of a tile, G strata, R rows of a stratum, A active rows of a stratum.
"""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

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


def gather_sum(config, table_GxRxE, x_BxLxD, sources_BxTx2, layer):
  """The sinks' sum from the active rows only; cost does not see the pool.

  Args:
    config: the pool's `SinkConfig`.
    table_GxRxE: one layer's table.
    x_BxLxD: the layer's input, in the compute dtype.
    sources_BxTx2: uint32 routing words of each tile.
    layer: number of the layer, an integer scalar.

  Returns:
    `[B, L, D]`, zero where a tile has no source.
  """
  batch, length, d_model = x_BxLxD.shape
  num_tiles = sources_BxTx2.shape[1]
  numbers_BxTxGxA = assignment.rows(config, sources_BxTx2, layer)
  rows_BxTxGxAxE = table.lookup(table_GxRxE, numbers_BxTxGxA)
  gate, up, down = table.split(rows_BxTxGxAxE.astype(x_BxLxD.dtype))
  x_BxTxSxD = x_BxLxD.reshape(batch, num_tiles, -1, d_model)
  gate_BxTxSxGxA = jnp.einsum("btsd,btgad->btsga", x_BxTxSxD, gate)
  up_BxTxSxGxA = jnp.einsum("btsd,btgad->btsga", x_BxTxSxD, up)
  on_BxTx1x1x1 = active(sources_BxTx2)[..., None, None, None]
  hidden_BxTxSxGxA = (
    nn.silu(gate_BxTxSxGxA) * up_BxTxSxGxA * on_BxTx1x1x1.astype(gate.dtype)
  )
  y_BxTxSxD = jnp.einsum("btsga,btgad->btsd", hidden_BxTxSxGxA, down)
  return y_BxTxSxD.reshape(batch, length, d_model)


def masked_sum(config, table_GxRxE, x_BxLxD, sources_BxTx2, layer):
  """The sinks' sum over the whole pool under a mask: the oracle.

  What the paper's formula says literally. Arguments and result as
  `gather_sum`; cost grows with the pool.
  """
  num_tiles = sources_BxTx2.shape[1]
  numbers_BxTxGxA = assignment.rows(config, sources_BxTx2, layer)
  # Every draw is distinct, so the sum of one-hots is a 0/1 mask.
  mask_BxTxGxR = jax.nn.one_hot(
    numbers_BxTxGxA, config.rows_per_stratum, dtype=x_BxLxD.dtype
  ).sum(axis=-2)
  mask_BxTxGxR *= active(sources_BxTx2)[..., None, None].astype(x_BxLxD.dtype)
  mask_BxLxGxR = jnp.repeat(mask_BxTxGxR, x_BxLxD.shape[1] // num_tiles, axis=1)
  gate, up, down = table.split(table_GxRxE.astype(x_BxLxD.dtype))
  gate_BxLxGxR = jnp.einsum("bld,grd->blgr", x_BxLxD, gate)
  up_BxLxGxR = jnp.einsum("bld,grd->blgr", x_BxLxD, up)
  hidden_BxLxGxR = nn.silu(gate_BxLxGxR) * up_BxLxGxR * mask_BxLxGxR
  return jnp.einsum("blgr,grd->bld", hidden_BxLxGxR, down)


_SUMS = {"gather": gather_sum, "masked": masked_sum}


class SinkMLP(nn.Module):
  """The MLP of one transformer layer: backbone neurons and sinks."""

  config: LayerConfig

  @nn.compact
  def __call__(self, x_BxLxD, table_GxRxE, sources_BxTx2, layer):
    """Return the MLP's output `[B, L, D]`.

    Args:
      x_BxLxD: normalised input in the compute dtype; L is a multiple of T.
      table_GxRxE: this layer's sinks, float32; None for kind "none".
      sources_BxTx2: uint32 routing words, one source a tile, (0, 0) none.
      layer: number of the layer, an integer scalar.
    """
    config = self.config
    weights = self._backbone_weights()
    plain = functools.partial(jnp.einsum, "bli,io->blo")
    if config.sinks.kind == "none" or config.backbone_gradient == "full":
      dots = (plain, plain, plain)
    else:
      on_BxT = active(sources_BxTx2)
      tile = x_BxLxD.shape[1] // on_BxT.shape[1]
      learn_BxL = jnp.repeat(~on_BxT, tile, axis=1).astype(config.dtype)

      def blocked(x, weight):
        return blocked_dot(x, weight, learn_BxL)

      first = blocked if config.backbone_gradient == "routed" else plain
      dots = (first, first, blocked)
    gate_BxLxF = dots[0](x_BxLxD, weights["gate"])
    up_BxLxF = dots[1](x_BxLxD, weights["up"])
    y_BxLxD = dots[2](nn.silu(gate_BxLxF) * up_BxLxF, weights["down"])
    if config.sinks.kind == "none":
      return y_BxLxD
    sinks_sum = _SUMS[config.implementation]
    return y_BxLxD + sinks_sum(
      config.sinks, table_GxRxE, x_BxLxD, sources_BxTx2, layer
    )

  def _backbone_weights(self):
    config = self.config
    wide = nn.initializers.normal(config.d_model**-0.5)
    narrow = nn.initializers.normal(config.down_scale)
    shape = (config.d_model, config.backbone_width)
    weights = {
      "gate": self._weight("gate", wide, ("embed", "mlp"), shape),
      "up": self._weight("up", wide, ("embed", "mlp"), shape),
      "down": self._weight("down", narrow, ("mlp", "embed"), shape[::-1]),
    }
    return {
      name: weight.astype(config.dtype) for name, weight in weights.items()
    }

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
