"""Redaction where sources own rows by their size: all of them, and no more."""

import json
import sqlite3

import jax
import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import ledger_writing
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.revocation import status
from nulls_jax.unlearning.verification import verify

# Classes of the sources: 0, 2, 1, 5 (of which 3 classes make 2), 0, 1, 2, 0.
# Shares from 0 on: 0, 1-4, 5-6, 7-10, 11, 12-13, 14-17, 18; two rows each.
DEDICATED_ROWS = {1: range(2, 10), 3: range(14, 22), 5: range(24, 28)}


def _tables(state):
  leaves = jax.tree_util.tree_flatten_with_path(state)[0]
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in leaves
    if "sinks" in jax.tree_util.keystr(path)
  }


def _write_status_files(run, out):
  """Settings as training writes them; the made runs have less."""
  settings = json.loads((run.path / "config.json").read_text("utf-8"))
  settings["model"] = {"num_layers": 2}
  (out / "config.json").write_text(json.dumps(settings), "utf-8")


def test_all_shares_of_a_source_are_erased_and_nothing_else(
  make_run, keys, tmp_path
):
  run = make_run(kind="dedicated sizes")
  first, second = tmp_path / "first", tmp_path / "second"
  erase.erase(run.path, first, [keys[3]])
  done = erase.erase(first, second, [keys[1], keys[5]])
  assert done.rows_zeroed == ((12, 12), (12, 12))
  dead = np.zeros(256, bool)
  for rows in DEDICATED_ROWS.values():
    dead[rows] = True
  before, after = _tables(run.state), _tables(run.restore(second))
  assert len(after) == 3
  for name, table in after.items():
    assert not table[:, :, dead].any()
    np.testing.assert_array_equal(table[:, :, ~dead], before[name][:, :, ~dead])
    assert before[name][:, :, dead].any(axis=-1).all()
  found = verify.verify(second, source=run.path)
  assert found.verified, found.checks
  assert any("80 rows of 3 sources are" in str(one) for one in found.checks)
  one, two = (one.predicate for one in receipt.chain(second))
  assert one["assignment"]["size_classes"] == 3
  assert one["assignment"]["num_shares"] == 128
  assert [step["numRowsZeroed"] for step in one["steps"]] == [32]
  assert one["ledgerFingerprint"] == two["ledgerFingerprint"]
  _write_status_files(run, second)
  assert status.read(second).dead_rows == ((20, 20), (20, 20))


def test_a_large_source_of_a_shared_pool_loses_all_its_draws(
  make_run, keys, tmp_path
):
  run, out = make_run(kind="hashed sizes"), tmp_path / "out"
  done = erase.erase(run.path, out, [keys[1], keys[0]])
  # 16 rows a stratum of the large one, 4 of the small one, a few shared.
  for counts in done.rows_zeroed:
    assert all(16 <= count <= 20 for count in counts)
  found = verify.verify(out, source=run.path)
  assert found.verified, found.checks
  _write_status_files(run, out)
  assert status.read(out).dead_rows == done.rows_zeroed
  (table,) = (
    table
    for name, table in _tables(run.restore(out)).items()
    if "params" in name
  )
  zero = ~table.any(axis=-1)
  assert zero.sum(axis=-1).tolist() == [list(one) for one in done.rows_zeroed]


def test_a_ledger_of_other_sizes_is_another_runs(own_run, keys, tmp_path):
  run = own_run(kind="dedicated sizes")
  path = run.path / "ledger.sqlite"
  connection = sqlite3.connect(path)
  connection.execute("UPDATE sources SET size_class = 1 WHERE source_index = 2")
  connection.commit()
  connection.close()
  with pytest.raises(errors.UserError, match="ledger of another run"):
    erase.erase(run.path, tmp_path / "out", [keys[3]])


def test_verify_sees_a_ledger_of_other_sizes(make_run, keys, tmp_path):
  run, out = make_run(kind="dedicated sizes"), tmp_path / "out"
  erase.erase(run.path, out, [keys[3]])
  with ledger_writing.Writer.open(out / "ledger.sqlite") as book:
    book.set_size_classes(np.array([0, 0, 0, 0, 2, 0, 0, 0, 0]))
  found = verify.verify(out)
  failed = {check.name for check in found.failures}
  assert {"ledger", "files"} <= failed


def test_a_run_of_the_release_before_is_erased_and_verified(
  own_run, keys, tmp_path
):
  run, out = own_run(kind="dedicated"), tmp_path / "out"
  path = run.step_dir / plan.STEP_FILE
  content = json.loads(path.read_text("utf-8"))
  for name in ("size_classes", "num_shares"):
    del content["custom_metadata"]["assignment"][name]
  path.write_text(json.dumps(content), "utf-8")
  book = sqlite3.connect(run.path / "ledger.sqlite")
  book.executescript(
    "ALTER TABLE sources DROP COLUMN size_class;"
    "UPDATE info SET value = 'nulls ledger 1' WHERE key = 'format';"
  )
  book.close()
  erase.erase(run.path, out, [keys[2]])
  found = verify.verify(out, source=run.path)
  assert found.verified, found.checks
  # A receipt of that release does not have the fields either.
  stated = receipt.chain(out)[0].predicate["assignment"]
  old = {
    name: value
    for name, value in stated.items()
    if name not in ("size_classes", "num_shares")
  }
  assert plan.parse_assignment(old, path) == run.config
