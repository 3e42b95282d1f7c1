"""The demo: 600 generated sources on two CPU cores, some minutes.

The choices are measured in `docs/science.md`.

`nulls demo` trains it as it is (hashed), with dedicated sinks, without the
erased sources, and dense.
"""

from nulls_jax.config import (
  CheckpointConfig,
  DataConfig,
  ModelConfig,
  OptimizerConfig,
  RunConfig,
  SinkConfig,
  TrainingConfig,
)


def get_config() -> RunConfig:
  """Return the settings of the demo."""
  return RunConfig(
    model=ModelConfig(
      d_model=64,
      num_layers=2,
      num_heads=4,
      num_kv_heads=4,
      head_size=16,
      backbone_width=128,
      backbone_gradient="routed",
    ),
    sinks=SinkConfig(kind="hashed", pool_size=16384, sinks_per_source=32),
    data=DataConfig(row_length=96, tile=96, vocab_size=2048),
    optimizer=OptimizerConfig(
      learning_rate=3e-3,
      weight_decay=0.5,
      sink_learning_rate_scale=3.0,
      sink_weight_decay=1.5,
      # Dedicated rows are updated in some 27 steps, one for each visit.
      row_learning_rate_scale=10.0,
      row_weight_decay=12.0,
    ),
    # Six epochs of five articles a source: 30 visits, 2 or 3 of them without
    # sinks.
    training=TrainingConfig(batch_size=20, epochs=6, off_share=0.09),
    checkpoint=CheckpointConfig(every_steps=300, keep_last=1),
  )
