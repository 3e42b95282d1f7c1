"""Commands that train, measure and use a model."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.cluster import places
from nulls_jax.commands import arguments


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  """Train a run, or take it up where it stands.

  Attributes:
    data: a prepared dataset.
    run_dir: where the run is or will be: a folder, or a place such as
      gs://BUCKET/RUN.
    grow_from: start a new run from this one (its newest step) or from one of
      its steps; its settings are the defaults of the flags below.
    config: file whose settings are the defaults of the flags below.
    cluster: which process this is, where several train one run.
    settings: the whole configuration.
  """

  data: Annotated[pathlib.Path, tyro.conf.arg(name="data")]
  # No `Path`, which would make one slash of two.
  run_dir: Annotated[str, tyro.conf.arg(name="run", metavar="PATH")]
  grow_from: pathlib.Path | None = None
  config: pathlib.Path | None = None
  cluster: places.ClusterFlags = places.ClusterFlags()
  settings: Annotated[run_config.RunConfig, tyro.conf.arg(name="")]

  def run_here_or_watch(self, words: Sequence[str]) -> int:
    """Train; or watch over a process that does, if it is one of several.

    Args:
      words: the command line, for that process.
    """
    from nulls_jax.cluster import member, supervisor

    if not member.is_supervised():
      place = places.find(self.cluster, os.environ)
      if place is not None:
        return supervisor.run(place, words)
    self.run()
    return 0

  def run(self) -> None:
    """Train, as the member of a run that this process is."""
    from nulls_jax.cluster import member

    with member.join() as me:
      self._train(me)

  def _train(self, me) -> None:
    from nulls_jax.training import loop

    origin = arguments.locate(self.grow_from) if self.grow_from else ()
    done = loop.train(
      self.settings, self.data, self.run_dir, *origin, member=me
    )
    if me.rank:
      return
    if done["resumed_from"] == done["step"]:
      print(f"{self.run_dir}: already trained, step {done['step']}")
    else:
      print(f"{self.run_dir}: trained to step {done['step']}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """Measure a run by source, sink mode and kind of fact.

  Attributes:
    checkpoint: a run directory, trained or erased.
    out: JSON file of results.
    documents: JSON Lines of the trained sources' texts.
    held_out: JSON Lines of never-trained sources' texts.
    probes: JSON Lines of facts to ask, as `nulls encyclopedia` writes them.
    forget: file of source keys that were or will be erased.
  """

  checkpoint: arguments.CheckpointPath
  out: pathlib.Path
  documents: pathlib.Path | None = None
  held_out: pathlib.Path | None = None
  probes: pathlib.Path | None = None
  forget: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.evaluation import inputs, score

    run_dir, step = arguments.locate(self.checkpoint)
    given = inputs.read(
      documents=self.documents,
      held_out=self.held_out,
      probes=self.probes,
      forget=self.forget,
    )
    results = score.score(run_dir, self.out, given, step=step)
    suspended = score.suspended_line(results)
    if suspended is not None:
      print(suspended)
    print(self.out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
  """Continue a prompt, with a source's sinks or by the backbone alone.

  Attributes:
    checkpoint: a run directory (its newest step) or one of its steps.
    prompt: the text to continue.
    source: key of the source whose sinks are active.
    no_sinks: backbone only.
    max_new_tokens: upper bound on new tokens.
    temperature: 0 takes the most probable token.
    seed: of the sampling.
  """

  checkpoint: arguments.CheckpointPath
  prompt: str
  source: str | None = None
  no_sinks: bool = False
  max_new_tokens: int = 32
  temperature: float = 0.0
  seed: int = 0

  def run(self) -> None:
    from nulls_jax.inference import generate, restore

    if (self.source is None) != self.no_sinks:
      raise errors.UserError(
        "give either --source KEY (its sinks are active) or --no-sinks "
        "(backbone only)"
      )
    run_dir, step = arguments.locate(self.checkpoint)
    run = restore.restore(run_dir, step)
    text = generate.generate(
      run,
      self.prompt,
      run.routes([self.source])[0],
      max_new_tokens=self.max_new_tokens,
      temperature=self.temperature,
      seed=self.seed,
    )
    print(f"{self.prompt}{text}")
