"""The sink table: one array that holds every sink of every layer.

Owns the table's shape, its initial values, its place among the parameters,
the split of a row into its three vectors, and the lookup of rows. A row is
one sink: its gate, up and down vectors side by side, so that one gather reads
a sink, one scatter writes its gradient and zeroing one row erases it whole.

Invariant: nothing here depends on the number of devices; the `strata` axis
is an ordinary array axis.

Dimensions: N layers, G strata, R rows of a stratum, D model, E = 3 D,
B batch, T tiles, A active rows of a stratum.
"""

import jax
import jax.numpy as jnp

from nulls_jax import sharding
from nulls_jax.sinks import assignment

# Logical axes of one layer's table; the scan over layers puts "layers" first.
AXES = ("strata", "sink_rows", "sink_row")


def layers_axis(config: assignment.SinkConfig) -> str:
  """Return the logical axis of the layers of the whole table."""
  return "owned_layers" if config.kind == "dedicated" else "layers"


def layer_shape(
  config: assignment.SinkConfig, d_model: int
) -> tuple[int, int, int]:
  """Return `(strata, rows, 3 * d_model)`, the shape of one layer's table."""
  return config.strata, config.rows_per_stratum, 3 * d_model


def initializer(d_model: int, down_scale: float):
  """Return an initialiser: gate and up ~ N(0, 1/D), down ~ N(0, down_scale²).

  Args:
    d_model: width D.
    down_scale: standard deviation of the down vectors; the model gives that
      of the backbone's down projection.
  """

  def init(key, shape, dtype=jnp.float32):
    scale_E = jnp.concatenate(
      [
        jnp.full((2 * d_model,), d_model**-0.5, dtype),
        jnp.full((d_model,), down_scale, dtype),
      ]
    )
    return jax.random.normal(key, shape, dtype) * scale_E.reshape(1, 1, -1)

  return init


def detach(params):
  """Return the table `[N, G, R, E]` and the tree of all other parameters.

  The table is None for a dense model.
  """
  layers = {
    name: value for name, value in params["layers"].items() if name != "sinks"
  }
  table_NxGxRxE = params["layers"].get("sinks", {}).get("table")
  return table_NxGxRxE, {**params, "layers": layers}


def attach(table_NxGxRxE, others):
  """Undo `detach`."""
  layers = {**others["layers"], "sinks": {"table": table_NxGxRxE}}
  return {**others, "layers": layers}


def alone(leaf):
  """Return the tree that holds nothing but a leaf in the table's place."""
  return attach(leaf, {"layers": {}})


def split(rows_xE):
  """Split rows `[..., 3 * D]` into gate, up and down `[..., D]`."""
  return jnp.split(rows_xE, 3, axis=-1)


def lookup(config, table_NxGxRxE, sources_BxTx2, dtype):
  """Return the rows of a batch's sources in every layer.

  Done once, before the first layer: the gradient of a step then comes as
  rows, and one scatter takes it to the table, whatever the pool's size and
  whatever the layers recompute in the backward pass. The gather runs inside
  each layer and stratum, where the table is; then the rows move to their
  documents, in the compute dtype, by an all-to-all if the two are apart.

  Args:
    config: the pool's `SinkConfig`.
    table_NxGxRxE: the whole table, float32.
    sources_BxTx2: uint32 routing words of each tile.
    dtype: of the result.

  Returns:
    `[N, B, T, G, A, E]`. A row that the tile's source does not own (see
    `assignment.owned`) holds what is at some other place of the table.
  """

  layers_N = jnp.arange(len(table_NxGxRxE), dtype=jnp.uint32)
  numbers_NxBxTxGxA = jax.vmap(
    lambda layer: assignment.rows(config, sources_BxTx2, layer)
  )(layers_N)
  at_table, *_ = _stages(config)
  shape = (*numbers_NxBxTxGxA.shape, table_NxGxRxE.shape[-1])
  numbers_NxBxTxGxA = sharding.constrain(numbers_NxBxTxGxA, *at_table, of=shape)

  def one_stratum(table_RxE, numbers_BxTxA):
    return table_RxE.at[numbers_BxTxA].get(mode="promise_in_bounds")

  one_layer = jax.vmap(one_stratum, in_axes=(0, 2), out_axes=2)
  rows = jax.vmap(one_layer)(table_NxGxRxE, numbers_NxBxTxGxA)
  return to_documents(config, rows.astype(dtype))


def _stages(config):
  """Layouts of rows on their way from the table to their documents."""
  return (
    (layers_axis(config), "batch", None, "strata", None, "sink_row"),
    (None, "batch", None, "strata", None, "sink_row"),
    (None, "batch", None, "active_strata", None, None),
  )


def to_documents(config, rows_NxBxTxGxAxE):
  """Move rows from where the table is to where their documents are.

  One mesh axis at a time, each an all-to-all of fixed shape.
  """
  for names in _stages(config):
    rows_NxBxTxGxAxE = sharding.constrain(rows_NxBxTxGxAxE, *names)
  return rows_NxBxTxGxAxE


def to_table(config, rows_NxBxTxGxAxE):
  """Move rows, such as gradients, the way back."""
  for names in reversed(_stages(config)):
    rows_NxBxTxGxAxE = sharding.constrain(rows_NxBxTxGxAxE, *names)
  return rows_NxBxTxGxAxE
