"""A run that is not in a folder, at a stand-in for a store of objects.

No real store is reached here: `gs://` goes to a folder, for `epath` and for
Orbax's driver alike.
"""

import contextlib
import json
import pathlib
import shutil

import pytest
from etils.epath import gpath
from etils.epath import testing as epath_testing
from orbax.checkpoint._src.path import gcs_utils

from nulls_jax import errors
from nulls_jax.training import checkpoint, storage

NAMES = ("tokenizer.model", "ledger.sqlite", "metrics.jsonl", "config.json")


@pytest.fixture
def store(tmp_path, monkeypatch):
  """Return the folder that stands in for `gs://bucket`."""
  folder = tmp_path / "store"
  folder.mkdir()
  (folder / "bucket").mkdir()

  def place(path):
    text = str(path)
    return text.replace("gs://", f"{folder}/") if "gs://" in text else text

  def moved(original, path, *others, **more):
    return original(place(path), *map(place_if_path, others), **more)

  def place_if_path(value):
    return place(value) if isinstance(value, str | pathlib.Path) else value

  def listed(original, path):
    return [
      found.replace(f"{folder}/", "gs://") for found in original(place(path))
    ]

  names = ("open", "exists", "isdir", "listdir", "makedirs", "mkdir")
  names += ("rmtree", "remove", "rename", "replace", "copy", "stat")
  backend = epath_testing._MockBackend(
    {**dict.fromkeys((*names, "walk"), moved), "glob": listed}
  )
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", backend)
  monkeypatch.setattr(
    gcs_utils,
    "get_kvstore_for_gcs",
    lambda path: {"driver": "file", "path": place(path)},
  )
  monkeypatch.setattr(
    gcs_utils, "is_hierarchical_namespace_enabled", lambda _: False
  )
  return folder / "bucket"


def test_a_folder_is_used_as_it_is(tmp_path):
  with storage.opened(tmp_path / "run") as place:
    assert place.local == place.root == tmp_path / "run"
    place.fetch()
    place.publish()
  assert not (tmp_path / "run").exists()


def test_files_go_there_and_back_whole(store):
  with storage.opened("gs://bucket/run") as place:
    place.fetch()
    assert list(place.local.iterdir()) == []
    for name in NAMES:
      (place.local / name).write_text(name)
    (place.local / "tensorboard").mkdir()
    (place.local / "tensorboard" / "events").write_bytes(b"1")
    place.publish()
    local = place.local
  assert not local.exists()
  run = store / "run"
  assert {path.name for path in run.iterdir()} == {*NAMES, "tensorboard"}
  assert (run / "tensorboard" / "events").read_bytes() == b"1"
  times = [(run / name).stat().st_mtime_ns for name in NAMES]
  assert max(times) == times[-1]  # The config says that all is there.
  with storage.opened("gs://bucket/run") as place:
    place.fetch()
    for name in NAMES:
      assert (place.local / name).read_text() == name
    (place.local / "metrics.jsonl").write_text("more")
    (run / "ledger.sqlite").write_text("as it was")
    place.publish()
  # Only what has changed is sent again.
  assert (run / "metrics.jsonl").read_text() == "more"
  assert (run / "ledger.sqlite").read_text() == "as it was"


def test_errors_name_the_place_and_not_the_folder_of_now(store):
  (store / "run").mkdir()
  (store / "run" / "thesis.txt").touch()
  with (
    pytest.raises(errors.UserError, match=r"^gs://bucket/run: not empty and"),
    storage.opened("gs://bucket/run") as place,
  ):
    place.fetch()
  with (
    pytest.raises(errors.MachineError, match=r"^gs://bucket/x: step 3$"),
    storage.opened("gs://bucket/x") as place,
  ):
    raise errors.MachineError(f"{place.local}: step 3")


def test_a_store_that_fails_is_told_in_one_line(store):
  shutil.rmtree(store)
  store.touch()
  with (
    pytest.raises(errors.MachineError, match=r"^gs://bucket/run cannot be rea"),
    storage.opened("gs://bucket/run") as place,
  ):
    (place.local / "config.json").write_text("{}")
    place.publish()


def test_trains_and_goes_on_at_a_store(tiny_run, store, nulls, tmp_path):
  """A run of a folder is copied there, cut short, and trained to its end."""
  run = shutil.copytree(tiny_run.path, store / "run")
  for step in tiny_run.kept_steps:
    if step > 80:
      shutil.rmtree(run / "checkpoints" / str(step))
  words = ("train", "--data", tiny_run.data, "--run", "gs://bucket/run")
  status, out, err = nulls(*words, *tiny_run.flags)
  assert (status, out) == (0, "gs://bucket/run: trained to step 120\n"), err
  assert checkpoint.steps("gs://bucket/run") == list(tiny_run.kept_steps)
  # As a copy of it is used, to erase for one.
  copy = shutil.copytree(run, tmp_path / "copy")
  assert checkpoint.read_metadata(copy, 120) == checkpoint.read_metadata(
    tiny_run.path, 120
  )
  found, expected = (
    [
      json.loads(line)["loss"]
      for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    for path in (copy, tiny_run.path)
  )
  assert found == expected
  status, out, _ = nulls(*words, *tiny_run.flags)
  assert (status, out) == (0, "gs://bucket/run: already trained, step 120\n")


def test_a_run_that_grows_is_not_written_to_a_store(tiny_run, store, refused):
  words = ("--data", tiny_run.data, "--run", "gs://bucket/grown")
  line = refused("train", *words, "--grow-from", tiny_run.path)
  assert "gs://bucket/grown: a run that grows from another is written to" in (
    line
  )
  with contextlib.suppress(StopIteration):
    assert next((store).iterdir()) is None
