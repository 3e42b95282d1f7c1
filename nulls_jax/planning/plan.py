"""What a configuration will be on a pod: compiled, counted, judged.

Owns the order of the work and the report, a plain dict that JSON can hold.
Times in it are bounds by the chips' peaks; nothing is measured.
"""

import dataclasses
import time
from collections.abc import Callable

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.config import RunConfig
from nulls_jax.model import fused_attention, transformer
from nulls_jax.planning import advice, aot, collectives, costs, topologies
from nulls_jax.training import metrics, partitioning, state

# The optimiser's schedule needs a number of steps; no cost depends on it.
_NUM_STEPS = 1000
# Counting needs the operations, not their best order: a fifth of the time.
_QUICK = {"exec_time_optimization_effort": -1.0}

Say = Callable[[str], None]


def complete(config: RunConfig) -> RunConfig:
  """Set what training takes from the data; raises `UserError`.

  The vocabulary, if it is open, is the largest that `prepare` may make.
  """
  model, sinks = config.model, config.sinks
  if not model.vocab_size:
    model = dataclasses.replace(model, vocab_size=config.data.vocab_size)
  if sinks.kind == "dedicated" and not sinks.num_sources:
    raise errors.UserError(
      "sinks.num_sources=0 takes the number of sources from the ledger, which "
      "is not here; say how many to plan for: --sinks.num-sources 6400000"
    )
  training = dataclasses.replace(config.training, num_steps=_NUM_STEPS)
  return dataclasses.replace(config, model=model, training=training)


def plan(
  config: RunConfig,
  topology: topologies.Topology,
  say: Say = lambda _: None,
  count: bool = True,
) -> dict:
  """Compile a training step for a topology and report on it.

  Args:
    config: the run's settings, as `nulls train` takes them.
    topology: from `topologies.parse`.
    say: is told what is being done, a line each.
    count: whether to count FLOPs and bytes from programs of one and two
      layers, which takes as long again; without, FLOPs are the analytic ones
      and the bytes are those of the state, read and written once, without a
      dedicated table.

  Returns:
    A dict, see `docs/pods.md`; `fits` says whether it can run.

  Raises:
    errors.UserError: the settings, the mesh and the topology do not go
      together, or libtpu is missing.
  """
  run_config.validate(config)
  config = complete(config)
  found = topologies.devices(topology)
  mesh = topologies.make_mesh(config.mesh, topology, found)
  training = config.training
  partitioning.check_batch(training.batch_size, training.accumulation, mesh)
  abstract_state = state.abstract(config, mesh)
  tokens = training.batch_size * config.data.row_length
  report = {
    "topology": {
      "name": topology.name,
      "jax_name": topology.jax_name,
      "num_slices": topology.num_slices,
      "chips": topology.num_chips,
      "usable_bytes": topology.chip.usable_bytes,
    },
    "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
    "tokens_per_step": tokens,
    "parameters": costs.parameters(abstract_state),
    "state_bytes": costs.state_bytes(abstract_state),
    "table_bytes": costs.table_bytes(abstract_state),
    "batch_bytes": costs.held_bytes(aot.abstract_batch(config, mesh)),
  }
  say(
    f"compiling the step for {topology.num_chips} chips of "
    f"{topology.chip.name} (a minute or two for a large model)"
  )
  start = time.monotonic()
  try:
    compiled = aot.compile_step(config, mesh)
  except aot.TooLarge as error:
    report["fits"] = False
    needed, available = error.needed, error.available
  else:
    memory = aot.memory(compiled)
    available = topology.chip.usable_bytes
    needed = memory.total
    report |= {
      "fits": needed <= available,
      "memory": {**dataclasses.asdict(memory), "total": needed},
      "collectives": [
        dataclasses.asdict(one) for one in collectives.read(compiled.as_text())
      ],
    }
    del compiled
  report["compile_seconds"] = time.monotonic() - start
  report["needed_bytes"], report["available_bytes"] = needed, available
  report["advice"] = advice.advise(config, topology, found, needed, available)
  if report["fits"]:
    report |= _speed(config, topology, mesh, report, say, count)
  return report


def _speed(config, topology, mesh, report, say: Say, count: bool) -> dict:
  """Return `flops_per_token` and `roofline` of a configuration that fits."""
  tokens, num_chips = report["tokens_per_step"], topology.num_chips
  twin = run_config.dense_twin(config)
  in_kernels = fused(config, mesh)
  flops = {
    "model": metrics.flops_per_token(config),
    "analytic": costs.analytic_flops(config, in_kernels),
    "analytic_dense": costs.analytic_flops(twin, in_kernels),
    "recomputed": costs.recomputed_flops(config, in_kernels),
    # Compilers count a kernel as nothing; what it does is known by its sizes.
    "kernels": costs.attention_flops(config, in_kernels) if in_kernels else 0.0,
    "counted": None,
    "counted_dense": None,
  }
  memory = report["memory"]
  accessed = float(memory["arguments"] + memory["outputs"])
  if state.updates_rows(config.sinks):
    # A step needs the rows of its batch, and they are few.
    accessed -= 2 * report["table_bytes"]
  if count:
    counted, accessed = count_costs(config, mesh, say)
    flops["counted"] = counted + flops["kernels"]
    if config.sinks.kind != "none":
      say("the same for the dense twin of equal active width")
      counted, _ = count_costs(twin, mesh, say)
      flops["counted_dense"] = counted + flops["kernels"]
  per_token = (flops["counted"] or flops["analytic"]) + flops["recomputed"]
  bound = costs.roofline(
    topology.chip,
    flops=per_token * tokens / num_chips,
    accessed=accessed,
    sent=float(sum(one["sent"] for one in report["collectives"])),
    tokens=tokens,
    num_chips=num_chips,
    model_flops=flops["model"],
  )
  return {
    "flops_per_token": flops,
    "accessed_bytes": accessed,
    "roofline": dataclasses.asdict(bound),
  }


def fused(config: RunConfig, mesh) -> bool:
  """Whether a kernel computes attention in a program for the mesh."""
  with partitioning.context(mesh):
    platform = fused_attention.platform()
  chosen = fused_attention.choose(
    config.model, config.data.row_length, on=platform, capability=""
  )
  return chosen != "xla"


def count_costs(config: RunConfig, mesh, say: Say) -> tuple[float, float]:
  """Return FLOPs a token and bytes accessed a chip and step, as compiled.

  Nothing is computed a second time in what is counted. A batch too large for
  that is halved; FLOPs a token then hold a little more of the optimiser.

  Raises:
    errors.UserError: not even one row a chip can be counted.
  """
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  results = []
  for num_layers in (1, 2):
    say(f"counting what a program of {num_layers} unrolled layer(s) does")
    part = costs.measuring(config, num_layers)
    while True:
      try:
        flops, accessed = _count(part, mesh, num_layers)
        break
      except aot.TooLarge as error:
        rows = part.training.batch_size // 2
        if rows % shards or not rows:
          raise errors.UserError(
            "one and two layers without recomputation do not fit a chip with "
            f"one row of {config.data.row_length} tokens; plan with --no-count"
          ) from error
        part = dataclasses.replace(
          part, training=dataclasses.replace(part.training, batch_size=rows)
        )
    rows = part.training.batch_size
    tokens = rows * config.data.row_length
    scale = config.training.batch_size / rows
    results.append((flops * mesh.size / tokens, accessed * scale))
  (flops_one, accessed_one), (flops_two, accessed_two) = results
  num_layers = config.model.num_layers
  return (
    costs.extrapolate(flops_one, flops_two, num_layers),
    costs.extrapolate(accessed_one, accessed_two, num_layers),
  )


def _count(config: RunConfig, mesh, num_layers: int) -> tuple[float, float]:
  token = transformer.UNROLL.set(num_layers)
  try:
    return aot.counted(aot.compile_step(config, mesh, _QUICK))
  finally:
    transformer.UNROLL.reset(token)
