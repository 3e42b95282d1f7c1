"""The benchmark of training and generation: it runs, and its ratios are right.

What it measures is for people to read; no time is asserted.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.bench import (
  geometries,
  machine,
  measure,
  rounds,
  throughput,
  workload,
)
from nulls_jax.bench.settings import ThroughputSettings
from nulls_jax.config import MeshConfig
from nulls_jax.training import metrics

TINY = geometries.find("tiny")


def settings(name, geometry=TINY):
  return geometries.settings(
    geometry,
    geometries.VARIANTS[name],
    rows=8,
    dtype="float32",
    mesh=MeshConfig(),
  )


def figures(**values):
  """Figures of a run that nobody made."""
  empty = dict.fromkeys(
    (field.name for field in dataclasses.fields(measure.Figures)), 0
  )
  plan = workload.Bytes(arguments=5, outputs=4, aliased=3, temporaries=10)
  return measure.Figures(**{**empty, "generation": [], "bytes": plan, **values})


# -- A real run of one variant; compiling is what takes its time


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  from nulls_jax import cli

  out = tmp_path_factory.mktemp("bench") / "out"
  jax.config.update("jax_disable_most_optimizations", True)
  flags = ("--only=dedicated", "--repeats=2", "--seconds=1e-3")
  try:
    status = cli.main(["bench", "--geometry=tiny", f"--out={out}", *flags])
  finally:
    jax.config.update("jax_disable_most_optimizations", False)
  assert status == 0
  return out


def test_writes_every_sample_and_the_machine(ran):
  found = json.loads((ran / "throughput-tiny.json").read_text())
  assert (ran / "throughput-tiny.png").read_bytes()[:4] == b"\x89PNG"
  assert list(found["variants"]) == ["dense-active", "dedicated"]
  for row in found["variants"].values():
    taken = row["figures"]
    for kind in ("step", "gradients", "generation"):
      assert len(taken[kind]) == 2 and min(taken[kind]) > 0
    assert taken["tokens_a_step"] == 8 * 64
    assert taken["state_bytes"] > 3 * taken["parameter_bytes"] > 0
    assert taken["bytes"]["arguments"] > taken["state_bytes"]
    assert taken["compile_seconds"] > 0
    assert row["utilisation"] is None
  own, base = (
    found["variants"][name]["figures"]["step"]
    for name in ("dedicated", "dense-active")
  )
  ratio = found["variants"]["dedicated"]["step"]
  assert ratio["of_medians"] == pytest.approx(sum(own) / sum(base))
  where = found["machine"]
  assert where["platform"] == "cpu" and where["num_devices"] == 8
  assert where["cores"] >= 1 and where["processor"] and where["date"]
  assert found["settings"]["only"] == ["dedicated"]
  assert [one["promise"][:9] for one in found["promises"]] == ["dedicated"]


@pytest.mark.parametrize("name", geometries.VARIANTS)
def test_traces_every_variant(name):
  made = measure.prepare(
    name, TINY, geometries.VARIANTS[name], ThroughputSettings()
  )
  step, gradients = made.lower()
  text = step.as_text()
  assert gradients.as_text()
  # Only masks compare the rows of the pool with those of the source.
  assert ("8x64x2x64xf32" in text) == (name == "masked")


# -- What is compared


def test_variants_do_the_arithmetic_they_are_named_for():
  flops = {
    name: metrics.flops_per_token(settings(name))
    for name in geometries.VARIANTS
  }
  active = flops.pop("dense-active")
  wider = 2 * 3 * 16 * (128 - 8)
  assert flops.pop("dense-total") == active + 6 * wider
  assert set(flops.values()) == {active}
  assert settings("masked").model.implementation == "masked"
  assert settings("dedicated").sinks.num_sources == 64


@pytest.mark.parametrize("name", ["small", "1b-layer", "1b"])
def test_every_geometry_makes_every_variant(name):
  for variant in geometries.VARIANTS:
    config = settings(variant, geometries.find(name))
    assert config.data.row_length % config.data.tile == 0


def test_a_batch_has_the_sources_that_were_asked_for():
  config = settings("dedicated")
  batch = geometries.batch(config, 2, seed=1)
  words = batch["sources"]
  assert words.shape == (8, 4, 2) and words.dtype == np.uint32
  assert (words[:, 0] == words[:, 1]).all() and (
    words[:, 2] == words[:, 3]
  ).all()
  assert len(np.unique(words.reshape(-1, 2), axis=0)) == 16
  assert words[..., 1].max() <= 64 and words[..., 1].min() >= 1
  np.testing.assert_array_equal(batch["segments"][0], [1] * 32 + [2] * 32)
  again = geometries.batch(config, 2, seed=1)
  for field, value in batch.items():
    np.testing.assert_array_equal(value, again[field])


# -- Ratios, from samples that are written here


def test_compares_medians_and_rounds():
  base = figures(
    step=[1.0, 2.0, 4.0],
    gradients=[1.0, 1.0, 2.0],
    generation=[2.0, 2.0, 2.0],
    tokens_a_step=100,
    flops_a_token=3.0,
    new_tokens=10,
  )
  slow = dataclasses.replace(
    base,
    step=[2.0, 3.0, 4.0],
    gradients=[1.0, 2.0, 3.5],
    generation=[4.0, 1.0, 2.0],
  )
  found = throughput.compare({"dense-active": base, "gather": slow}, 1000.0)
  row = found["gather"]
  assert row.tokens_per_second == pytest.approx(100 / 3)
  assert row.flops_per_second == pytest.approx(100)
  assert row.utilisation == pytest.approx(0.1)
  assert row.step.of_medians == 1.5
  assert row.step.by_round == rounds.spread([2.0, 1.5, 1.0])
  assert row.gradients.by_round.median == 1.75
  assert row.update_seconds == 1.0
  assert row.new_tokens_per_second == 5
  # A rate: twice as long is half.
  assert row.generation.by_round == rounds.spread([0.5, 2.0, 1.0])
  assert found["dense-active"].step.by_round.most == 1
  shown = throughput.show(found)
  assert "1.500 (1.250-1.750)" in shown and "10.0 %" in shown
  unknown = throughput.compare({"dense-active": base}, None)
  assert "not known" in throughput.show(unknown)


def test_judges_each_promise_by_the_median_of_the_rounds():
  base = figures(step=[1.0] * 3, gradients=[1.0] * 3, generation=[1.0] * 3)
  steps = {
    "dense-active": base,
    "masked": dataclasses.replace(base, step=[4.0, 4.4, 9.0]),
    "gather": dataclasses.replace(base, step=[0.9, 1.1, 9.0]),
    "gather-4": dataclasses.replace(base, step=[1.0, 1.21, 1.3]),
    "dedicated": dataclasses.replace(base, generation=[1.2, 1.2, 1.0]),
  }
  judged = throughput.promise("1b-layer", throughput.compare(steps, None))
  assert [(one.promise.split(":")[0], one.held) for one in judged] == [
    ("gather, one source a row", True),
    ("gather, four sources a row", False),
    ("masked", True),
    ("gather", True),
    ("dedicated", False),
  ]
  assert judged[0].promise.endswith("<= 1.10")
  assert judged[4].measured == "0.833 (0.833-0.917)"
  small = throughput.promise("small", throughput.compare(steps, None))
  assert len(small) == 4


def test_takes_actions_in_turn_and_fills_a_block(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock[0])
  order = []

  def action(name, seconds):
    def run(count):
      order.append((name, count))
      clock[0] += seconds * count

    return run

  taken = rounds.take(
    {"a": action("a", 0.25), "b": action("b", 2.0)},
    rounds=2,
    seconds=1.0,
    progress=lambda text: None,
  )
  assert taken == {"a": [0.25, 0.25], "b": [2.0, 2.0]}
  assert order[:4] == [("a", 1), ("a", 1), ("b", 1), ("b", 1)]
  assert order[4:] == [("a", 4), ("b", 1), ("b", 1), ("a", 4)]


def test_a_loss_that_is_no_number_is_no_measurement():
  made = measure.prepare(
    "x", TINY, geometries.VARIANTS["dense-active"], ThroughputSettings()
  )
  made.check()
  made._loss = float("nan")
  with pytest.raises(errors.MachineError, match=r"x: the loss .* is nan"):
    made.check()


# -- Bad input


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (("--geometry=large",), "no geometry 'large'; there are small, 1b-layer"),
    (("--only", "gather", "gater"), "no variant gater; there are dense-act"),
    (("--repeats=0",), "--repeats 0 must be at least 1"),
    (("--seconds=0",), "--seconds 0.0 more than 0"),
    (("--seconds=nan",), "--seconds nan more than 0"),
    (("--layers=-1", "--rows=-2"), "--layers -1, --rows -2: give"),
    (("--tile=48",), "data.row_length=64 is not a multiple of data.tile=48"),
    (("--tile=32",), "4 sources do not divide a row of 2 tiles"),
    (("--only=dedicated", "--rows=9"), "needs 72 sources, and the dedicated"),
    (("--mesh.tensor=4",), "mesh.tensor=4 does not divide"),
    (("--mesh.tensor=3",), "does not make the 8 devices"),
    (("--seed=-1",), "--seed -1 does not fit"),
  ],
)
def test_bad_input_is_one_line(flags, expected, refused, tmp_path):
  line = refused("bench", "--geometry=tiny", f"--out={tmp_path}/x", *flags)
  assert expected in line
  assert not (tmp_path / "x").exists()


def test_refuses_what_does_not_fit_before_it_allocates(
  refused, tmp_path, monkeypatch
):
  monkeypatch.setattr(machine, "free_bytes", lambda: 20_000_000_000)
  monkeypatch.setattr(workload.Workload, "compile", None)
  line = refused("bench", "--geometry=1b", f"--out={tmp_path}/x")
  # 1.05 G parameters with two moments are 12.6 GB.
  assert "dense-total 12.6, masked 12.6, gather 12.6" in line
  assert "20.0 GB left; measure fewer of them" in line
