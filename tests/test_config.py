"""Settings: files, what does not fit together, what may change."""

import ast
import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.config import (
  MeshConfig,
  ModelConfig,
  OptimizerConfig,
  RunConfig,
  SinkConfig,
  TrainingConfig,
)

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
  "path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem
)
def test_configs_load_validate_and_return_from_json(path):
  config = run_config.load(path)
  run_config.validate(config)
  stored = json.loads(json.dumps(run_config.to_dict(config)))
  assert run_config.from_dict(stored, "here") == config


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    ("def get_config(:\n", r":1: invalid syntax"),
    ("\n\nx = 'open\n", r":3: unterminated string literal"),
    ("import nowhere_to_be_found\n", r":1: ModuleNotFoundError: No module"),
    ("x = 1\ny = x.nothing\n", r":2: AttributeError: 'int' object has no"),
    ("\x00", r".* source code string cannot contain null"),
    (
      "from nulls_jax.config import RunConfig\n\n"
      "def get_config():\n  return RunConfig(modle=3)\n",
      r":4: TypeError: .* unexpected keyword argument 'modle'",
    ),
    (
      "from nulls_jax.config import ModelConfig\n\n"
      "def get_config():\n  return ModelConfig(d_model=0)\n",
      r":4: model.d_model is 0; it must be at least 1",
    ),
    ("def get_config():\n  return {}['a']\n", r":2: KeyError: 'a'"),
    ("def get_config():\n  return 1 / 0\n", r":2: ZeroDivisionError"),
    ("x = 1\n", r" has no function get_config\(\)"),
    ("def get_config():\n  return 3\n", r" get_config\(\) returns int"),
  ],
)
def test_a_wrong_config_file_is_named_with_its_line(
  content, expected, tmp_path
):
  path = tmp_path / "mine.py"
  path.write_text(content)
  with pytest.raises(errors.UserError, match=rf"mine\.py:?{expected}") as info:
    run_config.load(path)
  assert "\n" not in str(info.value)


def test_a_config_file_must_exist_and_be_python(tmp_path):
  with pytest.raises(errors.UserError, match=r"none\.py: no such config file"):
    run_config.load(tmp_path / "none.py")
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(errors.UserError, match=r"config\.json: a config is a Py"):
    run_config.load(tmp_path / "config.json")


@pytest.mark.parametrize(
  ("make", "expected"),
  [
    (lambda: ModelConfig(num_heads=4, num_kv_heads=3), "num_heads=4 is not a"),
    (lambda: ModelConfig(head_size=7), "model.head_size=7 is odd"),
    (lambda: SinkConfig(pool_size=100), r"100 blocks a stratum; choose a pow"),
    (lambda: OptimizerConfig(learning_rate=-1.0), "at least 0 and finite"),
    (lambda: OptimizerConfig(learning_rate=float("nan")), "learning_rate is n"),
    (lambda: OptimizerConfig(clip_norm=0.0), "clip_norm is 0.0; .* more than"),
    (lambda: OptimizerConfig(b2=1.0), "b2 is 1.0; .* less than 1"),
    (lambda: TrainingConfig(batch_size=0), "training.batch_size is 0"),
    (lambda: TrainingConfig(accumulation=3), "not a multiple of training.acc"),
    (lambda: TrainingConfig(epochs=float("nan")), "training.epochs=nan"),
    (lambda: TrainingConfig(num_steps=-1), "training.num_steps=-1 must be at"),
    (lambda: TrainingConfig(seed=-1), "training.seed=-1 does not fit 32 bits"),
    (lambda: TrainingConfig(off_share=1.5), "off_share=1.5 is not between"),
    (lambda: MeshConfig(tensor=0), r"mesh.tensor=0 must be at least 1"),
    (lambda: MeshConfig(fsdp=-2), r"mesh.fsdp=-2 and .* must be at least 1"),
    (lambda: run_config.CheckpointConfig(keep_last=0), "keep_last=0 must be"),
    (lambda: run_config.DataConfig(tile=48), "row_length=1024 is not a mult"),
  ],
)
def test_settings_check_their_ranges(make, expected):
  with pytest.raises(errors.UserError, match=expected):
    make()


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    (
      {"mesh": MeshConfig(tensor=3)},
      r"mesh.tensor=3 does not divide model.num_heads=4, model.num_kv_heads=4, "
      r"model.backbone_width=128, sinks.strata=1; choose",
    ),
    (
      {"mesh": MeshConfig(fsdp=3)},
      "mesh.fsdp=3 does not divide model.d_model=64; change",
    ),
    (
      {"model": ModelConfig(loss_chunk=100)},
      r"data.row_length=1024 is not a multiple of model.loss_chunk=100; change",
    ),
    (
      {
        "optimizer": OptimizerConfig(warmup_fraction=0.9),
        "training": TrainingConfig(num_steps=3),
      },
      r"warmup_fraction=0.9 of training.num_steps=3 leaves no step",
    ),
  ],
)
def test_sections_must_fit_together(changes, expected):
  with pytest.raises(errors.UserError, match=expected):
    run_config.validate(dataclasses.replace(RunConfig(), **changes))


def test_a_dense_model_needs_no_strata():
  dense = RunConfig(sinks=SinkConfig(kind="none"), mesh=MeshConfig(tensor=2))
  run_config.validate(dense)
  with pytest.raises(errors.UserError, match=r"divide sinks.strata=1"):
    run_config.validate(dataclasses.replace(dense, sinks=SinkConfig()))


def test_differences_name_what_is_computed_only():
  old = RunConfig()
  new = RunConfig(
    model=ModelConfig(d_model=32, num_layers=3),
    sinks=SinkConfig(kind="none"),
    mesh=MeshConfig(tensor=2),
    checkpoint=run_config.CheckpointConfig(keep_last=9),
  )
  assert run_config.differences(old, new) == [
    "model.d_model: 64 -> 32",
    "model.num_layers: 2 -> 3",
    "sinks.kind: hashed -> none",
  ]
  assert run_config.differences(old, old) == []


def test_a_damaged_stored_config_is_named(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(errors.UserError, match=r"is \S+ a run directory\?"):
    run_config.read(path)
  stored = json.dumps(run_config.to_dict(RunConfig()))
  for content, expected in (
    (stored[:50], r"config\.json: damaged, not JSON"),
    (stored.replace("d_model", "width"), r"section 'model' is damaged or of"),
    (stored.replace('"tile": 32', '"tile": 7'), r"'data' .* not a multiple of"),
    ("[]", r"config\.json: section 'model' is damaged"),
  ):
    path.write_text(content)
    with pytest.raises(errors.UserError, match=expected):
      run_config.read(path)
  path.write_bytes(b"\xff\xfe")
  with pytest.raises(errors.UserError, match=r"damaged, not JSON \('utf-8'"):
    run_config.read(path)


def test_settings_need_no_jax():
  """So that any tool may read a run, and `--help` answers at once."""
  code = (
    "import sys, nulls_jax.cli\n"
    "print([name for name in ('jax', 'orbax') if name in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert ast.literal_eval(done.stdout) == []
