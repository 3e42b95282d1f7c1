"""Grouped-query attention with rotary positions and segment masks.

Owns the attention module, its rotary embedding and the key-value cache.
Invariant: a token attends only to itself and to earlier tokens of its own
segment, so what one document says never reaches another one's logits.

Dimensions: B batch, L length (queries), M memory (keys), D model, H heads,
J key-value heads, K head size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nulls_jax.model import config as model_config


def rotate(x_BxLxHxK, positions_BxL, base: float):
  """Apply rotary position embedding in float32 (half-split pairs).

  Args:
    x_BxLxHxK: queries or keys.
    positions_BxL: position of each token in its document, from 0.
    base: base of the geometric series of wave lengths.
  """
  half = x_BxLxHxK.shape[-1] // 2
  frequency_K = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BxLx1xK = jnp.einsum(
    "bl,k->blk", positions_BxL.astype(jnp.float32), frequency_K
  )[:, :, None]
  sine, cosine = jnp.sin(angle_BxLx1xK), jnp.cos(angle_BxLx1xK)
  first, second = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cosine - second * sine, second * cosine + first * sine], axis=-1
  )
  return rotated.astype(x_BxLxHxK.dtype)


def segment_mask(segments_BxL):
  """Return `bool [B, 1, L, L]`: causal, within one document.

  Padding (segment 0) attends within itself, which keeps its rows of the
  softmax defined; its outputs are never used.
  """
  length = segments_BxL.shape[1]
  same_BxLxL = segments_BxL[:, :, None] == segments_BxL[:, None, :]
  causal_1xLxL = jnp.tril(jnp.ones((1, length, length), bool))
  return (same_BxLxL & causal_1xLxL)[:, None]


def empty_cache(config: model_config.ModelConfig, batch: int, memory: int):
  """Return an empty key-value cache for `batch` documents of one row each.

  A dict of keys and values `[layers, B, M, J, K]` in the compute dtype.
  """
  shape = (
    config.num_layers,
    batch,
    memory,
    config.num_kv_heads,
    config.head_size,
  )
  dtype = jnp.dtype(config.compute_dtype)
  return {"keys": jnp.zeros(shape, dtype), "values": jnp.zeros(shape, dtype)}


class Attention(nn.Module):
  """Grouped-query attention of one layer."""

  config: model_config.ModelConfig
  output_scale: float

  @nn.compact
  def __call__(self, x_BxLxD, positions_BxL, mask_Bx1xLxM, cache=None):
    """Return the output `[B, L, D]` and the updated cache (None without one).

    Args:
      x_BxLxD: normalised input in the compute dtype.
      positions_BxL: positions in the document.
      mask_Bx1xLxM: which keys each query sees.
      cache: None, or one layer's `{"keys", "values"}: [B, M, J, K]`, into
        which the L new tokens are written at `positions[0]` onward (all rows
        of a cached batch stand at the same position).
    """
    config = self.config
    query_BxLxHxK = self._project("query", x_BxLxD, config.num_heads, "heads")
    key_BxLxJxK = self._project("key", x_BxLxD, config.num_kv_heads, "kv_heads")
    value_BxLxJxK = self._project(
      "value", x_BxLxD, config.num_kv_heads, "kv_heads"
    )
    query_BxLxHxK = rotate(query_BxLxHxK, positions_BxL, config.rope_base)
    key_BxLxJxK = rotate(key_BxLxJxK, positions_BxL, config.rope_base)
    if cache is not None:
      start = (0, positions_BxL[0, 0], 0, 0)
      cache = {
        "keys": jax.lax.dynamic_update_slice(cache["keys"], key_BxLxJxK, start),
        "values": jax.lax.dynamic_update_slice(
          cache["values"], value_BxLxJxK, start
        ),
      }
      key_BxLxJxK, value_BxLxJxK = cache["keys"], cache["values"]
    attended_BxLxHxK = jax.nn.dot_product_attention(
      query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, mask=mask_Bx1xLxM
    )
    weight_HxKxD = self.param(
      "output",
      nn.with_logical_partitioning(
        nn.initializers.normal(self.output_scale), ("heads", "head", "embed")
      ),
      (config.num_heads, config.head_size, config.d_model),
      jnp.float32,
    ).astype(x_BxLxD.dtype)
    return jnp.einsum("blhk,hkd->bld", attended_BxLxHxK, weight_HxKxD), cache

  def _project(self, name, x_BxLxD, heads, axis):
    config = self.config
    weight_DxHxK = self.param(
      name,
      nn.with_logical_partitioning(
        nn.initializers.normal(config.d_model**-0.5), ("embed", axis, "head")
      ),
      (config.d_model, heads, config.head_size),
      jnp.float32,
    ).astype(x_BxLxD.dtype)
    return jnp.einsum("bld,dhk->blhk", x_BxLxD, weight_DxHxK)
