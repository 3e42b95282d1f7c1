"""The `nulls` command: one subcommand an action, each a thin shell.

Owns flags, help texts and exit statuses: 0 done, 1 the machine failed, 2 the
input is wrong, 130 interrupted. Heavy imports happen inside the commands, so
that `--help` answers at once and redaction never loads JAX.
"""

import dataclasses
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Literal

import absl.logging
import tyro

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.data.config import DataConfig
from nulls_jax.version import __version__

_Many = tyro.conf.UseAppendAction
_CheckpointPath = Annotated[pathlib.Path, tyro.conf.arg(aliases=["--run"])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encyclopedia:
  """Write the generated corpus: documents, never-trained documents, probes.

  Attributes:
    out: folder for documents.jsonl, held_out.jsonl and probes.jsonl.
    sources: people with articles, each a source.
    held_out: people who are never trained on.
    versions: articles a person.
    seed: of everything drawn.
  """

  out: pathlib.Path
  sources: int = 600
  held_out: int = 200
  versions: int = 5
  seed: int = 0

  def run(self) -> None:
    from nulls_jax.data import encyclopedia

    corpus = encyclopedia.Encyclopedia(
      seed=self.seed,
      num_sources=self.sources,
      num_held_out=self.held_out,
      num_versions=self.versions,
    )
    for path in corpus.write(self.out).values():
      print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
  """Turn documents into packed rows, a ledger of sources and a tokenizer.

  Attributes:
    documents: JSON Lines files (.gz too), an object a line with "source" and
      "text".
    out: folder of the prepared dataset; must not exist.
    config: file whose `data` section gives the defaults below.
    exclude: file of source keys to leave out, one a line.
    tokenizer: use this SentencePiece model instead of training one.
    refuse_bad_lines: count bad lines and go on, instead of stopping.
    allow_no_source: accept documents without a source (backbone only).
    data: how documents become rows.
  """

  documents: tuple[pathlib.Path, ...]
  out: pathlib.Path
  config: pathlib.Path | None = None
  exclude: pathlib.Path | None = None
  tokenizer: pathlib.Path | None = None
  refuse_bad_lines: bool = False
  allow_no_source: bool = False
  data: DataConfig = DataConfig()

  def run(self) -> None:
    from nulls_jax.data import prepare, readers

    manifest = prepare.prepare(
      self.documents,
      self.out,
      self.data,
      tokenizer_path=self.tokenizer,
      exclude=frozenset(readers.read_keys(self.exclude))
      if self.exclude
      else frozenset(),
      on_error="refuse" if self.refuse_bad_lines else "stop",
      allow_no_source=self.allow_no_source,
      progress=_say_progress,
    )
    counts, trained = manifest["counts"], manifest["tokenizer_training"]
    print(
      f"{self.out}: {counts['documents_out']:,} documents of "
      f"{counts['sources']:,} sources, {counts['tokens']:,} tokens in "
      f"{counts['rows']:,} rows; {counts['documents_refused']:,} refused, "
      f"{counts['documents_excluded']:,} excluded; vocabulary "
      f"{manifest['vocab_size']:,}"
    )
    retired = trained["retired"] - trained["retired_unused"] if trained else 0
    print(
      f"tokenizer: {retired:,} pieces retired that fewer than "
      f"{self.data.min_piece_sources} sources used; "
      f"{manifest['pieces_below_min_sources']:,} that remain are below that"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  """Train a run, or take it up where it stands.

  Attributes:
    data: a prepared dataset.
    run_dir: where the run is or will be.
    config: file whose settings are the defaults of the flags below.
    settings: the whole configuration.
  """

  data: Annotated[pathlib.Path, tyro.conf.arg(name="data")]
  run_dir: Annotated[pathlib.Path, tyro.conf.arg(name="run")]
  config: pathlib.Path | None = None
  settings: Annotated[run_config.RunConfig, tyro.conf.arg(name="")]

  def run(self) -> None:
    from nulls_jax.training import loop

    done = loop.train(self.settings, self.data, self.run_dir)
    if done["resumed_from"] == done["step"]:
      print(f"{self.run_dir}: already trained, step {done['step']}")
    else:
      print(f"{self.run_dir}: trained to step {done['step']}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Erase:
  """Write a checkpoint in which the sinks of sources are zero.

  Offline: no gradient, no data, no model code. The original is not touched;
  it still holds the sources, as do its copies.

  Attributes:
    checkpoint: a run directory (its newest step) or one of its steps.
    out: folder of the redacted run; must not exist.
    source: key of a source; may be repeated.
    sources_file: file of keys, one a line.
  """

  checkpoint: _CheckpointPath
  out: pathlib.Path
  source: _Many[tuple[str, ...]] = ()
  sources_file: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.data import readers
    from nulls_jax.unlearning import erase

    keys = list(self.source)
    if self.sources_file is not None:
      keys += readers.read_keys(self.sources_file)
    if not keys:
      raise errors.UserError(
        "no source named; give --source KEY or --sources-file FILE"
      )
    run_dir, step = _locate(self.checkpoint)
    done = erase.erase(
      run_dir, self.out, keys, step=step, progress=_say_progress
    )
    rows = sum(map(sum, done.rows_zeroed))
    print(
      f"{done.out_dir}: step {done.step}, {len(done.source_ids)} sources "
      f"erased, {rows} rows zero in each of {len(done.arrays_edited)} arrays, "
      f"{done.num_arrays_untouched} arrays equal byte for byte "
      f"({done.seconds:.1f} s)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
  """Measure a run by source, sink mode and kind of fact.

  Attributes:
    checkpoint: a run directory, trained or erased.
    out: JSON file of results.
    documents: JSON Lines of the trained sources' texts.
    held_out: JSON Lines of never-trained sources' texts.
    probes: JSON Lines of facts to ask, as `nulls encyclopedia` writes them.
    forget: file of source keys that were or will be erased.
  """

  checkpoint: _CheckpointPath
  out: pathlib.Path
  documents: pathlib.Path | None = None
  held_out: pathlib.Path | None = None
  probes: pathlib.Path | None = None
  forget: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.data import readers
    from nulls_jax.evaluation import evaluate

    run_dir, step = _locate(self.checkpoint)
    evaluate.evaluate(
      run_dir,
      self.out,
      documents=self.documents,
      held_out=self.held_out,
      probes=self.probes,
      forget=readers.read_keys(self.forget) if self.forget else (),
      step=step,
    )
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

  checkpoint: _CheckpointPath
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
    run_dir, step = _locate(self.checkpoint)
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


COMMANDS = {
  "demo": Demo,
  "encyclopedia": Encyclopedia,
  "prepare": Prepare,
  "train": Train,
  "erase": Erase,
  "evaluate": Evaluate,
  "generate": Generate,
}


def _usage() -> str:
  lines = [
    "nulls: natively unlearnable language models",
    "",
    "usage: nulls COMMAND [flags]    (nulls COMMAND --help lists the flags)",
    "",
  ]
  for name, command in COMMANDS.items():
    lines.append(f"  {name:14}{command.__doc__.splitlines()[0]}")
  lines += ["", "  --version     print the version"]
  return "\n".join(lines)


def _config_flag(arguments: Sequence[str]) -> pathlib.Path | None:
  """Find --config before the flags are parsed: it gives their defaults."""
  for place, argument in enumerate(arguments):
    if argument == "--config" and place + 1 < len(arguments):
      return pathlib.Path(arguments[place + 1])
    if argument.startswith("--config="):
      return pathlib.Path(argument.removeprefix("--config="))
  return None


def _parse(name: str, arguments: Sequence[str]):
  command = COMMANDS[name]
  required = {
    field.name: tyro.MISSING
    for field in dataclasses.fields(command)
    if field.default is dataclasses.MISSING
  }
  default = None
  if command in (Train, Prepare):
    path = _config_flag(arguments)
    loaded = run_config.load(path) if path else run_config.RunConfig()
    section = (
      {"settings": loaded} if command is Train else {"data": loaded.data}
    )
    default = command(**{**required, **section})
  return tyro.cli(
    command,
    default=default,
    prog=f"nulls {name}",
    args=list(arguments),
    config=(tyro.conf.FlagCreatePairsOff,),
  )


def _locate(path: pathlib.Path) -> tuple[pathlib.Path, int | None]:
  """Accept a run directory or `RUN/checkpoints/STEP`."""
  if path.name.isdigit() and path.parent.name == "checkpoints":
    return path.parent.parent, int(path.name)
  return path, None


def _say_progress(stage: str, done: int, total: int | None = None) -> None:
  """Show progress on a terminal; a log stays quiet."""
  if sys.stderr.isatty():
    of = f" of {total:,}" if total else ""
    print(f"\r{stage}: {done:,}{of}\x1b[K", end="\r", file=sys.stderr)


def _quiet_libraries() -> None:
  """Keep off the terminal what libraries write beside their exceptions."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  # Orbax logs a failure with its traceback, in every thread that sees it,
  # before it raises it; and leaves something behind.
  absl.logging.set_verbosity(absl.logging.FATAL)
  warnings.filterwarnings("ignore", "coroutine 'Store", RuntimeWarning)


def _hide_leftovers(unraisable) -> None:
  """Drop what Orbax's unfinished reads say after one of them has failed."""
  code = getattr(unraisable.object, "cr_code", None)
  of_orbax = code and "orbax" in pathlib.Path(code.co_filename).parts
  if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)


def main(arguments: Sequence[str] | None = None) -> int:
  """Run one command; return its exit status."""
  if arguments is None:
    sys.unraisablehook = _hide_leftovers
  try:
    status = _run(list(sys.argv[1:] if arguments is None else arguments))
    sys.stdout.flush()
    return status
  except errors.UserError as error:
    return _fail(error, 2)
  except errors.MachineError as error:
    return _fail(error, 1)
  except KeyboardInterrupt:
    return _fail("interrupted; run the same command to go on", 130)
  except BrokenPipeError:
    # Nobody reads on (`nulls ... | head`); Python would complain at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _run(arguments: Sequence[str]) -> int:
  if not arguments:
    print(_usage(), file=sys.stderr)
    return 2
  name, *rest = arguments
  if name in ("-h", "--help", "help"):
    print(_usage())
  elif name == "--version":
    print(f"nulls_jax {__version__}")
  elif name in COMMANDS:
    _quiet_libraries()
    _parse(name, rest).run()
  else:
    raise errors.UserError(
      f"no command {name!r}; there are {', '.join(COMMANDS)}"
    )
  return 0


def _fail(message, status: int) -> int:
  text = " ".join(str(message).split())
  print(f"nulls: {text}", file=sys.stderr, flush=True)
  return status


if __name__ == "__main__":
  sys.exit(main())
