"""The platforms' fused attention kernels, and which one a program gets.

Owns the choice among the implementations of causal attention within segments
and the calls of splash attention (TPU) and cuDNN (GPU). Both keep nothing of
size [length, length] for the backward pass. The kernels are one device's:
on a mesh each device runs them on its rows and its heads.

Invariant: the choice follows the devices that the program is compiled for,
which may not be those of the machine that compiles it.

Dimensions: B batch, L length, H heads, J key-value heads, K head size.
"""

import functools
import re
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from nulls_jax import errors, sharding
from nulls_jax.model import blockwise_attention
from nulls_jax.model import config as model_config

Implementation = Literal["xla", "splash", "cudnn"]

# Splash attention works on squares of this many queries and keys or of fewer,
# in steps of a TPU register's lanes. Larger ones were not tried on a chip.
_BLOCKS = (512, 256, 128)
_LANES = _BLOCKS[-1]


def platform() -> Literal["cpu", "tpu", "gpu"]:
  """Return for what the program that is being traced will be compiled.

  The mesh in force says it, which a pod's topology can make without a chip;
  without a mesh, JAX's default device.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty and mesh.abstract_device is not None:
    kind = mesh.abstract_device.device_kind
    return "cpu" if kind == "cpu" else "tpu" if "TPU" in kind else "gpu"
  name = getattr(jax.config.jax_default_device, "platform", None)
  name = name or jax.default_backend()
  return name if name in ("cpu", "tpu") else "gpu"


def choose(
  config: model_config.ModelConfig, length: int, *, on: str, capability: str
) -> Implementation:
  """Return the implementation for rows of `length` tokens.

  Args:
    config: the model; "auto" takes the platform's kernel where it can.
    length: tokens of a row.
    on: what `platform` says.
    capability: what `cuda_capability` says.

  Raises:
    errors.UserError: the named implementation cannot run this.
  """
  name = config.attention
  if name == "auto":
    name = {"tpu": "splash", "gpu": "cudnn"}.get(on, "xla")
  reasons = _obstacles(name, config, length, on, capability)
  if not reasons:
    return name
  if config.attention == "auto":
    return "xla"
  raise errors.UserError(
    f"model.attention={name} cannot run: {'; '.join(reasons)}; or set "
    "model.attention to auto, which takes xla where a kernel cannot run"
  )


def _obstacles(name, config, length, on, capability) -> list[str]:
  """Return what keeps an implementation from running, and what to change."""
  reasons = []
  if name == "splash":
    if on != "tpu":
      reasons.append(f"it needs a TPU and this program is for a {on}")
    if length % _LANES:
      reasons.append(
        f"rows of {length} tokens are not a multiple of {_LANES}; change "
        "data.row_length"
      )
  elif name == "cudnn":
    if on != "gpu":
      reasons.append(f"it needs an NVIDIA GPU and this program is for a {on}")
    elif not re.fullmatch(r"\d+\.\d", capability):
      reasons.append(f"this GPU is no CUDA device ({capability or 'unknown'})")
    elif float(capability) < 8:
      reasons.append(f"it needs compute capability 8.0, here is {capability}")
    if config.compute_dtype != "bfloat16":
      reasons.append(
        f"model.compute_dtype={config.compute_dtype}; set it to bfloat16"
      )
    if config.head_size % 8 or config.head_size > 128:
      reasons.append(
        f"model.head_size={config.head_size}; it takes multiples of 8 up to 128"
      )
    if length % 2:
      reasons.append(
        f"rows of {length} tokens; make data.row_length an even number"
      )
  return reasons


def cuda_capability() -> str:
  """Return the compute capability of this machine's GPU, "" without one."""
  if jax.default_backend() != "gpu":
    return ""
  return str(getattr(jax.local_devices()[0], "compute_capability", ""))


def attend(
  implementation: Implementation,
  query_BxLxHxK,
  key_BxLxJxK,
  value_BxLxJxK,
  segments_BxL,
):
  """Return what each token reads, `[B, L, H, K]`; see blockwise_attention.

  Args:
    implementation: from `choose`.
    query_BxLxHxK: scaled queries; head h reads key-value head h * J // H.
    key_BxLxJxK: keys.
    value_BxLxJxK: values.
    segments_BxL: int32 number of each token's document in the row.
  """
  arrays = (query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, segments_BxL)
  if implementation == "xla":
    return blockwise_attention.attend(*arrays)
  return on_each_device(
    {"splash": splash, "cudnn": cudnn}[implementation], *arrays
  )


def splash(query, key, value, segments_BxL, *, interpret: bool = False):
  """Splash attention on one device; arguments as for `attend`.

  Args:
    query, key, value: `[B, L, H or J, K]`.
    segments_BxL: int32.
    interpret: run the kernel's arithmetic as ordinary operations, on any
      platform, for tests.

  Raises:
    ValueError: L is not a multiple of 128 (from the kernel).
  """
  # Other programs do without the quarter of a second that this import takes.
  from jax.experimental.pallas.ops.tpu import splash_attention

  length, num_heads = query.shape[1:3]
  size = next((size for size in _BLOCKS if length % size == 0), _LANES)
  kernel = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask(
      [splash_attention.CausalMask((length, length))] * num_heads
    ),
    block_sizes=splash_attention.BlockSizes(
      block_q=size,
      block_kv=size,
      block_q_dkv=size,
      block_kv_dkv=size,
      block_q_dq=size,
      block_kv_dq=size,
    ),
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=blockwise_attention.RESIDUALS,
    interpret=interpret,
  )
  attended_BxHxLxK = jax.vmap(kernel)(
    *(jnp.swapaxes(array, 1, 2) for array in (query, key, value)),
    splash_attention.SegmentIds(segments_BxL, segments_BxL),
  )
  return jnp.swapaxes(attended_BxHxLxK, 1, 2)


def cudnn(query, key, value, segments_BxL):
  """cuDNN's attention on one device; arguments as for `attend`.

  The segments go in as a mask `[B, 1, L, L]`, shared by all heads and added
  in the compute dtype; causality as a flag, so that later keys are skipped.
  """
  mask_Bx1xLxL = (segments_BxL[:, :, None] == segments_BxL[:, None])[:, None]
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    mask=mask_Bx1xLxL,
    scale=1.0,
    is_causal=True,
    implementation="cudnn",
  )


def on_each_device(
  kernel, query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, segments_BxL
):
  """Call a kernel on each device's rows and heads; without a mesh, as it is.

  Heads are cut only where queries and keys are cut alike, so that each query
  head finds its key-value head on its device.
  """
  arrays = (query_BxLxHxK, key_BxLxJxK, value_BxLxJxK, segments_BxL)
  mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
  if mesh.empty or mesh.size == 1:
    return kernel(*arrays)
  resolve = functools.partial(sharding.resolve, rules=rules, sizes=mesh.shape)
  rows, _, heads, _ = resolve(
    ("batch", None, "heads", None), query_BxLxHxK.shape
  )
  if heads != resolve((None, None, "kv_heads", None), key_BxLxJxK.shape)[2]:
    heads = None
  spec = P(rows, None, heads, None)
  return jax.shard_map(
    kernel,
    in_specs=(spec, spec, spec, P(rows, None)),
    out_specs=spec,
    check_vma=False,
  )(*arrays)
