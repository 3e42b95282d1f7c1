"""A small configuration, and eight CPU devices in the place of a slice."""

import json

import jax
import pytest

from nulls_jax import config as run_config
from nulls_jax.planning import aot, topologies


@pytest.fixture(scope="session")
def config():
  """Two layers and two strata."""
  return run_config.RunConfig(
    model=run_config.ModelConfig(
      vocab_size=512,
      d_model=128,
      num_layers=2,
      num_heads=2,
      num_kv_heads=2,
      head_size=64,
      backbone_width=128,
    ),
    sinks=run_config.SinkConfig(
      kind="hashed", pool_size=256, sinks_per_source=16, strata=2
    ),
    data=run_config.DataConfig(row_length=128, tile=64, vocab_size=512),
    training=run_config.TrainingConfig(batch_size=16),
    mesh=run_config.MeshConfig(data=-1, fsdp=2),
  )


@pytest.fixture(scope="session")
def config_file(config, tmp_path_factory):
  """A file whose settings are those of `config`."""
  path = tmp_path_factory.mktemp("configs") / "small.py"
  values = json.dumps(json.dumps(run_config.to_dict(config)))
  path.write_text(
    "import json\n"
    "from nulls_jax import config\n"
    f"VALUES = {values}\n"
    "def get_config():\n"
    "  return config.from_dict(json.loads(VALUES), __file__)\n"
  )
  return path


@pytest.fixture(scope="session")
def programs():
  """Steps that were compiled before, by what they were compiled from."""
  return {}


@pytest.fixture
def on_cpu(monkeypatch, programs):
  """Let a slice of eight chips be this process's CPU devices.

  Each program is compiled once a session.
  """
  compile_step = aot.compile_step

  def once(config, mesh, options=None):
    key = config, tuple(mesh.shape.items()), repr(options)
    if key not in programs:
      programs[key] = compile_step(config, mesh, options)
    return programs[key]

  monkeypatch.setattr(topologies, "devices", lambda _: jax.devices())
  monkeypatch.setattr(aot, "compile_step", once)
