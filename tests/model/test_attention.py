"""Every implementation of attention against one plain formula."""

import dataclasses
import functools
import importlib.util
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax._src.cudnn import fused_attention_stablehlo

from nulls_jax import errors
from nulls_jax.model import (
  attention,
  blockwise_attention,
  fused_attention,
  transformer,
)
from nulls_jax.model.config import ModelConfig
from nulls_jax.sinks import assignment
from nulls_jax.training import partitioning

B, L, H, J, K = 2, 256, 4, 2, 8
INTERPRETED = functools.partial(fused_attention.splash, interpret=True)
IMPLEMENTATIONS = {
  "xla": blockwise_attention.attend,
  "splash": INTERPRETED,
}


def _segments(batch, length):
  """Rows of three documents and padding, each row cut elsewhere."""
  rows = []
  for row in range(batch):
    shift = 8 * row
    cuts = [0, length // 8 + shift, length // 2 + 8, length * 7 // 8 - shift]
    rows.append(np.repeat([1, 2, 3, 0], np.diff([*cuts, length])))
  return jnp.asarray(np.stack(rows), jnp.int32)


def _inputs(batch=B, length=L, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 4)
  shapes = [(batch, length, heads, K) for heads in (H, J, J, H)]
  query, key, value, slope = (
    jax.random.normal(key, shape).astype(dtype)
    for key, shape in zip(keys, shapes, strict=True)
  )
  return query, key, value, _segments(batch, length), slope


def plain(query, key, value, segments):
  """All scores at once, key-value heads repeated."""
  key, value = (jnp.repeat(array, H // J, axis=2) for array in (key, value))
  scores = jnp.einsum("blhk,bmhk->bhlm", query, key)
  places = jnp.arange(segments.shape[1])
  seen = segments[:, :, None] == segments[:, None, :]
  seen &= (places[None, :] <= places[:, None])[None]
  scores = jnp.where(seen[:, None], scores, -jnp.inf)
  return jnp.einsum("bhlm,bmhk->blhk", jax.nn.softmax(scores, -1), value)


def _pull(implementation, query, key, value, segments, slope):
  """Return outputs and the gradients of queries, keys and values."""
  out, pull = jax.vjp(
    lambda *arrays: implementation(*arrays, segments), query, key, value
  )
  return out, *pull(slope)


@functools.cache
def _pulled(name, length=L):
  function = IMPLEMENTATIONS.get(name, plain)
  return jax.jit(functools.partial(_pull, function))(*_inputs(length=length))


@pytest.mark.parametrize(
  # 300 leaves a last block of 44; splash takes multiples of 128 alone.
  ("name", "length"),
  [("xla", 300), ("splash", L)],
)
def test_outputs_and_gradients_are_those_of_the_formula(name, length):
  for found, expected in zip(
    _pulled(name, length), _pulled("plain", length), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_bfloat16_keeps_the_softmax_in_float32(name):
  inputs = _inputs(dtype=jnp.bfloat16)
  found = jax.jit(functools.partial(_pull, IMPLEMENTATIONS[name]))(*inputs)
  expected = _pulled("plain")
  for ours, theirs in zip(found, expected, strict=True):
    assert ours.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(ours, np.float32) - theirs)
    assert error < 0.01 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_no_bit_of_another_document_arrives(name):
  """Nor in gradients: document 2 changes, 1 and 3 and padding do not."""
  query, key, value, segments, slope = _inputs()
  run = jax.jit(functools.partial(_pull, IMPLEMENTATIONS[name]))
  others = np.asarray(segments) != 2
  changed = [
    jnp.where((segments == 2)[:, :, None, None], 7 - 3 * array, array)
    for array in (query, key, value)
  ]
  before = run(query, key, value, segments, slope)
  after = run(*changed, segments, slope)
  for first, second in zip(before, after, strict=True):
    np.testing.assert_array_equal(first[others], second[others])
    assert np.abs(first - second)[~others].max() > 0.1


MODEL = ModelConfig(
  vocab_size=40,
  d_model=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_size=8,
  backbone_width=8,
)
SINKS = assignment.SinkConfig(pool_size=64, sinks_per_source=4, strata=2)


def test_the_module_is_scaled_attention_between_its_projections():
  """With all positions 0, where rotation does nothing."""
  module = attention.Attention(MODEL, 1.0)
  x = jax.random.normal(jax.random.key(1), (1, 12, MODEL.d_model))
  zeros, ones = jnp.zeros((1, 12), jnp.int32), jnp.ones((1, 12), jnp.int32)

  @jax.jit
  def both():
    boxed = module.init(jax.random.key(2), x, zeros, ones)
    params = meta.unbox(boxed)["params"]
    query, key, value = (
      jnp.einsum("bld,dhk->blhk", x, params[name])
      for name in ("query", "key", "value")
    )
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    expected = jnp.einsum("blhk,hkd->bld", attended, params["output"])
    return module.apply(boxed, x, zeros, ones), expected

  (found, cache), expected = both()
  assert cache is None
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def splash_here(monkeypatch):
  """Let programs for this machine choose splash, interpreted."""
  monkeypatch.setattr(fused_attention, "splash", INTERPRETED)
  monkeypatch.setattr(fused_attention, "platform", lambda: "tpu")


def test_document_b_never_changes_a_bit_of_document_a_with_splash(splash_here):
  model = dataclasses.replace(MODEL, attention="splash", num_layers=1)
  params = jax.jit(functools.partial(transformer.init, model, SINKS))(
    jax.random.key(0)
  )
  sources = np.array([[[1, 2]] * 4 + [[3, 4]] * 8 + [[0, 0]] * 4], np.uint32)
  segments = np.repeat([1, 2, 0], [32, 64, 32])[None]
  batch = {
    "tokens": np.arange(128)[None] % 31,
    "segments": segments,
    "positions": np.concatenate([np.arange(n) for n in (32, 64, 32)])[None],
    "sources": sources,
  }
  run = jax.jit(transformer.logits, static_argnums=(0, 1))
  before = run(model, SINKS, params, batch)
  other = dict(batch, tokens=np.where(segments == 2, 35, batch["tokens"]))
  after = run(model, SINKS, params, other)
  np.testing.assert_array_equal(before[segments == 1], after[segments == 1])
  assert np.abs(before - after)[segments == 2].max() > 1e-3


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_nothing_of_length_squared_waits_for_the_backward_pass(name):
  """What is kept is linear in the row; jax.nn's own keeps probabilities."""

  def largest(implementation):
    *inputs, segments, _ = _inputs(length=1024)
    kept = jax.eval_shape(
      lambda *arrays: jax.vjp(
        lambda *arrays: implementation(*arrays, segments), *arrays
      )[1],
      *inputs,
    )
    return max(leaf.size for leaf in jax.tree.leaves(kept))

  assert largest(IMPLEMENTATIONS[name]) <= B * 1024 * H * K
  assert largest(plain) >= B * H * 1024 * 1024


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 1, 4)])
def test_on_a_mesh_each_device_runs_its_rows_and_heads(shape):
  """Two key-value heads are not cut over four devices: then no head is."""
  *arrays, segments, slope = _inputs(batch=4, length=128)
  function = functools.partial(
    _pull, functools.partial(fused_attention.on_each_device, INTERPRETED)
  )
  mesh = jax.make_mesh(
    shape, partitioning.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
  )
  heads = "tensor" if shape[-1] == J else None
  by_head = jax.NamedSharding(mesh, jax.P(partitioning.BATCH, None, heads))
  shardings = [by_head] * 3 + [partitioning.batch_sharding(mesh), by_head]
  with partitioning.context(mesh):
    compiled = (
      jax.jit(function, in_shardings=shardings, out_shardings=by_head)
      .lower(*arrays, segments, slope)
      .compile()
    )
  if heads:
    assert "all-" not in compiled.as_text()
  found = compiled(
    *jax.device_put((*arrays, segments, slope), tuple(shardings))
  )
  expected = jax.jit(functools.partial(_pull, plain))(*arrays, segments, slope)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


def _choose(config, length, on, capability=""):
  return fused_attention.choose(config, length, on=on, capability=capability)


BF16 = dataclasses.replace(MODEL, compute_dtype="bfloat16")


@pytest.mark.parametrize(
  ("config", "length", "on", "capability", "expected"),
  [
    (MODEL, 1024, "cpu", "", "xla"),
    (MODEL, 1024, "tpu", "", "splash"),
    (MODEL, 96, "tpu", "", "xla"),
    (BF16, 1024, "gpu", "9.0", "cudnn"),
    (MODEL, 1024, "gpu", "9.0", "xla"),
    (BF16, 1024, "gpu", "7.5", "xla"),
    (BF16, 1024, "gpu", "gfx90a", "xla"),
    (BF16, 1023, "gpu", "9.0", "xla"),
    (dataclasses.replace(BF16, head_size=12), 1024, "gpu", "9.0", "xla"),
    (dataclasses.replace(BF16, attention="xla"), 1024, "gpu", "9.0", "xla"),
  ],
)
def test_auto_takes_the_kernel_where_it_can(
  config, length, on, capability, expected
):
  assert _choose(config, length, on, capability) == expected


@pytest.mark.parametrize(
  ("changes", "length", "on", "capability", "message"),
  [
    ({"attention": "splash"}, 96, "cpu", "", "a TPU.* for a cpu; rows of 96 "),
    ({"attention": "splash"}, 96, "tpu", "", "not a multiple of 128; change"),
    ({"attention": "cudnn"}, 96, "cpu", "", "NVIDIA GPU.* for a cpu"),
    ({"attention": "cudnn"}, 96, "gpu", "7.5", "capability 8.0, here is 7.5"),
    ({"attention": "cudnn"}, 96, "gpu", "gfx1", r"no CUDA device \(gfx1\)"),
    ({"attention": "cudnn", "head_size": 12}, 96, "gpu", "8.0", "size=12; it"),
    ({"attention": "cudnn"}, 97, "gpu", "8.0", "rows of 97 tokens; make"),
    (
      {"attention": "cudnn", "compute_dtype": "float32"},
      96,
      "gpu",
      "8.0",
      "compute_dtype=float32; set it to bfloat16",
    ),
  ],
)
def test_a_kernel_that_is_named_runs_or_is_refused(
  changes, length, on, capability, message
):
  config = dataclasses.replace(BF16, **changes)
  with pytest.raises(errors.UserError, match=message):
    _choose(config, length, on, capability)


def test_a_model_refuses_a_kernel_that_is_not_here():
  model = dataclasses.replace(MODEL, attention="splash")
  params = jax.eval_shape(
    functools.partial(transformer.init, model, SINKS), jax.random.key(0)
  )
  row = jax.ShapeDtypeStruct((1, 128), jnp.int32)
  batch = dict.fromkeys(("tokens", "segments", "positions"), row)
  batch["sources"] = jax.ShapeDtypeStruct((1, 1, 2), jnp.uint32)
  with pytest.raises(errors.UserError, match="attention=splash cannot run"):
    jax.eval_shape(
      functools.partial(transformer.logits, model, SINKS), params, batch
    )


def test_cudnn_lowers_to_its_calls_without_an_array_of_all_scores(monkeypatch):
  """As far as a machine without a GPU goes: nothing is compiled or run."""
  monkeypatch.setattr(
    fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000
  )
  *inputs, segments, slope = _inputs(dtype=jnp.bfloat16)
  text = (
    jax.jit(functools.partial(_pull, fused_attention.cudnn))
    .trace(*inputs, segments, slope)
    .lower(lowering_platforms=("cuda",))
    .as_text()
  )
  calls = re.findall(r"@(__cudnn\$\w+)", text)
  assert calls == [
    "__cudnn$fmhaScaleBiasSoftmax",
    "__cudnn$fmhaScaleBiasSoftmaxBackward",
  ]
  assert text.count("mask_type\\22: \\22CAUSAL") == len(calls)
  assert f"{B}x1x{L}x{L}xbf16" in text
  assert f"{B}x{H}x{L}x{L}x" not in text


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="libtpu is not installed; it comes with the `tpu` extra",
)
def test_splash_compiles_for_a_pod_that_is_not_there():
  """And `auto` chooses it, as the topology says, on a machine of CPUs."""
  program = """
    import functools, jax, jax.numpy as jnp, numpy as np
    from jax.experimental import topologies
    from nulls_jax.model import fused_attention
    from nulls_jax.model.config import ModelConfig
    from nulls_jax.training import partitioning
    from nulls_jax.training.config import MeshConfig

    pod = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = partitioning.make_mesh(MeshConfig(tensor=2), list(pod.devices))
    row = jax.ShapeDtypeStruct(
      (4, 256), jnp.int32, sharding=partitioning.batch_sharding(mesh)
    )

    def loss(arrays, segments):
      implementation = fused_attention.choose(
        ModelConfig(), 256, on=fused_attention.platform(), capability=""
      )
      return fused_attention.attend(implementation, *arrays, segments).sum()

    arrays = [
      jax.ShapeDtypeStruct(
        (4, 256, heads, 64), jnp.bfloat16, sharding=jax.NamedSharding(
          mesh, jax.P(partitioning.BATCH, None, "tensor")
        )
      ) for heads in (4, 2, 2)
    ]
    with partitioning.context(mesh):
      compiled = jax.jit(jax.grad(loss)).lower(arrays, row).compile()
    print(compiled.as_text())
  """
  environment = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }
  text = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program)],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  for phase in ("fwd", "dq", "dkv"):
    assert f"splash_mha_{phase}_segmented" in text
  assert "all-" not in text and "[2,2,256,256]" not in text
