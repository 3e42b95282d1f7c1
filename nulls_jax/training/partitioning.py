"""The mesh, and which mesh axes each logical axis is cut along.

The only module that knows mesh axes. Parameters name logical axes where they
are created; `RULES` maps them. Nothing else in the package depends on how
many devices there are.
"""

import math

import flax.linen as nn
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nulls_jax import errors
from nulls_jax.training.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")

RULES = (
  ("batch", BATCH),
  ("length", None),
  ("hidden", None),
  ("embed", "fsdp"),
  ("heads", "tensor"),
  ("kv_heads", "tensor"),
  ("head", None),
  ("mlp", "tensor"),
  ("vocabulary", "tensor"),
  ("norm", None),
  ("layers", None),
  # Every tensor shard holds its part of every source's sinks, so that their
  # lookup needs no communication.
  ("strata", "tensor"),
  ("sink_rows", None),
  ("sink_row", "fsdp"),
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
  entries on two devices), except strata and heads, which the config check
  has refused before.

  Args:
    mesh: the mesh.
    logical_axes: tree of tuples of logical axis names.
    abstract: the same tree of `ShapeDtypeStruct`s.
  """

  def one(names, leaf):
    spec = nn.logical_to_mesh_axes(names, RULES)
    spec = [
      axis if axis is None or size % mesh.shape[axis] == 0 else None
      for axis, size in zip(spec, leaf.shape, strict=True)
    ]
    return NamedSharding(mesh, P(*spec))

  return jax.tree.map(
    one, logical_axes, abstract, is_leaf=lambda leaf: isinstance(leaf, tuple)
  )


def replicated(mesh) -> NamedSharding:
  """Return the sharding of a value that every device holds."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh) -> NamedSharding:
  """Return the sharding of a batch: rows over `data` and `fsdp`."""
  return NamedSharding(mesh, P(BATCH))


def to_devices(mesh, batch):
  """Make global arrays of this process's part of a batch."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value)
    for name, value in batch.items()
  }


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
