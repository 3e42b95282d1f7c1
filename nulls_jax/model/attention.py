"""Grouped-query attention with rotary positions, within segments.

Owns the attention module, its rotary embedding and the key-value cache. How
tokens of a whole row attend is `blockwise_attention`'s and `fused_attention`'s.
Invariant: a token attends only to itself and to earlier tokens of its own
segment, so what one document says never reaches another one's logits.

Dimensions: B batch, L length (queries), M memory (keys), D model, H heads,
J key-value heads, K head size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nulls_jax.model import config as model_config
from nulls_jax.model import fused_attention


def rotate(x_BxLxHxK, positions_BxL, base: float, scale: float = 1.0):
  """Apply rotary position embedding in float32 (half-split pairs).

  Args:
    x_BxLxHxK: queries or keys.
    positions_BxL: position of each token in its document, from 0.
    base: base of the geometric series of wave lengths.
    scale: factor of the result, before it is rounded to the dtype of x.
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
  return (rotated * scale).astype(x_BxLxHxK.dtype)


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
  def __call__(self, x_BxLxD, positions_BxL, segments_BxL=None, cache=None):
    """Return the output `[B, L, D]` and the updated cache (None without one).

    Args:
      x_BxLxD: normalised input in the compute dtype.
      positions_BxL: positions in the document.
      segments_BxL: number of each token's document in its row, 0 for padding;
        not used with a cache.
      cache: None, or one layer's `{"keys", "values"}: [B, M, J, K]`, into
        which the L new tokens are written at `positions[0]` onward (all rows
        of a cached batch stand at the same position). A row of a cached batch
        is one document.

    Raises:
      errors.UserError: `config.attention` cannot run here, see
        `fused_attention.choose`.
    """
    config = self.config
    query_BxLxHxK = self._project("query", x_BxLxD, config.num_heads, "heads")
    key_BxLxJxK = self._project("key", x_BxLxD, config.num_kv_heads, "kv_heads")
    value_BxLxJxK = self._project(
      "value", x_BxLxD, config.num_kv_heads, "kv_heads"
    )
    query_BxLxHxK = rotate(
      query_BxLxHxK, positions_BxL, config.rope_base, config.head_size**-0.5
    )
    key_BxLxJxK = rotate(key_BxLxJxK, positions_BxL, config.rope_base)
    if cache is None:
      implementation = "xla"
      # Parameters are drawn with rows of one token, which no kernel takes.
      if not self.is_initializing():
        implementation = fused_attention.choose(
          config,
          x_BxLxD.shape[1],
          on=fused_attention.platform(),
          capability=fused_attention.cuda_capability(),
        )
      attended_BxLxHxK = fused_attention.attend(
        implementation, query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, segments_BxL
      )
    else:
      attended_BxLxHxK, cache = _attend_cached(
        query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, positions_BxL, cache
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


def _attend_cached(
  query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, positions_BxL, cache
):
  """Write new keys and values into the cache, and attend to what it holds."""
  start = (0, positions_BxL[0, 0], 0, 0)
  cache = {
    "keys": jax.lax.dynamic_update_slice(cache["keys"], key_BxLxJxK, start),
    "values": jax.lax.dynamic_update_slice(
      cache["values"], value_BxLxJxK, start
    ),
  }
  memory_1x1x1xM = jnp.arange(cache["keys"].shape[1])[None, None, None]
  attended_BxLxHxK = jax.nn.dot_product_attention(
    query_BxLxHxK,
    cache["keys"],
    cache["values"],
    mask=memory_1x1x1xM <= positions_BxL[:, None, :, None],
    scale=1.0,
  )
  return attended_BxLxHxK, cache
