"""Commands that erase for good, check it, and pass it on."""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated

import tyro

from nulls_jax import errors
from nulls_jax.commands import arguments

_Output = Annotated[
  tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="OUTPUT")
]

# Of `nulls verify`: the files are readable, and not what the receipt says.
NOT_VERIFIED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Erase(arguments.SourceFlags):
  """Write a checkpoint in which the sinks of sources are zero.

  Offline: no gradient, no data, no model code. The original is not touched;
  it still holds the sources, as do its copies. A receipt is in the output.

  Attributes:
    checkpoint: a run directory (its newest step) or one of its steps.
    out: folder of the redacted run; must not exist.
    all_steps: every kept checkpoint instead of one.
    drop_optimizer: leave the optimiser's state out of the output.
    reference: of the request, for the receipt, such as a case number.
    name_keys: put the sources' keys into the receipt, which else has ids.
    sign_key: PEM file of a private Ed25519 key to sign the receipt with.
  """

  checkpoint: arguments.CheckpointPath
  out: pathlib.Path
  all_steps: bool = False
  drop_optimizer: bool = False
  reference: str | None = None
  name_keys: bool = False
  sign_key: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.unlearning.erasure import erase

    run_dir, step = arguments.locate(self.checkpoint)
    done = erase.erase(
      run_dir,
      self.out,
      self.keys(run_dir),
      step=step,
      all_steps=self.all_steps,
      drop_optimizer=self.drop_optimizer,
      reference=self.reference,
      name_keys=self.name_keys,
      signing_key=self.sign_key,
      progress=arguments.say_progress,
    )
    _say_erased(done)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
  """Check a redacted run against its receipts; needs no model code.

  Exit status 0: verified; 3: not verified; 2: there is nothing to verify.

  Attributes:
    output: the folder that erase, repair or patch wrote.
    receipt: a receipt that was kept elsewhere; must be one of the run's.
    checkpoint: the run that was erased: the same search must find the rows
      there, and all else must be equal.
    public_key: PEM file of the Ed25519 key that must have signed the receipt.
    json: print the checks as JSON.
    out: write the checks here as JSON, whatever they find.
  """

  output: _Output
  receipt: pathlib.Path | None = None
  checkpoint: pathlib.Path | None = None
  public_key: pathlib.Path | None = None
  json: bool = False
  out: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax import files
    from nulls_jax.unlearning.verification import verify

    source = self.checkpoint and arguments.locate(self.checkpoint)[0]
    found = verify.verify(
      arguments.locate(self.output)[0],
      receipt_path=self.receipt,
      source=source,
      public_key=self.public_key,
      progress=arguments.say_progress,
    )
    text = json.dumps(found.to_json(), indent=2)
    if self.out is not None:
      files.write_whole(self.out, f"{text}\n")
    if self.json:
      print(text)
    else:
      print(*found.checks, found.conclusion, sep="\n")
    if not found.verified:
      sys.exit(NOT_VERIFIED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportPatch:
  """Write the erasures of a run as a small file, without any weights.

  Attributes:
    output: the folder that erase wrote.
    to: the patch file; must not exist.
  """

  output: _Output
  to: pathlib.Path

  def run(self) -> None:
    from nulls_jax.unlearning import patch

    done = patch.export(self.output, self.to)
    print(
      f"{self.to}: {errors.counted(len(done.receipts), 'erasure')}, "
      f"{self.to.stat().st_size:,} bytes"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyPatch:
  """Erase from a copy of the checkpoint what a patch erased, bit for bit.

  Attributes:
    file: the patch.
    checkpoint: a run with the checkpoint that was erased, or one of its steps.
    out: folder of the redacted run; must not exist.
    reference: for the receipt; by default the patch's.
    public_key: PEM file of the Ed25519 key that must have signed the patch.
    sign_key: PEM file of a private Ed25519 key to sign the new receipt with.
  """

  file: Annotated[
    tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="FILE")
  ]
  checkpoint: arguments.CheckpointPath
  out: pathlib.Path
  reference: str | None = None
  public_key: pathlib.Path | None = None
  sign_key: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.unlearning import patch

    run_dir, step = arguments.locate(self.checkpoint)
    done = patch.apply(
      self.file,
      run_dir,
      self.out,
      step=step,
      reference=self.reference,
      public_key=self.public_key,
      signing_key=self.sign_key,
      progress=arguments.say_progress,
    )
    _say_erased(done)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReceiptPage:
  """Write the page of a receipt anew, to print and file.

  Attributes:
    receipt: the receipt, a .json file.
    to: the HTML file.
  """

  receipt: Annotated[
    tyro.conf.Positional[pathlib.Path], tyro.conf.arg(metavar="RECEIPT")
  ]
  to: pathlib.Path

  def run(self) -> None:
    from nulls_jax import files
    from nulls_jax.unlearning.receipts import page as receipt_page
    from nulls_jax.unlearning.receipts import receipt

    read = receipt.read(self.receipt)
    page = receipt_page.render(read.statement, read.name, read.sha256)
    files.write_whole(self.to, page)
    print(self.to)


def _say_erased(done) -> None:
  rows = sum(map(sum, done.rows_zeroed))
  steps = ", ".join(map(str, done.steps))
  number = errors.counted(len(done.source_ids), "source")
  print(
    f"{done.out_dir}: {'step' if len(done.steps) == 1 else 'steps'} {steps}, "
    f"{number} erased, {rows:,} rows zero in each of "
    f"{len(done.arrays_edited)} arrays, {done.num_arrays_untouched} arrays "
    f"equal byte for byte ({done.seconds:.1f} s)"
  )
  if done.already_erased:
    print(f"{len(done.already_erased)} of the sources had been erased before")
  print(f"receipt: {done.receipt}")
  print(f"not reached: {len(done.not_reached)} things that the receipt lists")
