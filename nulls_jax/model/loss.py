"""Next-token losses in float32, without all logits at one time.

Owns the losses and their gradients, written out by hand: logits exist for one
chunk of every row at a time, in the forward pass and in the backward pass,
and the gradient of the head is added up over the chunks in float32. On a mesh
each device does this with its rows and its part of the vocabulary; logits
never travel, and the head's gradient is reduced once, after the last chunk.

Invariant: the result depends neither on the chunk length nor on the mesh
beyond float32 rounding.

Dimensions: B batch, L length, C tokens of a chunk, D model, V vocabulary.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from nulls_jax import sharding


def token_losses(hidden_BxLxD, head_DxV, targets_BxL, chunk: int = 0):
  """Return the cross-entropy of each target, nats, `float32 [B, L]`.

  What a caller does with the losses is not known while they are computed, so
  the backward pass computes the logits again: four matrix products of
  [B * L, D, V] where `weighted_losses` needs three.

  Args:
    hidden_BxLxD: final normalised states in the compute dtype.
    head_DxV: output projection in the compute dtype.
    targets_BxL: int32 ids; padding targets are scored too, callers weight.
    chunk: tokens of a row whose logits exist at one time; where it does not
      divide L, the last chunk is shorter. 0 takes the whole row.
  """
  return _token_losses(chunk, hidden_BxLxD, head_DxV, targets_BxL)


def weighted_losses(
  hidden_BxLxD, head_DxV, targets_BxL, weights_BxL, chunk: int = 0
):
  """Return the weighted sum of the losses, and the losses `float32 [B, L]`.

  The sum (float32 scalar, nats) is what to differentiate: as the weights are
  known, its gradients are computed beside the losses, while a chunk's logits
  are at hand, and nothing is computed twice. No gradient flows through the
  losses that are returned.

  Args:
    hidden_BxLxD, head_DxV, targets_BxL, chunk: as for `token_losses`.
    weights_BxL: float32 weight of each target.
  """
  return _weighted_losses(
    chunk, hidden_BxLxD, head_DxV, targets_BxL, weights_BxL
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_losses(chunk, hidden_BxLxD, head_DxV, targets_BxL):
  return _forward(chunk, hidden_BxLxD, head_DxV, targets_BxL)[0]


def _token_losses_forward(chunk, hidden_BxLxD, head_DxV, targets_BxL):
  losses_BxL, log_sums_BxL = _forward(
    chunk, hidden_BxLxD, head_DxV, targets_BxL
  )
  return losses_BxL, (hidden_BxLxD, head_DxV, targets_BxL, log_sums_BxL)


def _token_losses_backward(chunk, residuals, scales_BxL):
  hidden_BxLxD, head_DxV, targets_BxL, log_sums_BxL = residuals
  _, hidden_grad_BxLxD, head_grad_DxV = _with_gradients(
    chunk, hidden_BxLxD, head_DxV, targets_BxL, scales_BxL, log_sums_BxL
  )
  return hidden_grad_BxLxD, head_grad_DxV.astype(head_DxV.dtype), None


_token_losses.defvjp(_token_losses_forward, _token_losses_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_losses(chunk, hidden_BxLxD, head_DxV, targets_BxL, weights_BxL):
  losses_BxL, _ = _forward(chunk, hidden_BxLxD, head_DxV, targets_BxL)
  return (losses_BxL * weights_BxL).sum(), losses_BxL


def _weighted_losses_forward(
  chunk, hidden_BxLxD, head_DxV, targets_BxL, weights_BxL
):
  losses_BxL, hidden_grad_BxLxD, head_grad_DxV = _with_gradients(
    chunk, hidden_BxLxD, head_DxV, targets_BxL, weights_BxL
  )
  residuals = (
    hidden_grad_BxLxD,
    head_grad_DxV.astype(head_DxV.dtype),
    losses_BxL,
  )
  return ((losses_BxL * weights_BxL).sum(), losses_BxL), residuals


def _weighted_losses_backward(chunk, residuals, cotangents):
  del chunk
  hidden_grad_BxLxD, head_grad_DxV, losses_BxL = residuals
  # The losses are for reports: what comes back for them is not used.
  scale, _ = cotangents
  return (
    (hidden_grad_BxLxD * scale).astype(hidden_grad_BxLxD.dtype),
    (head_grad_DxV * scale).astype(head_grad_DxV.dtype),
    None,
    losses_BxL * scale,
  )


_weighted_losses.defvjp(_weighted_losses_forward, _weighted_losses_backward)


def _forward(chunk, hidden_BxLxD, head_DxV, targets_BxL):
  """Return losses and logarithms of the softmax's sums, both `[B, L]`."""
  axes = _Axes.here(hidden_BxLxD, head_DxV)

  def local(hidden_BxLxD, head_DxV, targets_BxL):
    def one(carry, hidden_BxCxD, targets_BxC):
      logits_BxCxV = _logits(hidden_BxCxD, head_DxV)
      hits_BxCxV = _hits(logits_BxCxV, targets_BxC, axes.vocabulary)
      log_sum_BxC = _log_sum(logits_BxCxV, axes.vocabulary)
      target_BxC = _target(logits_BxCxV, hits_BxCxV, axes.vocabulary)
      return carry, (log_sum_BxC - target_BxC, log_sum_BxC)

    return _walk(one, (), (hidden_BxLxD, targets_BxL), chunk)[1]

  return axes.run(
    local,
    (axes.rows, axes.head, axes.rows),
    (axes.rows, axes.rows),
  )(hidden_BxLxD, head_DxV, targets_BxL)


def _with_gradients(
  chunk, hidden_BxLxD, head_DxV, targets_BxL, scales_BxL, log_sums_BxL=None
):
  """Return the losses and the gradients of their sum weighted by `scales`.

  Args:
    chunk: tokens of a row at one time, or 0.
    hidden_BxLxD, head_DxV, targets_BxL: as for `token_losses`.
    scales_BxL: the factor of each loss, float32.
    log_sums_BxL: from `_forward`, if it ran; then the losses are not wanted,
      and zeros are returned for them.

  Returns:
    losses `float32 [B, L]`, the gradient of the states in their dtype, and
    the gradient of the head in float32.
  """
  axes = _Axes.here(hidden_BxLxD, head_DxV)

  def local(hidden_BxLxD, head_DxV, *by_token):
    head_grad_DxV, (losses_BxL, hidden_grad_BxLxD) = _walk(
      functools.partial(_chunk_gradients, axes.vocabulary, head_DxV),
      jnp.zeros(head_DxV.shape, jnp.float32),
      (hidden_BxLxD, *by_token),
      chunk,
    )
    return (
      losses_BxL,
      jax.lax.psum(hidden_grad_BxLxD, axes.vocabulary),
      axes.reduce_head(head_grad_DxV),
    )

  by_token = [targets_BxL, scales_BxL]
  if log_sums_BxL is not None:
    by_token.append(log_sums_BxL)
  return axes.run(
    local,
    (axes.rows, axes.head, *(axes.rows for _ in by_token)),
    (axes.rows, axes.rows, axes.head_grad),
  )(hidden_BxLxD, head_DxV, *by_token)


def _chunk_gradients(
  axes,
  head_DxV,
  head_grad_DxV,
  hidden_BxCxD,
  targets_BxC,
  scales_BxC,
  log_sum_BxC=None,
):
  """Return the head's gradient so far, the losses and the states' gradient."""
  logits_BxCxV = _logits(hidden_BxCxD, head_DxV)
  hits_BxCxV = _hits(logits_BxCxV, targets_BxC, axes)
  if log_sum_BxC is None:
    log_sum_BxC = _log_sum(logits_BxCxV, axes)
    losses_BxC = log_sum_BxC - _target(logits_BxCxV, hits_BxCxV, axes)
  else:
    losses_BxC = jnp.zeros_like(log_sum_BxC)
  slope_BxCxV = jnp.exp(logits_BxCxV - log_sum_BxC[..., None]) - hits_BxCxV
  # Cast here, so that both products run in the compute dtype.
  slope_BxCxV = (slope_BxCxV * scales_BxC[..., None]).astype(hidden_BxCxD.dtype)
  head_grad_DxV += jnp.einsum(
    "bcd,bcv->dv",
    hidden_BxCxD,
    slope_BxCxV,
    preferred_element_type=jnp.float32,
  )
  hidden_grad_BxCxD = jnp.einsum("bcv,dv->bcd", slope_BxCxV, head_DxV)
  return head_grad_DxV, (losses_BxC, hidden_grad_BxCxD)


def _logits(hidden_BxCxD, head_DxV):
  return jnp.einsum(
    "bcd,dv->bcv", hidden_BxCxD, head_DxV, preferred_element_type=jnp.float32
  )


def _hits(logits_BxCxV, targets_BxC, axes):
  """Return where this device's part of the vocabulary holds the target."""
  size = logits_BxCxV.shape[-1]
  first = jax.lax.axis_index(axes) * size if axes else 0
  ids_1x1xV = jax.lax.broadcasted_iota(jnp.int32, (1, 1, size), 2)
  return ids_1x1xV == (targets_BxC - first)[..., None]


def _log_sum(logits_BxCxV, axes):
  top_BxC = jax.lax.pmax(logits_BxCxV.max(axis=-1), axes)
  sum_BxC = jnp.exp(logits_BxCxV - top_BxC[..., None]).sum(axis=-1)
  return top_BxC + jnp.log(jax.lax.psum(sum_BxC, axes))


def _target(logits_BxCxV, hits_BxCxV, axes):
  # A sum and no gather: it stays on the device, and fuses with its neighbours.
  return jax.lax.psum(jnp.where(hits_BxCxV, logits_BxCxV, 0).sum(-1), axes)


def _walk(body, carry, arrays, chunk):
  """Call `body(carry, *parts)` for one chunk of the rows after the other.

  Args:
    body: returns the new carry and a tuple of arrays `[B, C, ...]`.
    carry: first carry.
    arrays: `[B, L, ...]` each.
    chunk: tokens; 0 for all.

  Returns:
    the last carry, and the tuple of results put together to `[B, L, ...]`.
  """
  length = arrays[0].shape[1]
  chunk = min(chunk, length) or length
  number, rest = divmod(length, chunk)
  start = length - rest
  first = [array[:, :start] for array in arrays]
  if number == 1:
    carry, outputs = body(carry, *first)
  else:
    carry, outputs = jax.lax.scan(
      lambda carry, parts: body(carry, *parts),
      carry,
      [_stack(array, chunk) for array in first],
    )
    outputs = [_unstack(output) for output in outputs]
  if rest:
    carry, last = body(carry, *(array[:, start:] for array in arrays))
    outputs = [
      jnp.concatenate(pair, axis=1) for pair in zip(outputs, last, strict=True)
    ]
  return carry, tuple(outputs)


def _stack(x_BxL, chunk):
  shape = (x_BxL.shape[0], -1, chunk, *x_BxL.shape[2:])
  return jnp.moveaxis(x_BxL.reshape(shape), 1, 0)


def _unstack(x_NxBxC):
  x_BxNxC = jnp.moveaxis(x_NxBxC, 0, 1)
  return x_BxNxC.reshape(x_BxNxC.shape[0], -1, *x_BxNxC.shape[3:])


class _Axes(NamedTuple):
  """Mesh axes that cut the rows, the vocabulary and the head's model width.

  All empty without a mesh: then a function runs as it is.
  """

  batch: tuple[str, ...] = ()
  vocabulary: tuple[str, ...] = ()
  embed: tuple[str, ...] = ()
  manual: bool = False

  @classmethod
  def here(cls, hidden_BxLxD, head_DxV):
    """Return those of the mesh and the rules that are in force."""
    mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
    if mesh.empty or mesh.size == 1:
      return cls()

    def axes(names, array):
      spec = sharding.resolve(names, array.shape, rules, mesh.shape)
      return [
        (entry,) if isinstance(entry, str) else entry or () for entry in spec
      ]

    batch, _, _ = axes(("batch", None, None), hidden_BxLxD)
    embed, vocabulary = axes(("embed", "vocabulary"), head_DxV)
    # The head is whole along the model width while it is used; only axes that
    # also cut the rows can scatter its gradient.
    embed = tuple(axis for axis in embed if axis in batch)
    return cls(batch, vocabulary, embed, True)

  @property
  def rows(self):
    return P(self.batch)

  @property
  def head(self):
    return P(None, self.vocabulary)

  @property
  def head_grad(self):
    return P(self.embed, self.vocabulary)

  def run(self, function, in_specs, out_specs):
    """Return the function, on each device with its part of the arrays."""
    if not self.manual:
      return function
    return jax.shard_map(
      function, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )

  def reduce_head(self, head_grad_DxV):
    """Add up what the rows of all devices say; keep this device's part."""
    others = tuple(axis for axis in self.batch if axis not in self.embed)
    if self.embed:
      head_grad_DxV = jax.lax.psum_scatter(
        head_grad_DxV, self.embed, scatter_dimension=0, tiled=True
      )
    return jax.lax.psum(head_grad_DxV, others)
