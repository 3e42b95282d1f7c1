"""Repair: surviving sinks learn, and nothing else moves by a bit."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from nulls_jax import errors, files
from nulls_jax.commands import repair as repair_command
from nulls_jax.data import ledger, ledger_writing, routing
from nulls_jax.data.preparation import dataset, prepare
from nulls_jax.data.preparation import job as job_lib
from nulls_jax.evaluation import inputs, score
from nulls_jax.inference import restore
from nulls_jax.sinks import assignment
from nulls_jax.sinks import table as table_lib
from nulls_jax.training import (
  checkpoint,
  partitioning,
  repair,
  repair_facts,
  repair_job,
  repair_samples,
  repair_step,
  state,
  survivors,
)
from nulls_jax.training import step as train_step
from nulls_jax.training.config import MeshConfig, RepairConfig
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.revocation import revocation
from nulls_jax.unlearning.verification import verify

NUM_ERASED = 5
# Decay is on, to show that it does not reach what is frozen.
SETTINGS = RepairConfig(
  num_steps=40,
  learning_rate=1e-2,
  weight_decay=0.5,
  mesh=MeshConfig(data=2, fsdp=2, tensor=2),
)


@pytest.fixture(scope="session")
def erased(tiny_run, tmp_path_factory):
  """The tiny run without five of its forty sources, two more suspended."""
  path = tmp_path_factory.mktemp("erased") / "run"
  erase.erase(tiny_run.path, path, tiny_run.keys[:NUM_ERASED])
  revocation.suspend(path, tiny_run.keys[NUM_ERASED : NUM_ERASED + 2])
  return path


@pytest.fixture(scope="session")
def repaired(tiny_run, erased, tmp_path_factory):
  """The repaired run on eight devices, and the report."""
  path = tmp_path_factory.mktemp("repaired") / "run"
  return path, repair.repair(erased, tiny_run.data, path, SETTINGS)


@pytest.fixture(scope="session")
def jobs(tiny_run, erased):
  """A function: the job of a repair on this many devices."""

  def make(num_devices=1, **changes):
    job = repair_job.open_job(
      erased,
      tiny_run.data,
      dataclasses.replace(SETTINGS, **changes),
      None,
    )
    if num_devices == 8:
      return job
    mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:num_devices])
    return dataclasses.replace(
      job, mesh=mesh, abstract=state.abstract(job.config, mesh)["params"]
    )

  return make


def own_copy(path, tmp_path):
  """Return a copy of a run, free to be damaged."""
  shutil.copytree(path, tmp_path / "copy")
  return tmp_path / "copy"


def parameters(path):
  """Return the parameters of a run by path, as NumPy arrays."""
  step = checkpoint.newest(path)
  config = repair_job.run_config.read(path / "config.json")
  mesh = partitioning.make_mesh(MeshConfig(), jax.devices()[:1])
  tree = checkpoint.load_params(
    path, step, state.abstract(config, mesh)["params"]
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
  return {
    jax.tree_util.keystr(name, simple=True, separator="."): leaf
    for name, leaf in leaves
  }


def rows_of(run, data_keys):
  """Mark the rows of sources, straight from the assignment: `[N, G, R]`."""
  config = repair_job.run_config.read(run / "config.json").sinks
  marks = np.zeros((1, config.strata, config.rows_per_stratum), bool)
  for key in data_keys:
    words = np.array(assignment.split_id(assignment.source_id(key)), np.uint32)
    for stratum, rows in enumerate(assignment.rows(config, words, 0)):
      marks[0, stratum, rows] = True
  return marks


# -- What moves, and what does not


def test_only_rows_of_taught_sources_move(tiny_run, erased, repaired):
  before, after = parameters(erased), parameters(repaired[0])
  assert before.keys() == after.keys()
  for name in before:
    same = before[name].tobytes() == after[name].tobytes()
    assert same == (name != "layers.sinks.table"), name
  old, new = (tree["layers.sinks.table"] for tree in (before, after))
  zeroed = rows_of(erased, tiny_run.keys[:NUM_ERASED])
  taught = rows_of(erased, tiny_run.keys[NUM_ERASED + 2 :])
  assert new[zeroed].size > 0
  assert not new[zeroed].view(np.uint32).any()
  moved = (old.view(np.uint32) != new.view(np.uint32)).any(axis=-1)
  frozen = ~taught
  # The suspended sources have rows that nobody taught shares.
  suspended = rows_of(erased, tiny_run.keys[NUM_ERASED : NUM_ERASED + 2])
  assert (suspended & frozen & ~zeroed).sum() > 0
  assert not moved[frozen].any()
  assert moved[taught & ~zeroed].all()


def test_the_report_says_what_came_back(tiny_run, erased, repaired):
  path, report = repaired
  assert json.loads((path / repair.REPORT_FILE).read_text()) == report
  kept, gone = report["retained"], report["deleted"]
  assert kept["loss_before"] - kept["loss_after"] > 0.02
  assert gone["loss_before"] == gone["loss_after"]
  assert report["sources"] == {
    "erased": 5,
    "retained": 35,
    "suspended": 2,
    "taught": 33,
  }
  # Counted again, source by source.
  zeroed = rows_of(erased, tiny_run.keys[:NUM_ERASED])
  lost = [
    (rows_of(erased, [key]) & zeroed).sum() / 8
    for key in tiny_run.keys[NUM_ERASED:]
  ]
  assert report["sinks_lost"]["mean"] == pytest.approx(np.mean(lost))
  assert report["sinks_lost"]["largest"] == pytest.approx(np.max(lost))
  assert report["rows"]["erased"] == zeroed.sum()
  steps, losses = zip(*report["training_loss"], strict=True)
  assert steps == tuple(range(tiny_run.num_steps + 10, report["step"] + 1, 10))
  assert losses[-1] < losses[0]


def test_decay_and_momentum_do_not_reach_what_is_frozen(jobs):
  """A batch that teaches nothing: decay alone acts, on movable rows only."""
  job = jobs(weight_decay=5.0)
  params = checkpoint.load_params(job.run_dir, job.step, job.abstract)
  table, frozen = table_lib.detach(params)
  before = np.asarray(table)
  start, update = repair_step.make(job.config, job.abstract)
  opt_state = start(table)
  batch = next(
    repair_samples.training_batches(job.prepared, job.who, job.config.training)
  )
  batch = {**batch, "weights": 0 * batch["weights"]}
  with partitioning.context(job.mesh):
    for _ in range(5):
      table, opt_state, _ = update(
        table,
        opt_state,
        frozen,
        job.place(job.who.movable),
        partitioning.to_devices(job.mesh, batch),
      )
  moved = before.view(np.uint32) != np.asarray(table).view(np.uint32)
  np.testing.assert_array_equal(moved.any(axis=-1), job.who.movable)


def test_the_optimiser_keeps_moments_of_the_table_only(jobs):
  job = jobs()
  table, _ = table_lib.detach(job.abstract)
  start, _ = repair_step.make(job.config, job.abstract)
  shapes = [
    leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(start, table))
  ]
  assert sorted(shapes) == sorted([(), (), table.shape, table.shape])


# -- The same on any mesh, in parts


def _tables(job, num_steps=4):
  """Return the table after some updates."""
  params = checkpoint.load_params(job.run_dir, job.step, job.abstract)
  table, frozen = table_lib.detach(params)
  start, update = repair_step.make(job.config, job.abstract)
  opt_state, movable = start(table), job.place(job.who.movable)
  batches = repair_samples.training_batches(
    job.prepared, job.who, job.config.training
  )
  with partitioning.context(job.mesh):
    for _, batch in zip(range(num_steps), batches, strict=False):
      batch = partitioning.to_devices(job.mesh, batch)
      table, opt_state, _ = update(table, opt_state, frozen, movable, batch)
  return np.asarray(table)


@pytest.mark.parametrize(
  ("num_devices", "changes"), [(8, {}), (1, {"accumulation": 2})]
)
def test_devices_and_parts_do_not_matter(jobs, num_devices, changes):
  whole = _tables(jobs())
  other = _tables(jobs(num_devices, **changes))
  job = jobs()
  first = parameters(job.run_dir)["layers.sinks.table"]
  # Adam turns rounding of tiny gradients into steps of the rate.
  assert np.abs(whole - first).max() > 1e-2
  assert np.quantile(np.abs(whole - other), 0.99) < 1e-5
  assert np.abs(whole - other).max() < 2e-3


# -- Who teaches


def test_erased_and_suspended_documents_teach_nothing(tiny_run, jobs):
  job = jobs()
  params = checkpoint.load_params(job.run_dir, job.step, job.abstract)
  table, frozen = table_lib.detach(params)
  indices = np.zeros_like(job.who.words)
  indices[:, 1] = np.arange(len(indices))
  training = job.config.training
  named = next(
    repair_samples._read(job.prepared, indices, training, num_steps=1)
  )
  batch = next(repair_samples.training_batches(job.prepared, job.who, training))
  index_BxT = named["sources"][..., 1]
  # The dataset is the run's own: erased and suspended are the first seven.
  mute_BxL = np.repeat((index_BxT > 0) & (index_BxT <= 7), 64, axis=1)
  speak_BxL = np.repeat(index_BxT > 7, 64, axis=1)
  assert (named["weights"] * mute_BxL).sum() > 0
  np.testing.assert_array_equal(batch["weights"], named["weights"] * speak_BxL)
  with ledger.Ledger.open(tiny_run.data / "ledger.sqlite") as book:
    words = routing.table(job.config.sinks, book)
  expected = words[index_BxT] * (index_BxT > 7)[..., None]
  np.testing.assert_array_equal(batch["sources"], expected)

  @jax.jit
  def gradient(batch):
    return train_step.gradients(
      job.config, table, batch, lambda table: table_lib.attach(table, frozen)
    )[:2]

  replaced = dict(batch)
  for name in ("tokens", "targets"):
    other = 5 + (batch[name] * 7 + 3) % 100
    replaced[name] = np.where(mute_BxL, other, batch[name]).astype(np.int32)
  heard = dict(batch)
  heard["targets"] = np.where(speak_BxL, 9, batch["targets"]).astype(np.int32)
  with partitioning.context(job.mesh):
    ours, theirs, changed = map(gradient, (batch, replaced, heard))
  assert float(abs(ours[0]).max()) > 0
  np.testing.assert_array_equal(ours[0], theirs[0])
  assert float(ours[1]) == float(theirs[1]) != float(changed[1])


def test_a_dataset_without_the_erased_sources(
  tiny_run, erased, tmp_path, capsys
):
  """Other indices, the same rows; nothing of the deleted to measure."""
  prepare.prepare(
    job_lib.Job(
      tiny_run.documents,
      dataset.Prepared.open(tiny_run.data).config,
      tokenizer_path=erased / "tokenizer.model",
      exclude=tiny_run.keys[:NUM_ERASED],
    ),
    tmp_path / "data",
  )
  job = repair_job.open_job(erased, tmp_path / "data", SETTINGS, None)
  own = repair_job.open_job(erased, tiny_run.data, SETTINGS, None)
  np.testing.assert_array_equal(job.who.movable, own.who.movable)
  np.testing.assert_array_equal(job.who.words[1:], own.who.words[6:])
  repair_command.Repair(
    checkpoint=erased / "checkpoints" / str(tiny_run.num_steps),
    data=tmp_path / "data",
    out=tmp_path / "out",
    num_steps=1,
    mesh=SETTINGS.mesh,
  ).run()
  said = capsys.readouterr().out
  assert "1 updates on 33 of 35 retained sources, 2 suspended" in said
  assert "deleted documents: the dataset has none" in said
  assert "retained documents, with their sinks: loss " in said


# -- The run that comes out


def test_the_output_is_a_run_that_is_measured_and_erased(
  tiny_run, erased, repaired, tmp_path
):
  path, report = repaired
  step = tiny_run.num_steps + SETTINGS.num_steps
  assert report["step"] == step and checkpoint.steps(path) == [step]
  for name in ("config.json", "tokenizer.model", "revocations.jsonl"):
    assert (path / name).read_bytes() == (erased / name).read_bytes()
  run = restore.restore(path)
  assert run.routes([tiny_run.keys[-1]]).any()
  for key in tiny_run.keys[0], tiny_run.keys[NUM_ERASED]:
    with pytest.raises(errors.UserError, match=r"erased|suspended"):
      run.routes([key])
  erased_keys = tmp_path / "erased.txt"
  erased_keys.write_text("\n".join(tiny_run.keys[:NUM_ERASED]))
  given = inputs.read(documents=tiny_run.documents, forget=erased_keys)
  found = score.score(path, tmp_path / "results.json", given)
  assert found["forget"]["status"] == "erased"
  again = tmp_path / "again"
  erase.erase(path, again, [tiny_run.keys[-1]])
  table = parameters(again)["layers.sinks.table"]
  assert not table[rows_of(again, [tiny_run.keys[0], tiny_run.keys[-1]])].any()


def test_the_receipt_names_what_moved(erased, repaired):
  path, report = repaired
  last = receipt.chain(path)[-1]
  earlier = receipt.chain(erased)
  assert [found.sha256 for found in receipt.chain(path)[:-1]] == [
    found.sha256 for found in earlier
  ]
  predicate = last.predicate
  assert predicate["action"] == "repair" and predicate["sources"] == []
  (step,) = predicate["steps"]
  assert step["step"] == report["step"]
  changed = {
    array["name"]
    for array in step["arrays"]
    if array["before"] != array["after"] and array["after"]
  }
  assert changed == set(step["edited"]) == {"step", "params.layers.sinks.table"}
  assert any(
    array["after"] is None and array["name"].startswith("opt_state")
    for array in step["arrays"]
  )
  for name, digest in last.subjects("sha256").items():
    assert files.sha256(path / name) == digest


def test_verify_follows_the_chain_over_a_repair(tiny_run, erased, repaired):
  for source in (tiny_run.path, erased):
    found = verify.verify(repaired[0], source=source)
    assert found.verified, found.conclusion


# -- The proof fails when it should


def test_compare_sees_one_bit(jobs):
  job = jobs()
  before = checkpoint.load_params(job.run_dir, job.step, job.abstract)
  movable = job.place(job.who.movable)
  assert repair_step.compare(before, before, movable) == ([], 0, 0)
  after = jax.tree.map(lambda leaf: leaf, before)
  after["norm"] = {"scale": before["norm"]["scale"].at[0].multiply(1 + 1e-7)}
  table, frozen = table_lib.detach(after)
  for marks in (job.who.movable, ~job.who.movable):
    table = table.at[tuple(np.argwhere(marks)[0])].add(1.0)
  found = repair_step.compare(before, table_lib.attach(table, frozen), movable)
  assert found == (["norm.scale"], 2, 1)


def test_facts_are_refused_when_a_frozen_array_differs(tiny_run, erased):
  first, second = (
    tiny_run.path / "checkpoints" / str(step) / plan.ITEM
    for step in tiny_run.kept_steps[-2:]
  )
  metadata = checkpoint.read_metadata(tiny_run.path, tiny_run.num_steps)
  with pytest.raises(
    errors.MachineError, match=r"repair changed .*head\.kernel"
  ):
    repair_facts.collect(first, second, metadata, 7, None)


def test_rows_that_come_back_are_not_kept(
  tiny_run, erased, tmp_path, monkeypatch
):
  """An update that forgets the marks, as a defect or a bad chip would."""
  made = repair_step.make

  def forgetful(config, abstract):
    start, update = made(config, abstract)

    def all_rows(table, opt_state, frozen, movable, batch):
      table, opt_state, values = update(
        table, opt_state, frozen, movable, batch
      )
      return table + 1e-3, opt_state, values

    return start, all_rows

  monkeypatch.setattr(repair_step, "make", forgetful)
  with pytest.raises(
    errors.MachineError, match=r"erased rows that are not zero"
  ):
    repair.repair(
      erased,
      tiny_run.data,
      tmp_path / "out",
      dataclasses.replace(SETTINGS, num_steps=1),
    )
  assert list(tmp_path.iterdir()) == []


# -- Refusals


def _refuse(match, run, data, out, kind=errors.UserError, **changes):
  with pytest.raises(kind, match=match) as caught:
    settings = dataclasses.replace(SETTINGS, **changes)
    repair.repair(run, data, out, settings)
  assert "\n" not in str(caught.value)
  assert not out.exists()
  assert not list(out.parent.glob(f".{out.name}*"))


def test_nothing_to_repair(tiny_run, dense_run, erased, tmp_path):
  out = tmp_path / "out"
  _refuse(r"dense model: .* nothing to repair", dense_run, tiny_run.data, out)
  _refuse(r"no source was erased from it", tiny_run.path, tiny_run.data, out)
  dedicated = own_copy(erased, tmp_path)
  path = dedicated / "checkpoints" / str(tiny_run.num_steps) / plan.STEP_FILE
  content = json.loads(path.read_text())
  content["custom_metadata"]["config"]["sinks"]["kind"] = "dedicated"
  path.write_text(json.dumps(content))
  _refuse(
    r"dedicated sinks: no other source lost any; there is nothing",
    dedicated,
    tiny_run.data,
    out,
  )


def test_data_of_another_tokenizer(erased, prepared_dir, tmp_path):
  _refuse(
    r"prepared with another tokenizer \(fingerprint \w{12}, the run has "
    r"\w{12}\); prepare the documents with --tokenizer .*tokenizer\.model",
    erased,
    prepared_dir,
    tmp_path / "out",
  )


def test_sources_that_the_run_never_had(tiny_run, erased, tmp_path):
  documents = tmp_path / "documents.jsonl"
  lines = [{"source": key, "text": "some text"} for key in ("new", "newer")]
  documents.write_text("".join(json.dumps(line) + "\n" for line in lines))
  prepare.prepare(
    job_lib.Job(
      documents,
      dataset.Prepared.open(tiny_run.data).config,
      tokenizer_path=erased / "tokenizer.model",
    ),
    tmp_path / "data",
  )
  _refuse(
    r"2 of its sources are not in the ledger of .*: 'new', 'newer'; repair",
    erased,
    tmp_path / "data",
    tmp_path / "out",
  )


def test_nobody_is_left_to_teach(tiny_run, erased, tmp_path):
  run = own_copy(erased, tmp_path)
  revocation.suspend(run, tiny_run.keys[NUM_ERASED:])
  _refuse(
    r"none of its 40 sources may be taught: all were erased from .* or are "
    r"suspended",
    run,
    tiny_run.data,
    tmp_path / "out",
  )


def test_a_checkpoint_that_was_not_erased(tiny_run, erased, tmp_path):
  run = own_copy(tiny_run.path, tmp_path)
  shutil.copyfile(erased / "ledger.sqlite", run / "ledger.sqlite")
  _refuse(
    r"\d+ rows of sources that its ledger calls erased are not zero in step "
    r"120; give the run that `nulls erase` wrote",
    run,
    tiny_run.data,
    tmp_path / "out",
  )


def test_a_ledger_of_another_run(tiny_run, erased, prepared_dir, tmp_path):
  run = own_copy(erased, tmp_path)
  with ledger_writing.Writer.open(run / "ledger.sqlite") as book:
    book.add_documents([("another", 1, {})])
  _refuse(
    r"ledger\.sqlite: not the ledger of .*/120 \(fingerprint",
    run,
    tiny_run.data,
    tmp_path / "out",
  )


def test_where_the_output_may_not_be(tiny_run, erased, tmp_path):
  with pytest.raises(errors.UserError, match=r"exists"):
    repair.repair(erased, tiny_run.data, tmp_path, SETTINGS)
  run = own_copy(erased, tmp_path)
  _refuse(r"lies inside", run, tiny_run.data, run / "checkpoints" / "out")


@pytest.mark.parametrize(
  ("num_steps", "what"),
  [(3, "a loss before step 3 is"), (1, "rows after the last step are")],
)
def test_a_rate_that_diverges_leaves_nothing(
  num_steps, what, tiny_run, erased, tmp_path
):
  _refuse(
    rf"{what} not finite; nothing was written; give a --learning-rate below 3e",
    erased,
    tiny_run.data,
    tmp_path / "out",
    kind=errors.MachineError,
    learning_rate=3e38,
    weight_decay=1e3,
    num_steps=num_steps,
  )


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"learning_rate": -1.0}, r"learning_rate is -1\.0; it must be at least 0"),
    ({"weight_decay": float("nan")}, r"weight_decay is nan; it must be"),
    ({"weight_decay": -1.0}, r"weight_decay is -1\.0; it must be"),
    ({"epochs": 0.0}, r"epochs=0\.0 more than 0"),
    ({"num_steps": -1}, r"num_steps is -1; it must be at least 0"),
  ],
)
def test_settings_that_mean_nothing(changes, match):
  with pytest.raises(errors.UserError, match=match):
    RepairConfig(**changes)


def test_what_is_not_set_is_the_runs_own(tiny_run, erased):
  job = repair_job.open_job(
    erased, tiny_run.data, RepairConfig(epochs=2.0), None
  )
  rows = dataset.Prepared.open(tiny_run.data).manifest["counts"]["rows"]
  of_run = repair_job.run_config.read(erased / "config.json").optimizer
  assert job.config.training.num_steps == -(-2 * rows // 8)
  optimizer = job.config.optimizer
  # A third of 1e-2, three times that for sinks.
  assert optimizer.learning_rate == pytest.approx(1e-2)
  assert optimizer.sink_weight_decay == of_run.sink_weight_decay
  other = dataclasses.replace(SETTINGS, weight_decay=0.0, batch_size=16)
  job = repair_job.open_job(erased, tiny_run.data, other, None)
  assert job.config.optimizer.sink_weight_decay == 0.0
  assert job.config.training.batch_size == 16
  assert job.config.training.num_steps == 40


def test_several_processes(tiny_run, erased, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  _refuse(r"in one process", erased, tiny_run.data, tmp_path / "out")


def test_a_batch_that_the_devices_do_not_divide(tiny_run, erased, tmp_path):
  _refuse(
    r"batch_size=6 .* divide",
    erased,
    tiny_run.data,
    tmp_path / "out",
    batch_size=6,
  )


def test_survivors_of_a_source_that_the_dataset_lacks(
  tiny_run, erased, tmp_path
):
  """Rows of retained sources without documents stay as they are."""
  prepare.prepare(
    job_lib.Job(
      tiny_run.documents,
      dataset.Prepared.open(tiny_run.data).config,
      tokenizer_path=erased / "tokenizer.model",
      exclude=tiny_run.keys[:20],
    ),
    tmp_path / "data",
  )
  config = repair_job.run_config.read(erased / "config.json").sinks
  who = survivors.find(erased, config, 1, tmp_path / "data" / "ledger.sqlite")
  assert (who.num_retained, who.num_taught) == (35, 20)
  taught = rows_of(erased, tiny_run.keys[20:])
  zeroed = rows_of(erased, tiny_run.keys[:NUM_ERASED])
  np.testing.assert_array_equal(who.movable, taught & ~zeroed)
