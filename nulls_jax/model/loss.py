"""Next-token losses in float32, without all logits at one time.

Invariant: the result does not depend on the chunk length beyond float32
rounding.
"""

import jax
import jax.numpy as jnp


def token_losses(hidden_BxLxD, head_DxV, targets_BxL, chunk: int = 0):
  """Return the cross-entropy of each target, nats, `float32 [B, L]`.

  Args:
    hidden_BxLxD: final normalised states in the compute dtype.
    head_DxV: output projection in the compute dtype.
    targets_BxL: int32 ids; padding targets are scored too, callers weight.
    chunk: tokens of a row whose logits exist at one time, a divisor of L
      (otherwise the whole row is one chunk); logits are recomputed in the
      backward pass. 0 builds them all at once.
  """
  length = hidden_BxLxD.shape[1]
  if not chunk or length % chunk or chunk == length:
    return _losses(hidden_BxLxD, head_DxV, targets_BxL)

  @jax.checkpoint
  def one(_, inputs):
    hidden_BxCxD, targets_BxC = inputs
    return None, _losses(hidden_BxCxD, head_DxV, targets_BxC)

  def chunked(x):
    shape = (x.shape[0], length // chunk, chunk, *x.shape[2:])
    return jnp.moveaxis(x.reshape(shape), 1, 0)

  _, losses_CxBxS = jax.lax.scan(
    one, None, (chunked(hidden_BxLxD), chunked(targets_BxL))
  )
  return jnp.moveaxis(losses_CxBxS, 0, 1).reshape(targets_BxL.shape)


def _losses(hidden_BxLxD, head_DxV, targets_BxL):
  logits_BxLxV = jnp.einsum(
    "bld,dv->blv", hidden_BxLxD, head_DxV, preferred_element_type=jnp.float32
  )
  target_BxL = jnp.take_along_axis(
    logits_BxLxV, targets_BxL[..., None], axis=-1
  )[..., 0]
  return jax.nn.logsumexp(logits_BxLxV, axis=-1) - target_BxL
