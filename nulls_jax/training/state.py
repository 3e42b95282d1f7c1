"""The training state: step, params and optimiser state, arrays only.

Its tree paths are a public format: `layers/sinks/table` under `params` and
under every moment is what redaction looks for.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nulls_jax.config import RunConfig
from nulls_jax.model import transformer
from nulls_jax.sinks import assignment
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import optimizer, partitioning, rows

_TABLE = tuple(jax.tree_util.DictKey(name) for name in ("sinks", "table"))


def updates_rows(sinks: assignment.SinkConfig) -> bool:
  """Whether a step updates the rows of its sources, and no other ones."""
  return sinks.kind == "dedicated"


def learned(config: RunConfig, params):
  """Return the part of a tree of parameters that the optax part updates.

  Also of trees that have the same leaves, such as gradients, with or without
  the table where a step updates rows.
  """
  table, others = table_lib.detach(params)
  if config.training.learn == "all":
    return others if updates_rows(config.sinks) else params
  if updates_rows(config.sinks):
    return {}
  return table_lib.alone(table)


def replaced(params, part):
  """Return the parameters with the leaves of a part of them in their places."""
  if not isinstance(part, dict):
    return part
  changed = {name: replaced(params[name], part[name]) for name in part}
  return {**params, **changed}


def make_optimizer(config: RunConfig) -> optax.GradientTransformation:
  """Return the optax part of the optimiser, that of `learned`."""
  make = (
    optimizer.make_for_backbone
    if updates_rows(config.sinks)
    else optimizer.make
  )
  return make(config.optimizer, max(config.training.num_steps, 1))


def initial(config: RunConfig, key):
  """Return the state before the first update.

  A dict of `step` (int32 scalar, completed updates), `params` (nested dict
  of float32 arrays) and `opt_state`: the tree of `make_optimizer`, or, where
  a step updates rows, a dict of that tree (`dense`) and of the state that
  `training.rows` describes (`rows`).
  """
  params = transformer.init(config.model, config.sinks, key)
  opt_state = make_optimizer(config).init(learned(config, params))
  if updates_rows(config.sinks):
    table_NxGxRxE, _ = table_lib.detach(params)
    opt_state = {"dense": opt_state, "rows": rows.initial(table_NxGxRxE)}
  return {
    "step": jnp.zeros((), jnp.int32),
    "params": params,
    "opt_state": opt_state,
  }


def abstract(config: RunConfig, mesh):
  """Return the state as `ShapeDtypeStruct`s that carry their shardings.

  Sink tables and moments of their size carry a layout as well.
  """
  shapes = jax.eval_shape(functools.partial(initial, config), jax.random.key(0))
  params = partitioning.shardings(
    mesh,
    transformer.logical_axes(config.model, config.sinks),
    shapes["params"],
  )
  shardings = {
    "step": partitioning.replicated(mesh),
    "params": params,
    "opt_state": _opt_state_shardings(config, mesh, shapes, params),
  }
  return jax.tree_util.tree_map_with_path(_abstract_leaf, shapes, shardings)


def _abstract_leaf(path, leaf, sharding):
  is_table = leaf.ndim == 4 and path[-2:] == _TABLE
  return jax.ShapeDtypeStruct(
    leaf.shape,
    leaf.dtype,
    sharding=partitioning.row_major(sharding, 4) if is_table else sharding,
  )


def _opt_state_shardings(config, mesh, shapes, params):
  """Lay every moment out as its parameter, and copy the rest everywhere."""

  # A plain jit of `optimiser.init` would replicate the moments.
  def like_learned(opt_state):
    return optax.tree.map_params(
      make_optimizer(config),
      lambda _, sharding: sharding,
      opt_state,
      learned(config, params),
      transform_non_params=lambda _: partitioning.replicated(mesh),
    )

  if not updates_rows(config.sinks):
    return like_learned(shapes["opt_state"])
  table, _ = table_lib.detach(params)
  return {
    "dense": like_learned(shapes["opt_state"]["dense"]),
    "rows": jax.tree.map(
      lambda leaf: NamedSharding(mesh, P(*table.spec[: leaf.ndim])),
      shapes["opt_state"]["rows"],
    ),
  }


def create(config: RunConfig, mesh):
  """Return a freshly drawn state on the mesh, bit-equal on any mesh."""
  places = partitioning.placements(abstract(config, mesh))
  with partitioning.context(mesh):
    return jax.jit(functools.partial(initial, config), out_shardings=places)(
      jax.random.key(config.training.seed)
    )
