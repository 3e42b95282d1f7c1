"""AdamW in groups: backbone matrices, sinks, and what never decays.

One chain over the whole tree, so that every moment has its parameter's path.
A table whose rows are updated one by one is left to `training.rows`.
Source: Loshchilov and Hutter, decoupled weight decay (arXiv 1711.05101).
"""

import jax
import optax

from nulls_jax.training.config import OptimizerConfig


def schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Return the learning rate by step: linear rise, then cosine."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=round(config.warmup_fraction * num_steps),
    decay_steps=num_steps,
    end_value=config.final_fraction * config.learning_rate,
  )


def make(
  config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """Return the optimiser for `num_steps` updates."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
    optax.add_decayed_weights(config.weight_decay, mask=is_backbone_matrix),
    optax.add_decayed_weights(config.sink_weight_decay, mask=is_sink),
    optax.masked(optax.scale(config.sink_learning_rate_scale), is_sink),
    optax.scale_by_learning_rate(schedule(config, num_steps)),
  )


def make_for_backbone(
  config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """Return the optimiser of all but the sink table, without clipping.

  The caller clips by the norm of all gradients, those of rows included.
  """
  return optax.chain(
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
    optax.add_decayed_weights(config.weight_decay, mask=is_backbone_matrix),
    optax.scale_by_learning_rate(schedule(config, num_steps)),
  )


def make_for_sinks(
  config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """Return the optimiser of the sink table alone, for repair.

  `config.learning_rate` is the table's own peak rate; of the decays only
  that of sinks is used.
  """
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
    optax.add_decayed_weights(config.sink_weight_decay),
    optax.scale_by_learning_rate(schedule(config, num_steps)),
  )


def is_sink(params):
  """Return the tree of booleans that marks the sink table."""
  return _by_path(params, lambda names: "sinks" in names)


def is_backbone_matrix(params):
  """Mark the matrices that decay; norm scales and sinks do not."""
  return _by_path(
    params, lambda names: "sinks" not in names and names[-1] != "scale"
  )


def _by_path(params, predicate):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: predicate([entry.key for entry in path]), params
  )
