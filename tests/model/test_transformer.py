"""The decoder: isolation of documents, the cache, remat, dense twin, sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax.data import packing
from nulls_jax.model import attention, transformer
from nulls_jax.model.config import ModelConfig
from nulls_jax.sinks import assignment

MODEL = ModelConfig(
  vocab_size=40,
  d_model=32,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_size=8,
  backbone_width=24,
)
SINKS = assignment.SinkConfig(pool_size=64, sinks_per_source=4, strata=2)
TILE, LENGTH = 8, 48

_LOGITS = jax.jit(transformer.logits, static_argnums=(0, 1))


@functools.cache
def _params(model=MODEL, sinks=SINKS):
  return jax.jit(functools.partial(transformer.init, model, sinks))(
    jax.random.key(1)
  )


def _batch(documents):
  """One row of (tokens, source key or None) documents, ready for a model."""
  row = packing.example_from_documents(
    [(tokens, number) for number, (tokens, _) in enumerate(documents, 1)],
    LENGTH,
    TILE,
  )
  ids = [0, *(assignment.source_id(key) if key else 0 for _, key in documents)]
  sources = assignment.routing_words(
    SINKS, np.array(ids, np.uint64)[row["tile_sources"]], row["tile_sources"]
  )
  fields = ("tokens", "targets", "weights", "segments", "positions")
  return {
    **{name: row[name][None] for name in fields},
    "sources": sources[None],
  }


def _tokens(seed, length):
  return np.random.default_rng(seed).integers(4, 40, length).tolist()


@pytest.mark.parametrize("implementation", ["gather", "masked"])
def test_document_b_never_changes_a_bit_of_document_a(implementation):
  model = dataclasses.replace(MODEL, implementation=implementation)
  params = _params()
  run = functools.partial(_LOGITS, model, SINKS)
  a, b = _tokens(0, 13), _tokens(1, 20)
  other = _tokens(2, 20)
  for keys in (("a", "b"), (None, "b"), ("a", None)):
    before = run(params, _batch([(a, keys[0]), (b, keys[1])]))
    after = run(params, _batch([(a, keys[0]), (other, "c")]))
    np.testing.assert_array_equal(before[0, :13], after[0, :13])
    assert np.abs(before - after)[0, 16:36].max() > 1e-3
    # Nor does what stands before a document.
    first = run(params, _batch([(b, keys[1]), (a, keys[0])]))
    moved = run(params, _batch([(other, "c"), (a, keys[0])]))
    np.testing.assert_array_equal(first[0, 24:37], moved[0, 24:37])


def test_a_document_reads_the_same_alone_and_packed():
  params = _params()
  run = functools.partial(_LOGITS, MODEL, SINKS)
  a, b = _tokens(0, 13), _tokens(1, 20)
  packed = run(params, _batch([(b, "b"), (a, "a")]))[0, 24:37]
  alone = run(params, _batch([(a, "a")]))[0, :13]
  np.testing.assert_allclose(packed, alone, rtol=1e-4, atol=1e-5)


def test_the_source_changes_its_own_document():
  params = _params()
  run = functools.partial(_LOGITS, MODEL, SINKS)
  on = run(params, _batch([(_tokens(0, 13), "a")]))
  off = run(params, _batch([(_tokens(0, 13), None)]))
  assert np.abs(on - off)[0, :13].max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gather_and_masked_give_the_same_losses(dtype):
  params = _params()
  batch = _batch([(_tokens(0, 13), "a"), (_tokens(1, 20), "b")])
  ours, oracle = (
    jax.jit(transformer.token_losses, static_argnums=(0, 1))(
      dataclasses.replace(
        MODEL, implementation=implementation, compute_dtype=dtype
      ),
      SINKS,
      params,
      batch,
    )
    for implementation in ("gather", "masked")
  )
  tolerance = 1e-5 if dtype == "float32" else 5e-2
  np.testing.assert_allclose(ours, oracle, rtol=tolerance, atol=tolerance)


@functools.cache
def _gradients(remat, chunk):
  model = dataclasses.replace(MODEL, remat=remat, loss_chunk=chunk)
  batch = _batch([(_tokens(0, 13), "a"), (_tokens(1, 20), None)])

  def loss(params):
    losses = transformer.token_losses(model, SINKS, params, batch)
    return (losses * batch["weights"]).sum()

  return jax.tree.leaves(jax.jit(jax.grad(loss))(_params()))


@pytest.mark.parametrize(
  ("remat", "chunk"), [("dots", 0), ("full", 0), ("none", 16), ("full", 16)]
)
def test_remat_and_chunks_change_memory_only(remat, chunk):
  pairs = zip(_gradients(remat, chunk), _gradients("none", 0), strict=True)
  for found, expected in pairs:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["a", None])
def test_the_cache_gives_the_logits_of_the_whole_text(key):
  params, tokens = _params(), _tokens(3, 20)
  batch = _batch([(tokens, key)])
  whole = _LOGITS(MODEL, SINKS, params, batch)[0, :20]
  cache = attention.empty_cache(MODEL, 1, 32)
  sources = batch["sources"][:, 0]
  # A padded prompt of 11 tokens, then one at a time.
  prompt = np.zeros((1, 16), np.int32)
  prompt[0, :11] = tokens[:11]
  decode = jax.jit(transformer.decode, static_argnums=(0, 1))
  logits, cache = decode(MODEL, SINKS, params, cache, prompt, 0, sources)
  found = [logits[0, :11]]
  for place in range(11, 20):
    logits, cache = decode(
      MODEL,
      SINKS,
      params,
      cache,
      np.array([[tokens[place]]], np.int32),
      place,
      sources,
    )
    found.append(logits[0])
  np.testing.assert_allclose(np.concatenate(found), whole, rtol=1e-4, atol=1e-4)


def test_without_sinks_it_is_the_dense_baseline():
  """Same code, same numbers, no table."""
  dense = assignment.SinkConfig(kind="none")
  params = dict(_params())
  params["layers"] = dict(params["layers"])
  del params["layers"]["sinks"]
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    jnp.shape, _params(sinks=dense)
  )
  batch = _batch([(_tokens(0, 13), None)])
  np.testing.assert_array_equal(
    _LOGITS(MODEL, dense, _params(), batch),
    _LOGITS(MODEL, SINKS, _params(), batch),
  )


def test_parameter_paths_are_public():
  """Redaction and other tools rely on these names and shapes."""
  shapes = jax.eval_shape(
    lambda: transformer.init(MODEL, SINKS, jax.random.key(0))
  )
  found = {
    "/".join(entry.key for entry in path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }
  assert found == {
    "embedding/table": (40, 32),
    "head/kernel": (32, 40),
    "layers/attention/query": (3, 32, 4, 8),
    "layers/attention/key": (3, 32, 2, 8),
    "layers/attention/value": (3, 32, 2, 8),
    "layers/attention/output": (3, 4, 8, 32),
    "layers/mlp/gate": (3, 32, 24),
    "layers/mlp/up": (3, 32, 24),
    "layers/mlp/down": (3, 24, 32),
    "layers/norm_attention/scale": (3, 32),
    "layers/norm_mlp/scale": (3, 32),
    "layers/sinks/table": (3, 2, 32, 96),
    "norm/scale": (32,),
  }


@pytest.mark.parametrize(
  ("name", "num_parameters"),
  [("wiki_1b", 1_053_881_280), ("dense_1b", 307_753_920)],
)
def test_full_size_configs_have_the_papers_shapes(name, num_parameters):
  config = run_config.load(f"configs/{name}.py")
  run_config.validate(config)
  shapes = jax.eval_shape(
    lambda: transformer.init(config.model, config.sinks, jax.random.key(0))
  )
  counted = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert counted == num_parameters
  batch = {
    "tokens": jax.ShapeDtypeStruct((2, config.data.row_length), jnp.int32),
    "sources": jax.ShapeDtypeStruct(
      (2, config.data.row_length // config.data.tile, 2), jnp.uint32
    ),
  }
  for field in ("targets", "segments", "positions"):
    batch[field] = batch["tokens"]
  losses = jax.eval_shape(
    lambda params, batch: transformer.token_losses(
      config.model, config.sinks, params, batch
    ),
    shapes,
    batch,
  )
  assert losses.shape == (2, config.data.row_length)
  assert losses.dtype == jnp.float32
