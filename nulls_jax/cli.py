"""The `nulls` command: one subcommand an action, each a thin shell.

Owns the list of commands and exit statuses: 0 done, 1 the machine failed, 2
the input is wrong, 3 `verify` or `evaluate --require` says no, 75 what is
saved is whole and the same command goes on (told to end, or another host was
lost), 130 interrupted. `commands/` has their flags. Heavy imports happen
inside the commands, so that `--help` answers at once and redaction never
loads JAX.
"""

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence

import absl.logging
import tyro

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.cluster import member
from nulls_jax.commands import arguments as common
from nulls_jax.commands import (
  bench,
  corpus,
  demo,
  doctor,
  evaluation,
  forecast,
  mix,
  model,
  planning,
  redaction,
  repair,
  revocation,
  search,
  study,
)
from nulls_jax.version import __version__

COMMANDS = {
  "demo": demo.Demo,
  "encyclopedia": corpus.Encyclopedia,
  "prepare": corpus.Prepare,
  "prepare tokenizer": corpus.PrepareTokenizer,
  "prepare merge": corpus.PrepareMerge,
  "prepare check": corpus.PrepareCheck,
  "mix": mix.Mix,
  "doctor": doctor.Doctor,
  "train": model.Train,
  "score": model.Score,
  "evaluate": evaluation.Evaluate,
  "evaluate unit": evaluation.EvaluateUnit,
  "study": study.Study,
  "study capability": study.Capability,
  "generate": model.Generate,
  "index": search.Index,
  "find": search.Find,
  "forecast": forecast.Forecast,
  "suspend": revocation.Suspend,
  "restore": revocation.Restore,
  "status": revocation.Status,
  "erase": redaction.Erase,
  "verify": redaction.Verify,
  "patch export": redaction.ExportPatch,
  "patch apply": redaction.ApplyPatch,
  "receipt-page": redaction.ReceiptPage,
  "repair": repair.Repair,
  "compile": planning.Compile,
  "bench": bench.Bench,
  "bench sweep": bench.BenchSweep,
  "bench input": bench.BenchInput,
  "bench prepare": bench.BenchPrepare,
  "bench search": bench.BenchSearch,
  "bench forecast": bench.BenchForecast,
  "bench scale": bench.BenchScale,
  "bench dictionary": bench.BenchDictionary,
  "bench redact": bench.BenchRedact,
}


def _usage() -> str:
  lines = [
    "nulls: natively unlearnable language models",
    "",
    "usage: nulls COMMAND [flags]    (nulls COMMAND --help lists the flags)",
    "",
  ]
  for name, command in COMMANDS.items():
    lines.append(f"  {name:17} {command.__doc__.splitlines()[0]}")
  lines += ["", f"  {'--version':17} print the version"]
  return "\n".join(lines)


def _path_flag(
  arguments: Sequence[str], flag: str = "--config"
) -> pathlib.Path | None:
  """Find a flag before they are parsed: it gives the others' defaults."""
  for place, argument in enumerate(arguments):
    if argument == flag and place + 1 < len(arguments):
      return pathlib.Path(arguments[place + 1])
    if argument.startswith(f"{flag}="):
      return pathlib.Path(argument.removeprefix(f"{flag}="))
  return None


def _settings(arguments: Sequence[str]) -> run_config.RunConfig:
  """Return the defaults of the flags of a whole configuration.

  Those of --config; or of the run that a command goes on from; or of a grown
  run that is taken up again.
  """
  path = _path_flag(arguments)
  if path is not None:
    return run_config.load(path)
  path = _path_flag(arguments, "--grow-from") or _path_flag(
    arguments, "--extend"
  )
  if path is not None:
    old, _ = common.locate(path)
    return run_config.for_more_training(run_config.read(old / "config.json"))
  path = _path_flag(arguments, "--run")
  if path is not None and (path / "grown.json").exists():
    started = path / "config.json"
    if started.exists():
      return run_config.read(started)
  return run_config.RunConfig()


def _parse(name: str, arguments: Sequence[str]):
  command = COMMANDS[name]
  required = {
    field.name: tyro.MISSING
    for field in dataclasses.fields(command)
    if field.default is dataclasses.MISSING
  }
  default = None
  if command in (
    corpus.Prepare,
    corpus.PrepareTokenizer,
    doctor.Doctor,
    model.Train,
    planning.Compile,
  ):
    loaded = _settings(arguments)
    section = (
      {"data": loaded.data}
      if command in (corpus.Prepare, corpus.PrepareTokenizer)
      else {"settings": loaded}
    )
    default = command(**{**required, **section})
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      return tyro.cli(
        command,
        default=default,
        prog=f"nulls {name}",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff,),
      )
  except SystemExit as stop:
    _raise_refusal(stop)
    sys.stderr.write(said.getvalue())
    raise


def _raise_refusal(stop: SystemExit) -> None:
  """Raise what a section of the settings said of its values, if it did.

  The parser would draw a box around it.
  """
  cause = stop.__context__
  while cause is not None:
    if isinstance(cause, errors.UserError):
      raise errors.UserError(str(cause)) from None
    cause = cause.__context__


def _quiet_libraries() -> None:
  """Keep off the terminal what libraries write beside their exceptions."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  # Orbax logs a failure with its traceback, in every thread that sees it,
  # before it raises it; and leaves something behind.
  absl.logging.set_verbosity(absl.logging.FATAL)
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # Does so as well.
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
    return member.end(status)
  except errors.UserError as error:
    status = _fail(error, 2)
  except errors.MachineError as error:
    status = _fail(error, 1)
  except errors.StartAgain as error:
    status = _fail(error, errors.START_AGAIN)
  except PermissionError as error:
    if error.filename is None:
      raise
    # Below a folder that may not be entered nobody knows what is there.
    status = _fail(
      f"{error.filename}: {error.strerror}; change its permissions or its "
      "folder's, or choose another place",
      2,
    )
  except KeyboardInterrupt:
    status = _fail("interrupted; run the same command to go on", 130)
    return member.end(status)
  except BrokenPipeError:
    # Nobody reads on (`nulls ... | head`); Python would complain at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  member.end(status)
  if arguments is None:
    # All is said; Orbax's unfinished reads say more when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
  return status


def _run(arguments: Sequence[str]) -> int:
  if not arguments:
    print(_usage(), file=sys.stderr)
    return 2
  name, *rest = arguments
  if rest and f"{name} {rest[0]}" in COMMANDS:
    name, rest = f"{name} {rest[0]}", rest[1:]
  if name in ("-h", "--help", "help"):
    print(_usage())
  elif name == "--version":
    print(f"nulls_jax {__version__}")
  elif name in COMMANDS:
    _quiet_libraries()
    command = _parse(name, rest)
    if isinstance(command, model.Train):
      return command.run_here_or_watch(arguments)
    command.run()
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
