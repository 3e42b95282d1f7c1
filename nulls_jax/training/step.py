"""One update: loss, gradients, accumulation, optimiser; jitted and donated.

A `hashed` table is updated whole, like any parameter. A `dedicated` one gets
its gradient as rows and an update of those rows (`training.rows`).

Invariant: accumulation changes memory, not the update: gradients of the
summed loss are added up and divided once by the whole batch's weight.
"""

import jax
import jax.numpy as jnp
import optax

from nulls_jax.config import RunConfig
from nulls_jax.model import transformer
from nulls_jax.sinks import layer
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import optimizer, partitioning, rows, state

BATCH_FIELDS = (
  "tokens",
  "targets",
  "weights",
  "segments",
  "positions",
  "sources",
)


def summed_loss(config: RunConfig, params, batch, looked_up=None):
  """Return the summed loss and sums by sink mode.

  Args:
    config: the run's settings.
    params: the parameter tree; without the sink table if rows are given.
    batch: fields of `BATCH_FIELDS`, see data.pipeline.
    looked_up: rows of the batch's sources, see `transformer.look_up`.

  Returns:
    The weighted sum of losses in nats (float32 scalar), and a dict of float32
    scalars: `weight`, `loss_on`, `weight_on`, `loss_off`, `weight_off`.
  """
  total, losses_BxL = transformer.weighted_losses(
    config.model, config.sinks, params, batch, looked_up
  )
  weights_BxL = batch["weights"]
  losses_BxL = losses_BxL * weights_BxL
  on_BxT = layer.active(batch["sources"])
  tile = weights_BxL.shape[1] // on_BxT.shape[1]
  on_BxL = jnp.repeat(on_BxT, tile, axis=1)
  sums = {
    "weight": weights_BxL.sum(),
    "loss_on": jnp.where(on_BxL, losses_BxL, 0).sum(),
    "weight_on": jnp.where(on_BxL, weights_BxL, 0).sum(),
    "loss_off": jnp.where(on_BxL, 0, losses_BxL).sum(),
    "weight_off": jnp.where(on_BxL, 0, weights_BxL).sum(),
  }
  return total, sums


def gradients(config: RunConfig, params, batch, whole=lambda params: params):
  """Return gradients of the mean loss, the mean loss and the sums.

  Args:
    config: the run's settings; `training.accumulation` says in how many parts.
    params: what is differentiated: the parameter tree, or a part of it.
    batch: as in `summed_loss`.
    whole: gives the parameter tree of `params`, if that is a part.
  """
  grad_fn = jax.value_and_grad(
    lambda params, part: summed_loss(config, whole(params), part), has_aux=True
  )
  parts = config.training.accumulation
  if parts == 1:
    (loss, sums), grads = grad_fn(params, batch)
  else:

    def add(total, part):
      return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

    stacked = _in_parts(batch, parts)
    ((loss, sums), grads), _ = jax.lax.scan(
      add, _zeros(grad_fn, params, stacked), stacked
    )
  weight = jnp.maximum(sums["weight"], 1)
  return jax.tree.map(lambda grad: grad / weight, grads), loss / weight, sums


def row_gradients(config: RunConfig, params, batch):
  """Return gradients in which the table's are those of looked-up rows.

  Args:
    config: the run's settings; its sinks are computed by "gather".
    params: the parameter tree, with the table.
    batch: as in `summed_loss`.

  Returns:
    Gradients of the summed loss for all parameters but the table, and for the
    rows, `[N, B, T, G, A, E]` in the compute dtype; the summed loss; the sums.
  """

  def grad_fn(params, part):
    found, others = transformer.look_up(
      config.model, config.sinks, params, part["sources"]
    )
    value, (grads, row_grads) = jax.value_and_grad(
      lambda others, found: summed_loss(config, others, part, found),
      argnums=(0, 1),
      has_aux=True,
    )(others, found)
    return (value, grads), row_grads

  parts = config.training.accumulation
  if parts == 1:
    ((loss, sums), grads), row_grads = grad_fn(params, batch)
  else:

    def add(total, part):
      found, row_grads = grad_fn(params, part)
      return jax.tree.map(jnp.add, total, found), row_grads

    stacked = _in_parts(batch, parts)
    zeros, _ = _zeros(grad_fn, params, stacked)
    ((loss, sums), grads), row_grads = jax.lax.scan(add, zeros, stacked)
    # [parts, N, rows of a part, ...] back to the order of the batch.
    row_grads = jnp.moveaxis(row_grads, 0, 2)
    row_grads = row_grads.reshape(len(row_grads), -1, *row_grads.shape[3:])
  return grads, row_grads, loss, sums


def _in_parts(batch, parts: int):
  """Give row i to part i % parts: each device keeps its own rows."""
  return {
    name: jnp.moveaxis(value.reshape(-1, parts, *value.shape[1:]), 1, 0)
    for name, value in batch.items()
  }


def _zeros(grad_fn, params, stacked):
  first = jax.tree.map(lambda value: value[0], stacked)
  return jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(grad_fn, params, first),
  )


def make(config: RunConfig, mesh):
  """Return the compiled-on-first-call update.

  The result maps (state, batch) to (state, metrics); the given state's
  buffers are donated. Metrics are float32 scalars: `loss`, `loss_on`,
  `loss_off` (nats a token; NaN where no such document was in the batch),
  `tokens` (targets in the batch), `grad_norm`.
  """
  places = partitioning.placements(state.abstract(config, mesh))
  batch_shardings = dict.fromkeys(
    BATCH_FIELDS, partitioning.batch_sharding(mesh)
  )
  update_all = (
    _update_rows if state.updates_rows(config.sinks) else _update_dense
  )

  def update(current, batch):
    params, opt_state, grad_norm, loss, sums = update_all(
      config, current, batch
    )
    metrics = {
      "loss": loss,
      "loss_on": sums["loss_on"] / sums["weight_on"],
      "loss_off": sums["loss_off"] / sums["weight_off"],
      "tokens": sums["weight"],
      "grad_norm": grad_norm,
    }
    new = {
      "step": current["step"] + 1,
      "params": params,
      "opt_state": opt_state,
    }
    return new, metrics

  return jax.jit(
    update,
    in_shardings=(places, batch_shardings),
    out_shardings=(places, partitioning.replicated(mesh)),
    donate_argnums=0,
  )


def _update_dense(config, current, batch):
  """Update what learns, the table of a hashed pool among it."""
  params = current["params"]
  part = state.learned(config, params)
  grads, loss, sums = gradients(
    config, part, batch, lambda part: state.replaced(params, part)
  )
  updates, opt_state = state.make_optimizer(config).update(
    grads, current["opt_state"], part
  )
  params = state.replaced(params, optax.apply_updates(part, updates))
  return params, opt_state, optax.tree.norm(grads), loss, sums


def _update_rows(config, current, batch):
  """Update the rows of the batch's sources, and what else learns."""
  table_NxGxRxE, others = table_lib.detach(current["params"])
  part = state.learned(config, others)
  grads, row_grads, loss, sums = row_gradients(config, current["params"], batch)
  words_Ux2, row_grads = rows.by_source(
    config.sinks, batch["sources"], row_grads
  )
  weight = jnp.maximum(sums["weight"], 1)
  grads, row_grads, loss = jax.tree.map(
    lambda value: value / weight,
    (state.learned(config, grads), row_grads, loss),
  )
  grad_norm = optax.tree.norm((grads, row_grads))
  limit = config.optimizer.clip_norm
  scale = jnp.where(grad_norm < limit, 1.0, limit / grad_norm)
  updates, dense = state.make_optimizer(config).update(
    jax.tree.map(lambda grad: grad * scale, grads),
    current["opt_state"]["dense"],
    part,
  )
  rate = optimizer.schedule(config.optimizer, config.training.num_steps)
  table_NxGxRxE, row_state = rows.update(
    config.optimizer,
    config.sinks,
    table_NxGxRxE,
    current["opt_state"]["rows"],
    words_Ux2,
    row_grads * scale,
    rate(current["step"]),
  )
  others = state.replaced(others, optax.apply_updates(part, updates))
  params = table_lib.attach(table_NxGxRxE, others)
  opt_state = {"dense": dense, "rows": row_state}
  return params, opt_state, grad_norm, loss, sums
