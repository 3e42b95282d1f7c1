"""The command that shows the whole chain."""

import dataclasses
import pathlib
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
  """Train, unlearn, prove it: the whole chain, ending in one page.

  Without --documents on the generated encyclopedia, otherwise on real text.
  A second run reuses every finished step.

  Attributes:
    config: file with the settings of every model.
    out: folder for everything that is made.
    documents: JSON Lines of real text instead of the encyclopedia.
    num_erased: sources to erase.
    num_never_trained: sources that no model is trained on.
    kinds: assignments to show.
    seeds: trainings of every model; the first uses the config's seed.
  """

  config: pathlib.Path = pathlib.Path("configs/demo.py")
  out: pathlib.Path = pathlib.Path("runs/demo")
  documents: pathlib.Path | None = None
  num_erased: int | None = None
  num_never_trained: int | None = None
  kinds: tuple[Literal["hashed", "dedicated"], ...] = ("hashed", "dedicated")
  seeds: int = 1

  def run(self) -> None:
    from nulls_jax.study import chain

    given = {
      "num_erased": self.num_erased,
      "num_never_trained": self.num_never_trained,
    }
    chain.run_study(
      self.config,
      self.out,
      documents=self.documents,
      kinds=self.kinds,
      seeds=self.seeds,
      **{name: value for name, value in given.items() if value is not None},
    )
