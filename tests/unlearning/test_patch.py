"""Patches: the same erasure by another holder, bit for bit, or a refusal."""

import gzip
import json
import os
import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from nulls_jax import errors
from nulls_jax.commands import redaction
from nulls_jax.data import ledger, ledger_writing
from nulls_jax.unlearning import patch
from nulls_jax.unlearning.checkpoint import plan, storage
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.verification import scan, verify


def item_of(out):
  return out / "checkpoints" / "3" / "state"


def digests(out):
  config = plan.read_assignment(out / "checkpoints" / "3" / plan.STEP_FILE)
  return scan.scan(item_of(out), config, []).digests


def read_values(item):
  database = storage.Database.open(item)
  keys = database.keys()
  return dict(zip(keys, database.read(keys), strict=True))


@pytest.fixture(scope="module")
def made(make_run, keys, tmp_path_factory):
  """A folder with source, first, second (erasures), patch, and keys."""
  root = tmp_path_factory.mktemp("patches")
  key = ed25519.Ed25519PrivateKey.generate()
  pem = serialization.Encoding.PEM
  (root / "key.pem").write_bytes(
    key.private_bytes(
      pem,
      serialization.PrivateFormat.PKCS8,
      serialization.NoEncryption(),
    )
  )
  (root / "public.pem").write_bytes(
    key.public_key().public_bytes(
      pem, serialization.PublicFormat.SubjectPublicKeyInfo
    )
  )
  shutil.copytree(make_run().path, root / "source")
  erase.erase(root / "source", root / "first", keys[:2])
  erase.erase(
    root / "first",
    root / "second",
    keys[4:5],
    reference="case 5",
    signing_key=root / "key.pem",
  )
  patch.export(root / "second", root / "patch")
  return root


def test_it_is_small_and_has_no_keys(made, keys):
  content = (made / "patch").read_bytes()
  # Two receipts of 35 arrays, most of it digests; the item has 150,000.
  assert len(content) < 17_000
  text = gzip.decompress(content).decode()
  assert not any(key in text for key in keys)
  read = patch.read(made / "patch")
  assert [one.number for one in read.receipts] == [1, 2]
  assert read.envelopes[0] is None and read.envelopes[1]


def test_the_same_copy_ends_the_same(made, keys, tmp_path):
  out = tmp_path / "out"
  done = patch.apply(made / "patch", made / "source", out)
  assert read_values(item_of(out)) == read_values(item_of(made / "second"))
  with ledger.Ledger.open(out / "ledger.sqlite") as sources:
    assert [source.index for source in sources.erased()] == [1, 2, 5]
  assert keys[4].encode() not in (out / "ledger.sqlite").read_bytes()
  (one,) = receipt.chain(out)
  assert one.path == done.receipt
  name = receipt.chain(made / "second")[1].name
  assert one.predicate["reference"] == f"case 5, patch of {name}"
  assert verify.verify(out, source=made / "source").verified


def test_other_chunks_end_with_the_same_arrays(made, make_run, keys, tmp_path):
  """Saved from eight devices in small chunks: other values, same arrays."""
  copy = make_run(num_devices=8, chunk_byte_size=1024).path
  out = tmp_path / "out"
  patch.apply(made / "patch", copy, out)
  assert len(read_values(item_of(out))) > len(
    read_values(item_of(made / "second"))
  )
  assert digests(out) == digests(made / "second")
  assert verify.verify(out, source=copy).verified


def test_what_is_left_to_apply(made, tmp_path):
  """A copy on which the first erasure was done gets the second only."""
  out = tmp_path / "out"
  done = patch.apply(made / "patch", made / "first", out)
  assert len(done.source_ids) == 1
  assert digests(out) == digests(made / "second")
  assert [one.number for one in receipt.chain(out)] == [1, 2]
  with pytest.raises(errors.UserError, match=r"is of another checkpoint: in"):
    patch.apply(made / "patch", made / "second", tmp_path / "again")


def test_a_dropped_optimizer(made, keys, tmp_path):
  erase.erase(made / "source", tmp_path / "a", keys[3:4], drop_optimizer=True)
  patch.export(tmp_path / "a", tmp_path / "patch")
  patch.apply(tmp_path / "patch", made / "source", tmp_path / "b")
  assert digests(tmp_path / "b") == digests(tmp_path / "a")
  assert not any("opt_state" in name for name in digests(tmp_path / "b"))


def test_every_step_or_one(made, keys, tmp_path):
  run = shutil.copytree(made / "source", tmp_path / "run")
  steps = run / "checkpoints"
  shutil.copytree(steps / "3", steps / "8")
  erase.erase(run, tmp_path / "both", keys[:1], all_steps=True)
  patch.export(tmp_path / "both", tmp_path / "patch")
  done = patch.apply(tmp_path / "patch", run, tmp_path / "a")
  assert done.steps == (3, 8)
  done = patch.apply(tmp_path / "patch", run, tmp_path / "b", step=8)
  assert done.steps == (8,)
  done = patch.apply(tmp_path / "patch", made / "source", tmp_path / "c")
  assert done.steps == (3,)
  shutil.copytree(steps / "3", steps / "9")
  with pytest.raises(
    errors.UserError,
    match=r"is of steps 3, 8 of \S+run, which has 3, 8, 9; name one",
  ):
    patch.apply(tmp_path / "patch", run, tmp_path / "d")
  with pytest.raises(
    errors.UserError, match=r"is of steps 3, 8, not of 9 of \S+run; give"
  ):
    patch.apply(tmp_path / "patch", run, tmp_path / "d", step=9)
  assert not (tmp_path / "d").exists()


def test_signed(made, tmp_path):
  out = tmp_path / "out"
  patch.apply(
    made / "patch",
    made / "source",
    out,
    public_key=made / "public.pem",
    signing_key=made / "key.pem",
    reference="mine",
  )
  assert receipt.chain(out)[0].predicate["reference"] == "mine"
  assert verify.verify(out, public_key=made / "public.pem").verified
  patch.export(made / "first", tmp_path / "unsigned")
  with pytest.raises(
    errors.UserError, match=r"0001-\S+: it is not signed; get"
  ):
    patch.apply(
      tmp_path / "unsigned",
      made / "source",
      tmp_path / "no",
      public_key=made / "public.pem",
    )
  assert not (tmp_path / "no").exists()


def test_another_checkpoint_is_refused(made, make_run, keys, tmp_path):
  changed = make_run(
    change=lambda state: {
      **state,
      "params": {
        **state["params"],
        "norm": {"scale": 1 + state["params"]["norm"]["scale"]},
      },
    }
  )
  with pytest.raises(
    errors.UserError,
    match=r"in step 3 of \S+ there differ params\.norm\.scale; give a copy",
  ):
    patch.apply(made / "patch", changed.path, tmp_path / "out")
  other = shutil.copytree(made / "source", tmp_path / "other")
  (other / "ledger.sqlite").unlink()
  with ledger_writing.Writer.create(other / "ledger.sqlite") as sources:
    sources.add_documents((key, 1, {}) for key in reversed(keys))
  with pytest.raises(errors.UserError, match=r"is of another run: the ledger"):
    patch.apply(made / "patch", other, tmp_path / "out")
  with pytest.raises(errors.UserError, match=r"source does not exist|exists"):
    patch.apply(made / "patch", made / "source", made / "first")
  assert [path.name for path in tmp_path.iterdir()] == ["other"]


def edit(change):
  def damage(path):
    content = json.loads(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(receipt.encode(content)))

  return damage


def edit_statement(content):
  content["receipts"][0]["statement"]["predicate"]["reference"] = "other"


def edit_and_rename(content):
  edit_statement(content)
  entry = content["receipts"][0]
  one = receipt.parse("x", receipt.encode(entry["statement"]))
  entry["name"] = one.name


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (edit(edit_statement), r"receipt 0001-\S+ was edited: by its content its"),
    (edit(edit_and_rename), r"the chain is broken: its predecessor is 0001-"),
    (
      edit(lambda content: content["receipts"][1].update(signatures=[{}])),
      r"signatures of 0002-\S+: no DSSE envelope",
    ),
    (
      edit(lambda content: content.update(format="nulls patch 0")),
      r"has the format 'nulls patch 0' and 2 receipts; this release reads",
    ),
    (edit(lambda content: content["receipts"].clear()), r"and 0 receipts; th"),
    (edit(lambda content: content.pop("receipts")), r"is no patch, or damaged"),
    (flip, r"is no patch, or damaged"),
    (lambda path: os.truncate(path, 100), r"is no patch, or damaged"),
    (lambda path: path.write_text("{}"), r"damaged \(Not a gzipped file"),
    (lambda path: path.unlink(), r"damaged \(No such file"),
  ],
)
def test_a_damaged_patch(damage, message, made, tmp_path):
  path = tmp_path / "patch"
  shutil.copyfile(made / "patch", path)
  damage(path)
  with pytest.raises(errors.UserError, match=message) as caught:
    patch.apply(path, made / "source", tmp_path / "out")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "out").exists()


def test_a_forged_patch_does_not_end_as_it_states(made, tmp_path, keys):
  """Another source under the digests of the first: nothing is kept."""
  path = tmp_path / "patch"
  patch.export(made / "first", path)

  def name_another(content):
    entry = content["receipts"][0]
    with ledger.Ledger.open(made / "source" / "ledger.sqlite") as sources:
      (other,) = sources.find(keys[7:8])
    entry["statement"]["predicate"]["sources"] = [
      {"id": f"{other.id:016x}", "index": other.index, "wasErased": False}
    ]
    content_of = receipt.encode(entry["statement"])
    entry["name"] = receipt.parse("x", content_of).name

  edit(name_another)(path)
  with pytest.raises(errors.MachineError, match=r"did not end as 0001-\S+ st"):
    patch.apply(path, made / "source", tmp_path / "out")
  assert [one.name for one in tmp_path.iterdir()] == ["patch"]


def test_export_refuses(made, tmp_path):
  for run, to, message in (
    (made / "none", tmp_path / "a", r"none does not exist; give an erased run"),
    (made / "source", tmp_path / "a", r"has no receipts, so nothing was era"),
    (made / "first", made / "patch", r"patch exists; give another file, or r"),
  ):
    with pytest.raises(errors.UserError, match=message):
      patch.export(run, to)
  with pytest.raises(errors.MachineError, match="cannot be written"):
    patch.export(made / "first", made / "patch" / "in a file")
  assert list(tmp_path.iterdir()) == []


def test_the_commands(made, tmp_path, capsys):
  path, out = tmp_path / "patch", tmp_path / "out"
  redaction.ExportPatch(output=made / "second", to=path).run()
  said = capsys.readouterr().out
  assert said == f"{path}: 2 erasures, {path.stat().st_size:,} bytes\n"
  assert path.read_bytes() == (made / "patch").read_bytes()
  redaction.ApplyPatch(
    file=path, checkpoint=made / "source" / "checkpoints" / "3", out=out
  ).run()
  assert "step 3, 3 sources erased" in capsys.readouterr().out
