"""One update: loss, gradients, accumulation, optimiser; jitted and donated.

Invariant: accumulation changes memory, not the update: gradients of the
summed loss are added up and divided once by the whole batch's weight.
"""

import jax
import jax.numpy as jnp
import optax

from nulls_jax.config import RunConfig
from nulls_jax.model import transformer
from nulls_jax.sinks import layer
from nulls_jax.training import optimizer, partitioning, state

BATCH_FIELDS = (
  "tokens",
  "targets",
  "weights",
  "segments",
  "positions",
  "sources",
)


def summed_loss(config: RunConfig, params, batch):
  """Return the summed loss and sums by sink mode.

  Args:
    config: the run's settings.
    params: the parameter tree.
    batch: fields of `BATCH_FIELDS`, see data.pipeline.

  Returns:
    The weighted sum of losses in nats (float32 scalar), and a dict of float32
    scalars: `weight`, `loss_on`, `weight_on`, `loss_off`, `weight_off`.
  """
  losses_BxL = transformer.token_losses(
    config.model, config.sinks, params, batch
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
  return losses_BxL.sum(), sums


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
    # Row i goes to part i % parts: each device keeps its own rows.
    stacked = {
      name: jnp.moveaxis(value.reshape(-1, parts, *value.shape[1:]), 1, 0)
      for name, value in batch.items()
    }

    def add(total, part):
      return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

    first = jax.tree.map(lambda value: value[0], stacked)
    zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(grad_fn, params, first),
    )
    ((loss, sums), grads), _ = jax.lax.scan(add, zeros, stacked)
  weight = jnp.maximum(sums["weight"], 1)
  return jax.tree.map(lambda grad: grad / weight, grads), loss / weight, sums


def make(config: RunConfig, mesh):
  """Return the compiled-on-first-call update.

  The result maps (state, batch) to (state, metrics); the given state's
  buffers are donated. Metrics are float32 scalars: `loss`, `loss_on`,
  `loss_off` (nats a token; NaN where no such document was in the batch),
  `tokens` (targets in the batch), `grad_norm`.
  """
  optimiser = optimizer.make(config.optimizer, config.training.num_steps)
  shardings = jax.tree.map(
    lambda leaf: leaf.sharding, state.abstract(config, mesh)
  )
  batch_shardings = dict.fromkeys(
    BATCH_FIELDS, partitioning.batch_sharding(mesh)
  )

  def update(current, batch):
    grads, loss, sums = gradients(config, current["params"], batch)
    updates, opt_state = optimiser.update(
      grads, current["opt_state"], current["params"]
    )
    metrics = {
      "loss": loss,
      "loss_on": sums["loss_on"] / sums["weight_on"],
      "loss_off": sums["loss_off"] / sums["weight_off"],
      "tokens": sums["weight"],
      "grad_norm": optax.tree.norm(grads),
    }
    new = {
      "step": current["step"] + 1,
      "params": optax.apply_updates(current["params"], updates),
      "opt_state": opt_state,
    }
    return new, metrics

  return jax.jit(
    update,
    in_shardings=(shardings, batch_shardings),
    out_shardings=(shardings, partitioning.replicated(mesh)),
    donate_argnums=0,
  )
