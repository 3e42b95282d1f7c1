"""What is advised, against literal numbers and the shapes of other meshes."""

import dataclasses

import jax
import pytest

from nulls_jax import config as run_config
from nulls_jax.planning import advice, costs, plan, topologies
from nulls_jax.training import state

MIB = 2**20
TOPOLOGY = topologies.parse("v5e-8")


def advise(config, needed, available):
  return advice.advise(
    plan.complete(config), TOPOLOGY, jax.devices(), needed, available
  )


def held(config):
  config = plan.complete(config)
  mesh = topologies.make_mesh(config.mesh, TOPOLOGY, jax.devices())
  return sum(costs.state_bytes(state.abstract(config, mesh)).values())


def only(lines, part):
  [line] = [line for line in lines if part in line]
  return line


def gib(num_bytes):
  return f"about {num_bytes / 2**30:.2f} GiB a chip"


@pytest.fixture(scope="module")
def large(config):
  """A pool of which a copy on every chip is 0.3 GiB with its moments."""
  return dataclasses.replace(
    config,
    sinks=dataclasses.replace(config.sinks, pool_size=32768),
    mesh=run_config.MeshConfig(),
  )


def test_what_fits_needs_no_advice(config):
  assert advise(config, 100, 100) == []


def test_a_wider_fsdp_holds_less_of_the_state(large):
  whole = held(large)
  wider = dataclasses.replace(large, mesh=run_config.MeshConfig(fsdp=2))
  halved = held(wider)
  assert halved < 0.6 * whole
  rest = 100 * MIB
  lines = advise(large, whole + rest, halved + rest)
  line = only(lines, "--mesh.fsdp")
  assert line == f"--mesh.fsdp 2: {gib(halved + rest)}, fits"


def test_the_widest_is_named_if_none_is_enough(large):
  line = only(advise(large, 100 * 2**30, 2**30), "--mesh.fsdp")
  assert line.startswith("--mesh.fsdp 8: ") and line.endswith("still too much")


def test_accumulation_divides_what_the_batch_takes(large):
  # 16 rows on 8 chips are 2 a chip; gradients stay as large as they are.
  whole = held(large)
  gradients = whole // 3
  rest = gradients + 200 * MIB
  line = only(advise(large, whole + rest, whole + rest - MIB), "accumulation")
  assert line.startswith(
    "--training.accumulation 2 (or --training.batch-size 8"
  )
  assert line.endswith(f"{gib(whole + gradients + 100 * MIB)}, fits")
  one_row = dataclasses.replace(
    large, training=run_config.TrainingConfig(batch_size=8)
  )
  assert "one row at a time" in only(advise(one_row, 2, 1), "batch")


def test_less_is_kept_with_remat(config):
  assert only(advise(config, 2, 1), "remat").startswith("--model.remat full")
  kept = dataclasses.replace(config.model, remat="full")
  lines = advise(dataclasses.replace(config, model=kept), 2, 1)
  assert not [line for line in lines if "remat" in line]


def test_more_or_larger_chips(config):
  lines = advise(config, 30 * 2**30, int(15.75 * 2**30))
  assert only(lines, "v5e").startswith("--topology v5e-16, ")
  assert gib(15 * 2**30) in only(lines, "v5e")
  assert only(lines, "v5p").startswith("--topology v5p-16: ")
  assert only(lines, "v6e").startswith("--topology v6e-8: ")
  lines = advise(config, 50 * 2**30, int(15.75 * 2**30))
  assert only(lines, "v5e").startswith("--topology v5e-32, ")
  assert not [line for line in lines if "v6e" in line]


def test_a_smaller_pool(large):
  whole = held(large)
  line = only(advise(large, whole, whole // 2), "pool")
  pool = int(line.split()[1].rstrip(":"))
  smaller = dataclasses.replace(
    large, sinks=dataclasses.replace(large.sinks, pool_size=pool)
  )
  larger = dataclasses.replace(
    large, sinks=dataclasses.replace(large.sinks, pool_size=2 * pool)
  )
  assert held(smaller) <= whole // 2 < held(larger)
  assert f"{gib(held(smaller))}, fits" in line


def test_fewer_sources_of_a_dedicated_table(large):
  dedicated = dataclasses.replace(
    large,
    sinks=run_config.SinkConfig(
      kind="dedicated", sinks_per_source=2, strata=2, num_sources=16000
    ),
  )
  whole = held(dedicated)
  line = only(advise(dedicated, whole + MIB, whole // 2), "--sinks.num-sources")
  sources = int(line.split()[1].rstrip(":"))
  fewer = dataclasses.replace(
    dedicated, sinks=dataclasses.replace(dedicated.sinks, num_sources=sources)
  )
  assert held(fewer) + MIB == pytest.approx(whole // 2, rel=0.001)


def test_no_table_is_small_enough(config):
  assert only(advise(config, 2**33, 2**20), "no table fits")
