"""Real text in small: articles as sources, some minutes on two CPU cores.

Made for the Jargon File, 2,211 articles of a public-domain dictionary, and a
fair start for any corpus of some hundred thousand tokens. The choices are
measured in `docs/science.md`: half of the visits without sinks keep the
backbone close to a dense model's, and many fast sinks take what articles
say alone.
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
  """Return the settings of the real-text run."""
  return RunConfig(
    model=ModelConfig(
      d_model=64,
      num_layers=3,
      num_heads=4,
      num_kv_heads=4,
      head_size=16,
      backbone_width=128,
      backbone_gradient="routed",
    ),
    sinks=SinkConfig(kind="hashed", pool_size=16384, sinks_per_source=64),
    data=DataConfig(row_length=256, tile=32, vocab_size=2048),
    optimizer=OptimizerConfig(
      learning_rate=3e-3,
      weight_decay=0.1,
      sink_learning_rate_scale=4.0,
    ),
    training=TrainingConfig(batch_size=16, epochs=8, off_share=0.5),
    checkpoint=CheckpointConfig(every_steps=200, keep_last=1),
  )
