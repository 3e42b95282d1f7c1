"""The command that gives the surviving sinks what an erasure cost them."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from nulls_jax.commands import arguments
from nulls_jax.training.config import RepairConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repair(RepairConfig):
  """Train the surviving sinks of an erased run, and nothing else.

  For hashed pools, whose erased rows other sources had shared. Only documents
  of retained sources teach; erased and suspended ones do not, even if the
  dataset still has them. The erased run is not touched.

  Attributes:
    checkpoint: an erased run (its newest step) or one of its steps.
    data: a prepared dataset: the run's, or one prepared with --exclude and
      the run's --tokenizer.
    out: folder of the repaired run; must not exist.
    reference: of the request, for the receipt, such as a case number.
    sign_key: PEM file of a private Ed25519 key to sign the receipt with.
  """

  checkpoint: arguments.CheckpointPath
  data: Annotated[pathlib.Path, tyro.conf.arg(name="data")]
  out: pathlib.Path
  reference: str | None = None
  sign_key: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.training import repair

    run_dir, step = arguments.locate(self.checkpoint)
    report = repair.repair(
      run_dir,
      self.data,
      self.out,
      self,
      step=step,
      reference=self.reference,
      signing_key=self.sign_key,
      progress=arguments.say_progress,
    )
    sources, rows, lost = (
      report[name] for name in ("sources", "rows", "sinks_lost")
    )
    print(
      f"{self.out}: step {report['step']}, {report['num_steps']} updates on "
      f"{sources['taught']} of {sources['retained']} retained sources, "
      f"{sources['suspended']} suspended ({report['seconds']:.1f} s)\n"
      f"the {sources['erased']} erased sources took {lost['mean']:.1%} of a "
      f"retained source's sinks, {lost['largest']:.1%} at most\n"
      f"{_change(report['retained'], 'retained', 'with their sinks')}\n"
      f"{_change(report['deleted'], 'deleted', 'backbone only')}\n"
      f"{rows['moved']} of {rows['all']} sinks moved; {rows['erased']} erased "
      "ones are zero, all else is bit for bit as it was"
    )


def _change(found: dict, name: str, mode: str) -> str:
  if found["loss_before"] is None:
    return f"{name} documents: the dataset has none"
  same = found["loss_before"] == found["loss_after"]
  return (
    f"{name} documents, {mode}: loss {found['loss_before']:.3f} before, "
    f"{found['loss_after']:.3f} after{' (the same bits)' if same else ''}, of "
    f"{found['sources']} sources"
  )
