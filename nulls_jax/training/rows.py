"""Row-sparse AdamW: the update of a table that sources own row by row.

Owns the optimiser state of a `dedicated` table and its update from the
gradients of looked-up rows. A step reads and writes the rows of its batch's
sources and nothing else, so it costs the same for a thousand sources and for
a million, and no gradient of the table's size exists.

Invariant: a row, its moments and its count keep every bit in a step in which
its source is absent, with weight decay on.

Source: Loshchilov and Hutter, decoupled weight decay (arXiv 1711.05101),
applied to a row when it is seen; the bias correction of Kingma and Ba
(arXiv 1412.6980) with the row's own number of updates.

Dimensions: N layers, G strata, R rows of a stratum, E values of a row,
B batch, T tiles, A active rows of a stratum, U sources of a batch (B * T at
most).
"""

import functools

import jax
import jax.numpy as jnp

from nulls_jax import sharding
from nulls_jax.sinks import assignment
from nulls_jax.sinks import table as table_lib
from nulls_jax.training.config import OptimizerConfig


def initial(table_NxGxRxE):
  """Return the state of a table that no step has updated.

  A dict of `mu` and `nu` (`[N, G, R, E]`) and `count` (int32 `[N, G, R]`, the
  updates of each row), each under the table's own path, so that an erasure
  finds them.
  """
  count = jnp.zeros(table_NxGxRxE.shape[:3], jnp.int32)
  return {
    "mu": table_lib.alone(jnp.zeros_like(table_NxGxRxE)),
    "nu": table_lib.alone(jnp.zeros_like(table_NxGxRxE)),
    "count": table_lib.alone(count),
  }


def by_source(sinks: assignment.SinkConfig, sources_BxTx2, gradients):
  """Sum the gradients of the tiles of each source, once.

  Args:
    sinks: the pool's settings, dedicated.
    sources_BxTx2: uint32 routing words.
    gradients: `[N, B, T, G, A, E]`, of what `table.lookup` gave for them.

  Returns:
    `uint32 [U, 2]`, the words of different sources, (0, 0) where the batch
    has no more, and float32 `[N, U, G, A, E]`, the sums.
  """
  num_layers, batch, num_tiles = gradients.shape[:3]
  words_Ux2 = sources_BxTx2.reshape(-1, 2)
  # A source's low word, its first share, is its own: the class adds nothing.
  shares_U, first_U, which_U = jnp.unique(
    words_Ux2[:, 1],
    size=batch * num_tiles,
    fill_value=0,
    return_index=True,
    return_inverse=True,
  )
  words_Ux2 = jnp.where(shares_U[:, None] == 0, 0, words_Ux2[first_U])
  flat = table_lib.to_table(sinks, gradients).reshape(
    num_layers, batch * num_tiles, *gradients.shape[3:]
  )
  sums = jnp.zeros(flat.shape, jnp.float32).at[:, which_U].add(flat)
  # The padding of `unique` repeats 0; nothing of it is ever written.
  return words_Ux2, sums


def update(
  config: OptimizerConfig,
  sinks: assignment.SinkConfig,
  table_NxGxRxE,
  state,
  words_Ux2,
  gradients_NxUxGxAxE,
  learning_rate,
):
  """Return the table and its state after one update of the named rows.

  Args:
    config: rates and decays; `learning_rate` there is not used.
    sinks: the pool's settings, dedicated.
    table_NxGxRxE: the whole table, float32.
    state: as `initial` gives it.
    words_Ux2: uint32 routing words of different sources, (0, 0) for none.
    gradients_NxUxGxAxE: float32, of each source's rows.
    learning_rate: of this step, for the backbone.
  """
  numbers_UxGxA = assignment.rows(sinks, words_Ux2, 0).astype(jnp.int32)
  owned_Ux1xA = assignment.owned(sinks, words_Ux2)[:, None]
  # Rows that are not a source's own lie beyond the table: not read, not
  # written. Each has a place of its own there, as unique indices promise.
  beyond = sinks.rows_per_stratum + jnp.arange(
    numbers_UxGxA.size, dtype=jnp.int32
  ).reshape(numbers_UxGxA.shape)
  numbers_UxGxA = jnp.where(owned_Ux1xA, numbers_UxGxA, beyond)
  # Indices of each layer's own keep the layers a batch axis of the scatter;
  # shared ones would make them part of what is written, and cost a copy.
  numbers_NxUxGxA = jnp.broadcast_to(
    numbers_UxGxA, (len(table_NxGxRxE), *numbers_UxGxA.shape)
  )
  mu, nu, count = (
    table_lib.detach(state[name])[0] for name in ("mu", "nu", "count")
  )
  read = functools.partial(_read, numbers_NxUxGxA=numbers_NxUxGxA)
  old_rows, old_mu, old_nu = read(table_NxGxRxE), read(mu), read(nu)
  new_count_NxUxGxA = read(count) + 1
  new_mu = config.b1 * old_mu + (1 - config.b1) * gradients_NxUxGxAxE
  new_nu = config.b2 * old_nu + (1 - config.b2) * gradients_NxUxGxAxE**2
  times = new_count_NxUxGxA[..., None].astype(jnp.float32)
  mean = new_mu / (1 - config.b1**times)
  spread = jnp.sqrt(new_nu / (1 - config.b2**times)) + config.epsilon
  scale, decay = config.for_rows
  change = mean / spread + decay * old_rows
  write = functools.partial(_write, numbers_NxUxGxA=numbers_NxUxGxA)
  return write(table_NxGxRxE, old_rows - learning_rate * scale * change), {
    "mu": table_lib.alone(write(mu, new_mu)),
    "nu": table_lib.alone(write(nu, new_nu)),
    "count": table_lib.alone(write(count, new_count_NxUxGxA)),
  }


def _read(array_NxGxR_, numbers_NxUxGxA):
  """Return rows `[N, U, G, A, ...]`, 0 where a number is beyond the table."""

  def one_stratum(array_R_, numbers_UxA):
    return array_R_.at[numbers_UxA].get(mode="fill", fill_value=0)

  one_layer = jax.vmap(one_stratum, in_axes=(0, 1), out_axes=1)
  rows = jax.vmap(one_layer)(array_NxGxR_, numbers_NxUxGxA)
  return _lay_out(rows)


def _write(array_NxGxR_, rows_NxUxGxA_, numbers_NxUxGxA):
  """Put rows back where `_read` found them."""

  def one_stratum(array_R_, numbers_UxA, rows_UxA_):
    return array_R_.at[numbers_UxA].set(
      rows_UxA_, mode="drop", unique_indices=True
    )

  one_layer = jax.vmap(one_stratum, in_axes=(0, 1, 1))
  return jax.vmap(one_layer)(
    array_NxGxR_, numbers_NxUxGxA, _lay_out(rows_NxUxGxA_)
  )


def _lay_out(rows_NxUxGxA_):
  """Keep rows on the devices that hold their parts of the table."""
  names = ("owned_layers", None, "strata", None, "sink_row")
  return sharding.constrain(rows_NxUxGxA_, *names[: rows_NxUxGxA_.ndim])
