"""The mesh, and which mesh axes each logical axis is cut along.

The only module that knows mesh axes. Parameters and looked-up rows name
logical axes where they are made; `RULES` maps them, and `sharding.resolve`
reads the rules. Nothing else in the package depends on how many devices there
are.
"""

import math

import flax.linen as nn
import jax
from jax.experimental import layout
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nulls_jax import errors, sharding
from nulls_jax.training.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

# In this order; the first rule that fits an axis counts.
RULES = (
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("mlp", "tensor"),
  ("vocabulary", "tensor"),
  # On the tensor axis every shard holds its part of every source's sinks, and
  # their lookup needs no communication. A mesh without that axis cuts the
  # strata, or the rows themselves, over `fsdp`: one all-to-all brings a batch
  # its rows, and one takes their gradients back.
  ("strata", "tensor"),
  ("strata", "fsdp"),
  ("sink_row", "fsdp"),
  # A dedicated table is too large for a copy on each part of `data`.
  ("owned_layers", "data"),
  # Looked-up rows on their way: strata as the sinks' sum wants them, and
  # documents over what the table leaves.
  ("active_strata", "tensor"),
  # What is computed for each part of an MLP's neurons, see sinks.layer.
  ("parts", "tensor"),
  ("batch", BATCH),
)


def make_mesh(config: MeshConfig, devices=None) -> jax.sharding.Mesh:
  """Return the mesh `data x fsdp x tensor`; raises `UserError`.

  Args:
    config: sizes of the axes; data=-1 takes what the others leave.
    devices: defaults to all devices of all processes.
  """
  devices = jax.devices() if devices is None else devices
  fixed = config.fsdp * config.tensor
  data = len(devices) // fixed if config.data == -1 else config.data
  if min(data, fixed) < 1 or data * fixed != len(devices):
    raise errors.UserError(
      f"mesh: data={config.data} x fsdp={config.fsdp} x "
      f"tensor={config.tensor} does not make the {len(devices)} devices that "
      "are here; change the mesh section, or leave data=-1"
    )
  return jax.make_mesh(
    (data, config.fsdp, config.tensor),
    AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
    devices=devices,
  )


def check_batch(batch_size: int, accumulation: int, mesh) -> None:
  """Refuse a batch that the mesh does not divide; raises `UserError`."""
  shards = math.prod(mesh.shape[axis] for axis in BATCH)
  part = batch_size // accumulation
  if part % shards:
    raise errors.UserError(
      f"training.batch_size={batch_size} in {accumulation} accumulation "
      f"part(s) gives {part} rows, which data x fsdp = {shards} does not "
      f"divide; choose a multiple of {shards * accumulation}"
    )


def shardings(mesh, logical_axes, abstract):
  """Return the tree of `NamedSharding`s of a parameter tree.

  An axis that its mesh axes do not divide stays whole (a vocabulary of 439
  entries on two devices), except strata and heads on `tensor`, which the
  config check has refused before.

  Args:
    mesh: the mesh.
    logical_axes: tree of tuples of logical axis names.
    abstract: the same tree of `ShapeDtypeStruct`s.
  """
  return jax.tree.map(
    lambda names, leaf: NamedSharding(
      mesh, sharding.resolve(names, leaf.shape, RULES, mesh.shape)
    ),
    logical_axes,
    abstract,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


def row_major(sharding: NamedSharding, ndim: int) -> layout.Format:
  """Return the format in which the last axis lies closest together.

  A TPU's own choice for a sink table puts the rows there, because their number
  is more often a multiple of 128 than a row's length; every gather and scatter
  of rows would then turn the whole table over and back.
  """
  return layout.Format(layout.Layout(tuple(range(ndim))), sharding)


def placement(abstract) -> NamedSharding | layout.Format:
  """Return where an array lies: its sharding, with the layout if it has one."""
  is_free = abstract.format is None or abstract.format.layout is None
  return abstract.sharding if is_free else abstract.format


def placements(abstract_tree):
  """Return the tree of `placement`s, as jit takes them."""
  return jax.tree.map(placement, abstract_tree)


def replicated(mesh) -> NamedSharding:
  """Return the sharding of a value that every device holds."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh) -> NamedSharding:
  """Return the sharding of a batch: rows over `data` and `fsdp`."""
  return NamedSharding(mesh, P(BATCH))


def batch_part(mesh, batch_size: int) -> tuple[int, int]:
  """Return which part of every batch this process reads, and of how many.

  The smallest of equal parts that holds all rows of this process's devices:
  all, where the `tensor` axis goes over several processes.

  >>> batch_part(make_mesh(MeshConfig()), 16)  # One process.
  (0, 1)
  """
  indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  ranges = [rows.indices(batch_size) for (rows,) in indices.values()]
  first = min(start for start, _, _ in ranges)
  last = max(stop for _, stop, _ in ranges)
  for count in range(mesh.size, 1, -1):
    size, rest = divmod(batch_size, count)
    if not rest and size and first // size == (last - 1) // size:
      return first // size, count
  return 0, 1


def to_devices(mesh, batch, part: tuple[int, int] = (0, 1)):
  """Make global arrays of this process's part of a batch.

  Args:
    mesh: the mesh.
    batch: NumPy arrays, rows first.
    part: which rows they are, see `batch_part`.
  """
  sharding = batch_sharding(mesh)
  index, count = part

  def put(value):
    first = index * len(value)

    def own(place):
      rows = place[0].indices(count * len(value))
      return value[rows[0] - first : rows[1] - first]

    shape = (count * len(value), *value.shape[1:])
    return jax.make_array_from_callback(shape, sharding, own)

  return {name: put(value) for name, value in batch.items()}


def context(mesh):
  """Return the context in which model functions are traced on `mesh`."""
  return _Context(mesh)


class _Context:
  """Enters the mesh and the logical rules together."""

  def __init__(self, mesh):
    self._parts = [jax.set_mesh(mesh), nn.logical_axis_rules(RULES)]

  def __enter__(self):
    for part in self._parts:
      part.__enter__()

  def __exit__(self, *details):
    for part in reversed(self._parts):
      part.__exit__(*details)
