"""The losses against a plain formula in float64; what they hold and send."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax.model import loss
from nulls_jax.sinks import assignment
from nulls_jax.training import partitioning, state, step
from nulls_jax.training.config import MeshConfig

B, L, D, V = 8, 12, 16, 64
CHUNKS = (0, 3, 5, 7, 12, 20)


@functools.cache
def _inputs(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 4)
  return (
    jax.random.normal(keys[0], (B, L, D)).astype(dtype),
    jax.random.normal(keys[1], (D, V)).astype(dtype),
    jax.random.randint(keys[2], (B, L), 0, V),
    jax.random.uniform(keys[3], (B, L)),
  )


def _from_token_losses(chunk, hidden, head, targets, weights):
  losses = loss.token_losses(hidden, head, targets, chunk)
  return (losses * weights).sum(), losses


def _from_weighted_losses(chunk, hidden, head, targets, weights):
  return loss.weighted_losses(hidden, head, targets, weights, chunk)


FORMS = {"token": _from_token_losses, "weighted": _from_weighted_losses}


def _differentiated(form, chunk, hidden, head, targets, weights):
  """Return (total, losses) and the gradients of states, head and weights."""

  # A factor other than 1: the step divides, and a gradient may be scaled.
  def scaled(*inputs):
    total, losses = FORMS[form](chunk, *inputs)
    return 0.5 * total, losses

  return jax.value_and_grad(scaled, argnums=(0, 1, 3), has_aux=True)(
    hidden, head, targets, weights
  )


@functools.cache
def _expected():
  """The formula in float64: total, losses and gradients."""
  hidden, head, targets, weights = (
    np.asarray(array, np.float64 if array.dtype == jnp.float32 else None)
    for array in _inputs()
  )
  logits = hidden @ head
  probabilities = np.exp(logits)
  sums = probabilities.sum(axis=-1, keepdims=True)
  hits = np.eye(V)[targets]
  losses = np.log(sums[..., 0]) - (logits * hits).sum(axis=-1)
  slope = 0.5 * weights[..., None] * (probabilities / sums - hits)
  return (
    (0.5 * (losses * weights).sum(), losses),
    (
      slope @ head.T,
      np.einsum("bld,blv->dv", hidden, slope),
      0.5 * losses,
    ),
  )


def _assert_close(found, expected):
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  for ours, theirs in pairs:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradients_are_those_of_the_formula(form):
  """Whatever the chunk: all, divisors, with a shorter last one, too long."""
  every = jax.jit(
    lambda *inputs: [_differentiated(form, chunk, *inputs) for chunk in CHUNKS]
  )
  for found in every(*_inputs()):
    _assert_close(found, _expected())


def test_losses_alone_need_no_weights():
  hidden, head, targets, _ = _inputs()
  found = jax.jit(loss.token_losses, static_argnums=3)(hidden, head, targets, 5)
  np.testing.assert_allclose(found, _expected()[0][1], rtol=1e-5)


def test_no_gradient_flows_through_the_losses_beside_the_sum():
  grad = jax.grad(
    lambda hidden: _from_weighted_losses(4, hidden, *_inputs()[1:])[1].sum()
  )(_inputs()[0])
  assert not np.any(grad)


@pytest.mark.parametrize("form", FORMS)
def test_bf16_products_are_added_up_in_float32(form):
  """Many chunks round the head's gradient no more often than one does."""
  run = jax.jit(_differentiated, static_argnums=(0, 1))
  (_, losses), grads = run(form, 1, *_inputs(jnp.bfloat16))
  assert losses.dtype == jnp.float32
  inputs = [
    array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array
    for array in _inputs(jnp.bfloat16)
  ]
  (_, exact_losses), exact = run(form, 0, *inputs)
  np.testing.assert_allclose(losses, exact_losses, rtol=1e-5, atol=1e-5)
  for ours, theirs in zip(grads[:2], exact[:2], strict=True):
    assert ours.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(ours, np.float32) - theirs)
    assert error < 0.003 * np.linalg.norm(theirs)


def _float32_sizes(text: str) -> list[int]:
  """Return the elements of every float32 array that a text names."""
  return [
    math.prod(int(size) for size in shape.split(",") if size)
    for shape in re.findall(r"f32\[([\d,]*)\]", text)
  ]


@pytest.mark.parametrize("form", FORMS)
def test_a_mesh_sends_no_logits_and_reduces_the_head_once(form):
  """Rows over data and fsdp, vocabulary over tensor, the head over both."""
  mesh = partitioning.make_mesh(MeshConfig(fsdp=2, tensor=2))
  rows = partitioning.batch_sharding(mesh)
  head = jax.NamedSharding(mesh, jax.P("fsdp", "tensor"))
  with partitioning.context(mesh):
    compiled = (
      jax.jit(
        functools.partial(_differentiated, form, 3),
        in_shardings=(rows, head, rows, rows),
        out_shardings=((None, rows), (rows, head, rows)),
      )
      .lower(*_inputs())
      .compile()
    )
  inputs = [
    jax.device_put(array, sharding)
    for array, sharding in zip(_inputs(), (rows, head, rows, rows), strict=True)
  ]
  _assert_close(compiled(*inputs), _expected())
  text = compiled.as_text()
  assert max(_float32_sizes(text)) < B * L * V // 8
  gathered = re.findall(r"= (\S+?)\{\S* all-gather\(", text)
  assert gathered == [f"f32[{D},{V // 2}]"]
  # The head's gradient is scattered over fsdp and summed over data; in the
  # loop over chunks, devices exchange some numbers a token.
  reduced = re.findall(r"= (.*) (?:all-reduce|reduce-scatter)\(", text)
  sizes = [size for line in reduced for size in _float32_sizes(line)]
  head_part, states = D // 2 * V // 2, B // 4 * L * D
  assert sorted(size for size in sizes if size > B * L) == sorted(
    [head_part, head_part, states]
  )


def test_a_training_step_never_holds_all_logits_in_float32():
  """Neither them nor their gradient, in whatever shape."""
  batch_size, length, vocabulary = 4, 64, 512
  config = run_config.RunConfig(
    model=run_config.ModelConfig(
      vocab_size=vocabulary,
      d_model=8,
      num_layers=1,
      num_heads=1,
      num_kv_heads=1,
      head_size=8,
      backbone_width=8,
      loss_chunk=16,
    ),
    sinks=assignment.SinkConfig(kind="none"),
    data=run_config.DataConfig(row_length=length, tile=length),
    training=run_config.TrainingConfig(batch_size=batch_size, num_steps=1),
  )
  mesh = partitioning.make_mesh(config.mesh, jax.devices()[:1])
  row = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
  batch = dict.fromkeys(step.BATCH_FIELDS, row)
  batch["weights"] = jax.ShapeDtypeStruct(row.shape, jnp.float32)
  batch["sources"] = jax.ShapeDtypeStruct((batch_size, 1, 2), jnp.uint32)
  update = step.make(config, mesh)
  with partitioning.context(mesh):
    compiled = update.lower(state.abstract(config, mesh), batch).compile()
  sizes = _float32_sizes(compiled.as_text())
  assert max(sizes) <= batch_size * length * vocabulary // 4
