"""The loss against a float64 reference, and its memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax.model import loss

B, L, D, V = 2, 12, 8, 50


def _inputs():
  keys = jax.random.split(jax.random.key(0), 3)
  return (
    jax.random.normal(keys[0], (B, L, D)),
    jax.random.normal(keys[1], (D, V)),
    jax.random.randint(keys[2], (B, L), 0, V),
  )


def test_losses_are_minus_log_probabilities():
  hidden, head, targets = _inputs()
  logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
  log_sum = np.log(np.exp(logits).sum(axis=-1))
  picked = np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[
    ..., 0
  ]
  for chunk in (0, 3, 5):  # 5 does not divide the row: one chunk
    found = loss.token_losses(hidden, head, targets, chunk)
    np.testing.assert_allclose(found, log_sum - picked, rtol=1e-5)


def test_chunks_never_build_all_logits():
  hidden, head, targets = _inputs()

  def largest(chunk):
    text = (
      jax.jit(
        jax.grad(lambda h: loss.token_losses(h, head, targets, chunk).sum())
      )
      .lower(hidden)
      .as_text()
    )
    shapes = re.findall(r"tensor<((?:\d+x)+)f32>", text)
    return max(
      int(np.prod([int(n) for n in shape.split("x")[:-1]])) for shape in shapes
    )

  assert largest(0) >= B * L * V
  assert largest(3) <= max(B * 3 * V, D * V)


def test_accumulates_bf16_products_in_float32():
  hidden, head, targets = _inputs()
  found = loss.token_losses(
    hidden.astype(jnp.bfloat16), head.astype(jnp.bfloat16), targets
  )
  assert found.dtype == jnp.float32
