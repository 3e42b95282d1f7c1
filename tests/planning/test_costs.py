import dataclasses

import jax
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax.planning import chips, costs
from nulls_jax.training import partitioning, state


def test_layers_beyond_the_second_cost_as_much_as_it():
  assert costs.extrapolate(10.0, 13.0, 1) == 10
  assert costs.extrapolate(10.0, 13.0, 2) == 13
  assert costs.extrapolate(10.0, 13.0, 32) == 103


def test_the_roofline_names_what_binds():
  bound = costs.roofline(
    chips.CHIPS["v5e"],
    flops=197e12 / 10,
    accessed=819e9 / 5,
    sent=200e9 / 20,
    tokens=1000,
    num_chips=2,
    model_flops=197e9 / 50,
  )
  assert bound.compute == pytest.approx(0.1)
  assert bound.memory == pytest.approx(0.2)
  assert bound.interconnect == pytest.approx(0.05)
  assert (bound.binds, bound.seconds) == ("memory", bound.memory)
  assert bound.tokens_per_second == pytest.approx(5000)
  # 5,000 tokens/s x 3.94 GFLOPs of two chips' 394 TFLOP/s.
  assert bound.utilisation == pytest.approx(0.05)


def literal(**changes):
  model = run_config.ModelConfig(
    vocab_size=1000,
    d_model=10,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_size=4,
    backbone_width=7,
    **changes,
  )
  return run_config.RunConfig(
    model=model,
    sinks=run_config.SinkConfig(
      pool_size=64, sinks_per_source=4, strata=2, size_classes=2
    ),
    data=run_config.DataConfig(row_length=32, tile=32),
  )


# A token's layer forward: query, key, value and output of 2 + 1 + 1 + 2 heads
# of 4, and 3 x (7 + 8) neurons, times 10 wide, times 2; scores and values of
# 2 heads of 4 over 32 keys, times 2 each.
LAYER, SCORES, HEAD = 2 * 10 * (24 + 45) + 4 * 8 * 32, 4 * 8 * 32, 20_000


def test_analytic_flops_of_a_literal_model():
  assert costs.analytic_flops(literal()) == 3 * (3 * LAYER + HEAD)
  # A kernel leaves out what is masked.
  fused = 3 * (3 * (LAYER - SCORES / 2) + HEAD)
  assert costs.analytic_flops(literal(), fused=True) == fused
  assert costs.attention_flops(literal(), fused=True) == 9 * SCORES / 2


@pytest.mark.parametrize(
  ("changes", "again"),
  [
    ({}, 0),
    # Gate and up of 8 sinks, 10 wide, times 2, in each of three layers.
    ({"remat": "dots"}, 3 * 2 * 2 * 10 * 8),
    # All but attention's scores and values, whose sum every policy keeps.
    ({"remat": "full"}, 3 * (LAYER - SCORES)),
    # The loss repeats nothing: its gradients come with it.
    ({"loss_chunk": 8}, 0),
    ({"loss_chunk": 32}, 0),
    ({"remat": "full", "loss_chunk": 16}, 3 * (LAYER - SCORES)),
  ],
)
def test_what_is_computed_again(changes, again):
  assert costs.recomputed_flops(literal(**changes)) == again


def test_a_program_to_count_in_has_no_loop(config):
  parts = dataclasses.replace(
    config, training=run_config.TrainingConfig(batch_size=16, accumulation=4)
  )
  measured = costs.measuring(parts, 2)
  assert measured.training.batch_size == 4
  assert measured.training.accumulation == 1
  assert measured.model.num_layers == 2
  assert (measured.model.remat, measured.model.loss_chunk) == ("none", 0)


def test_bytes_by_shapes_are_those_of_the_arrays(config):
  mesh = partitioning.make_mesh(config.mesh)
  abstract_state = state.abstract(config, mesh)
  real = jax.tree.map(
    lambda leaf: jax.device_put(
      np.zeros(leaf.shape, leaf.dtype), leaf.sharding
    ),
    abstract_state,
  )

  def held(tree):
    return sum(
      array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(tree)
    )

  expected = {part: held(real[part]) for part in ("params", "opt_state")}
  assert costs.state_bytes(abstract_state) == expected
  # 2 layers of 256 rows of 3 x 128 floats, thrice, strata cut in two.
  assert costs.table_bytes(abstract_state) == 2 * 256 * 384 * 4 * 3 // 2
  assert costs.parameters(abstract_state) == sum(
    array.size for array in jax.tree.leaves(real["params"])
  )
