"""Commands that erase."""

import dataclasses
import pathlib

from nulls_jax.commands import arguments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Erase(arguments.SourceFlags):
  """Write a checkpoint in which the sinks of sources are zero.

  Offline: no gradient, no data, no model code. The original is not touched;
  it still holds the sources, as do its copies.

  Attributes:
    checkpoint: a run directory (its newest step) or one of its steps.
    out: folder of the redacted run; must not exist.
  """

  checkpoint: arguments.CheckpointPath
  out: pathlib.Path

  def run(self) -> None:
    from nulls_jax.unlearning import erase

    run_dir, step = arguments.locate(self.checkpoint)
    done = erase.erase(
      run_dir, self.out, self.keys(), step=step, progress=arguments.say_progress
    )
    rows = sum(map(sum, done.rows_zeroed))
    print(
      f"{done.out_dir}: step {done.step}, {len(done.source_ids)} sources "
      f"erased, {rows} rows zero in each of {len(done.arrays_edited)} arrays, "
      f"{done.num_arrays_untouched} arrays equal byte for byte "
      f"({done.seconds:.1f} s)"
    )
