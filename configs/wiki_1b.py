"""Wikipedia as sources at the paper's geometry, on a TPU pod.

Source of each number: arXiv 2606.13873, its Wikipedia setting, where a
comment says no other: width 960, 32 layers, 15 query and 5 key-value heads
of 128 (the head size is known at second hand only), backbone 500 rounded to
512, a pool of 7,692 rounded to 8,192 (a power of two is what the assignment
draws from), 100 sinks a source rounded to 96 (equally many in each of 8
strata), AdamW at 5e-4, context 1,024, 7 epochs, the SmolLM2 vocabulary of
49,152.

Checked here by shapes and by compiling it for TPUs (docs/pods.md); nothing of
this size was trained.
"""

from nulls_jax.config import (
  CheckpointConfig,
  DataConfig,
  MeshConfig,
  ModelConfig,
  OptimizerConfig,
  RunConfig,
  SinkConfig,
  TrainingConfig,
)


def get_config() -> RunConfig:
  """Return the settings of the Wikipedia run."""
  return RunConfig(
    model=ModelConfig(
      vocab_size=49_152,
      d_model=960,
      num_layers=32,
      num_heads=15,
      num_kv_heads=5,
      head_size=128,
      backbone_width=512,
      rope_base=100_000.0,
      norm_epsilon=1e-5,
      compute_dtype="bfloat16",
      remat="full",
      loss_chunk=128,
      # This project's recipe; the paper's is "full".
      backbone_gradient="routed",
    ),
    sinks=SinkConfig(
      kind="hashed", pool_size=8192, sinks_per_source=96, strata=8
    ),
    data=DataConfig(row_length=1024, tile=128, vocab_size=49_152),
    optimizer=OptimizerConfig(
      learning_rate=5e-4,
      # Faster sinks make up for their few visits (the demo's finding).
      sink_learning_rate_scale=3.0,
    ),
    # 512 rows of 1,024 tokens a step is this project's choice.
    training=TrainingConfig(batch_size=512, epochs=7, off_share=0.2),
    # 5 key-value heads and 512 neurons leave the tensor axis at 1; the strata
    # are cut over fsdp then.
    mesh=MeshConfig(data=-1, fsdp=8, tensor=1),
    checkpoint=CheckpointConfig(every_steps=1000, keep_last=3),
  )
