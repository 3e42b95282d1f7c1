"""The training state: step, params and optimiser state, arrays only.

Its tree paths are a public format: `layers/sinks/table` under `params` and
under every moment is what redaction looks for.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from nulls_jax.config import RunConfig
from nulls_jax.model import transformer
from nulls_jax.training import optimizer, partitioning


def initial(config: RunConfig, optimiser: optax.GradientTransformation, key):
  """Return the state before the first update.

  A dict of `step` (int32 scalar, completed updates), `params` (nested dict
  of float32 arrays) and `opt_state` (the optimiser's tree).
  """
  params = transformer.init(config.model, config.sinks, key)
  return {
    "step": jnp.zeros((), jnp.int32),
    "params": params,
    "opt_state": optimiser.init(params),
  }


def abstract(config: RunConfig, mesh):
  """Return the state as `ShapeDtypeStruct`s that carry their shardings."""
  optimiser = optimizer.make(
    config.optimizer, max(config.training.num_steps, 1)
  )
  shapes = jax.eval_shape(
    functools.partial(initial, config, optimiser), jax.random.key(0)
  )
  params = partitioning.shardings(
    mesh,
    transformer.logical_axes(config.model, config.sinks),
    shapes["params"],
  )
  replicated = partitioning.replicated(mesh)
  shardings = {
    "step": replicated,
    "params": params,
    # A plain jit of `optimiser.init` would replicate the moments.
    "opt_state": optax.tree.map_params(
      optimiser,
      lambda _, sharding: sharding,
      shapes["opt_state"],
      params,
      transform_non_params=lambda _: replicated,
    ),
  }
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def create(config: RunConfig, mesh):
  """Return a freshly drawn state on the mesh, bit-equal on any mesh."""
  optimiser = optimizer.make(config.optimizer, config.training.num_steps)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(config, mesh))
  with partitioning.context(mesh):
    return jax.jit(
      functools.partial(initial, config, optimiser), out_shardings=shardings
    )(jax.random.key(config.training.seed))
