"""Every way to tamper with a redacted run, for real, is caught and named.

One run is erased twice, signed, and has a suspended source. Each test damages
a copy. `forge` then makes a receipt that fits the damage, as someone would
who can write receipts, so that what catches it is the scan.
"""

import contextlib
import copy
import hashlib
import shutil
import sqlite3

import numpy as np
import pytest
import tensorstore as ts
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from nulls_jax.sinks import assignment
from nulls_jax.unlearning.checkpoint import arrays, storage
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import page as receipt_page
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.revocation import revocation
from nulls_jax.unlearning.verification import scan, verify

TABLES = (
  "params.layers.sinks.table",
  "opt_state.1.0.mu.layers.sinks.table",
  "opt_state.1.0.nu.layers.sinks.table",
)


def write_keys(directory):
  """Write key.pem and public.pem as OpenSSL does."""
  key = ed25519.Ed25519PrivateKey.generate()
  pem = serialization.Encoding.PEM
  (directory / "key.pem").write_bytes(
    key.private_bytes(
      pem,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )
  )
  (directory / "public.pem").write_bytes(
    key.public_key().public_bytes(
      pem, serialization.PublicFormat.SubjectPublicKeyInfo
    )
  )


@pytest.fixture(scope="module")
def made(make_run, keys, tmp_path_factory):
  """A folder with source, first, second (signed), key.pem and public.pem."""
  root = tmp_path_factory.mktemp("tampering")
  write_keys(root)
  shutil.copytree(make_run().path, root / "source")
  revocation.suspend(root / "source", [keys[6]])
  for source, out, named in (
    ("source", "first", keys[:2]),
    ("first", "second", keys[4:5]),
  ):
    erase.erase(
      root / source,
      root / out,
      named,
      reference="case 17",
      signing_key=root / "key.pem",
    )
  return root


@pytest.fixture
def out(made, tmp_path):
  """A copy of the run that was erased twice, free to be damaged."""
  return shutil.copytree(made / "second", tmp_path / "out")


@pytest.fixture
def failures(made):
  """Return a function that verifies and gives the failures by their check."""

  def run(out, **options):
    options.setdefault("public_key", made / "public.pem")
    found = verify.verify(out, **options)
    assert found.verified == (not found.failures)
    assert ("NOT" in found.conclusion) == bool(found.failures)
    return {check.name: check.detail for check in found.failures}

  return run


def item_of(out):
  return out / "checkpoints" / "3" / "state"


def read_values(item):
  database = storage.Database.open(item)
  keys = database.keys()
  return dict(zip(keys, database.read(keys), strict=True))


def rewrite(item, values):
  """Write a fresh database: one version, nothing left of the old one."""
  (item / "manifest.ocdbt").unlink()
  shutil.rmtree(item / "d")
  storage.Database.create(item).write(values.items())


def change_array(item, name, change, values):
  """Decode an array's only chunk, change it, and encode it in `values`."""
  found = arrays.read_arrays(storage.Database.open(item))
  (array,) = (one for one in found if one.name == name)
  (chunk,) = array.chunks()
  codec = arrays.Codec(array)
  elements = codec.decode(chunk, values[chunk.key], item)
  change(elements)
  values[chunk.key] = codec.encode(chunk, elements)
  return chunk.key


def first_row(key, index):
  """Return (layer 1, stratum, row) of a source."""
  config = assignment.SinkConfig(
    kind="hashed", pool_size=512, sinks_per_source=8, strata=2, seed=7
  )
  words = assignment.routing_words(
    config,
    np.asarray([assignment.source_id(key)], np.uint64),
    np.array([index]),
  )
  return 1, 1, int(assignment.rows(config, words, 1)[0, 1, 0])


def forge(out, change=lambda predicate: None):
  """Replace the newest receipt by one that fits the files, and its page."""
  newest = receipt.chain(out)[-1]
  statement = copy.deepcopy(newest.statement)
  predicate = statement["predicate"]
  config = dict(predicate["assignment"])
  del config["version"]
  config = assignment.SinkConfig(**config)
  digests = scan.scan(item_of(out), config, []).digests
  (step,) = predicate["steps"]
  for array in step["arrays"]:
    array["after"] = digests[array["name"]]
  step["numArraysUntouched"] = sum(
    array["before"] == array["after"] for array in step["arrays"]
  )
  change(predicate)
  subjects = [
    {
      "name": receipt.array_subject(3, name),
      "digest": {receipt.ARRAY_DIGEST: digest},
    }
    for name, digest in digests.items()
  ] + [
    {"name": name, "digest": {"sha256": digest}}
    for name, digest in receipt.file_digests(out).items()
  ]
  statement["subject"] = sorted(subjects, key=lambda one: one["name"])
  replace(newest, statement)


def replace(old, statement):
  """Put a statement, with its right name and page, in a receipt's place."""
  content = receipt.encode(statement)
  sha256 = hashlib.sha256(content).hexdigest()
  for suffix in (".json", ".html", ".dsse.json"):
    old.sibling(suffix).unlink(missing_ok=True)
  path = old.path.with_name(f"{old.number:04}-{sha256[:16]}.json")
  path.write_bytes(content)
  page = receipt_page.render(statement, path.name, sha256)
  path.with_suffix(".html").write_text(page)


def test_untampered_is_verified(made, out, failures):
  assert failures(out) == {}
  assert failures(out, source=made / "source") == {}
  assert failures(out, source=made / "first") == {}


def test_a_flipped_byte_in_any_file(made, out, failures):
  names = receipt.file_names(out) + [
    path.relative_to(out).as_posix()
    for path in [*(out / "receipts").iterdir(), out / "revocations.jsonl"]
  ]
  assert len(names) >= 17
  for name in names:
    path = out / name
    content = path.read_bytes()
    for place in (len(content) // 2, len(content) - 1):
      damaged = bytearray(content)
      damaged[place] ^= 1
      path.write_bytes(damaged)
      found = failures(out)
      if name == "revocations.jsonl":
        expected = "suspended"
      elif not name.startswith("receipts/"):
        expected = "files"
        assert name in found["files"]
      else:
        expected = {
          "html": "pages",
          "json": "signature" if "dsse" in name else "receipts",
        }[name.rpartition(".")[2]]
      assert expected in found, (name, place, found)
    path.write_bytes(content)
  assert failures(out) == {}


@pytest.mark.parametrize("table", TABLES)
def test_an_erased_row_written_back(table, made, out, failures, keys):
  """In a fresh database, with a receipt that fits it."""
  place = first_row(keys[1], 2)
  item, source = item_of(out), item_of(made / "source")
  row = []
  change_array(
    source, table, lambda old: row.append(old[place]), read_values(source)
  )
  values = read_values(item)

  def restore(elements):
    assert not elements[place].any()
    elements[place] = row[0]

  change_array(item, table, restore, values)
  rewrite(item, values)
  found = failures(out)
  assert found.keys() == {"arrays", "rows", "files"}
  assert table in found["arrays"]
  expected = f"{table} has 1 rows of erased sources (layer 1, stratum 1, row "
  assert f"{expected}{place[2]})" in found["rows"]

  forge(out)
  found = failures(out, public_key=None)
  # The scan, and that nothing but sinks of the named source may have changed.
  assert found.keys() == {"rows"}
  assert f"{expected}{place[2]})" in found["rows"]


def test_a_negative_zero_is_not_erased(out, failures, keys):
  item = item_of(out)
  place, values = first_row(keys[1], 2), read_values(item)

  def negate(elements):
    elements[place][3] = -0.0

  change_array(item, TABLES[0], negate, values)
  rewrite(item, values)
  forge(out)
  assert failures(out, public_key=None).keys() == {"rows"}


def test_a_removed_chunk(out, failures):
  item = item_of(out)
  values = read_values(item)
  del values["params.layers.sinks.table/c/0/0/0/0"]
  rewrite(item, values)
  found = failures(out)
  assert found.keys() == {"stored", "files"}
  assert (
    "chunks are missing: params.layers.sinks.table/c/0/0/0/0"
    in (found["stored"])
  )


def test_a_removed_data_file(out, failures):
  path = max(
    (item_of(out) / "d").iterdir(), key=lambda path: path.stat().st_size
  )
  path.unlink()
  found = failures(out)
  assert found.keys() == {"stored", "files"}
  assert f"missing: checkpoints/3/state/d/{path.name}" in found["files"]


@pytest.mark.parametrize("where", ["file", "node", "tree of versions"])
def test_an_older_generation_left_behind(where, made, out, failures):
  """Editing in place: the array reads zero, the old rows are still there."""
  item = item_of(out)
  name = TABLES[0]
  after = read_values(item)
  before = read_values(item_of(made / "source"))
  key = f"{name}/c/0/0/0/0"
  inline = 1_000_000 if where == "node" else 1024
  config = {"max_inline_value_bytes": inline, "version_tree_arity_log2": 1}
  (item / "manifest.ocdbt").unlink()
  shutil.rmtree(item / "d")
  store = ts.KvStore.open(
    {
      "driver": "ocdbt",
      "base": {"driver": "file", "path": f"{item}/"},
      "config": config,
    }
  ).result()
  with ts.Transaction() as transaction:
    for other, value in after.items():
      store.with_transaction(transaction)[other] = value
    store.with_transaction(transaction)[key] = before[key]
  # The more versions follow, the deeper the manifest hides the first ones.
  for _ in range(20 if where == "tree of versions" else 1):
    store[key] = after[key]
  assert read_values(item) == after

  forge(out)
  found = failures(out, public_key=None)
  assert found.keys() == {"rows"}
  assert f"{key} of version 2 still holds erased rows (layer" in found["rows"]


def test_an_older_generation_of_another_array(out, failures):
  item = item_of(out)
  values = read_values(item)
  key = "params.head.kernel/c/0/0"
  database = storage.Database.open(item)
  database.write([(key, values[TABLES[0] + "/c/0/0/0/0"])])
  database.write([(key, values[key])])
  forge(out)
  found = failures(out, public_key=None)
  assert found.keys() == {"rows"}
  assert f"{key} of version" in found["rows"]
  assert "differs from the newest" in found["rows"]


def test_a_column_statistic_put_back(make_run, keys, failures, tmp_path):
  """It mixes all rows, the erased ones too."""
  run, out = make_run(optimiser="factored"), tmp_path / "out"
  erase.erase(run.path, out, keys[:1])
  item, values = item_of(out), read_values(item_of(out))
  (name,) = scan.scan(item, run.config, []).columns
  (key,) = (key for key in values if key.startswith(f"{name}/c/"))
  values[key] = read_values(run.item)[key]
  rewrite(item, values)
  forge(out)
  found = failures(out, public_key=None)
  assert found.keys() == {"rows"}
  assert f"{name} still mixes erased rows" in found["rows"]


def test_bytes_that_no_version_refers_to(made, out, failures):
  item = item_of(out)
  value = read_values(item_of(made / "source"))[TABLES[0] + "/c/0/0/0/0"]
  path = next(iter((item / "d").iterdir()))
  size = path.stat().st_size
  with path.open("ab") as file:
    file.write(value)
  (item / "d" / "0123").write_bytes(value)
  forge(out)
  found = failures(out, public_key=None)
  assert found.keys() == {"stored"}
  assert (
    f"bytes {size} to {size + len(value)} of d/{path.name}" in (found["stored"])
  )
  assert "d/0123" in found["stored"]


def test_a_second_database_in_the_item(made, out, failures):
  """What Orbax leaves beside the merged one is scanned as well."""
  item = item_of(out)
  store = item / "ocdbt.process_0"
  store.mkdir()
  values = read_values(item_of(made / "source"))
  key = TABLES[1] + "/c/0/0/0/0"
  storage.Database.create(store).write([(key, values[key])])
  forge(out)
  found = failures(out, public_key=None)
  assert found.keys() == {"rows"}
  assert (
    f"{key} of version 2 of ocdbt.process_0 still holds erased rows"
    in (found["rows"])
  )


def test_a_row_erased_too_many(made, out, failures, keys):
  """The digest shows it; with the source, the row is named."""
  item = item_of(out)
  place, values = first_row(keys[7], 8), read_values(item)

  def erase_row(elements):
    assert elements[place].any()
    elements[place] = 0

  change_array(item, TABLES[2], erase_row, values)
  rewrite(item, values)
  found = failures(out)
  assert found.keys() == {"arrays", "files"}
  assert found["arrays"].endswith(TABLES[2])

  forge(out)
  assert failures(out, public_key=None) == {}
  found = failures(out, public_key=None, source=made / "source")
  assert found.keys() == {"rest"}
  assert (
    f"{TABLES[2]} differs from the source outside of the erased rows (layer "
    f"1, stratum 1, row {place[2]})" in found["rest"]
  )


def test_another_array_changed(made, out, failures):
  item = item_of(out)
  values = read_values(item)

  def change(elements):
    elements[0, 0] += 1

  change_array(item, "params.head.kernel", change, values)
  rewrite(item, values)
  assert failures(out).keys() == {"arrays", "files"}
  forge(out)
  found = failures(out, public_key=None, source=made / "first")
  # Not even a receipt that fits may say so of an array that is not edited.
  assert "params.head.kernel has another digest" in found["receipts"]
  assert "params.head.kernel differs from the source" in found["rest"]


# -- Receipts


def rename_source(predicate):
  predicate["sources"][0]["id"] = f"{assignment.source_id('other'):016x}"


def take_source_out(predicate):
  predicate["sources"] = []


def count_more(predicate):
  predicate["steps"][0]["numArraysUntouched"] += 1


def count_rows(predicate):
  predicate["steps"][0]["rowsZeroed"][0][0] -= 1
  predicate["steps"][0]["numRowsZeroed"] -= 1


@pytest.mark.parametrize(
  ("change", "check", "message"),
  [
    (rename_source, "ledger", "erased by a receipt and not in the ledger: "),
    (take_source_out, "ledger", "erased in the ledger and by no receipt: "),
    (count_more, "receipts", "32 arrays of step 3 have equal digests"),
    (count_rows, "rows", "the receipt counts other rows than its sources own"),
  ],
)
def test_a_receipt_edited_and_renamed(change, check, message, out, failures):
  forge(out, change)
  found = failures(out)
  assert message in found[check]
  assert "is not signed" in found["signature"]


def test_a_receipt_edited(out, failures):
  newest = receipt.chain(out)[-1]
  edited = newest.content.replace(b"case 17", b"case 18")
  assert edited != newest.content
  newest.path.write_bytes(edited)
  found = failures(out)
  assert found.keys() == {"receipts"}
  assert "was edited: by its content its name is 0002-" in found["receipts"]


def test_a_receipt_of_harmless_changes_needs_the_signature(made, out, failures):
  """Who can write all files can write a new history: keep or sign one."""

  def change(predicate):
    predicate["reference"] = "case 18"

  original = receipt.chain(made / "second")[-1]
  forge(out, change)
  assert failures(out, public_key=None) == {}
  found = failures(out, public_key=None, receipt_path=original.path)
  assert "of another run, or was edited" in found["held"]
  # Its old signature is of another statement.
  envelope = receipt.chain(out)[-1].sibling(".dsse.json")
  shutil.copyfile(original.sibling(".dsse.json"), envelope)
  assert "it holds another statement" in failures(out)["signature"]


def test_the_receipt_of_another_checkpoint(made, out, failures, keys, make_run):
  other = out.with_name("other")
  erase.erase(make_run(kind="dedicated").path, other, keys[:1])
  (held,) = receipt.chain(other)
  found = failures(out, receipt_path=held.path)
  assert found.keys() == {"held"}
  assert "not among the run's receipts" in found["held"]

  for path in (out / "receipts").iterdir():
    path.unlink()
  shutil.copytree(other / "receipts", out / "receipts", dirs_exist_ok=True)
  found = failures(out, public_key=None)
  assert found.keys() >= {"ledger", "stored", "files"}
  assert "another assignment than the receipt" in found["stored"]


def test_receipts_of_the_same_run_in_another_order(made, out, failures, keys):
  """The second receipt of a run whose first one erased something else."""
  erase.erase(made / "source", out.with_name("a"), keys[2:3])
  erase.erase(out.with_name("a"), out.with_name("b"), keys[4:5])
  first, second = receipt.chain(out)
  for suffix in (".json", ".html", ".dsse.json"):
    first.sibling(suffix).unlink()
  for path in (out.with_name("b") / "receipts").glob("0001-*"):
    shutil.copyfile(path, out / "receipts" / path.name)
  found = failures(out)
  assert found.keys() == {"receipts"}
  assert f"its predecessor is {first.name}, and 0001-" in found["receipts"]
  # Even with the link forged, the digests do not meet.
  statement = copy.deepcopy(second.statement)
  new_first = receipt.chain(out.with_name("b"))[0]
  statement["predicate"]["previous"] = {
    "name": new_first.name,
    "sha256": new_first.sha256,
  }
  replace(second, statement)
  found = failures(out)
  assert f"was not as {new_first.name} left it" in found["receipts"]


def test_a_broken_chain(made, out, failures):
  first = receipt.chain(out)[0]
  for suffix in (".json", ".html", ".dsse.json"):
    first.sibling(suffix).unlink()
  found = failures(out)
  assert found.keys() == {"receipts"}
  assert "receipts 2 are there, and one between or before" in found["receipts"]

  # Edited and renamed: the next one names another predecessor.
  shutil.rmtree(out / "receipts")
  shutil.copytree(made / "second" / "receipts", out / "receipts")
  statement = copy.deepcopy(first.statement)
  statement["predicate"]["reference"] = "case 16"
  replace(first, statement)
  found = failures(out)
  assert f"its predecessor is {first.name}, and 0001-" in found["receipts"]

  # The newest taken away: the rest is whole, and not of these files.
  shutil.rmtree(out / "receipts")
  shutil.copytree(made / "first" / "receipts", out / "receipts")
  found = failures(out)
  assert found.keys() == {"ledger", "arrays", "files"}
  assert "erased in the ledger and by no receipt" in found["ledger"]


@pytest.mark.parametrize(
  "name", ["note.txt", "checkpoints/3/state/rows.npy", "receipts/old.json"]
)
def test_an_extra_file(name, out, failures):
  (out / name).write_text("rows")
  found = failures(out)
  if name.startswith("receipts"):
    assert found.keys() == {"receipts"}
    assert "holds what is no receipt: old.json" in found["receipts"]
  else:
    assert f"extra: {name}" in found["files"]


def test_a_missing_file(out, failures):
  (out / "tokenizer.model").unlink()
  found = failures(out)
  assert found == {"files": "missing: tokenizer.model"}


def test_signature_by_another_key(out, failures, tmp_path):
  write_keys(tmp_path)
  found = failures(out, public_key=tmp_path / "public.pem")
  assert found.keys() == {"signature"}
  assert "not signed with" in found["signature"]


def test_a_page_edited_or_gone(out, failures):
  page = receipt.chain(out)[0].sibling(".html")
  page.write_text(page.read_text().replace("2 sources", "3 sources"))
  assert failures(out).keys() == {"pages"}
  page.unlink()
  assert failures(out) == {"pages": f"{page.name} is missing"}


def test_a_key_put_back_into_the_ledger(out, failures, keys):
  connection = sqlite3.connect(out / "ledger.sqlite")
  query = "UPDATE sources SET key = ? WHERE source_index = 1"
  with contextlib.closing(connection), connection:
    connection.execute(query, (keys[0],))
  forge(out)
  found = failures(out, public_key=None)
  assert found.keys() == {"ledger"}
  assert "still has a key of an erased source" in found["ledger"]


def test_a_source_left_active_in_the_ledger(made, out, failures):
  shutil.copyfile(made / "first" / "ledger.sqlite", out / "ledger.sqlite")
  forge(out)
  found = failures(out, public_key=None)
  assert "erased by a receipt and not in the ledger" in found["ledger"]
