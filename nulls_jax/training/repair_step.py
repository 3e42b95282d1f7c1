"""One update of the sink table alone, and what is measured around it.

Owns the device side of a repair: gradients, optimiser state and update of the
table, losses of samples, and the comparison of two parameter trees. Which
rows may move is the caller's to say.

Invariant: a row that is not movable keeps every bit, whatever the optimiser's
decay and momentum would do to it; no other parameter is ever written.

Dimensions: N layers, G strata, R rows of a stratum.
"""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nulls_jax.config import RunConfig
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import optimizer, partitioning
from nulls_jax.training import step as train_step


def place_marks(marks_NxGxR, abstract):
  """Put marks of rows (bool) where the rows are.

  Args:
    marks_NxGxR: a NumPy array.
    abstract: the parameter tree as `ShapeDtypeStruct`s with shardings.
  """
  table, _ = table_lib.detach(abstract)
  spec = P(*table.sharding.spec[:3])
  return jax.device_put(marks_NxGxR, NamedSharding(table.sharding.mesh, spec))


def make(config: RunConfig, abstract):
  """Return the start of the optimiser and the compiled-on-first-call update.

  `start` maps a table to the optimiser's state, two moments of the table and
  nothing else. `update` maps (table, state, frozen, movable, batch) to
  (table, state, metrics); table and state are donated. Metrics are float32
  scalars: `loss` (nats a token), `tokens` (targets), `grad_norm`.

  Args:
    config: the run's settings with those of the repair: batch and steps, and
      the optimiser that `optimizer.make_for_sinks` makes.
    abstract: the parameter tree as `ShapeDtypeStruct`s with shardings.
  """
  optimiser = optimizer.make_for_sinks(
    config.optimizer, config.training.num_steps
  )
  table, _ = table_lib.detach(abstract)
  replicated = partitioning.replicated(table.sharding.mesh)
  moments = optax.tree.map_params(
    optimiser,
    lambda _: partitioning.placement(table),
    jax.eval_shape(optimiser.init, table),
    transform_non_params=lambda _: replicated,
  )

  def update(table, opt_state, frozen, movable_NxGxR, batch):
    grads, loss, sums = train_step.gradients(
      config, table, batch, lambda table: table_lib.attach(table, frozen)
    )
    updates, opt_state = optimiser.update(grads, opt_state, table)
    # A choice and no product: 0 times an update that overflowed is NaN.
    table = jnp.where(movable_NxGxR[..., None], table + updates, table)
    metrics = {
      "loss": loss,
      "tokens": sums["weight"],
      "grad_norm": optax.tree.norm(grads),
    }
    return table, opt_state, metrics

  start = jax.jit(optimiser.init, out_shardings=moments)
  return start, jax.jit(
    update,
    out_shardings=(partitioning.placement(table), moments, replicated),
    donate_argnums=(0, 1),
  )


def make_mean_loss(config: RunConfig, mesh):
  """Return a function of (params, batches): the mean loss, nats a token.

  The mean is over the weights of all batches; None where there are none.
  """
  summed = jax.jit(
    lambda params, batch: train_step.summed_loss(config, params, batch)
  )

  def mean_loss(params, batches) -> float | None:
    total, weight = 0.0, 0.0
    for batch in batches:
      loss, sums = summed(params, partitioning.to_devices(mesh, batch))
      total += float(loss)
      weight += float(sums["weight"])
    return total / weight if weight else None

  return mean_loss


@jax.jit
def _nonzero(table, marks_NxGxR):
  return (_bits(table).any(axis=-1) & marks_NxGxR).sum()


def num_nonzero(table, marks_NxGxR) -> int:
  """Return how many of the marked rows have a bit set (-0 counts)."""
  return int(_nonzero(table, marks_NxGxR))


@jax.jit
def _compare(before, after, movable_NxGxR):
  old, old_frozen = table_lib.detach(before)
  new, new_frozen = table_lib.detach(after)
  changed = jax.tree.map(
    lambda a, b: (_bits(a) != _bits(b)).any(), old_frozen, new_frozen
  )
  moved_NxGxR = (_bits(old) != _bits(new)).any(axis=-1)
  return changed, moved_NxGxR.sum(), (moved_NxGxR & ~movable_NxGxR).sum()


def compare(before, after, movable_NxGxR) -> tuple[list[str], int, int]:
  """Compare two parameter trees bit for bit.

  Returns:
    The paths of the arrays that differ, the table not among them; how many of
    its rows differ; and how many of those are not movable.
  """
  changed, num_moved, num_stray = jax.device_get(
    _compare(before, after, movable_NxGxR)
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(changed)
  names = [
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, differs in leaves
    if differs
  ]
  return names, int(num_moved), int(num_stray)


def _bits(values):
  word = jnp.dtype(f"uint{8 * values.dtype.itemsize}")
  return jax.lax.bitcast_convert_type(values, word)
