"""What an erasure accepts, edits and refuses, on real checkpoints."""

import json
import shutil

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import ledger
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.erasure import erase


def refuse(run, keys, tmp_path, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    erase.erase(run.path, tmp_path / "out", keys[:1])
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()
  assert not list(tmp_path.glob(".out*"))


def edit_metadata(run, change):
  path = run.step_dir / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  change(content["custom_metadata"])
  path.write_text(json.dumps(content))


def test_refuses_what_is_no_run(own_run, keys, tmp_path):
  missing = tmp_path / "missing"
  with pytest.raises(errors.UserError, match="missing does not exist"):
    plan.find_step(missing, None)
  (tmp_path / "empty").mkdir()
  with pytest.raises(
    errors.UserError,
    match=r"config.json, tokenizer.model, ledger.sqlite, checkpoints missing",
  ):
    plan.find_step(tmp_path / "empty", None)
  run = own_run()
  (run.path / "ledger.sqlite").unlink()
  refuse(run, keys, tmp_path, r"not a run directory: ledger.sqlite missing")


def test_refuses_a_run_without_checkpoint(own_run, keys, tmp_path):
  run = own_run()
  shutil.move(run.step_dir, f"{run.step_dir}.orbax-checkpoint-tmp")
  refuse(run, keys, tmp_path, "holds no checkpoint; let training save one")


def test_reads_the_assignment(make_run):
  for kind in ("hashed", "dedicated"):
    run = make_run(kind=kind)
    path = run.step_dir / "_CHECKPOINT_METADATA"
    assert plan.read_assignment(path) == run.config


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda m: m.clear(), r"the format None; this release knows 1"),
    (lambda m: m.update(format=2), r"the format 2; this release knows 1"),
    (lambda m: m.pop("assignment"), r"assignment of version None"),
    (
      lambda m: m["assignment"].update(version=2),
      r"assignment of version 2 .*knows version 1",
    ),
    (
      lambda m: m["assignment"].update(colour=1),
      r"fields \['block_size', 'colour'",
    ),
    (lambda m: m["assignment"].pop("seed"), r"assignment of version 1 with"),
    (
      lambda m: m["assignment"].update(kind="none"),
      r"dense model .*nothing to erase",
    ),
    (
      lambda m: m["assignment"].update(kind="reference", seed=1.5),
      r"has seed=1.5, kind='reference'; use another",
    ),
    (
      lambda m: m["assignment"].update(pool_size=500),
      r"assignment: sinks.pool_size=500",
    ),
    (
      lambda m: m["assignment"].update(pool_size=1024),
      r"sinks.table \(2, 2, 256, 12\) does not fit .*\(layers, 2, 512, 3",
    ),
    (
      lambda m: m["assignment"].update(strata=1),
      r"does not fit .*\(layers, 1, 512, 3 \* d_model\)",
    ),
  ],
)
def test_refuses_metadata(change, message, own_run, keys, tmp_path):
  run = own_run()
  edit_metadata(run, change)
  refuse(run, keys, tmp_path, message)


def test_refuses_damaged_step_files(own_run, keys, tmp_path):
  run = own_run()
  path = run.step_dir / "_CHECKPOINT_METADATA"
  path.write_text(path.read_text()[:50])
  refuse(run, keys, tmp_path, r"_CHECKPOINT_METADATA is damaged")
  path.unlink()
  refuse(run, keys, tmp_path, r"_CHECKPOINT_METADATA is missing")


@pytest.mark.parametrize("place", ["", "state"])
def test_refuses_files_it_does_not_know(place, own_run, keys, tmp_path):
  run = own_run()
  (run.step_dir / place / "rows.npy").write_bytes(b"")
  refuse(run, keys, tmp_path, r"unaccounted for: (state/)?rows.npy; it could")


def test_refuses_a_step_without_state(own_run, keys, tmp_path):
  run = own_run()
  shutil.rmtree(run.item)
  refuse(run, keys, tmp_path, "state is missing, so this is no whole")


def add(place, shape):
  """Return a change of the state: another array of this shape."""

  def change(state):
    name, *rest = reversed(place)
    leaf = {name: np.ones(shape, np.float32)}
    for name in rest:
      leaf = {name: leaf}
    return {**state, **leaf}

  return change


def test_averages_of_parameters_are_erased_too(make_run, keys, tmp_path):
  run = make_run(
    change=add(("ema", "layers", "sinks", "table"), (2, 2, 256, 12))
  )
  summary = erase.erase(run.path, tmp_path / "out", keys[:1])
  assert "ema.layers.sinks.table" in summary.arrays_edited
  table = run.restore(tmp_path / "out")["ema"]["layers"]["sinks"]["table"]
  assert (np.asarray(table) == 0).sum() == np.sum(summary.rows_zeroed) * 12


@pytest.mark.parametrize(
  ("place", "shape", "message"),
  [
    (("ema", "sinks", "gate"), (3,), r"not known: ema.sinks.gate \(3,\)"),
    (("ema", "copy"), (2, 2, 256, 12), r"not known: ema.copy \(2, 2, 256, 12"),
    (
      ("rows", "layers", "sinks", "table"),
      (2, 2, 256),
      r"rows.layers.sinks.table \(2, 2, 256\) does not fit",
    ),
  ],
)
def test_refuses_arrays_it_does_not_know(
  place, shape, message, make_run, keys, tmp_path
):
  run = make_run(change=add(place, shape))
  refuse(run, keys, tmp_path, message)


def test_refuses_a_checkpoint_without_table(make_run, keys, tmp_path):
  def without(state):
    return {"step": state["step"], "params": {"norm": np.ones(4, np.float32)}}

  run = make_run(change=without)
  refuse(run, keys, tmp_path, r"no array params.layers.sinks.table")


def source(index):
  return ledger.Source(
    index=index,
    id=assignment.source_id(str(index)),
    key=str(index),
    num_documents=1,
    num_tokens=1,
    metadata={},
    status="active",
  )


def test_rows_of_dedicated_sources(tmp_path):
  config = assignment.SinkConfig(
    kind="dedicated", sinks_per_source=4, strata=2, num_sources=8
  )
  rows = plan.rows_to_zero(config, [source(3), source(1)], 2, tmp_path)
  assert rows.counts() == ((4, 4), (4, 4))
  # Source 1 owns rows 0 and 1, source 3 rows 4 and 5.
  inside = rows.inside((slice(1, 2), slice(0, 2), slice(4, 8), slice(0, 12)))
  assert [(n, g, list(r)) for n, g, r in inside] == [
    (0, 0, [0, 1]),
    (0, 1, [0, 1]),
  ]
  assert not rows.inside((slice(0, 2), slice(0, 2), slice(8, 16)))
  with pytest.raises(errors.UserError, match=r"a source 9, .*for 8 sources"):
    plan.rows_to_zero(config, [source(1), source(9)], 2, tmp_path)


def test_rows_shared_by_sources_count_once(tmp_path):
  config = assignment.SinkConfig(pool_size=8, sinks_per_source=6)
  rows = plan.rows_to_zero(
    config, [source(index) for index in range(1, 30)], 3, tmp_path
  )
  assert rows.counts() == ((8,), (8,), (8,))
