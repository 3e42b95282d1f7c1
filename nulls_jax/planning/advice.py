"""What to change in a configuration that does not fit its chips.

Every line names a change and the bytes a chip that it should lead to. They
are estimates: the state's share is exact, by shapes; the rest is taken to
shrink with the rows that a chip computes at one time. Compile what you
choose.
"""

import dataclasses
import math

from nulls_jax import errors
from nulls_jax.config import RunConfig, validate
from nulls_jax.planning import chips, costs, topologies
from nulls_jax.training import state

_GIB = 2**30
_FITS = ", fits"


def advise(
  config: RunConfig,
  topology: topologies.Topology,
  devices: list,
  needed: int,
  available: int,
) -> list[str]:
  """Return what to change, a line each, what fits first; nothing if all does.

  Args:
    config: complete, see `plan.complete`.
    topology: what it was compiled for.
    devices: of the topology.
    needed: bytes a chip that the compiler asks for.
    available: bytes a chip that a program can have.
  """
  if needed <= available:
    return []
  mesh = topologies.make_mesh(config.mesh, topology, devices)
  abstract_state = state.abstract(config, mesh)
  held = costs.state_bytes(abstract_state)
  rest = needed - sum(held.values())
  lines = [
    *_wider_fsdp(config, topology, devices, rest, available),
    *_smaller_parts(config, mesh, held, rest, available),
  ]
  if config.model.remat != "full":
    lines.append(
      f"--model.remat full: keeps less than {config.model.remat!r} for the "
      "backward pass (how much less only a compilation says)"
    )
  lines += _other_chips(topology, needed)
  lines += _fewer_sinks(config, abstract_state, needed, available)
  return sorted(lines, key=lambda line: not line.endswith(_FITS))


def _wider_fsdp(config, topology, devices, rest, available) -> list[str]:
  """The first wider `fsdp` that fits, or else the widest."""
  last = None
  fsdp = config.mesh.fsdp
  while (fsdp := 2 * fsdp) * config.mesh.tensor <= topology.num_chips:
    mesh_config = dataclasses.replace(config.mesh, data=-1, fsdp=fsdp)
    changed = dataclasses.replace(config, mesh=mesh_config)
    try:
      validate(changed)
      mesh = topologies.make_mesh(mesh_config, topology, devices)
    except errors.UserError:
      continue
    total = sum(costs.state_bytes(state.abstract(changed, mesh)).values())
    if last is not None and total + rest >= last[1]:
      continue
    last = (fsdp, total + rest)
    if total + rest <= available:
      break
  if last is None:
    return []
  return [_line(f"--mesh.fsdp {last[0]}", last[1], available)]


def _smaller_parts(config, mesh, held, rest, available) -> list[str]:
  """More accumulation parts, or a smaller batch: the same rows at one time."""
  training = config.training
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = training.batch_size // training.accumulation // shards
  # Gradients are as large as the parameters, whatever the batch.
  fixed = sum(held.values()) + min(held["params"], rest)
  parts, estimate = 1, None
  while rows % (2 * parts) == 0:
    parts *= 2
    estimate = fixed + (rest - min(held["params"], rest)) // parts
    if estimate <= available:
      break
  if estimate is None:
    return [
      "a smaller batch cannot help: a chip has one row at a time already"
      if rows == 1
      else f"a batch that is a multiple of {2 * shards} could be accumulated"
    ]
  return [
    _line(
      f"--training.accumulation {training.accumulation * parts} (or "
      f"--training.batch-size {training.batch_size // parts})",
      estimate,
      available,
    )
  ]


def _other_chips(topology: topologies.Topology, needed: int) -> list[str]:
  """More chips of this kind; as many of a kind with more memory."""
  lines = []
  here = math.prod(topology.shape)
  for shape in topology.chip.shapes:
    share = needed * here // math.prod(shape)
    if share <= topology.chip.usable_bytes:
      larger = topologies.Topology(
        chip=topology.chip, shape=shape, num_slices=topology.num_slices
      )
      lines.append(
        _line(
          f"--topology {larger.name}, with fsdp wider by as much",
          share,
          topology.chip.usable_bytes,
        )
      )
      break
  for chip in chips.CHIPS.values():
    if chip is not topology.chip and chip.usable_bytes >= needed:
      fits = [one for one in chip.shapes if math.prod(one) == here]
      lines += [
        _line(
          f"--topology {chip.name}-{here * chip.units}",
          needed,
          chip.usable_bytes,
        )
        for _ in fits[:1]
      ]
  return lines


def _fewer_sinks(config, abstract_state, needed, available) -> list[str]:
  """How large the table may be if nothing else changes."""
  sinks = config.sinks
  if sinks.kind == "none":
    return []
  table = costs.table_bytes(abstract_state)
  room = available - (needed - table)
  if room <= 0:
    return [
      f"no table fits: without it a chip needs {_gib(needed - table)} already"
    ]
  if sinks.kind == "hashed":
    pool = sinks.pool_size
    while (
      pool > sinks.sinks_per_source and pool * table > room * sinks.pool_size
    ):
      pool //= 2
    changed, share = f"--sinks.pool-size {pool}", pool / sinks.pool_size
  else:
    sources = sinks.num_sources * room // table
    changed = f"--sinks.num-sources {sources}"
    share = sources / sinks.num_sources
  return [_line(changed, needed - table + round(table * share), available)]


def _line(change: str, estimate: int, available: int) -> str:
  verdict = _FITS if estimate <= available else ", still too much"
  return f"{change}: about {_gib(estimate)} a chip{verdict}"


def _gib(number: int) -> str:
  return f"{number / _GIB:.2f} GiB"
