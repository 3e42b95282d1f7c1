"""A run loaded for use: its parameters, its routing, what it refuses."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data import ledger_writing
from nulls_jax.inference import restore
from nulls_jax.sinks import assignment
from nulls_jax.training import checkpoint
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.revocation import revocation


def test_loads_the_newest_step_or_the_named_one(tiny_run):
  """Onto the first device, whatever mesh has written it."""
  newest = restore.restore(tiny_run.path)
  assert (newest.step, newest.directory) == (120, tiny_run.path)
  assert newest.config == run_config.read(tiny_run.path / "config.json")
  assert newest.tokenizer.vocab_size == newest.config.model.vocab_size
  earlier = restore.restore(tiny_run.path, 80)
  assert earlier.step == 80
  for run in (newest, earlier):
    sums = checkpoint.checksums({"params": run.params})
    stored = checkpoint.read_metadata(tiny_run.path, run.step)["checksums"]
    assert sums.items() <= stored.items()
    for leaf in jax.tree.leaves(run.params):
      assert leaf.devices() == {jax.local_devices()[0]}
      assert leaf.dtype == np.float32
  assert checkpoint.checksums(newest.params) != checkpoint.checksums(
    earlier.params
  )


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_routes_are_the_words_of_the_ledger(kind, tiny_run):
  run = restore.restore(tiny_run.path)
  if kind == "dedicated":
    sinks = assignment.SinkConfig(kind=kind, num_sources=40)
    config = run_config.RunConfig(sinks=sinks)
    run = restore.Restored(
      run.directory, 1, config, {}, run.tokenizer, run.watch
    )
  first, last = tiny_run.keys[0], tiny_run.keys[-1]
  words = run.routes([last, None, first, last])
  assert words.dtype == np.uint32
  if kind == "dedicated":
    expected = [[0, 40], [0, 0], [0, 1], [0, 40]]
  else:
    ids = [assignment.split_id(assignment.source_id(k)) for k in (last, first)]
    expected = [ids[0], (0, 0), ids[1], ids[0]]
  np.testing.assert_array_equal(words, expected)
  assert not run.routes([None, None]).any()


def test_routes_refuse_what_cannot_be_activated(tiny_run, dense_run, tmp_path):
  key = tiny_run.keys[0]
  run = restore.restore(tiny_run.path)
  with pytest.raises(errors.UserError, match=r"2 unknown in \S+: 'Tole'.*'x'"):
    run.routes([key, "x", "Tole", None])
  with pytest.raises(errors.UserError, match=r"source key is empty"):
    run.routes([""])

  erase.erase(tiny_run.path, tmp_path / "erased", [key])
  erased = restore.restore(tmp_path / "erased")
  with pytest.raises(errors.UserError, match=rf"1 already erased: '{key}'"):
    erased.routes([tiny_run.keys[1], key])
  assert erased.routes(tiny_run.keys[1:]).all(axis=1).all()

  dense = restore.restore(dense_run)
  with pytest.raises(errors.UserError, match="a dense model has no sinks"):
    dense.routes([None, key])
  np.testing.assert_array_equal(dense.routes([None]), [[0, 0]])


def test_an_erased_run_lacks_the_rows_and_nothing_else(tiny_run, tmp_path):
  """The checksums that the erasure has written are checked by the load."""
  erase.erase(tiny_run.path, tmp_path / "erased", tiny_run.keys[:2])
  before, after = map(restore.restore, (tiny_run.path, tmp_path / "erased"))
  tables = [
    run.params["layers"].pop("sinks")["table"] for run in (before, after)
  ]
  for old, new in zip(
    jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True
  ):
    np.testing.assert_array_equal(old, new)
  old, new = map(np.asarray, tables)
  gone = (old != new).any(axis=-1)
  words = before.routes(tiny_run.keys[:2])
  rows = assignment.rows(before.config.sinks, words, 0)
  for stratum in range(2):
    expected = np.unique(rows[:, stratum])
    np.testing.assert_array_equal(np.flatnonzero(gone[0, stratum]), expected)
    assert not new[0, stratum, expected].any()


def test_a_run_without_checksums_is_not_checked(tiny_run, tmp_path):
  """Checkpoints of before they were written stay readable."""
  shutil.copytree(tiny_run.path, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "120" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  del content["custom_metadata"]["checksums"]
  path.write_text(json.dumps(content))
  assert restore.restore(tmp_path / "run").step == 120
  content["custom_metadata"]["format"] = 2
  path.write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match=r"\(format 2, expected 1\); use"):
    restore.restore(tmp_path / "run")


def test_a_run_of_a_tpu_is_used_where_there_is_none(tiny_run, tmp_path):
  """The kernel that it was trained with does not bind who loads it."""
  shutil.copytree(tiny_run.path, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "120" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  content["custom_metadata"]["config"]["model"]["attention"] = "splash"
  path.write_text(json.dumps(content))
  run, same = restore.restore(tmp_path / "run"), restore.restore(tiny_run.path)
  assert run.config == same.config


def test_values_that_were_not_saved_are_refused(tiny_run, tmp_path):
  shutil.copytree(tiny_run.path, tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "120" / "_CHECKPOINT_METADATA"
  content = json.loads(path.read_text())
  sums = content["custom_metadata"]["checksums"]
  sums["params.norm.scale"] += 1
  del sums["params.head.kernel"]
  path.write_text(json.dumps(content))
  with pytest.raises(errors.UserError) as info:
    restore.restore(tmp_path / "run")
  assert re.search(
    r"120 is damaged: params.head.kernel, params.norm.scale: other values than "
    r"were saved; put a copy of it back",
    str(info.value),
  )
  with pytest.raises(errors.UserError, match=r"damaged: params.head.kernel, p"):
    erase.erase(tmp_path / "run", tmp_path / "out", tiny_run.keys[:1])
  assert not (tmp_path / "out").exists()


def test_the_ledger_must_be_there(tiny_run, tmp_path):
  """Without it nobody knows what was erased: nothing is loaded."""
  shutil.copytree(tiny_run.path, tmp_path / "run")
  run = restore.restore(tmp_path / "run")
  (tmp_path / "run" / "ledger.sqlite").write_bytes(b"nothing")
  (words,) = restore.restore(tiny_run.path).routes(tiny_run.keys[:1])
  for content, expected in (
    (b"nothing", r"ledger\.sqlite is no ledger"),
    (None, r"ledger\.sqlite does not exist"),
  ):
    if content is None:
      (tmp_path / "run" / "ledger.sqlite").unlink()
    for attempt in (
      lambda: restore.restore(tmp_path / "run"),
      lambda: run.routes([tiny_run.keys[0]]),
      lambda: run.admit(words),
    ):
      with pytest.raises(errors.UserError, match=expected):
        attempt()
  assert not run.routes([None]).any()


def test_another_runs_ledger_is_refused(tiny_run, own):
  path = own.directory / "ledger.sqlite"
  path.unlink()
  with ledger_writing.Writer.create(path) as book:
    book.add_documents((key, 1, {}) for key in tiny_run.keys[::-1])
  with pytest.raises(
    errors.UserError, match=r"sqlite: not the ledger of .*120"
  ):
    restore.restore(own.directory)


# -- Suspended and erased sources


@pytest.fixture
def own(tiny_run, tmp_path):
  """The tiny run in a directory of its own, loaded."""
  path = tmp_path / "run"
  shutil.copytree(
    tiny_run.path, path, ignore=shutil.ignore_patterns("40", "80", "100")
  )
  run = restore.restore(tiny_run.path)
  return dataclasses.replace(run, directory=path, watch=revocation.Watch(path))


def _dedicated(run):
  """The run as if its sinks were dedicated, its parameters all ones."""
  sinks = assignment.SinkConfig(
    kind="dedicated", sinks_per_source=2, strata=2, num_sources=40
  )
  config = dataclasses.replace(run.config, sinks=sinks)
  table = np.ones((1, 2, 40, 48), np.float32)
  params = {"layers": {"sinks": {"table": table}}}
  return dataclasses.replace(run, config=config, params=params)


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_a_loaded_run_obeys_the_list_from_the_next_call(kind, own, tiny_run):
  run = own if kind == "hashed" else _dedicated(own)
  first, second, third = tiny_run.keys[:3]
  words = run.routes([first, None, second])
  np.testing.assert_array_equal(run.admit(words), words)
  revocation.suspend(run.directory, [first, third])
  assert run.revocations.version == 1
  expected = r"2 suspended \(revocation list version 1\): '.+', '.+'; use the"
  with pytest.raises(errors.UserError, match=expected):
    run.routes([first, second, third, None])
  with pytest.raises(errors.UserError, match=rf"1 suspended .* {first!r}; use"):
    run.admit(words)
  np.testing.assert_array_equal(run.admit(words[1:]), words[1:])
  np.testing.assert_array_equal(run.routes([second, None]), words[[2, 1]])
  revocation.restore(run.directory, [first])
  np.testing.assert_array_equal(run.routes([first, None, second]), words)
  np.testing.assert_array_equal(run.admit(words), words)


def test_a_load_obeys_the_list_or_fails(own, tiny_run):
  revocation.suspend(own.directory, tiny_run.keys[:1])
  run = restore.restore(own.directory)
  assert run.revocations == revocation.read(own.directory)
  with pytest.raises(errors.UserError, match="1 suspended"):
    run.routes(tiny_run.keys[:1])
  path = own.directory / revocation.FILE
  path.write_bytes(path.read_bytes().replace(b"suspend", b"restore"))
  for attempt in (
    lambda: restore.restore(own.directory),
    lambda: run.routes([tiny_run.keys[1]]),
    lambda: run.revocations,
  ):
    with pytest.raises(errors.UserError, match=r"line 1 was edited .*; a list"):
      attempt()


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_erased_and_suspended_are_named_in_one_line(kind, own, tiny_run):
  run = own if kind == "hashed" else _dedicated(own)
  words = run.routes(tiny_run.keys[:4])
  path = run.directory / "ledger.sqlite"
  with ledger_writing.Writer.open(path) as book:
    book.erase(tiny_run.keys[:2])
  revocation.suspend(run.directory, [tiny_run.keys[2]])
  ids = "|".join(
    f"{assignment.source_id(key):016x}" for key in tiny_run.keys[:2]
  )
  for attempt, name in (
    (lambda: run.routes(tiny_run.keys[:4]), "'.+'"),
    (lambda: run.admit(words), f"({ids})"),
  ):
    expected = (
      rf"2 already erased: {name}, {name}; 1 suspended .*version 1\): '.+'; use"
    )
    with pytest.raises(errors.UserError, match=expected):
      attempt()


STRANGE = {
  "hashed": ([[1, 2]], [[0, 1]]),
  # (1, n) would reach the rows of source n, (0, 41) those of the last.
  "dedicated": ([[1, 1]], [[1, 0]], [[0, 41]], [[2**32 - 1, 2**32 - 1]]),
}


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_words_of_no_source_are_refused(kind, own):
  run = own if kind == "hashed" else _dedicated(own)
  for words in STRANGE[kind]:
    with pytest.raises(errors.UserError, match=r"words of no source in .*: \("):
      run.admit(np.array(words, np.uint32))
  for words in (
    np.zeros((2, 2), np.float32),
    np.zeros(3, np.uint32),
    np.array([[0, -1]]),
    # These would be cut to the words of source 1.
    np.array([[2**32, 2**32 + 1]]),
  ):
    with pytest.raises(
      errors.UserError, match="are no routing words; expected"
    ):
      run.admit(words)


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_words_carry_the_size_and_no_other_is_admitted(kind, own, tiny_run):
  path = own.directory / "ledger.sqlite"
  with ledger_writing.Writer.open(path) as book:
    book.set_size_classes(np.array([0, 0, 2, 1, 3, *[0] * 36]))
  sinks = assignment.SinkConfig(
    kind=kind,
    pool_size=512,
    sinks_per_source=4,
    strata=2,
    size_classes=3,
    num_sources=40,
    # 1, 4, 2 and 4 of the first sources, and 36 others.
    num_shares=47,
  )
  config = dataclasses.replace(own.config, sinks=sinks)
  table = np.ones((1, 2, sinks.rows_per_stratum, 48), np.float32)
  params = {"layers": {"sinks": {"table": table}}}
  run = dataclasses.replace(own, config=config, params=params)
  words = run.routes([*tiny_run.keys[:5], tiny_run.keys[-1]])
  assert (words[:, 0] >> 28).tolist() == [0, 2, 1, 2, 0, 0]
  if kind == "dedicated":
    assert words[:, 1].tolist() == [1, 2, 6, 8, 12, 47]
  np.testing.assert_array_equal(run.admit(words), words)
  # Another class would reach rows of other sources, or too few of its own.
  for size_class in (1, 2, 3, 15):
    other = words[:1] + np.array([[size_class << 28, 0]], np.uint32)
    with pytest.raises(errors.UserError, match="words of no source"):
      run.admit(other)
  revocation.suspend(run.directory, tiny_run.keys[1:2])
  with pytest.raises(errors.UserError, match="1 suspended"):
    run.admit(words)
  with ledger_writing.Writer.open(path) as book:
    book.erase(tiny_run.keys[3:4])
  with pytest.raises(errors.UserError, match="1 already erased"):
    run.admit(words[3:4])
  np.testing.assert_array_equal(run.admit(words[4:]), words[4:])
  # All of its rows are looked at: not one may be left.
  rows = assignment.rows(sinks, words[3], 0)
  for stratum in range(2):
    table[0, stratum, rows[stratum, :-1]] = 0
  with pytest.raises(errors.UserError, match="erased are not zero"):
    run.with_zeroed(words[3:4])
  table[0, np.arange(2), rows[:, -1]] = 0
  run.with_zeroed(words[3:4]).admit(words[3:4])


def test_admitted_words_are_a_copy(own, tiny_run):
  """What is checked is what is used."""
  expected = own.routes([tiny_run.keys[0]])
  for dtype in (np.uint32, np.int64):
    words = expected.astype(dtype)
    admitted = own.admit(words)
    words[:] = 7
    assert admitted.dtype == np.uint32
    np.testing.assert_array_equal(admitted, expected)
  assert own.admit(np.zeros((0, 2), np.uint32)).shape == (0, 2)
  assert not own.admit(np.zeros((3, 1, 2), np.int64)).any()


@pytest.mark.parametrize("kind", ["hashed", "dedicated"])
def test_only_rows_of_zeros_are_shown_to_be_erased(kind, own, tiny_run):
  run = own if kind == "hashed" else _dedicated(own)
  words = run.routes(tiny_run.keys[:3])
  with pytest.raises(errors.UserError, match=r": '.+' not erased; only erased"):
    run.with_zeroed(words[:1])
  path = run.directory / "ledger.sqlite"
  with ledger_writing.Writer.open(path) as book:
    book.erase(tiny_run.keys[:2])
  with pytest.raises(
    errors.UserError, match="ledger calls erased are not zero"
  ):
    run.with_zeroed(words[:2])
  table = np.array(run.params["layers"]["sinks"]["table"])
  for layer in range(len(table)):
    for stratum in range(2):
      rows = assignment.rows(run.config.sinks, words[:2], layer)[:, stratum]
      table[layer, stratum, rows] = 0
  layers = {**run.params["layers"], "sinks": {"table": table}}
  run = dataclasses.replace(run, params={**run.params, "layers": layers})
  shown = run.with_zeroed(words[:1])
  np.testing.assert_array_equal(shown.admit(words[:1]), words[:1])
  for one, part in ((shown, words[:2]), (run, words[:1])):
    with pytest.raises(errors.UserError, match="1 already erased: "):
      one.admit(part)
