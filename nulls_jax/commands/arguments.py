"""Flags and their meanings that several commands share."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from nulls_jax import errors

Many = tyro.conf.UseAppendAction
CheckpointPath = Annotated[pathlib.Path, tyro.conf.arg(aliases=["--run"])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFlags:
  """The sources that a command is about.

  Attributes:
    source: key of a source; may be repeated.
    sources_file: file of keys, one a line, or what `nulls find --out` wrote.
  """

  source: Many[tuple[str, ...]] = ()
  sources_file: pathlib.Path | None = None

  def keys(self, run_dir: pathlib.Path | None = None) -> list[str]:
    """Return the named keys, each once.

    Args:
      run_dir: whose ledger a selection must be from; None takes any.

    Raises:
      errors.UserError: none is named, the file cannot be read, or it is a
        selection from another ledger.
    """
    from nulls_jax.data import ledger, selection

    def fingerprint() -> str | None:
      if run_dir is None:
        return None
      with ledger.Ledger.open(run_dir / "ledger.sqlite") as sources:
        return sources.fingerprint()

    keys = list(self.source)
    if self.sources_file is not None:
      keys += selection.read_keys(self.sources_file, fingerprint)
    if not keys:
      raise errors.UserError(
        "no source named; give --source KEY or --sources-file FILE"
      )
    return list(dict.fromkeys(keys))


def locate(path: pathlib.Path) -> tuple[pathlib.Path, int | None]:
  """Accept a run directory or `RUN/checkpoints/STEP`."""
  if path.name.isdigit() and path.parent.name == "checkpoints":
    return path.parent.parent, int(path.name)
  return path, None


def say_progress(stage: str, done: int, total: int | None = None) -> None:
  """Show progress on a terminal; a log stays quiet."""
  if sys.stderr.isatty():
    of = f" of {total:,}" if total else ""
    print(f"\r{stage}: {done:,}{of}\x1b[K", end="\r", file=sys.stderr)
