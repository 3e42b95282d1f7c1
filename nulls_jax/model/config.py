"""Settings of the decoder; no JAX, so that any tool may read a run's config."""

import dataclasses
from typing import Literal

from nulls_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """A LLaMA-style decoder whose MLPs may hold sinks.

  Attributes:
    vocab_size: entries of the vocabulary; 0 takes the tokenizer's.
    d_model: width of the residual stream.
    num_layers: decoder layers.
    num_heads: query heads.
    num_kv_heads: key and value heads; divides num_heads.
    head_size: width of a head, even (rotary position pairs).
    backbone_width: MLP neurons that every token uses.
    rope_base: base of the rotary position angles.
    norm_epsilon: added to the mean square in RMSNorm.
    compute_dtype: dtype of matrix products; parameters, norms, softmax and
      loss are float32.
    remat: activations kept for the backward pass: "none" recomputes nothing,
      "dots" keeps matrix products, "full" keeps only layer inputs.
    loss_chunk: tokens of a row whose logits exist at one time; 0 for all.
    attention: how tokens of a row attend. "auto" takes the fused kernel of
      the platform: splash on a TPU if rows are a multiple of 128 tokens,
      cudnn on an NVIDIA GPU of compute capability 8.0 if compute_dtype is
      bfloat16, head_size a multiple of 8 up to 128 and rows are even; and xla
      everywhere else. A kernel that is named is taken or refused. Text that
      is generated with a cache always takes xla.
    implementation: how sinks are computed; "masked" is the slow oracle.
    backbone_gradient: what documents with active sinks teach the backbone's
      MLP: "full" (the paper), "routed" (nothing), "down_blocked".
  """

  vocab_size: int = 0
  d_model: int = 64
  num_layers: int = 2
  num_heads: int = 4
  num_kv_heads: int = 4
  head_size: int = 16
  backbone_width: int = 128
  rope_base: float = 100_000.0
  norm_epsilon: float = 1e-5
  compute_dtype: Literal["float32", "bfloat16"] = "float32"
  remat: Literal["none", "dots", "full"] = "none"
  loss_chunk: int = 0
  attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"
  implementation: Literal["gather", "masked"] = "gather"
  backbone_gradient: Literal["full", "routed", "down_blocked"] = "routed"

  def __post_init__(self):
    for name in (
      "d_model",
      "num_layers",
      "num_heads",
      "num_kv_heads",
      "head_size",
      "backbone_width",
    ):
      if getattr(self, name) < 1:
        raise errors.UserError(
          f"model.{name} is {getattr(self, name)}; it must be at least 1"
        )
    if self.loss_chunk < 0:
      raise errors.UserError(
        f"model.loss_chunk is {self.loss_chunk}; it must be at least 0"
      )
    if self.num_heads % self.num_kv_heads:
      raise errors.UserError(
        f"model.num_heads={self.num_heads} is not a multiple of "
        f"model.num_kv_heads={self.num_kv_heads}"
      )
    if self.head_size % 2:
      raise errors.UserError(
        f"model.head_size={self.head_size} is odd; rotary positions need pairs"
      )
