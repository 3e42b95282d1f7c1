"""The sink table: one array that holds every sink of every layer.

Owns the table's shape, its initial values, the split of a row into its
three vectors, and the lookup of rows. A row is one sink: its gate, up and
down vectors side by side, so that one gather reads a sink, one scatter
writes its gradient and zeroing one row erases it whole.

Invariant: nothing here depends on the number of devices; the `strata` axis
is an ordinary array axis.

Dimensions: N layers, G strata, R rows of a stratum, D model, E = 3 D,
B batch, T tiles, A active rows of a stratum.
"""

import jax
import jax.numpy as jnp

from nulls_jax.sinks import assignment

# Logical axes of one layer's table; the scan over layers puts "layers" first.
AXES = ("strata", "sink_rows", "sink_row")


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


def split(rows_xE):
  """Split rows `[..., 3 * D]` into gate, up and down `[..., D]`."""
  return jnp.split(rows_xE, 3, axis=-1)


def lookup(table_GxRxE, numbers_BxTxGxA):
  """Gather rows: `[G, R, E]` at `[B, T, G, A]` gives `[B, T, G, A, E]`.

  The gather runs inside each stratum, so a table partitioned over strata is
  read without communication. Row numbers must be in range (assignment.rows
  guarantees it).
  """

  def one_stratum(table_RxE, numbers_BxTxA):
    return table_RxE.at[numbers_BxTxA].get(mode="promise_in_bounds")

  return jax.vmap(one_stratum, in_axes=(0, 2), out_axes=2)(
    table_GxRxE, numbers_BxTxGxA
  )
