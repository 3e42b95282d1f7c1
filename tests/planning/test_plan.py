"""Plans on this process's CPU devices: the reports, not a TPU's numbers."""

import dataclasses

import pytest

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.planning import aot, chips, costs, plan, report, topologies

TOPOLOGY = topologies.parse("v5e-8")


def small_chip(usable_bytes):
  chip = dataclasses.replace(chips.CHIPS["v5e"], usable_bytes=usable_bytes)
  return dataclasses.replace(TOPOLOGY, chip=chip)


@pytest.fixture
def found(config, on_cpu):
  """The plan of the small configuration, not counted."""
  return plan.plan(config, TOPOLOGY, count=False)


def test_the_compilers_bytes_agree_with_the_shapes(found):
  by_shape = sum(found["state_bytes"].values()) + found["batch_bytes"]
  assert found["memory"]["arguments"] == pytest.approx(by_shape, rel=0.02)
  assert found["state_bytes"]["opt_state"] == pytest.approx(
    2 * found["state_bytes"]["params"], rel=0.001
  )


def test_the_state_is_donated_and_counted_once(found):
  memory = found["memory"]
  assert memory["donated"] == pytest.approx(memory["arguments"], rel=0.02)
  assert memory["total"] == (
    memory["arguments"]
    + memory["outputs"]
    - memory["donated"]
    + memory["temporaries"]
    + memory["program"]
  )


def test_every_layer_is_counted_as_the_matrices_say(config, on_cpu, programs):
  deeper = dataclasses.replace(config.model, num_layers=3)
  config = plan.complete(dataclasses.replace(config, model=deeper))
  mesh = topologies.make_mesh(config.mesh, TOPOLOGY, topologies.devices(None))
  said = []
  flops, accessed = plan.count_costs(config, mesh, said.append)
  assert said[0] == "counting what a program of 1 unrolled layer(s) does"
  # Norms, softmax, the embedding and the optimiser are counted, too.
  assert 1 < flops / costs.analytic_flops(config) < 1.5
  one, two = (
    aot.counted(
      next(
        program
        for (key, _, options), program in programs.items()
        if key == costs.measuring(config, layers) and options != "None"
      )
    )
    for layers in (1, 2)
  )
  tokens = config.training.batch_size * config.data.row_length
  # A loop's body would be counted once, whatever its length.
  layer, _ = costs.forward_flops(config, fused=False)
  assert 8 * (two[0] - one[0]) / tokens == pytest.approx(3 * layer, rel=0.3)
  assert flops == pytest.approx(8 * (2 * two[0] - one[0]) / tokens)
  assert accessed == pytest.approx(2 * two[1] - one[1])


def test_kernels_and_recomputation_are_added_to_what_is_counted(
  config, on_cpu, monkeypatch
):
  compile_step, plain = aot.compile_step, plan.complete(config)
  monkeypatch.setattr(
    aot, "compile_step", lambda _, mesh: compile_step(plain, mesh)
  )
  monkeypatch.setattr(plan, "fused", lambda *_: True)
  counted = iter([(7e6, 8e9), (5e6, 6e9)])
  monkeypatch.setattr(plan, "count_costs", lambda *_: next(counted))
  remat = dataclasses.replace(config.model, remat="full")
  config = dataclasses.replace(config, model=remat)
  values = plan.plan(config, TOPOLOGY)
  flops = values["flops_per_token"]
  kernels = costs.attention_flops(config, fused=True)
  assert flops["kernels"] == kernels
  assert flops["counted"] == 7e6 + kernels
  assert flops["counted_dense"] == 5e6 + kernels
  again = costs.recomputed_flops(config, fused=True)
  tokens = values["tokens_per_step"]
  bound = values["roofline"]
  assert bound["compute"] == pytest.approx(
    (7e6 + kernels + again) * tokens / 8 / TOPOLOGY.chip.peak_flops
  )
  assert bound["memory"] == pytest.approx(8e9 / TOPOLOGY.chip.hbm_bandwidth)
  page = report.page(values)
  assert "counted in the program" in page and "of it in kernels" in page
  assert "bytes accessed over" in page


def test_without_counting_the_state_is_read_and_written_once(found):
  memory = found["memory"]
  assert found["accessed_bytes"] == memory["arguments"] + memory["outputs"]
  assert "the state, read and written once" in report.page(found)


def test_a_dedicated_table_is_not_read_as_a_whole(
  config, found, on_cpu, monkeypatch
):
  compile_step, hashed = aot.compile_step, plan.complete(config)
  monkeypatch.setattr(
    aot, "compile_step", lambda _, mesh: compile_step(hashed, mesh)
  )
  sinks = run_config.SinkConfig(
    kind="dedicated", sinks_per_source=2, strata=2, num_sources=10
  )
  values = plan.plan(
    dataclasses.replace(config, sinks=sinks), TOPOLOGY, count=False
  )
  table = values["table_bytes"]
  # 2 layers x 10 sources x 2 sinks of 3 x 128 floats, thrice, and counts.
  assert 0 < table <= 2 * 20 * (3 * 384 + 1) * 4
  assert values["accessed_bytes"] == found["accessed_bytes"] - 2 * table


def test_the_page_and_the_row(found):
  page = report.page(found)
  assert "8 chips as data 4 x fsdp 2 x tensor 1" in page
  assert "fits: " in page and "a bound and not a measurement" in page
  assert page.count("<- binds") == 1
  row = report.markdown_row("small", found)
  assert row.count("|") == report.MARKDOWN_HEAD.splitlines()[0].count("|")
  assert row.startswith("| small | v5e-8 | 4 x 2 x 1 |") and "| yes |" in row


def test_collectives_are_those_of_the_partitioned_step(found):
  kinds = {one["kind"]: one for one in found["collectives"]}
  assert kinds["all-reduce"]["count"] >= 1
  assert all(0 < one["sent"] <= 2 * one["bytes"] for one in kinds.values())


def test_what_does_not_fit_has_no_speed(found, config):
  total = found["memory"]["total"]
  values = plan.plan(config, small_chip(total - 1), count=False)
  assert not values["fits"] and "roofline" not in values
  assert (values["needed_bytes"], values["available_bytes"]) == (
    total,
    total - 1,
  )
  assert "does not fit: a chip needs" in report.verdict(values)
  assert "**no**" in report.markdown_row("small", values)
  assert plan.plan(config, small_chip(total), count=False)["fits"]


def test_a_refusal_of_the_compiler_is_reported(config, on_cpu, monkeypatch):
  def refuse(*_):
    raise aot.TooLarge(2**40, 2**34)

  monkeypatch.setattr(aot, "compile_step", refuse)
  values = plan.plan(config, TOPOLOGY)
  assert not values["fits"]
  assert (values["needed_bytes"], values["available_bytes"]) == (2**40, 2**34)
  assert "a chip needs 1024.00 GiB and has 16.00 GiB" in report.page(values)
  assert "says the compiler" in report.page(values)


@pytest.mark.parametrize(
  ("message", "needed", "available"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (90.28G) exceeds available HBM (15.75G).",
      90.28,
      15.75,
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory "
      "in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded hbm capacity "
      "by 1.75G.",
      17.5,
      15.75,
    ),
    (
      "RESOURCE_EXHAUSTED: Used 512.00M of 256.00M hbm.",
      0.5,
      0.25,
    ),
  ],
)
def test_sizes_are_read_out_of_a_refusal(message, needed, available):
  refusal = aot.too_large(message)
  assert refusal.needed == pytest.approx(needed * 2**30, abs=1)
  assert refusal.available == pytest.approx(available * 2**30, abs=1)


def test_another_failure_is_no_refusal_for_memory():
  assert aot.too_large("INTERNAL: something (1.0G) else") is None
  assert aot.too_large("RESOURCE_EXHAUSTED: quota") is None


def dedicated(config, num_sources):
  return dataclasses.replace(
    config,
    sinks=run_config.SinkConfig(
      kind="dedicated", sinks_per_source=2, strata=2, num_sources=num_sources
    ),
  )


def test_a_dedicated_table_needs_its_number_of_sources(config):
  with pytest.raises(errors.UserError, match=r"--sinks\.num-sources 6400000"):
    plan.complete(dedicated(config, 0))


def test_an_open_vocabulary_is_the_data_sections(config):
  model = dataclasses.replace(config.model, vocab_size=0)
  completed = plan.complete(dataclasses.replace(config, model=model))
  assert completed.model.vocab_size == config.data.vocab_size
