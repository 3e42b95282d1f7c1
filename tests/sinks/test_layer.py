"""One suite over both implementations of the sink layer, and its gradients.

The oracle is `masked`; both are also held against a loop written from the
formula in NumPy.
"""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nulls_jax.sinks import assignment, layer
from nulls_jax.sinks import table as table_lib

B, T, S, D, F, NUMBER = 3, 4, 8, 16, 24, 2
L = T * S

POOLS = {
  "hashed": assignment.SinkConfig(pool_size=128, sinks_per_source=8),
  "hashed, strata": assignment.SinkConfig(
    pool_size=128, sinks_per_source=8, strata=4, block_size=2
  ),
  "dedicated": assignment.SinkConfig(
    kind="dedicated", num_sources=9, sinks_per_source=8
  ),
  "dedicated, strata": assignment.SinkConfig(
    kind="dedicated", num_sources=9, sinks_per_source=8, strata=2
  ),
  "hashed, sizes": assignment.SinkConfig(
    pool_size=128, sinks_per_source=4, strata=2, size_classes=3
  ),
  "dedicated, sizes": assignment.SinkConfig(
    kind="dedicated",
    num_sources=9,
    num_shares=21,
    sinks_per_source=4,
    strata=2,
    size_classes=3,
  ),
}


def _config(pool, implementation="gather", gradient="full", dtype="float32"):
  return layer.LayerConfig(
    d_model=D,
    backbone_width=F,
    down_scale=F**-0.5,
    sinks=POOLS[pool],
    implementation=implementation,
    backbone_gradient=gradient,
    dtype=jnp.dtype(dtype),
  )


def _sources(pool):
  """Several sources a row, one of them twice, some tiles without any."""
  index = np.array([[1, 2, 0, 3], [0, 0, 0, 0], [4, 4, 5, 1]])
  ids = np.array([0, *(assignment.source_id(str(n)) for n in range(9))])
  classes = np.array([0, *(n % 3 for n in range(9))])
  firsts = assignment.first_shares(POOLS[pool], classes)
  return assignment.routing_words(
    POOLS[pool], ids.astype(np.uint64), firsts, classes
  )[index]


def _inputs(pool, dtype="float32"):
  keys = jax.random.split(jax.random.key(0), 3)
  x_BxLxD = jax.random.normal(keys[0], (B, L, D)).astype(dtype)
  config = _config(pool)
  table_GxRxE = layer.SinkTable(config).init(keys[1])
  table_GxRxE = jax.tree.leaves(table_GxRxE)[0]
  params = layer.SinkMLP(config).init(
    keys[2],
    x_BxLxD,
    _sinks(config, table_GxRxE, _sources(pool)),
    _sources(pool),
    jnp.uint32(NUMBER),
  )
  params = jax.tree.map(
    lambda box: box.value,
    params,
    is_leaf=lambda leaf: hasattr(leaf, "value"),
  )
  return params, x_BxLxD, table_GxRxE


def _sinks(config, table_GxRxE, sources_BxTx2):
  """What the layer wants: its rows, looked up in the last of some layers."""
  if config.sinks.kind == "none" or config.implementation == "masked":
    return table_GxRxE
  table_NxGxRxE = jnp.stack([table_GxRxE] * (NUMBER + 1))
  return table_lib.lookup(
    config.sinks, table_NxGxRxE, sources_BxTx2, config.dtype
  )[NUMBER]


def _apply(config, params, x_BxLxD, table_GxRxE, sources_BxTx2):
  return layer.SinkMLP(config).apply(
    params,
    x_BxLxD,
    _sinks(config, table_GxRxE, sources_BxTx2),
    sources_BxTx2,
    jnp.uint32(NUMBER),
  )


def _reference(pool, params, x_BxLxD, table_GxRxE, sources_BxTx2):
  """The paper's formula, a loop over tokens and sinks, float64."""
  weights = {k: np.asarray(v, np.float64) for k, v in params["params"].items()}
  x, table = (
    np.asarray(x_BxLxD, np.float64),
    np.asarray(table_GxRxE, np.float64),
  )

  def silu(value):
    return value / (1 + np.exp(-value))

  hidden = silu(x @ weights["gate"]) * (x @ weights["up"])
  y = hidden @ weights["down"]
  rows = assignment.rows(POOLS[pool], sources_BxTx2, NUMBER)
  owned = assignment.owned(POOLS[pool], sources_BxTx2)
  for b, token in itertools.product(range(B), range(L)):
    tile = token // S
    if not sources_BxTx2[b, tile].any():
      continue
    for stratum, row in itertools.product(
      range(table.shape[0]), np.flatnonzero(owned[b, tile])
    ):
      gate, up, down = np.split(table[stratum, rows[b, tile, stratum, row]], 3)
      token_x = x[b, token]
      y[b, token] += silu(gate @ token_x) * (up @ token_x) * down
  return y


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("implementation", ["gather", "masked"])
def test_values_follow_the_formula(pool, implementation):
  params, x, table = _inputs(pool)
  y = _apply(_config(pool, implementation), params, x, table, _sources(pool))
  expected = _reference(pool, params, x, table, _sources(pool))
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("gradient", ["full", "routed", "down_blocked"])
def test_gather_has_the_oracles_gradients(pool, gradient):
  params, x, table = _inputs(pool)
  weight = jax.random.normal(jax.random.key(9), (B, L, D))

  def loss(implementation, params, x, table):
    config = _config(pool, implementation, gradient)
    return (_apply(config, params, x, table, _sources(pool)) * weight).sum()

  ours, oracle = (
    jax.grad(loss, argnums=(1, 2, 3))(name, params, x, table)
    for name in ("gather", "masked")
  )
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(oracle), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert np.abs(b).max() > 1e-3


@pytest.mark.parametrize("pool", POOLS)
def test_bf16_is_close_to_float32(pool):
  params, x, table = _inputs(pool)
  exact = _apply(_config(pool), params, x, table, _sources(pool))
  for implementation in ("gather", "masked"):
    config = _config(pool, implementation, dtype="bfloat16")
    y = _apply(config, params, x.astype(jnp.bfloat16), table, _sources(pool))
    assert y.dtype == jnp.bfloat16
    error = np.abs(y.astype(np.float32) - exact).mean()
    assert error < 0.02 * np.abs(exact).mean()


@pytest.mark.parametrize("implementation", ["gather", "masked"])
def test_no_source_is_the_backbone_alone(implementation):
  params, x, table = _inputs("hashed")
  config = _config("hashed", implementation)
  dense = dataclasses.replace(config, sinks=assignment.SinkConfig(kind="none"))
  sources = _sources("hashed")
  off = np.repeat(~sources.any(axis=-1), S, axis=1)
  with_sinks = _apply(config, params, x, table, sources)
  backbone = _apply(dense, params, x, None, sources)
  np.testing.assert_array_equal(with_sinks[off], backbone[off])
  assert np.abs(with_sinks - backbone)[~off].max() > 1e-3


@pytest.mark.parametrize("implementation", ["gather", "masked"])
@pytest.mark.parametrize("pool", POOLS)
def test_only_the_active_rows_get_a_gradient(pool, implementation):
  params, x, table = _inputs(pool)
  config, sources = _config(pool, implementation), _sources(pool)
  grad = jax.grad(
    lambda table: (_apply(config, params, x, table, sources) ** 2).sum()
  )(table)
  touched = np.asarray(grad).any(axis=-1)
  expected = np.zeros_like(touched)
  rows = assignment.rows(POOLS[pool], sources, NUMBER)
  owned = assignment.owned(POOLS[pool], sources)
  for b, tile in zip(*np.nonzero(sources.any(axis=-1)), strict=True):
    for stratum in range(touched.shape[0]):
      expected[stratum, rows[b, tile, stratum, owned[b, tile]]] = True
  np.testing.assert_array_equal(touched, expected)


@pytest.mark.parametrize("implementation", ["gather", "masked"])
def test_routed_documents_with_sinks_teach_the_backbone_nothing(
  implementation,
):
  """Rows mix both kinds; the gradient is that of the off documents alone."""
  pool = "hashed"
  params, x, table = _inputs(pool)
  sources = _sources(pool)
  on_BxL = np.repeat(sources.any(axis=-1), S, axis=1)[..., None]

  def loss(params, gradient, tokens):
    config = _config(pool, implementation, gradient)
    y = _apply(config, params, x, table, sources)
    return (jnp.where(tokens, y, 0) ** 2).sum()

  every = np.ones_like(on_BxL)
  grads = {
    gradient: jax.grad(loss)(params, gradient, every)["params"]
    for gradient in ("full", "routed", "down_blocked")
  }
  off_only = jax.grad(loss)(params, "full", ~on_BxL)["params"]
  on_only = jax.grad(loss)(params, "routed", on_BxL)["params"]
  for name in ("gate", "up", "down"):
    np.testing.assert_array_equal(on_only[name], 0)
    np.testing.assert_allclose(
      grads["routed"][name], off_only[name], rtol=1e-4, atol=1e-5
    )
    blocked = off_only if name == "down" else grads["full"]
    np.testing.assert_allclose(
      grads["down_blocked"][name], blocked[name], rtol=1e-4, atol=1e-5
    )
    assert np.abs(grads["full"][name] - off_only[name]).max() > 1e-2


def test_blocking_leaves_the_inputs_gradient_alone():
  pool = "hashed"
  params, x, table = _inputs(pool)
  full, routed = (
    jax.grad(
      lambda x, g=gradient: (
        _apply(_config(pool, "gather", g), params, x, table, _sources(pool))
        ** 2
      ).sum()
    )(x)
    for gradient in ("full", "routed")
  )
  np.testing.assert_allclose(full, routed, rtol=1e-5, atol=1e-5)


def test_gather_builds_nothing_of_the_pools_size():
  """No array of [batch, length, pool] in the forward or backward pass."""
  pool = assignment.SinkConfig(pool_size=8192, sinks_per_source=8)
  table = jnp.zeros((1, 1, 8192, 3 * D))
  sources = _sources("hashed")

  def loss(table, x):
    (rows,) = table_lib.lookup(pool, table, sources, jnp.float32)
    return layer.gather_sum(pool, rows, x, sources).sum()

  text = (
    jax.jit(jax.grad(loss, argnums=(0, 1)))
    .lower(table, jnp.zeros((B, L, D)))
    .as_text()
  )
  sizes = {
    int(np.prod([int(size) for size in shape.split("x")[:-1]]))
    for shape in re.findall(r"tensor<((?:\d+x)+\w+)>", text)
  }
  assert max(sizes) == 8192 * 3 * D
