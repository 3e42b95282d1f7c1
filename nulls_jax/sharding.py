"""From logical axis names to a layout on the mesh, by size.

Owns the choice among the rules that `training.partitioning` states: which
mesh axes cut which axis of an array. Knows no array by name.

Invariant: a mesh axis cuts an array once at most, and only an axis that it
divides; on one device nothing is constrained.
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec as P

Names = Sequence[str | None]
Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]


def resolve(
  names: Names, shape: Sequence[int], rules: Rules, sizes: Mapping[str, int]
) -> P:
  """Return the spec of an array.

  The rules are gone through in their order, so an earlier rule has first
  choice of a mesh axis. A rule applies if no earlier one has cut its array
  axis, to those of its mesh axes that are longer than 1, free, and divide
  what is left of the array axis.

  >>> rules = (("strata", "tensor"), ("strata", "fsdp"), ("row", "fsdp"))
  >>> resolve(("strata", "row"), (4, 6), rules, {"tensor": 1, "fsdp": 2})
  PartitionSpec('fsdp', None)
  >>> resolve(("strata", "row"), (3, 6), rules, {"tensor": 1, "fsdp": 2})
  PartitionSpec(None, 'fsdp')

  Args:
    names: a logical name for each axis of the array, None for none.
    shape: of the array.
    rules: (logical name, mesh axis or axes or None), first come, first served.
    sizes: of the mesh axes.
  """
  spec: list[tuple[str, ...]] = [()] * len(names)
  free = {axis for axis, size in sizes.items() if size > 1}
  for name, axes in rules:
    if name not in names or axes is None:
      continue
    place = list(names).index(name)
    if spec[place]:
      continue
    for axis in (axes,) if isinstance(axes, str) else axes:
      cut = math.prod(sizes[one] for one in spec[place])
      if axis in free and shape[place] % (cut * sizes[axis]) == 0:
        spec[place] += (axis,)
        free.remove(axis)
  return P(
    *(axes if len(axes) > 1 else axes[0] if axes else None for axes in spec)
  )


def constrain(x, *names: str | None, of: Sequence[int] | None = None):
  """Lay out an array as the rules in force say; without a mesh, as it is.

  Args:
    x: the array, traced.
    names: a logical name for each axis, None for none.
    of: the shape of a larger array that `names` are of and whose first axes
      are those of `x`, such as what is looked up at the indices `x`.
  """
  rules, mesh = nn.get_logical_axis_rules(), jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty or mesh.size == 1:
    return x
  spec = resolve(names, of or x.shape, rules, mesh.shape)
  return jax.lax.with_sharding_constraint(x, P(*spec[: x.ndim]))


def num_parts(name: str, size: int) -> int:
  """Return into how many parts the rules in force cut an axis of `size`."""
  rules, mesh = nn.get_logical_axis_rules(), jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return 1
  (axes,) = resolve((name,), (size,), rules, mesh.shape)
  axes = (axes,) if isinstance(axes, str) else axes or ()
  return math.prod(mesh.shape[axis] for axis in axes)
