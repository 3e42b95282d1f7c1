"""Preparations that are killed, interrupted or in each other's way."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from nulls_jax import errors
from nulls_jax.data.preparation import dataset, job, prepare, work


def _start(corpus, out, workers, environment=None):
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "nulls_jax.cli", "prepare", *corpus.flags),
      *("--out", str(out), f"--workers={workers}"),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=environment,
  )


def test_killed_at_random_it_ends_with_the_same_bytes(
  many_blocks, contents, tmp_path
):
  """By SIGKILL, each time further on; what is done stays."""
  out, partial = tmp_path / "set", tmp_path / "set.partial"
  draw = random.Random()
  done = {}
  for workers, files, count in (
    (1, "samples/*.npz", draw.randint(1, 15)),
    (2, "blocks/*.json", draw.randint(1, 9)),
    (1, "blocks/*.json", draw.randint(11, 18)),
  ):
    process = _start(many_blocks, out, workers)
    while process.poll() is None and len(list(partial.glob(files))) < count:
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, (files, count, said)
    assert not out.exists()
    assert done == {path: path.stat().st_mtime_ns for path in done}
    done = {
      path: path.stat().st_mtime_ns
      for summary in partial.glob("blocks/*.json")
      for path in partial.glob(f"blocks/{summary.stem}*")
    }
  assert len(done) > 20
  many_blocks.prepare(out)
  assert contents(out) == contents(many_blocks.undisturbed)
  assert [path.name for path in tmp_path.iterdir()] == ["set"]


class _Interruption(Exception):
  """Stands for whatever ends a process."""


def test_it_goes_on_after_every_step(many_blocks, contents, tmp_path):
  """Ended at each report of progress in turn, and started again."""
  out = tmp_path / "set"
  stages = []
  for _ in range(100):
    calls = []

    def stop_soon(stage, done, total, calls=calls):
      if stage == "ledger" and stage in stages:
        return  # It begins anew each time.
      calls.append(stage)
      if len(calls) == 5:
        stages.append(stage)
        raise _Interruption

    try:
      many_blocks.prepare(out, progress=stop_soon)
      break
    except _Interruption:
      assert not out.exists()
  assert set(stages) == {"sample", "documents", "ledger", "rows"}
  assert len(stages) > 12
  assert contents(out) == contents(many_blocks.undisturbed)


def test_two_workers_write_the_same_bytes_without_jax(
  many_blocks, contents, tmp_path
):
  """The real command, where nobody can import JAX."""
  (tmp_path / "path" / "jax").mkdir(parents=True)
  (tmp_path / "path" / "jax" / "__init__.py").write_text(
    "raise SystemExit('somebody imports JAX')"
  )
  path = os.pathsep.join(
    [str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")]
  )
  process = _start(
    many_blocks, tmp_path / "set", 2, {**os.environ, "PYTHONPATH": path}
  )
  out, err = process.communicate()
  assert (process.returncode, err) == (0, "")
  assert "240 documents of 50 sources" in out
  assert re.search(r"refused 4: .*documents\.jsonl:61: not JSON", out), out
  assert contents(tmp_path / "set") == contents(many_blocks.undisturbed)


def test_the_corpus_is_many_blocks(many_blocks):
  manifest = dataset.Prepared.open(many_blocks.undisturbed).manifest
  assert len(manifest["files"]) > 6
  counts = manifest["counts"]
  assert (counts["documents_in"], counts["documents_out"]) == (244, 240)
  (said,) = counts["first_refusals"].values()
  assert said.startswith(f"{many_blocks.path}:61: not JSON")


def test_two_runs_on_one_output(many_blocks, refused, tmp_path):
  command = ("prepare", *many_blocks.flags, "--out", tmp_path / "set")
  with work.Work(tmp_path / "set.partial").locked():
    line = refused(*command)
    assert "another process is at work in" in line
    assert "wait for its end, or choose another --out" in line
    assert [path.name for path in tmp_path.iterdir()] == ["set.partial"]
  many_blocks.prepare(tmp_path / "set")


def test_unfinished_work_of_other_settings_is_kept(
  many_blocks, refused, tmp_path
):
  def stop(stage, done, total):
    if stage == "documents" and done:
      raise _Interruption

  with pytest.raises(_Interruption):
    many_blocks.prepare(tmp_path / "set", progress=stop)
  before = sorted(tmp_path.rglob("*"))
  command = ("prepare", *many_blocks.flags, "--out", tmp_path / "set")
  for flags, what in (
    (("--data.tile=48",), "settings (tile)"),
    (("--allow-no-source",), "--allow-no-source"),
    (("--sources=field:year",), "--sources or --text-field"),
  ):
    line = refused(*command, *flags)
    assert f"an unfinished preparation with another {what}; start" in line
  assert sorted(tmp_path.rglob("*")) == before


def test_documents_that_change_are_noticed(many_blocks, tmp_path):
  path = tmp_path / "documents.jsonl"
  path.write_bytes(many_blocks.path.read_bytes())

  def touch(stage, done, total):
    if stage == "documents" and done == total:
      os.utime(path, ns=(1, 1))

  with pytest.raises(errors.UserError, match="has changed while it was read"):
    prepare.prepare(
      job.Job(path, many_blocks.config, on_error="refuse"),
      tmp_path / "set",
      progress=touch,
    )
  assert [each.name for each in tmp_path.iterdir()] == ["documents.jsonl"]


def test_files_may_be_copied_anew_before_it_goes_on(many_blocks, tmp_path):
  """They have other times, and are read again for their digests."""
  path = tmp_path / "documents.jsonl"
  path.write_bytes(many_blocks.path.read_bytes())
  corpus = dataclasses.replace(many_blocks, path=path)

  def stop(stage, done, total):
    if stage == "documents" and done:
      raise _Interruption

  with pytest.raises(_Interruption):
    corpus.prepare(tmp_path / "set", progress=stop)
  os.utime(path, ns=(1, 1))
  done = sorted(tmp_path.glob("set.partial/blocks/*.json"))
  times = [each.stat().st_mtime_ns for each in done]

  def look(stage, done_bytes, total):
    if stage == "ledger":
      assert [each.stat().st_mtime_ns for each in done] == times

  assert done
  corpus.prepare(tmp_path / "set", progress=look)


def test_the_first_error_of_all_workers_is_told(many_blocks, tmp_path):
  """Bad lines in several blocks, read at once: always the first of them."""
  with pytest.raises(errors.UserError, match=r"documents\.jsonl:61: not JSON"):
    prepare.prepare(
      job.Job(many_blocks.path, many_blocks.config), tmp_path / "set", workers=2
    )
  assert not list(tmp_path.iterdir())


def test_a_leftover_is_deleted(many_blocks, tmp_path):
  """A process was killed when the dataset had its name, its work not yet."""
  many_blocks.prepare(tmp_path / "set")
  (tmp_path / "set.partial" / "blocks").mkdir(parents=True)
  manifest = many_blocks.prepare(tmp_path / "set")
  assert [path.name for path in tmp_path.iterdir()] == ["set"]
  text = (tmp_path / "set" / "manifest.json").read_text()
  assert json.loads(text) == manifest
