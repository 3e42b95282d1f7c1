"""Growing by the commands: prepared, trained, killed, erased from, refused."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from nulls_jax import cli
from nulls_jax import config as run_config
from nulls_jax.data import encyclopedia, ledger, routing
from nulls_jax.data import tokenizer as tokenizer_lib
from nulls_jax.data.preparation import dataset, job, prepare
from nulls_jax.sinks import assignment
from nulls_jax.training import (
  checkpoint,
  growth,
  loop,
  opening,
  partitioning,
  state,
)
from nulls_jax.unlearning.revocation import revocation

OLD, NEW = 8, 4
TABLES = (
  "params.layers.sinks.table",
  "opt_state.rows.mu.layers.sinks.table",
  "opt_state.rows.nu.layers.sinks.table",
  "opt_state.rows.count.layers.sinks.table",
)
CONFIG = run_config.RunConfig(
  model=run_config.ModelConfig(
    d_model=8,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_size=4,
    backbone_width=8,
  ),
  sinks=assignment.SinkConfig(
    kind="dedicated", sinks_per_source=4, strata=2, size_classes=2
  ),
  data=run_config.DataConfig(
    row_length=128, tile=64, vocab_size=500, class_tokens=160
  ),
  training=run_config.TrainingConfig(batch_size=8, num_steps=7),
  mesh=run_config.MeshConfig(tensor=2),
)
GROW = (
  "--training.num-steps=4",
  "--training.learn=sinks",
  "--checkpoint.every-steps=2",
  "--checkpoint.keep-last=2",
)


@dataclasses.dataclass(frozen=True)
class World:
  """A run of eight sources, one that grew from it by four, and the texts.

  Attributes:
    root: folder of all of them.
    keys: of the sources, in the order of the ledger.
    old: the old run.
    new_documents: JSON Lines of the new sources alone.
    all_documents: of all.
    data: prepared from the new documents.
    run: the grown run.
  """

  root: pathlib.Path
  keys: tuple[str, ...]
  old: pathlib.Path
  new_documents: pathlib.Path
  all_documents: pathlib.Path
  data: pathlib.Path
  run: pathlib.Path


def _command(*arguments):
  assert cli.main([str(argument) for argument in arguments]) == 0


def _start_old_run(path, data):
  """Create a run as training does, with a step of values that none gave."""
  prepared = dataset.Prepared.open(data)
  config = loop.resolve(CONFIG, prepared)
  fingerprint = tokenizer_lib.Tokenizer.load(
    prepared.tokenizer_path
  ).fingerprint
  opening.open_run(path, config, prepared, fingerprint, None)
  rng = np.random.default_rng(0)

  def draw(leaf):
    value = rng.normal(size=leaf.shape) ** 2 / 4
    if leaf.dtype == np.int32:
      value = rng.integers(1, 9, leaf.shape)
    return jax.device_put(value.astype(leaf.dtype), leaf.sharding)

  mesh = partitioning.make_mesh(config.mesh)
  drawn = jax.tree.map(draw, state.abstract(config, mesh))
  with ledger.Ledger.open(prepared.ledger_path) as book:
    metadata = checkpoint.metadata(config, fingerprint, book.fingerprint())
  with checkpoint.Checkpoints(path, config.checkpoint, 7) as saves:
    saves.save(7, drawn, metadata)


@pytest.fixture(scope="module")
def world(tmp_path_factory, compiled):
  root = tmp_path_factory.mktemp("growing")
  corpus = encyclopedia.Encyclopedia(
    seed=0, num_sources=OLD + NEW, num_held_out=2, num_versions=1
  )
  lines = corpus.write(root)["documents"].read_text().splitlines()
  sources = [json.loads(line)["source"] for line in lines]
  keys = tuple(dict.fromkeys(sources))

  def write(name, chosen):
    text = [
      line for line, key in zip(lines, sources, strict=True) if key in chosen
    ]
    (root / name).write_text("".join(f"{line}\n" for line in text))
    return root / name

  found = World(
    root=root,
    keys=keys,
    old=root / "old",
    new_documents=write("new.jsonl", keys[OLD:]),
    all_documents=write("all.jsonl", keys),
    data=root / "data",
    run=root / "run",
  )
  prepare.prepare(
    job.Job(write("old.jsonl", keys[:OLD]), CONFIG.data), root / "old-data"
  )
  _start_old_run(found.old, root / "old-data")
  _command(
    *("prepare", "--extend", found.old, "--out", found.data),
    *("--documents", found.new_documents),
  )
  _command(*_grow(found, found.run))
  return found


def _grow(world, run):
  return (
    *("train", "--grow-from", world.old, "--data", world.data),
    *("--run", run, *GROW),
  )


def _arrays(run_dir, step=None) -> dict[str, np.ndarray]:
  config = run_config.read(run_dir / "config.json")
  mesh = partitioning.make_mesh(config.mesh)
  found = checkpoint.load_part(
    run_dir, checkpoint.newest(run_dir, step), state.abstract(config, mesh)
  )
  leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(found))
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in leaves
  }


def _rows(run_dir, keys) -> list[int]:
  """Return the rows of sources, the same in every layer and stratum."""
  sinks = run_config.read(run_dir / "config.json").sinks
  with ledger.Ledger.open(run_dir / "ledger.sqlite") as book:
    ids = [assignment.source_id(key) for key in keys]
    sources = [book.find_by_id(number) for number in ids]
    words = routing.words(sinks, book, sources)
  owned = assignment.owned(sinks, words)
  return assignment.rows(sinks, words, 0)[:, 0][owned].tolist()


def _same_run(run_dir, other):
  found, wanted = _arrays(run_dir), _arrays(other)
  assert found.keys() == wanted.keys()
  for name, leaf in wanted.items():
    assert found[name].tobytes() == leaf.tobytes(), name


def test_processes_that_grow_from_other_steps_do_not_agree(world):
  config = run_config.read(world.run / "config.json")
  prepared = dataset.Prepared.open(world.data)
  origin = growth.find(world.run, None, None, config, prepared)
  other = dataclasses.replace(origin, metadata_sha256="0" * 64)
  found = [
    loop._facts(config, prepared, "t", "l", one)["the step it is grown from"]
    for one in (origin, other, None)
  ]
  assert found == [origin.metadata_sha256[:16], "0" * 16, None]


def test_the_grown_run_has_the_old_rows_and_learns_the_new(world):
  before, after = _arrays(world.old), _arrays(world.run)
  config = run_config.read(world.run / "config.json")
  assert config.sinks.num_sources == OLD + NEW
  assert after["step"] == 4
  old_rows = _rows(world.run, world.keys[:OLD])
  new_rows = _rows(world.run, world.keys[OLD:])
  num_rows = before[TABLES[0]].shape[2]
  # Both size classes are among them.
  assert num_rows > OLD * 2 and len(new_rows) > NEW * 2
  assert sorted(old_rows) == list(range(num_rows))
  assert sorted(new_rows) == list(range(num_rows, num_rows + len(new_rows)))
  for name in TABLES:
    kept = after[name][:, :, :num_rows]
    assert kept.tobytes() == before[name].tobytes(), name
    assert after[name].shape[2] == num_rows + len(new_rows)
  assert after[TABLES[3]][:, :, num_rows:].all()
  for name, leaf in before.items():
    if name.startswith("params.") and name != TABLES[0]:
      assert after[name].tobytes() == leaf.tobytes(), name


def test_the_run_says_where_it_came_from(world):
  record = json.loads((world.run / "grown.json").read_text())
  assert record["run"] == str(world.old) and record["step"] == 7
  assert record["num_sources"] == OLD and record["num_erased"] == 0
  sizes = f"sinks.num_sources: {OLD} -> {OLD + NEW}"
  assert sizes in record["settings"]
  assert "training.learn: all -> sinks" in record["settings"]
  assert not any(key in json.dumps(record) for key in world.keys)


def test_killed_and_started_again_ends_with_the_same_bits(
  world, nulls, tmp_path
):
  assert checkpoint.steps(world.run) == [2, 4]
  for name, step, command in (
    # Before the first save, and later without the flag.
    ("early", 2, _grow(world, tmp_path / "early")),
    (
      "late",
      4,
      ("train", "--data", world.data, "--run", tmp_path / "late"),
    ),
  ):
    run = tmp_path / name
    shutil.copytree(world.run, run)
    for saved in checkpoint.steps(run):
      if saved >= step:
        shutil.rmtree(run / "checkpoints" / str(saved))
    status, out, err = nulls(*command)
    assert (status, out) == (0, f"{run}: trained to step 4\n"), err
    _same_run(run, world.run)


def test_old_and_new_sources_are_erased_and_what_is_left_grows_on(
  world, nulls, refused, tmp_path
):
  erased, data, run = (tmp_path / name for name in ("erased", "data", "run"))
  gone = (world.keys[2], world.keys[OLD + 1])
  flags = [f"--source={key}" for key in gone]
  assert nulls("erase", "--run", world.run, "--out", erased, *flags)[0] == 0
  status, out, _ = nulls("verify", erased)
  assert status == 0, out
  (receipt,) = (erased / "receipts").glob("*.json")
  assert "The run that this one was grown from" in receipt.read_text()
  status, out, err = nulls(
    *("prepare", "--extend", erased, "--out", data),
    *("--documents", world.all_documents),
  )
  assert status == 0, err
  counts = json.loads((data / "manifest.json").read_text())["counts"]
  assert counts["documents_refused"] == 2
  assert counts["documents_out"] == OLD + NEW - 2
  assert counts["refusals"] == {"its source was erased from the run": 2}
  grow = ("train", "--grow-from", erased, "--data", data, "--run", run, *GROW)
  status, out, err = nulls(*grow)
  assert (status, out) == (0, f"{run}: trained to step 4\n"), err
  rows = _rows(erased, gone)
  before, after = _arrays(erased), _arrays(run)
  for name in TABLES:
    assert before[name].shape == after[name].shape
    assert not after[name][:, :, rows].any(), name
    assert (before[name] != after[name]).any(), name
  # Taken up again; but not from a run in which they were never erased.
  assert nulls(*grow)[0] == 0
  line = refused(
    *("train", "--grow-from", world.run, "--data", data),
    *("--run", tmp_path / "other", *GROW),
  )
  assert "2 sources are erased in it and not in" in line
  line = refused(
    *("train", "--grow-from", erased, "--data", world.data),
    *("--run", tmp_path / "other", *GROW),
  )
  assert "0 sources are erased in it" in line and "2 the other way" in line
  assert "--extend" in line


def test_what_does_not_go_on_where_the_old_run_ends_is_refused(
  world, refused, tmp_path
):
  run = tmp_path / "run"
  grow = ("train", "--grow-from", world.old, "--run", run)
  line = refused(
    *(*grow, "--data", world.data, "--model.d-model=16"),
    *("--sinks.size-classes=1", "--sinks.sinks-per-source=8"),
  )
  for text in (
    "model.d_model: 8 -> 16",
    "sinks.sinks_per_source: 4 -> 8",
    "sinks.size_classes: 2 -> 1",
  ):
    assert text in line
  line = refused(*grow, "--data", world.data, "--sinks.num-sources=10")
  assert "has 12 sources" in line and "rows for 1" in line
  line = refused(*grow, "--data", world.data, "--sinks.num-sources=3")
  assert "sinks.num_sources=3 is less than the 8 of" in line

  # Too few sources; one by another name; and other size classes.
  renamed = tmp_path / "renamed.jsonl"
  text = world.all_documents.read_text()
  renamed.write_text(text.replace(json.dumps(world.keys[0]), '"another"'))
  for name, documents, class_tokens in (
    ("few", world.new_documents, 160),
    ("renamed", renamed, 160),
    ("classes", world.all_documents, 10**6),
  ):
    prepare.prepare(
      job.Job(
        documents,
        dataclasses.replace(CONFIG.data, class_tokens=class_tokens),
        tokenizer_path=world.old / "tokenizer.model",
      ),
      tmp_path / name,
    )
    line = refused(*grow, "--data", tmp_path / name)
    assert f"do not begin with the 8 of {world.old}" in line
    assert f"--extend {world.old}" in line
  prepare.prepare(job.Job(world.all_documents, CONFIG.data), tmp_path / "all")
  line = refused(*grow, "--data", tmp_path / "all")
  assert f"its tokenizer is not that of {world.old}" in line

  line = refused(
    *("train", "--grow-from", tmp_path / "nowhere", "--run", run),
    *("--data", world.data),
  )
  assert "nowhere/config.json: not found" in line
  step = world.old / "checkpoints" / "3"
  line = refused(
    *("train", "--grow-from", step, "--run", run, "--data", world.data),
  )
  assert "no checkpoint of step 3; there are 7" in line
  assert not run.exists()


def test_a_run_goes_on_from_its_own_origin_only(world, refused, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(world.old, other)
  line = refused(
    *("train", "--grow-from", other, "--data", world.data),
    *("--run", world.run, *GROW),
  )
  assert f"was grown from step 7 of {world.old}, not from {other}" in line
  line = refused(
    *("train", "--grow-from", world.run, "--data", world.root / "old-data"),
    *("--run", world.old, *GROW),
  )
  assert f"{world.old}: this run was not grown from another" in line


def test_suspended_sources_are_restored_or_erased_first(
  world, refused, tmp_path
):
  old = tmp_path / "old"
  shutil.copytree(world.old, old)
  revocation.suspend(old, [world.keys[0]])
  line = refused(
    *("train", "--grow-from", old, "--data", world.data),
    *("--run", tmp_path / "run", *GROW),
  )
  assert "it has 1 suspended source (revocation list version 1)" in line
  assert "nulls restore" in line and "nulls erase" in line
