"""Plans by shapes alone, against arithmetic by hand and by the compiler."""

import dataclasses
import json
import pathlib

import pytest

from nulls_jax import config as run_config
from nulls_jax.planning import plan, shapes, topologies

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
MIB = 2**20

# Of the small configuration, in bytes of bfloat16: two layers of attention
# and MLP, and the head. They are cut in two.
LAYERS = 2 * 2 * (4 * 128 * 128 + 3 * 128 * 128)
HEAD = 2 * 128 * 512
NORMS = 2 * (2 * 2 * 128 + 128)
# In float32: what a chip has of the embedding and of the table.
EMBEDDING = 4 * 512 * 128 // 2
TABLE = 4 * 2 * 256 * 3 * 128 // 2
# A chip's two rows of 128 tokens, and of their 2 x 2 tiles the sinks.
TOKENS = 2 * 2 * 128 * 128
SINKS = 2 * 2 * 2 * 16 * 3 * 128 * 2


@pytest.fixture
def small(config):
  model = dataclasses.replace(config.model, compute_dtype="bfloat16")
  return dataclasses.replace(config, model=model)


def test_sends_what_the_shapes_say(small):
  found = shapes.plan(small, topologies.parse("v5e-8"))
  assert found["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}
  over_data = (LAYERS + HEAD) // 2 + NORMS + EMBEDDING + TABLE
  expected = {
    # Layers are gathered for the forward and for the backward pass.
    "parameters": (2 * LAYERS + HEAD) // 2,
    "gradients": (LAYERS + HEAD) // 2 + 2 * over_data * 3 // 4,
    "rows": SINKS,
    "embeddings": TOKENS,
    "between_slices": 0,
  }
  expected["total"] = sum(expected.values())
  assert found["sent_bytes"] == pytest.approx(expected, abs=40)


def test_slices_exchange_what_is_reduced_within_them(small):
  found = shapes.plan(small, topologies.parse("v5e-4", 2))
  over_data = (LAYERS + HEAD) // 2 + NORMS + EMBEDDING + TABLE
  # Of each pair of a slice one half, there and back.
  assert found["sent_bytes"]["between_slices"] == pytest.approx(
    2 * (over_data // 2) // 2, abs=40
  )


def test_accumulation_gathers_again(small):
  parts = dataclasses.replace(small.training, accumulation=2)
  twice = dataclasses.replace(small, training=parts)
  one, two = (
    shapes.plan(config, topologies.parse("v5e-8"))["sent_bytes"]
    for config in (small, twice)
  )
  assert two["parameters"] == 2 * one["parameters"]
  assert two["rows"] == one["rows"]


def test_dedicated_rows_cross_both_axes_and_no_table_is_reduced(small):
  sinks = run_config.SinkConfig(
    kind="dedicated", sinks_per_source=2, num_sources=64
  )
  config = dataclasses.replace(
    small,
    sinks=sinks,
    mesh=run_config.MeshConfig(data=2, fsdp=4),
  )
  found = shapes.plan(config, topologies.parse("v5e-8"))["sent_bytes"]
  rows = 2 * 2 * 2 * 2 * 3 * 128 * 2
  assert found["rows"] == 2 * rows // 2 + 2 * rows * 3 // 4
  over_data = (LAYERS + HEAD) // 4 + NORMS + EMBEDDING // 2
  assert found["gradients"] == pytest.approx(
    (LAYERS + HEAD) * 3 // 4 + over_data, abs=40
  )


def test_copies_of_a_dedicated_table_are_not_reduced_whole(small):
  # Two layers cannot be cut in four.
  sinks = run_config.SinkConfig(
    kind="dedicated", sinks_per_source=2, num_sources=64
  )
  config = dataclasses.replace(small, sinks=sinks)
  found = shapes.plan(config, topologies.parse("v5e-8"))["sent_bytes"]
  over_data = (LAYERS + HEAD) // 2 + NORMS + EMBEDDING
  assert found["gradients"] == pytest.approx(
    (LAYERS + HEAD) // 2 + 2 * over_data * 3 // 4, abs=40
  )


def test_the_state_is_the_compilers(config, on_cpu):
  topology = topologies.parse("v5e-8")
  compiled = plan.plan(config, topology, count=False)
  found = shapes.plan(config, topology)
  for name in ("parameters", "state_bytes", "table_bytes", "batch_bytes"):
    assert found[name] == compiled[name], name


@pytest.mark.parametrize(
  ("name", "topology", "fsdp", "gib", "rows_mib"),
  [
    # libtpu 0.0.42 compiled the first two: 1.50 and 27.91 GiB of state; 472.6
    # and 11.3 MiB of rows (there with what stays on the chip).
    ("wiki_1b", "v5e-256", 8, 1.50, 472.5),
    ("wiki_dedicated", "v6e-256", 8, 27.91, 10.4),
    ("wiki_dedicated", "v5p-1024", 16, 18.54, 5.4),
  ],
)
def test_full_size(name, topology, fsdp, gib, rows_mib):
  config = run_config.load(CONFIGS / f"{name}.py")
  mesh = dataclasses.replace(config.mesh, fsdp=fsdp)
  config = dataclasses.replace(config, mesh=mesh)
  found = shapes.plan(config, topologies.parse(topology))
  assert found["fits"]
  assert sum(found["state_bytes"].values()) / 2**30 == pytest.approx(
    gib, abs=0.006
  )
  assert found["sent_bytes"]["rows"] / MIB == pytest.approx(rows_mib, abs=0.06)


def test_the_command(config_file, nulls, tmp_path):
  out = tmp_path / "plan.json"
  flags = ("--config", config_file, "--topology=v5e-8", "--shapes")
  status, page, err = nulls("compile", *flags, "--out", out)
  assert (status, err) == (0, "")
  assert "8 chips as data 4 x fsdp 2" in page
  assert "the state alone fits" in page
  found = json.loads(out.read_text())
  assert found["rows_per_step"] == 16
  status, row, err = nulls("compile", *flags, "--markdown")
  assert (status, err) == (0, "")
  cells = row.strip().strip("|").split("|")
  assert [cell.strip() for cell in cells[:5]] == [
    "small", "v5e-8", "8", "4 x 2", "16"
  ]  # fmt: skip


def test_a_state_that_is_too_large_is_shown_and_refused(nulls):
  status, row, err = nulls(
    "compile", "--config", CONFIGS / "wiki_dedicated.py", "--mesh.fsdp=2",
    "--topology=v5e-64", "--shapes", "--markdown",
  )  # fmt: skip
  assert status == 2
  assert "| 32 x 2 | 512 | 111.56 | 15.75 | **no** |" in row
  assert err == (
    "nulls: wiki_dedicated does not fit v5e-64: its state alone is too large\n"
  )


def test_a_tensor_axis_is_not_estimated(config_file, refused):
  line = refused(
    "compile", "--config", config_file, "--topology=v5e-8", "--shapes",
    "--mesh.tensor=2",
  )  # fmt: skip
  assert "mesh.tensor=2" in line and "without --shapes" in line
