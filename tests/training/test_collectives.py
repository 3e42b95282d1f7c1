"""What the compiled step sends between devices: the sinks' share of it.

Reads the program that XLA made for eight CPU devices; the names of its
operations are the same on a TPU.
"""

import collections
import functools
import math
import re

from nulls_jax import config as run_config
from nulls_jax.planning import aot
from nulls_jax.training import partitioning
from nulls_jax.training.config import MeshConfig

N, G, B, T, A, D = 2, 4, 16, 2, 8, 48
E = 3 * D
POOL = 512

_OPERATION = re.compile(
  r"= (?P<result>\S.*?) (?P<kind>all-reduce|all-gather|all-to-all"
  r"|reduce-scatter|collective-permute|ragged-all-to-all)(-start)?\("
)
_OPERAND = re.compile(r"(?P<type>\w+)\[(?P<shape>[\d,]*)\]")

TENSOR = MeshConfig(data=2, fsdp=1, tensor=4)
FSDP = MeshConfig(data=2, fsdp=4, tensor=1)
BOTH = MeshConfig(data=2, fsdp=2, tensor=2)


def _config(kind):
  return run_config.RunConfig(
    model=run_config.ModelConfig(
      vocab_size=64,
      d_model=D,
      num_layers=N,
      num_heads=4,
      num_kv_heads=4,
      head_size=8,
      backbone_width=32,
    ),
    sinks=run_config.SinkConfig(
      kind=kind,
      pool_size=POOL,
      num_sources=1000,
      sinks_per_source=A,
      strata=G,
    ),
    data=run_config.DataConfig(row_length=32, tile=16),
    training=run_config.TrainingConfig(batch_size=B, num_steps=10),
  )


@functools.cache
def _sent(kind, axes):
  """Return each operation: its kind, and type and shape of its operands."""
  mesh = partitioning.make_mesh(axes)
  text = aot.compile_step(_config(kind), mesh).as_text()
  found = []
  for line in text.splitlines():
    match = _OPERATION.search(line)
    if match:
      operands = []
      for operand in _OPERAND.finditer(match["result"]):
        sizes = [int(size) for size in operand["shape"].split(",") if size]
        # Layouts differ between programs: a dimension may stand anywhere.
        shape = tuple(sorted(size for size in sizes if size > 1))
        operands.append((operand["type"], shape))
      found.append((match["kind"], tuple(operands)))
  return found


def _arrays(kind, axes):
  """Count the arrays that are sent, by operation, type and shape."""
  return collections.Counter(
    (name, *operand)
    for name, operands in _sent(kind, axes)
    for operand in operands
    if operand[1]
  )


def test_strata_on_tensor_send_what_the_dense_twin_sends(compiled):
  """But for the gradient of the pool, which data parallelism adds up."""
  ours, dense = _arrays("hashed", TENSOR), _arrays("none", TENSOR)
  gradient = ("all-reduce", "f32", tuple(sorted((N, POOL // G, E))))
  assert ours.pop(gradient) == 1
  assert ours == dense
  assert dense["all-reduce", "f32", (B // 2, 32, D)] > 2


def _all_to_alls(kind, axes):
  """Return the elements of each all-to-all that the dense twin lacks."""
  extra = collections.Counter(_sent(kind, axes))
  extra -= collections.Counter(_sent("none", axes))
  return [
    sum(math.prod(shape) for _, shape in operands)
    for (name, operands), count in extra.items()
    for _ in range(count)
    if name == "all-to-all"
  ]


def _no_table_moves(kind, axes):
  """Rows of a device's part of a table are in no array that is sent.

  But for the all-reduce of a hashed pool's gradient, which is a parameter's.
  """
  rows = POOL // G if kind == "hashed" else 1000 * A // G
  moved = [
    key
    for key in _arrays(kind, axes)
    if any(size % rows == 0 for size in key[2])
    and (kind == "dedicated" or key[0] != "all-reduce")
  ]
  assert not moved


def test_strata_on_fsdp_cost_one_all_to_all_each_way(compiled):
  """One for a step, of all layers' rows; nothing else of that size."""
  # A device of a data shard sends its strata of all the shard's documents.
  whole = N * (B // 2) * T * A * E // 4
  assert _all_to_alls("hashed", FSDP) == [whole, whole]
  _no_table_moves("hashed", FSDP)


def test_rows_cut_over_fsdp_cost_one_all_to_all_each_way(compiled):
  whole = N * (B // 2) * T * A * E // 2 // 2
  assert _all_to_alls("hashed", BOTH) == [whole, whole]
  _no_table_moves("hashed", BOTH)


def test_a_dedicated_table_is_cut_over_data_as_well(compiled):
  """Layers over `data`, strata over `fsdp`: an all-to-all each and way."""
  whole = N * B * T * A * E // 8
  assert _all_to_alls("dedicated", FSDP) == [whole] * 4
  _no_table_moves("dedicated", FSDP)
