"""Wikipedia as sources at the paper's geometry, on a TPU pod.

From arXiv 2606.13873, its Wikipedia setting: width 960, 32 layers, 15 query
and 5 key-value heads of 128 (the head size is known at second hand only),
RMSNorm with 1e-5, RoPE with base 100,000, AdamW at 5e-4, bfloat16, context
1,024, a vocabulary of 49,152, 7 epochs of some 6.4 M English articles (the
snapshot `wikimedia/wikipedia` 20231101.en, some 32 B tokens), one source an
article.

Rounded, because the assignment draws from a power of two and equally in each
of 8 strata: a backbone of 500 neurons to 512, a pool of 7,692 to 8,192, 100
sinks a source to 96 (1.2 % of the pool where the paper has 1.3 %).

This project's, because the paper's is not known here: rows a step, the tile,
remat and chunks of the loss, how often checkpoints are kept, and what else
the optimiser has (`nulls_jax/training/config.py`). This project's own way:
routed training, off documents, the faster sinks. The paper's vocabulary is
that of SmolLM2; `nulls prepare` trains a SentencePiece model of that size.

  nulls prepare --documents 20231101.en/*.parquet --sources field:title \\
    --config configs/wiki_1b.py --out data/wiki
  nulls train --data data/wiki --run runs/wiki --config configs/wiki_1b.py

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
      # The paper's is "full": on documents teach the backbone's MLP, too.
      backbone_gradient="routed",
    ),
    sinks=SinkConfig(
      kind="hashed", pool_size=8192, sinks_per_source=96, strata=8
    ),
    # Documents start at multiples of the tile: eight in a row at most.
    data=DataConfig(row_length=1024, tile=128, vocab_size=49_152),
    optimizer=OptimizerConfig(
      learning_rate=5e-4,
      # Faster sinks make up for their few visits (the demo's finding).
      sink_learning_rate_scale=3.0,
    ),
    # 512 rows of 1,024 tokens a step: some 61,000 steps. docs/scale.md has
    # the rows for other numbers of chips.
    training=TrainingConfig(batch_size=512, epochs=7, off_share=0.2),
    # 5 key-value heads and 512 neurons leave the tensor axis at 1; the strata
    # are cut over fsdp then.
    mesh=MeshConfig(data=-1, fsdp=8, tensor=1),
    checkpoint=CheckpointConfig(every_steps=1000, keep_last=3),
  )
