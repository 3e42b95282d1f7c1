"""The sweeps: what changes from row to row, and what is compared.

No time is asserted; `test_throughput` compiles and runs what is timed.
"""

import dataclasses
import json

import pytest

from nulls_jax.bench import measure, rounds, settings, sweeps, workload


def figures(step=(1.0,), gradients=(1.0,), peak=0, state=0, parameters=0):
  """Figures of a run that nobody made."""
  return measure.Figures(
    config={
      "model": {"num_layers": 1, "d_model": 2},
      "sinks": {"sinks_per_source": 3},
    },
    sources_a_row=1,
    num_parameters=0,
    parameter_bytes=parameters,
    state_bytes=state,
    tokens_a_step=100,
    flops_a_token=1.0,
    new_tokens=0,
    flops_a_new_token=1.0,
    compile_seconds=1.0,
    bytes=workload.Bytes(arguments=peak, outputs=0, aliased=0, temporaries=0),
    step=list(step),
    gradients=list(gradients),
    generation=[],
  )


@pytest.fixture
def measured(monkeypatch):
  """Keep what would be measured, and measure nothing."""
  kept = []

  def take(workloads, repeats, seconds, progress):
    kept.extend(workloads)
    return {one.name: figures(parameters=1) for one in workloads}

  monkeypatch.setattr(measure, "measure", take)
  return kept


@pytest.mark.parametrize(
  ("over", "values", "names", "field"),
  [
    (
      "pool",
      (128, 256),
      ["gather 128", "dense", "gather 256"],
      lambda one: one.config.sinks.pool_size,
    ),
    (
      "sources-a-row",
      (1, 2),
      ["gather 1", "dense", "gather 2"],
      lambda one: one.sources_a_row,
    ),
    (
      "sources",
      (64, 512),
      ["dedicated 64", "dense", "dedicated 512"],
      lambda one: one.config.sinks.num_sources,
    ),
    (
      "length",
      (16, 32),
      ["gather 16", "dense 16", "gather 32", "dense 32"],
      lambda one: one.config.data.row_length,
    ),
  ],
)
def test_changes_one_size(
  over, values, names, field, measured, nulls, tmp_path
):
  status, out, err = nulls(
    "bench", "sweep", f"--over={over}", "--geometry=tiny", f"--out={tmp_path}",
    "--values", *values,
  )  # fmt: skip
  assert (status, err) == (0, "")
  assert [one.name for one in measured] == names
  subjects = [one for one in measured if not one.name.startswith("dense")]
  assert tuple(map(field, subjects)) == values
  twins = [one for one in measured if one.name.startswith("dense")]
  # Equal tokens a step for all, equal arithmetic of a row and its twin.
  assert len({one.tokens_a_step for one in measured}) == 1
  flops = {one.flops_a_token for one in subjects}
  assert flops == {one.flops_a_token for one in twins}
  found = json.loads((tmp_path / f"sweep-{over}-tiny.json").read_text())
  assert [row["value"] for row in found["rows"]] == list(values)
  assert (tmp_path / f"sweep-{over}-tiny.png").exists()
  assert "accelerator: not measured" in out


def test_compares_with_the_first_row_and_the_twin():
  taken = {
    "small": figures([2.0, 2.0, 4.0], [1.0, 1.0, 1.0], 40, 30, 10),
    "large": figures([3.0, 2.0, 5.0], [1.5, 1.0, 2.0], 341, 310, 100),
    "dense": figures([1.0, 1.0, 2.0], [1.0, 1.0, 1.0], 40, 25, 8),
  }
  names = {1: ("small", "dense"), 10: ("large", "dense")}
  first, last = sweeps.compare(taken, names)
  assert first.step.by_round == rounds.spread([1.0, 1.0, 1.0])
  assert last.step.of_medians == 1.5
  assert last.step.by_round == rounds.spread([1.5, 1.0, 1.25])
  assert last.gradients.by_round.median == 1.5
  assert last.over_twin.by_round.median == 2.5
  assert last.update_seconds == 1.5
  # Three times the parameters, and what the twin needs beside its state.
  assert (first.allowed_bytes, last.allowed_bytes) == (45, 315)
  shown = sweeps.show("sources", [first, last]).splitlines()
  assert len(shown) == 3 and "1.250 (1.125-1.375)" in shown[2]


@pytest.mark.parametrize(
  ("over", "held"),
  [
    ("pool", [True]),
    ("sources", [False, True, False]),
    ("sources-a-row", [True, False]),
    ("length", []),
  ],
)
def test_judges_each_promise(over, held):
  taken = {
    "small": figures([1.05], [1.0], 100, 80, 25),
    "large": figures([1.25], [1.05], 117, 80, 25),
    "dense": figures([1.0], [1.0], 35, 9, 3),
  }
  names = {1: ("small", "dense"), 4: ("large", "dense")}
  judged = sweeps.promise(over, sweeps.compare(taken, names))
  assert [one.held for one in judged] == held


def test_a_machine_that_tells_no_memory_is_said_so():
  unknown = dataclasses.replace(figures(), bytes=None)
  rows = sweeps.compare({"a": unknown, "dense": figures()}, {1: ("a", "dense")})
  assert sweeps.show("x", rows).count("not known") == 2
  assert len(sweeps.promise("sources", rows)) == 1


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (("--over=depth",), "no sweep over 'depth'; there are pool, sources-a-row"),
    (("--over=pool", "--values", 128, 128), "--values 128 128: give different"),
    (("--over=pool", "--values", 0), "each at least 1"),
    (("--over=pool", "--values", 100), "choose a power of two"),
    (("--over=pool", "--repeats=0"), "--repeats 0 must be at least 1"),
    (("--over=length", "--values", 48), "64 tokens does not divide into rows"),
    (("--over=sources-a-row", "--values", 3), "3 sources do not divide a row"),
    (("--over=pool", "--geometry=big"), "no geometry 'big'"),
  ],
)
def test_bad_input_is_one_line(flags, expected, refused, tmp_path):
  line = refused(
    "bench", "sweep", "--geometry=tiny", f"--out={tmp_path}/x", *flags
  )
  assert expected in line
  assert not (tmp_path / "x").exists()


def test_every_sweep_is_offered():
  described = settings.SweepSettings.__doc__
  assert all(name in described for name in sweeps.SWEEPS)
