"""An erasure as a small file for another holder of the same checkpoint.

Owns the patch file (gzip of JSON: the statements of the erasures, which have
all that an erasure needs, the sources' ids and indices and the digests before
and after), and the order of checks when it is applied. It holds no weights,
and no keys unless the receipts name them.

Invariant: a patch is applied only to arrays that have the digests with which
the erasure began, and is kept only if they end with the same ones.
"""

import dataclasses
import gzip
import json
import os
import pathlib
import shutil
import zlib

from nulls_jax import errors, files
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.erasure import erase, rewrite
from nulls_jax.unlearning.receipts import receipt, signing
from nulls_jax.unlearning.verification import papers as verify_receipts
from nulls_jax.unlearning.verification import scan

FORMAT = "nulls patch 1"
_NO_PATCH = (
  OSError,
  EOFError,
  zlib.error,
  ValueError,
  KeyError,
  TypeError,
  RecursionError,
)
_REMEDY = "get the patch again from whoever exported it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patch:
  """A patch file.

  Attributes:
    receipts: of erasures, each the next one's predecessor.
    envelopes: the signed ones' DSSE envelopes, None where there is none.
  """

  receipts: tuple[receipt.Receipt, ...]
  envelopes: tuple[bytes | None, ...]


def export(run_dir: str | os.PathLike, path: str | os.PathLike) -> Patch:
  """Write the erasures of a run as a patch.

  Of a run that was repaired, only what was erased after the repair: a repair
  trains, which a patch cannot repeat.

  Raises:
    errors.UserError: the run has no receipts or a broken chain, its newest
      receipt is a repair's, or the file exists.
    errors.MachineError: it cannot be written.
  """
  run_dir, path = pathlib.Path(run_dir), pathlib.Path(path)
  if not run_dir.is_dir():
    raise errors.UserError(f"{run_dir} does not exist; give an erased run")
  if os.path.lexists(path):
    raise errors.UserError(f"{path} exists; give another file, or remove it")
  receipts = receipt.chain(run_dir)
  if not receipts:
    raise errors.UserError(
      f"{run_dir} has no receipts, so nothing was erased there; give the "
      "folder that `nulls erase` wrote"
    )
  verify_receipts.check_chain(receipts)
  repairs = [
    place
    for place, one in enumerate(receipts)
    if one.predicate["action"] == "repair"
  ]
  kept = receipts[repairs[-1] + 1 :] if repairs else receipts
  if not kept:
    raise errors.UserError(
      f"{run_dir} was repaired last, and a patch cannot repeat training; "
      "export the run that the repair began with"
    )
  patch = Patch(receipts=kept, envelopes=tuple(_envelope(one) for one in kept))
  content = {
    "format": FORMAT,
    "receipts": [
      {
        "name": one.name,
        "statement": one.statement,
        # The rest of an envelope is the statement once more.
        "signatures": envelope and json.loads(envelope)["signatures"],
      }
      for one, envelope in zip(patch.receipts, patch.envelopes, strict=True)
    ],
  }
  files.write_whole(path, gzip.compress(receipt.encode(content), mtime=0))
  return patch


def _envelope(one: receipt.Receipt) -> bytes | None:
  path = one.sibling(".dsse.json")
  if not path.exists():
    return None
  content = path.read_bytes()
  problem = signing.payload_problem(content, one.content)
  if problem:
    raise errors.UserError(f"{path}: {problem}; put the original back")
  return content


def read(path: str | os.PathLike) -> Patch:
  """Read a patch and check that its receipts are whole and linked.

  Raises:
    errors.UserError: it is missing, none, or a receipt in it was edited.
  """
  path = pathlib.Path(path)
  try:
    content = json.loads(gzip.decompress(path.read_bytes()))
    known = content["format"] == FORMAT
    entries = [
      (entry["name"], entry["statement"], entry["signatures"])
      for entry in content["receipts"]
    ]
  except _NO_PATCH as error:
    reason = getattr(error, "strerror", None) or error
    raise errors.UserError(
      f"{path} is no patch, or damaged ({reason}); give a file that `nulls "
      "patch export` wrote"
    ) from error
  if not known or not entries:
    raise errors.UserError(
      f"{path} has the format {content['format']!r} and {len(entries)} "
      f"receipts; this release reads {FORMAT!r} with at least one"
    )
  receipts: list[receipt.Receipt] = []
  envelopes: list[bytes | None] = []
  for name, statement, signatures in entries:
    one = receipt.parse(path / str(name), receipt.encode(statement))
    if one.name != name:
      raise errors.UserError(
        f"{path}: receipt {name} was edited: by its content its name is "
        f"{one.name}; {_REMEDY}"
      )
    if receipts:
      receipt.check_link(one, receipts[-1])
    envelope = signatures and signing.envelope_of(one.content, signatures)
    problem = envelope and signing.payload_problem(envelope, one.content)
    if problem:
      raise errors.UserError(f"{path}: signatures of {name}: {problem}")
    receipts.append(one)
    envelopes.append(envelope)
  verify_receipts.check_chain(receipts)
  if any(one.predicate["action"] != "erase" for one in receipts):
    raise errors.UserError(f"{path} has a receipt of a repair; {_REMEDY}")
  return Patch(receipts=tuple(receipts), envelopes=tuple(envelopes))


def apply(
  path: str | os.PathLike,
  run_dir: str | os.PathLike,
  out_dir: str | os.PathLike,
  *,
  step: int | None = None,
  reference: str | None = None,
  public_key: pathlib.Path | None = None,
  signing_key: pathlib.Path | None = None,
  progress: rewrite.Progress | None = None,
) -> erase.ErasureSummary:
  """Erase from a copy of the run what a patch erased.

  The arrays end bit for bit as in the run that the patch was exported from,
  however this copy's are chunked; the ledger too has the sources erased. The
  output has a receipt of its own, in this copy's chain.

  Args:
    path: the patch.
    run_dir: a run with the checkpoint that the erasure began with.
    out_dir: does not exist yet.
    step: the checkpoint to take; by default all that the patch is of.
    reference: for the receipt; by default the patch's, and its name.
    public_key: PEM file; the patch must be signed with this Ed25519 key.
    signing_key: PEM file of a private key to sign the new receipt with.
    progress: as of `erase.erase`; the check before is called "compare".

  Raises:
    errors.UserError: no such patch, a receipt in it was edited or is not
      signed with the key, the run's arrays or ledger are others than the
      erasure began with, or `erase.erase` refuses; nothing is written.
    errors.MachineError: the output is not what it was for the exporter;
      nothing is left behind.
  """
  patch = read(path)
  run_dir, out_dir = pathlib.Path(run_dir), pathlib.Path(out_dir)
  newest = patch.receipts[-1]
  if public_key is not None:
    _check_signature(path, patch, pathlib.Path(public_key))
  steps = _choose_steps(path, newest, run_dir, step)
  _check_ledger(path, newest, run_dir)
  remaining = _match(path, patch, run_dir, steps, progress)
  ids = {
    int(source["id"], 16): None
    for one in remaining
    for source in one.predicate["sources"]
  }
  if reference is None:
    stated = newest.predicate["reference"]
    reference = f"{stated + ', ' if stated else ''}patch of {newest.name}"
  done = erase.erase(
    run_dir,
    out_dir,
    list(ids),
    step=steps[0] if len(steps) == 1 else None,
    all_steps=len(steps) > 1,
    drop_optimizer=newest.predicate["optimizer"] == "dropped",
    reference=reference,
    signing_key=signing_key,
    progress=progress,
  )
  _check_result(done, newest)
  return done


def _check_signature(path, patch: Patch, public_key: pathlib.Path) -> None:
  newest, envelope = patch.receipts[-1], patch.envelopes[-1]
  problem = "it is not signed"
  if envelope is not None:
    problem = signing.check(envelope, newest.content, public_key)
  if problem:
    raise errors.UserError(f"{path}: {newest.name}: {problem}; {_REMEDY}")


def _choose_steps(path, newest, run_dir, step: int | None) -> list[int]:
  """Return the steps to erase, of those that the patch is of."""
  covered = {one["step"] for one in newest.predicate["steps"]}
  present = {int(one.name) for one in plan.find_steps(run_dir)}
  common = sorted(covered & present)
  if step is not None:
    common = [number for number in common if number == step]
  if not common:
    asked = present if step is None else {step}
    raise errors.UserError(
      f"{path} is of steps {errors.listing(sorted(covered))}, not of "
      f"{errors.listing(sorted(asked))} of {run_dir}; give a run with the "
      "checkpoint that was erased"
    )
  if len(common) > 1 and set(common) != present:
    raise errors.UserError(
      f"{path} is of steps {errors.listing(common)} of {run_dir}, which has "
      f"{errors.listing(sorted(present))}; name one as RUN/checkpoints/STEP"
    )
  return common


def _check_ledger(path, newest, run_dir: pathlib.Path) -> None:
  with ledger_lib.Ledger.open(run_dir / plan.LEDGER_FILE) as ledger:
    found = ledger.fingerprint()
  if found != newest.predicate["ledgerFingerprint"]["sha256"]:
    raise errors.UserError(
      f"{path} is of another run: the ledger of {run_dir} has other sources"
    )


def _match(
  path, patch: Patch, run_dir, steps, progress
) -> tuple[receipt.Receipt, ...]:
  """Return the receipts that are still to be applied, by the digests."""
  say = progress or (lambda stage, done, total: None)
  digests = {}
  for number in steps:
    directory = run_dir / plan.CHECKPOINTS / str(number)
    config = plan.read_assignment(directory / plan.STEP_FILE)
    found = scan.scan(
      directory / plan.ITEM,
      config,
      [],
      lambda done, total: say("compare", done, total),
    )
    digests[number] = found.digests
  for place, one in enumerate(patch.receipts):
    began = _digests(one, steps, "before")
    if began == digests:
      return patch.receipts[place:]
  began = _digests(patch.receipts[0], steps, "before")
  for number in steps:
    names = verify_receipts.differing(digests[number], began.get(number, {}))
    if names:
      break
  raise errors.UserError(
    f"{path} is of another checkpoint: in step {number} of {run_dir} there "
    f"differ {names}; give a copy of the checkpoint that was erased"
  )


def _digests(one, steps, when: str) -> dict[int, dict[str, str]]:
  return {
    step["step"]: verify_receipts.digests_of(step, when)
    for step in one.predicate["steps"]
    if step["step"] in steps
  }


def _check_result(done: erase.ErasureSummary, newest) -> None:
  written = receipt.read(done.receipt)
  expected = _digests(newest, done.steps, "after")
  if _digests(written, done.steps, "after") != expected:
    shutil.rmtree(done.out_dir)
    raise errors.MachineError(
      f"{done.out_dir}: the arrays did not end as {newest.name} states; "
      "nothing was kept: check memory and disk, and repeat"
    )
