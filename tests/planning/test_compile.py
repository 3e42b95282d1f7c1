"""`nulls compile`: its flags and refusals, and a real program for four TPUs."""

import json
import os
import subprocess
import sys

import pytest

from nulls_jax.planning import aot, topologies

FLAGS = (
  "--model.vocab-size=512",
  "--model.d-model=256",
  "--model.num-layers=2",
  "--model.num-heads=2",
  "--model.num-kv-heads=2",
  "--model.head-size=64",
  "--model.backbone-width=128",
  "--model.compute-dtype=bfloat16",
  "--sinks.pool-size=1024",
  "--sinks.sinks-per-source=16",
  "--sinks.strata=2",
  "--data.row-length=256",
  "--data.tile=128",
  "--training.batch-size=8",
  "--mesh.fsdp=2",
)


def test_a_report_on_the_terminal_and_in_a_file(
  nulls, on_cpu, config_file, tmp_path
):
  out = tmp_path / "plans" / "small.json"
  status, page, said = nulls(
    *("compile", f"--config={config_file}", "--topology=v5e-8"),
    *(f"--out={out}", "--no-count"),
  )
  assert status == 0, said
  assert "on v5e-8: 8 chips as data 4 x fsdp 2 x tensor 1" in page
  assert "by the matrices' sizes" in page and "counted" not in page
  assert said.startswith("small: compiling the step")
  values = json.loads(out.read_text())
  assert (values["configuration"], values["fits"]) == ("small", True)
  assert values["topology"]["jax_name"] == "v5e:2x4"


def refuse(*_):
  raise aot.TooLarge(20 * 2**30, int(15.75 * 2**30))


def test_flags_change_the_config_file(nulls, on_cpu, config_file, monkeypatch):
  monkeypatch.setattr(aot, "compile_step", refuse)
  status, row, _ = nulls(
    *("compile", f"--config={config_file}", "--topology=v5e-8"),
    *("--mesh.fsdp=1", "--markdown"),
  )
  assert status == 2
  assert row.startswith("| small | v5e-8 | 8 x 1 x 1 |")
  assert row.count("\n") == 1


def test_what_does_not_fit_ends_with_2_and_the_numbers(
  nulls, on_cpu, monkeypatch, tmp_path
):
  monkeypatch.setattr(aot, "compile_step", refuse)
  out = tmp_path / "plan.json"
  status, page, said = nulls(
    "compile", "--topology=v5e-8", f"--out={out}", *FLAGS
  )
  assert status == 2
  last = said.splitlines()[-1]
  assert last.startswith(
    "nulls: the defaults does not fit: a chip needs 20.00 GiB and has 15.75 GiB"
  )
  assert "v5p-16: about 20.00 GiB a chip, fits" in page
  assert json.loads(out.read_text())["fits"] is False


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--topology=v7-8"], "known ones are v5e-1, v5e-4"),
    (
      ["--topology=v5e-8", "--mesh.data=3"],
      "does not make the 8 chips of v5e-8",
    ),
    (["--topology=v5e-8", "--mesh.tensor=4"], "mesh.tensor=4 does not divide"),
    (
      ["--topology=v5e-8", "--sinks.strata=1", "--mesh.tensor=2"],
      "mesh.tensor=2 does not divide sinks.strata=1",
    ),
    (
      ["--topology=v5e-8", "--mesh.fsdp=3"],
      "mesh.fsdp=3 does not divide model.d_model=256",
    ),
    (
      ["--topology=v5e-8", "--training.batch-size=12"],
      "choose a multiple of 8",
    ),
    (
      ["--topology=v5e-8", "--sinks.kind=dedicated"],
      "say how many to plan for",
    ),
    (["--topology=v5e-8", "--config=none.py"], "no such config file"),
  ],
)
def test_bad_input_is_one_line(refused, on_cpu, flags, message):
  assert message in refused("compile", *FLAGS, *flags)


def test_a_missing_libtpu_is_one_line(refused, monkeypatch):
  real = topologies.importlib.util.find_spec
  monkeypatch.setattr(
    topologies.importlib.util,
    "find_spec",
    lambda name: None if name == "libtpu" else real(name),
  )
  line = refused("compile", "--topology=v5e-8", *FLAGS)
  assert "pip install 'nulls_jax[tpu]'" in line


# In a process of its own, as on a laptop: nothing but libtpu's program.
@pytest.mark.skipif(
  topologies.importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu; runs where nulls_jax[tpu] is installed",
)
def test_a_program_for_four_tpus_without_one(tmp_path):
  out = tmp_path / "plan.json"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "nulls_jax.cli", "compile"),
      *("--topology=v5e:2x2", f"--out={out}", *FLAGS),
    ],
    capture_output=True,
    text=True,
    timeout=600,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert all(
    line.startswith("the defaults: ") for line in done.stderr.splitlines()
  )
  values = json.loads(out.read_text())
  assert values["fits"]
  assert values["topology"]["chips"] == 4
  assert values["available_bytes"] == int(15.75 * 2**30)
  by_shape = sum(values["state_bytes"].values()) + values["batch_bytes"]
  assert values["memory"]["arguments"] == pytest.approx(by_shape, rel=0.002)
  flops = values["flops_per_token"]
  # Splash attention is a kernel, which compilers count as nothing.
  assert flops["kernels"] > 0
  assert 1 < flops["counted"] / flops["analytic"] < 1.1
  assert flops["counted"] / flops["counted_dense"] == pytest.approx(1, abs=0.02)
  assert {one["kind"] for one in values["collectives"]} >= {
    "all-gather",
    "all-reduce",
  }
