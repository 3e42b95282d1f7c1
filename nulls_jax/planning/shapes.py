"""A configuration on a pod by its shapes alone: nothing is compiled.

Owns the bytes that a chip holds of the state and the least that it must send
in a step, as both follow from the arrays' shapes and from how the mesh cuts
them. Needs no libtpu, and seconds where a compilation takes minutes. What
lives within the step only a compilation says.

Invariant: the state is `training.state`'s own, cut by the rules of training.
"""

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.config import RunConfig
from nulls_jax.planning import aot, collectives, costs, topologies
from nulls_jax.planning import plan as plan_lib
from nulls_jax.training import partitioning, state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sent:
  """The least bytes that one chip sends in a step.

  Attributes:
    parameters: to gather what `fsdp` cuts, forward and again backward.
    gradients: to reduce them, over `fsdp` and then over `data`.
    rows: of sinks on their way to their documents, and their gradients back.
    embeddings: of tokens, the same.
    between_slices: of all these, what leaves a slice.
  """

  parameters: int
  gradients: int
  rows: int
  embeddings: int
  between_slices: int

  @property
  def total(self) -> int:
    """All, within a slice and between them."""
    return self.parameters + self.gradients + self.rows + self.embeddings


def plan(config: RunConfig, topology: topologies.Topology) -> dict:
  """Report on a configuration without compiling it.

  Args:
    config: the run's settings, as `nulls train` takes them.
    topology: from `topologies.parse`.

  Returns:
    A dict, see `docs/scale.md`; `fits` says whether the state alone does.

  Raises:
    errors.UserError: settings, mesh and topology do not go together, or the
      mesh has a tensor axis.
  """
  run_config.validate(config)
  config = plan_lib.complete(config)
  if config.mesh.tensor > 1:
    raise errors.UserError(
      f"mesh.tensor={config.mesh.tensor}: what a tensor axis sends is not "
      "estimated; compile the step instead, without --shapes"
    )
  # Shapes and shardings need no devices.
  mesh = jax.sharding.AbstractMesh(
    topologies.axes(config.mesh, topology),
    partitioning.AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(partitioning.AXES),
  )
  training = config.training
  partitioning.check_batch(training.batch_size, training.accumulation, mesh)
  abstract_state = state.abstract(config, mesh)
  held = costs.state_bytes(abstract_state)
  found = sent(config, abstract_state["params"], mesh, topology.num_slices)
  return {
    "topology": {
      "name": topology.name,
      "num_slices": topology.num_slices,
      "chips": topology.num_chips,
      "usable_bytes": topology.chip.usable_bytes,
    },
    "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
    "rows_per_step": training.batch_size,
    "tokens_per_step": training.batch_size * config.data.row_length,
    "parameters": costs.parameters(abstract_state),
    "state_bytes": held,
    "table_bytes": costs.table_bytes(abstract_state),
    "batch_bytes": costs.held_bytes(aot.abstract_batch(config, mesh)),
    "sent_bytes": {**dataclasses.asdict(found), "total": found.total},
    "fits": sum(held.values()) <= topology.chip.usable_bytes,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Transfer:
  """One exchange along one axis of the mesh, once or several times a step."""

  part: str
  kind: str
  axis: str
  whole: int
  times: int = 1


def sent(config: RunConfig, params, mesh, num_slices: int) -> Sent:
  """Return what one chip sends in a step.

  Left out is what brings rows to copies of a dedicated table, where `data`
  does not divide the layers and copies it.

  Args:
    config: complete; without a tensor axis.
    params: abstract, with shardings over `mesh`.
    mesh: abstract or not.
    num_slices: that share the data axis evenly.
  """
  totals = dict.fromkeys(("parameters", "gradients", "rows", "embeddings"), 0)
  between = 0
  for one in _transfers(config, params, mesh):
    size = mesh.shape[one.axis]
    if size == 1:
      continue
    totals[one.part] += one.times * collectives.sent_bytes(
      one.kind, one.whole, size
    )
    if one.axis == "data" and num_slices > 1:
      # Within a slice first: each of its chips then takes its part across.
      here = size // num_slices if one.kind == "all-reduce" else 1
      between += one.times * collectives.sent_bytes(
        one.kind, one.whole // here, num_slices
      )
  return Sent(**totals, between_slices=between)


def _transfers(config: RunConfig, params, mesh) -> Iterator[_Transfer]:
  parts = config.training.accumulation
  compute = jnp.dtype(config.model.compute_dtype).itemsize
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [entry.key for entry in path]
    cut = _axes_of(leaf)
    part = math.prod(leaf.sharding.shard_shape(leaf.shape))
    is_table, is_embedding = "sinks" in names, "embedding" in names
    # Matrices are used, and their gradients made, in the compute dtype.
    item = leaf.dtype.itemsize if is_table or is_embedding else compute
    if is_table:
      yield from _rows(config, leaf, mesh, compute)
    elif is_embedding:
      yield from _embeddings(config, cut, mesh, compute)
    elif "fsdp" in cut:
      whole = part * mesh.shape["fsdp"] * item
      # A layer's matrices are gathered again for its backward pass.
      uses = 2 if "layers" in names else 1
      yield _Transfer(
        part="parameters",
        kind="all-gather",
        axis="fsdp",
        whole=whole,
        times=uses * parts,
      )
      yield _Transfer(
        part="gradients",
        kind="reduce-scatter",
        axis="fsdp",
        whole=whole,
        times=parts,
      )
    by_rows = is_table and state.updates_rows(config.sinks)
    if "data" not in cut and not by_rows:
      yield _Transfer(
        part="gradients", kind="all-reduce", axis="data", whole=part * item
      )


def _rows(config, table, mesh, compute: int) -> Iterator[_Transfer]:
  """Rows go one mesh axis at a time to their documents, and gradients back."""
  sinks, data = config.sinks, config.data
  rows = config.training.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
  tiles = rows * (data.row_length // data.tile)
  whole = tiles * sinks.strata * sinks.active_per_stratum * table.shape[-1]
  whole *= config.model.num_layers * compute
  for axis in sorted(_axes_of(table)):
    yield _Transfer(
      part="rows", kind="all-to-all", axis=axis, whole=whole, times=2
    )


def _embeddings(config, cut, mesh, compute: int) -> Iterator[_Transfer]:
  rows = config.training.batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])
  whole = rows * config.data.row_length * config.model.d_model * compute
  if "fsdp" in cut:
    yield _Transfer(
      part="embeddings", kind="all-to-all", axis="fsdp", whole=whole, times=2
    )


def _axes_of(leaf) -> set[str]:
  """Return the mesh axes along which an abstract array is cut."""
  found = set()
  for entry in leaf.sharding.spec:
    found.update(entry if isinstance(entry, tuple) else [entry])
  return found - {None}
