"""The groups of the optimiser: who decays, who is faster."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from nulls_jax.training import optimizer
from nulls_jax.training.config import OptimizerConfig

PARAMS = {
  "layers": {
    "mlp": {"gate": jnp.ones((2, 2))},
    "norm_mlp": {"scale": jnp.ones((2,))},
    "sinks": {"table": jnp.ones((2, 2))},
  }
}
PLAIN = OptimizerConfig(
  learning_rate=0.1,
  warmup_fraction=0.0,
  weight_decay=0.0,
  sink_weight_decay=0.0,
  sink_learning_rate_scale=1.0,
  clip_norm=1e9,
)


def _moves(grad, **changes):
  """Return how far one first step moves gate, scale and table."""
  optimiser = optimizer.make(dataclasses.replace(PLAIN, **changes), 10)
  grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, grad), PARAMS)
  updates, _ = optimiser.update(grads, optimiser.init(PARAMS), PARAMS)
  layers = updates["layers"]
  leaves = (
    layers["mlp"]["gate"],
    layers["norm_mlp"]["scale"],
    layers["sinks"]["table"],
  )
  return [float(leaf.ravel()[0]) for leaf in leaves]


def test_adam_alone_moves_all_alike():
  np.testing.assert_allclose(_moves(2.0), [-0.1] * 3, rtol=1e-5)


def test_backbone_decay_spares_norms_and_sinks():
  np.testing.assert_allclose(_moves(0.0, weight_decay=0.5), [-0.05, 0, 0])


def test_sink_decay_touches_sinks_alone():
  np.testing.assert_allclose(_moves(0.0, sink_weight_decay=0.5), [0, 0, -0.05])


def test_sinks_have_a_rate_of_their_own():
  np.testing.assert_allclose(
    _moves(2.0, sink_learning_rate_scale=3.0), [-0.1, -0.1, -0.3], rtol=1e-5
  )


def test_schedule_rises_and_falls_to_its_final_share():
  config = dataclasses.replace(PLAIN, warmup_fraction=0.1, final_fraction=0.2)
  rates = [float(optimizer.schedule(config, 100)(n)) for n in (0, 10, 100)]
  np.testing.assert_allclose(rates, [0.0, 0.1, 0.02], atol=1e-7)
