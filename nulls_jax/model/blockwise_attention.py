"""Causal attention within segments, in plain XLA, block of queries by block.

Owns the implementation "xla", which runs everywhere. A block of queries reads
only the keys up to its end, so that half of the pairs are never computed, and
the backward pass computes a block's probabilities again from the softmax's
logarithmic sums: of a layer nothing is kept but queries, keys, values,
outputs and those sums.

Invariant: the probability of a key that a query must not see is exactly 0,
so that nothing of another document reaches an output, not even by rounding.

Dimensions: B batch, L length (queries), Q queries of a block, M memory
(keys), H heads, J key-value heads, G query heads of each, K head size.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import ad_checkpoint

# Blocks are multiples of this many queries, and at most this many in number:
# each is written out, so that its keys are sliced at no cost.
_BLOCK = 128
_MAX_BLOCKS = 8

_HIDDEN = -0.7 * float(np.finfo(np.float32).max)

# What a remat policy may keep so that attention is not computed twice.
RESIDUALS = "attention"


def attend(query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, segments_BxL):
  """Return what each token reads, `[B, L, H, K]`.

  A token attends to itself and to earlier tokens of its segment. Padding
  (segment 0) attends within itself, which keeps its softmax defined; its
  outputs are never used.

  Args:
    query_BxLxHxK: scaled queries; head h reads key-value head h // G.
    key_BxLxJxK: keys.
    value_BxLxJxK: values.
    segments_BxL: int32 number of each token's document in the row.
  """
  batch, length, heads, size = query_BxLxHxK.shape
  kv_heads = key_BxLxJxK.shape[2]
  query_BxLxJxGxK = query_BxLxHxK.reshape(
    batch, length, kv_heads, heads // kv_heads, size
  )
  return _attend(
    query_BxLxJxGxK, key_BxLxJxK, value_BxLxJxK, segments_BxL
  ).reshape(query_BxLxHxK.shape)


@jax.custom_vjp
def _attend(query_BxLxJxGxK, key_BxLxJxK, value_BxLxJxK, segments_BxL):
  return _forward(query_BxLxJxGxK, key_BxLxJxK, value_BxLxJxK, segments_BxL)[0]


def _forward(query_BxLxJxGxK, key_BxLxJxK, value_BxLxJxK, segments_BxL):
  out, log_sums = [], []
  for start, end in _blocks(segments_BxL.shape[1]):
    scores_BxJxGxQxM = _scores(
      query_BxLxJxGxK, key_BxLxJxK, segments_BxL, start, end
    )
    top_BxJxGxQx1 = scores_BxJxGxQxM.max(axis=-1, keepdims=True)
    weights_BxJxGxQxM = jnp.exp(scores_BxJxGxQxM - top_BxJxGxQx1)
    sum_BxJxGxQx1 = weights_BxJxGxQxM.sum(axis=-1, keepdims=True)
    out.append(
      jnp.einsum(
        "bjgqm,bmjk->bqjgk",
        (weights_BxJxGxQxM / sum_BxJxGxQx1).astype(value_BxLxJxK.dtype),
        value_BxLxJxK[:, :end],
      )
    )
    log_sums.append((top_BxJxGxQx1 + jnp.log(sum_BxJxGxQx1))[..., 0])
  return jnp.concatenate(out, axis=1), jnp.concatenate(log_sums, axis=-1)


def _attend_forward(query, key, value, segments_BxL):
  out_BxLxJxGxK, log_sums_BxJxGxL = (
    ad_checkpoint.checkpoint_name(array, RESIDUALS)
    for array in _forward(query, key, value, segments_BxL)
  )
  residuals = (
    query,
    key,
    value,
    segments_BxL,
    out_BxLxJxGxK,
    log_sums_BxJxGxL,
  )
  return out_BxLxJxGxK, residuals


def _attend_backward(residuals, slope_BxLxJxGxK):
  (
    query_BxLxJxGxK,
    key_BxLxJxK,
    value_BxLxJxK,
    segments_BxL,
    out_BxLxJxGxK,
    log_sums_BxJxGxL,
  ) = residuals
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  # The softmax's share of every score's slope: sum over keys of p * dp.
  shares_BxJxGxL = product("bqjgk,bqjgk->bjgq", out_BxLxJxGxK, slope_BxLxJxGxK)
  length, dtype = segments_BxL.shape[1], query_BxLxJxGxK.dtype
  query_grads = []
  key_grad_BxLxJxK = jnp.zeros(key_BxLxJxK.shape, jnp.float32)
  value_grad_BxLxJxK = jnp.zeros(value_BxLxJxK.shape, jnp.float32)
  for start, end in _blocks(length):
    slope_BxQxJxGxK = slope_BxLxJxGxK[:, start:end]
    scores_BxJxGxQxM = _scores(
      query_BxLxJxGxK, key_BxLxJxK, segments_BxL, start, end
    )
    weights_BxJxGxQxM = jnp.exp(
      scores_BxJxGxQxM - log_sums_BxJxGxL[..., start:end, None]
    )
    pull_BxJxGxQxM = product(
      "bqjgk,bmjk->bjgqm", slope_BxQxJxGxK, value_BxLxJxK[:, :end]
    )
    pull_BxJxGxQxM -= shares_BxJxGxL[..., start:end, None]
    pull_BxJxGxQxM = (weights_BxJxGxQxM * pull_BxJxGxQxM).astype(dtype)
    query_grads.append(
      jnp.einsum("bjgqm,bmjk->bqjgk", pull_BxJxGxQxM, key_BxLxJxK[:, :end])
    )
    later = ((0, 0), (0, length - end), (0, 0), (0, 0))
    key_grad_BxLxJxK += jnp.pad(
      product(
        "bjgqm,bqjgk->bmjk", pull_BxJxGxQxM, query_BxLxJxGxK[:, start:end]
      ),
      later,
    )
    value_grad_BxLxJxK += jnp.pad(
      product(
        "bjgqm,bqjgk->bmjk", weights_BxJxGxQxM.astype(dtype), slope_BxQxJxGxK
      ),
      later,
    )
  return (
    jnp.concatenate(query_grads, axis=1),
    key_grad_BxLxJxK.astype(dtype),
    value_grad_BxLxJxK.astype(dtype),
    None,
  )


_attend.defvjp(_attend_forward, _attend_backward)


def _blocks(length):
  """Return (start, end) of each block of queries.

  >>> _blocks(300)
  [(0, 128), (128, 256), (256, 300)]
  """
  size = -(-length // (_BLOCK * _MAX_BLOCKS)) * _BLOCK
  return [
    (start, min(start + size, length)) for start in range(0, length, size)
  ]


def _scores(query_BxLxJxGxK, key_BxLxJxK, segments_BxL, start, end):
  """Return the float32 scores of a block's queries, hidden ones at -2e38."""
  scores_BxJxGxQxM = jnp.einsum(
    "bqjgk,bmjk->bjgqm",
    query_BxLxJxGxK[:, start:end],
    key_BxLxJxK[:, :end],
    preferred_element_type=jnp.float32,
  )
  seen_BxQxM = segments_BxL[:, start:end, None] == segments_BxL[:, None, :end]
  # Of the keys before the block all are earlier: this is the corner's mask.
  seen_BxQxM &= jnp.tril(jnp.ones((1, end - start, end), bool), start)
  return jnp.where(seen_BxQxM[:, None, None], scores_BxJxGxQxM, _HIDDEN)
