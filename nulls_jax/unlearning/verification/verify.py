"""The check of a redacted run against its receipts, by whoever has the files.

Owns the order of the checks, and those of the ledger and of the arrays. Needs
the run, and if they are given a receipt, the source checkpoint and a public
key; imports neither JAX nor the model, and writes nothing.

Invariant: a run is called verified only if every check that was made passed,
and what was not checked is said.
"""

import mmap
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent import futures

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.receipts import receipt, signing
from nulls_jax.unlearning.receipts.receipt import Receipt
from nulls_jax.unlearning.revocation import revocation
from nulls_jax.unlearning.verification import checks as verification
from nulls_jax.unlearning.verification import original as verify_source
from nulls_jax.unlearning.verification import papers as verify_receipts
from nulls_jax.unlearning.verification import scan

# Called with "verify", the stored values done, and all of an item.
Progress = Callable[[str, int, int], None]


def verify(
  run_dir: str | os.PathLike,
  *,
  receipt_path: str | os.PathLike | None = None,
  source: str | os.PathLike | None = None,
  public_key: str | os.PathLike | None = None,
  progress: Progress | None = None,
) -> verification.Verification:
  """Check a redacted run against its receipts.

  Args:
    run_dir: the run that `erase`, `repair` or `patch` wrote.
    receipt_path: a receipt that was kept elsewhere; it must be one of the
      run's, and be the signed one if a key is given.
    source: the run that this one was made from, at any link of the chain: its
      digests, and the positive control.
    public_key: PEM file of an Ed25519 key that must have signed.
    progress: called with "verify", values done, and all of an item.

  Raises:
    errors.UserError: there is nothing to verify: no run, no receipts, no such
      source, receipt or key.
  """
  run_dir = pathlib.Path(run_dir)
  _check_input(run_dir, receipt_path, source, public_key)
  report = verification.Report()
  receipts: list[Receipt] = []

  def check_receipts() -> str:
    receipts.extend(receipt.chain(run_dir))
    return verify_receipts.check_chain(receipts)

  report.run("receipts", check_receipts)
  if receipts:
    _check_papers(report, receipts, receipt_path, public_key)
    _check_run(report, run_dir, receipts, source, progress)
  else:
    report.add("run", None, "there is no receipt to compare it with")
  return verification.Verification(run_dir=run_dir, checks=tuple(report.checks))


def _check_input(run_dir, receipt_path, source, public_key) -> None:
  if not run_dir.is_dir():
    raise errors.UserError(f"{run_dir} does not exist; give a redacted run")
  directory = run_dir / receipt.DIRECTORY
  if not directory.is_dir() or not any(directory.iterdir()):
    raise errors.UserError(
      f"{run_dir} has no receipts/, so nothing was erased there, or it was "
      "taken away; give the folder that `nulls erase` wrote"
    )
  for path in (receipt_path, source):
    if path is not None and not pathlib.Path(path).exists():
      raise errors.UserError(f"{path} does not exist; mend the path")
  if public_key is not None:
    signing.read_public_key(pathlib.Path(public_key))


def _check_papers(report, receipts, receipt_path, public_key) -> None:
  signed = receipts[-1]
  if receipt_path is not None:
    path = pathlib.Path(receipt_path)
    if report.run("held", verify_receipts.check_held, receipts, path):
      content = path.read_bytes()
      signed = next(one for one in receipts if one.content == content)
  if public_key is not None:
    path = pathlib.Path(public_key)
    report.run("signature", verify_receipts.check_signature, signed, path)
  try:
    found = verify_receipts.check_envelopes(receipts)
  except errors.UserError as error:
    report.add("signature", False, str(error))
  else:
    if found and public_key is None:
      report.add("signature", None, f"{found}; give --public-key")
  report.run("pages", verify_receipts.check_pages, receipts)


def _check_run(report, run_dir, receipts, source, progress) -> None:
  with futures.ThreadPoolExecutor(1) as pool:
    # Hashing files and decoding arrays wait for the disk at the same time.
    files = pool.submit(verify_receipts.check_files, run_dir, receipts[-1])
    report.run("ledger", check_ledger, run_dir, receipts)
    report.run("suspended", check_revocations, run_dir)
    sources = erased_sources(receipts)
    scans = {}
    for step in receipts[-1].predicate["steps"]:
      checker = _Step(run_dir, receipts[-1], step, sources, progress)
      if report.run("stored", checker.check_stored):
        scans[step["step"]] = checker.found
        report.run("arrays", checker.check_arrays)
        report.run("rows", checker.check_rows)
    report.run("files", files.result)
  if source is not None:
    verify_source.check(
      report, pathlib.Path(source), run_dir, receipts, sources, scans, progress
    )


# -- The ledger


def erased_sources(receipts: Sequence[Receipt]) -> list[ledger_lib.Source]:
  """Return all sources that the receipts say are erased, by index."""
  found = {}
  for one in receipts:
    for source in one.predicate["sources"]:
      found[source["index"], int(source["id"], 16)] = None
  return [
    ledger_lib.Source(
      index=index,
      id=source_id,
      key=None,
      num_documents=0,
      num_tokens=0,
      metadata={},
      status=ledger_lib.ERASED,
    )
    for index, source_id in sorted(found)
  ]


def check_ledger(run_dir: pathlib.Path, receipts: Sequence[Receipt]) -> str:
  """Check that the ledger has erased what the receipts say, and no more."""
  path = run_dir / plan.LEDGER_FILE
  stated = {(one.index, one.id) for one in erased_sources(receipts)}
  erased, fingerprint = _read_ledger(path)
  if fingerprint != receipts[-1].predicate["ledgerFingerprint"]["sha256"]:
    raise errors.UserError(f"{path.name} is the ledger of another run")
  found = {(one.index, one.id) for one in erased}
  for word, some in (
    ("erased by a receipt and not in the ledger", stated - found),
    ("erased in the ledger and by no receipt", found - stated),
  ):
    if some:
      listed = errors.listing((f"{one[1]:016x}" for one in sorted(some)), 5)
      raise errors.UserError(f"{word}: {listed}")
  left = [one for one in erased if one.key is not None or one.metadata]
  keys = {
    source["key"].encode()
    for one in receipts
    for source in one.predicate["sources"]
    if "key" in source
  }
  if left or any(_contains(path, key) for key in keys):
    raise errors.UserError(f"{path.name} still has a key of an erased source")
  number = errors.counted(len(erased), "source")
  return f"{number} erased, those of the receipts; no key is left"


def _read_ledger(path: pathlib.Path) -> tuple[list[ledger_lib.Source], str]:
  with ledger_lib.Ledger.open(path) as ledger:
    try:
      return ledger.erased(), ledger.fingerprint()
    except (ValueError, IndexError) as error:
      raise errors.UserError(f"{path.name} is damaged: {error}") from error


def check_revocations(run_dir: pathlib.Path) -> str:
  """Check that the list of suspended sources, if there is one, is whole."""
  revocations = revocation.read(run_dir)
  if not revocations.version:
    return "there is no list of suspended sources"
  return (
    f"the list, version {revocations.version}, is whole; "
    f"{len(revocations.suspended):,} sources"
  )


def _contains(path: pathlib.Path, text: bytes) -> bool:
  with (
    path.open("rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
  ):
    return content.find(text) >= 0


# -- The arrays of a step


class _Step:
  """The checks of one step, after one scan of it.

  Attributes:
    found: the scan, once `check_stored` has made it.
  """

  def __init__(self, run_dir, newest, step, sources, progress):
    self.found: scan.Scan | None = None
    self._run_dir = run_dir
    self._directory = run_dir / plan.CHECKPOINTS / str(step["step"])
    self._newest = newest
    self._step = step
    self._sources = sources
    self._progress = progress

  def _say(self, detail: str) -> str:
    return f"step {self._step['step']}: {detail}"

  def _fail(self, detail: str) -> errors.UserError:
    return errors.UserError(self._say(detail))

  def check_stored(self) -> str:
    """Decode all that is stored; fail on what it cannot account for."""
    plan.check_files(self._directory)
    self._check_metadata()
    item = self._directory / plan.ITEM
    config = plan.read_assignment(self._directory / plan.STEP_FILE)
    self.found = scan.scan(
      item,
      config,
      self._sources,
      self._say_progress,
      run_dir=self._run_dir,
    )
    survey = self.found.survey
    if survey.unaccounted:
      raise self._fail(
        "no version of the database accounts for "
        f"{errors.listing(survey.unaccounted, limit=3)}"
      )
    return self._say(
      f"{len(survey.newest):,} values of {survey.num_versions} versions "
      "decoded, every byte accounted for"
    )

  def _say_progress(self, done: int, total: int) -> None:
    if self._progress:
      self._progress("verify", done, total)

  def _check_metadata(self) -> None:
    path = self._directory / plan.STEP_FILE
    config = plan.read_assignment(path)
    predicate = self._newest.predicate
    if config != plan.parse_assignment(
      predicate["assignment"], self._newest.path
    ):
      raise self._fail(f"{path.name} has another assignment than the receipt")
    found = plan.read_custom_metadata(path).get("ledger_fingerprint")
    if found not in (None, predicate["ledgerFingerprint"]["sha256"]):
      raise self._fail(f"{path.name} is of a run with another ledger")

  def check_arrays(self) -> str:
    """Check that every array is the receipt's, digest for digest."""
    stated = verify_receipts.digests_of(self._step, "after")
    if self.found.digests != stated:
      names = verify_receipts.differing(self.found.digests, stated)
      raise self._fail(f"other values than the receipt states: {names}")
    described = {
      array["name"]: (tuple(array["shape"]), array["dataType"])
      for array in self._step["arrays"]
    }
    for array in self.found.arrays:
      if described[array.name] != (array.shape, array.data_type):
        raise self._fail(f"{array.name} has another shape or type")
    return self._say(f"{len(stated)} digests as stated")

  def _check_counts(self) -> None:
    """Check the count of the rows of the newest receipt's own sources."""
    counts = self._step["rowsZeroed"]
    own = erased_sources([self._newest])
    if not own:
      return
    config = plan.read_assignment(self._directory / plan.STEP_FILE)
    rows = plan.rows_to_zero(config, own, len(counts), self._run_dir)
    if [list(layer) for layer in rows.counts()] != counts:
      raise self._fail("the receipt counts other rows than its sources own")

  def check_rows(self) -> str:
    """Check that no erased row is left, in whatever version."""
    found = self.found
    alive = [
      f"{name} has {rows.num_alive} rows of erased sources ({place})"
      for name, rows in found.rows.items()
      for place in rows.places[:1]
    ]
    alive += found.superseded
    if alive:
      raise self._fail(errors.listing(alive, limit=3))
    if self._newest.predicate["action"] == "erase" and found.uneven_columns:
      raise self._fail(
        f"{errors.listing(found.uneven_columns)} still mixes erased rows"
      )
    if found.named is None:
      return self._say("no source is erased")
    self._check_counts()
    num_rows = sum(map(sum, found.named.counts()))
    number = errors.counted(len(self._sources), "source")
    return self._say(
      f"{num_rows:,} rows of {number} are zero in each of "
      f"{len(found.rows)} arrays, in every version"
    )
