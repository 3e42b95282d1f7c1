"""Results kept by content: what was measured once is not measured again.

Owns the key of a unit, the files `<kind>-<key>.json` with a digest beside
each (`.sha256`, as `sha256sum -c` reads it), and whether a file is as it was
written.

A key is the SHA-256 of all that a result depends on:
- the kind of the measurement and all of its settings;
- the content of the run: the chosen step, settings, tokenizer, ledger,
  revocation list and receipts, not their place on the disk and no time stamps;
- the content of the input files, and how they are to be read;
- the code that measures: the syntax trees of its module and of every module
  of this package that it imports, without docstrings. A number that someone
  has to raise would be forgotten; a digest of the whole package would
  measure all anew for a comma in a report;
- the versions of Python and of the libraries that compute.

Thresholds, confidence and metrics are not in it: they are no measurement's
business.

Invariant: a file that is not what was stored under its key is never used.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any

from nulls_jax import errors, files
from nulls_jax.protocol.protocol import Run
from nulls_jax.unlearning.checkpoint import plan
from nulls_jax.unlearning.receipts import receipt
from nulls_jax.unlearning.revocation import revocation

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Every measurement starts from a subject and inputs.
_ALWAYS = ("nulls_jax.evaluation.subject", "nulls_jax.evaluation.inputs")
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "optax", "sentencepiece")
_RUN_FILES = (
  plan.CONFIG_FILE,
  plan.TOKENIZER_FILE,
  plan.LEDGER_FILE,
  revocation.FILE,
)
_NUM_THREADS = 4
_KEY_DIGITS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
  """Digests of all that units read.

  Attributes:
    runs: hex SHA-256 of each run at its step.
    inputs: hex SHA-256 of each input's files, by name.
  """

  runs: Mapping[Run, str]
  inputs: Mapping[str, str]


def contents(
  runs: Iterable[Run], inputs: Mapping[str, list[pathlib.Path]]
) -> Contents:
  """Digest runs and input files; raises `UserError` if one cannot be read."""
  runs = list(dict.fromkeys(runs))
  with futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    digests = list(pool.map(run_digest, runs))
  return Contents(
    runs=dict(zip(runs, digests, strict=True)),
    inputs={name: _files_digest(paths) for name, paths in inputs.items()},
  )


def run_digest(run: Run) -> str:
  """Return what identifies the content of a run at a step.

  Args:
    run: with its step.
  """
  folder = run.directory
  step = folder / plan.CHECKPOINTS / str(run.step)
  paths = [folder / name for name in _RUN_FILES if (folder / name).exists()]
  for root in (step, folder / receipt.DIRECTORY):
    paths += sorted(path for path in root.rglob("*") if path.is_file())
  named = [(path.relative_to(folder).as_posix(), path) for path in paths]
  return _joined((name, file_digest(path)) for name, path in named)


def _files_digest(paths: list[pathlib.Path]) -> str:
  """Return the SHA-256 of one file, or of several one after the other."""
  digests = [file_digest(path) for path in paths]
  if len(digests) == 1:
    return digests[0]
  return _joined((str(place), one) for place, one in enumerate(digests))


def file_digest(path: pathlib.Path) -> str:
  """Return the hex SHA-256 of a file; raises `UserError`."""
  try:
    return files.sha256(path)
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read ({error.strerror}); mend the path in the protocol"
    ) from None


def _joined(named: Iterable[tuple[str, str]]) -> str:
  digest = hashlib.sha256()
  for name, one in named:
    digest.update(f"{one}  {name}\n".encode())
  return digest.hexdigest()


# -- The code


@functools.cache
def code_digest(module: str) -> str:
  """Return the digest of the code of a module and all that it imports here.

  Args:
    module: dotted name, of this package.
  """
  found: dict[str, str] = {}
  waiting = [module, *_ALWAYS]
  while waiting:
    name = waiting.pop()
    path = _source(name)
    if name in found or path is None:
      continue
    digest, imported = _parsed(path)
    found[name] = digest
    waiting += imported
  return _joined(sorted(found.items()))


def _source(name: str) -> pathlib.Path | None:
  """Return the file of a module of this package, or None."""
  package, *parts = name.split(".")
  if package != _PACKAGE.name:
    return None
  place = _PACKAGE.joinpath(*parts)
  for path in (place.with_suffix(".py"), place / "__init__.py"):
    if path.is_file():
      return path
  return None


@functools.cache
def _parsed(path: pathlib.Path) -> tuple[str, tuple[str, ...]]:
  """Return the digest of a file's syntax tree, and what it imports."""
  tree = ast.parse(path.read_bytes())
  imported = tuple(_imports(tree))
  for node in ast.walk(tree):
    # Docstrings and comments change no result.
    if (
      isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
      )
      and ast.get_docstring(node, clean=False) is not None
    ):
      node.body = node.body[1:]
  return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(tree: ast.AST) -> Iterator[str]:
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (one.name for one in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      yield node.module
      yield from (f"{node.module}.{one.name}" for one in node.names)


# -- Keys and files


def key(
  kind: str,
  module: str,
  settings: Mapping[str, Any],
  run_content: str,
  inputs_content: Mapping[str, str],
  inputs: Mapping[str, Any],
) -> str:
  """Return the key of a unit: 64 hex digits.

  Args:
    kind: of the measurement.
    module: that measures.
    settings: all of them.
    run_content: `run_digest` of the run.
    inputs_content: digests of the input files.
    inputs: how they are given; paths are left out.
  """
  libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
  content = {
    "kind": kind,
    "settings": settings,
    "run": run_content,
    "inputs": inputs_content,
    "shapes": {name: _shape(given) for name, given in inputs.items()},
    "code": code_digest(module),
    "versions": {"python": platform.python_version(), **libraries},
  }
  return files.json_sha256(content)


def _shape(given: Any) -> Any:
  """Return how an input is given, without where: a path alone is None."""
  if isinstance(given, Mapping):
    return {name: one for name, one in given.items() if name != "path"}
  if isinstance(given, list | tuple):
    return [_shape(one) for one in given]
  return None


def path_of(folder: pathlib.Path, kind: str, unit_key: str) -> pathlib.Path:
  """Return where the result of a key lies."""
  return folder / f"{kind}-{unit_key[:_KEY_DIGITS]}.json"


def store(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Write a result and its digest.

  Raises:
    errors.MachineError: it cannot be written, or holds what JSON has not,
      such as NaN: a defect of the measurement.
  """
  try:
    text = json.dumps(content, allow_nan=False) + "\n"
  except (ValueError, TypeError) as error:
    raise errors.MachineError(
      f"{content['name']} measured what is no JSON ({error}); this is a defect "
      "of the measurement"
    ) from error
  digest = hashlib.sha256(text.encode()).hexdigest()
  files.write_whole(path, text)
  files.write_whole(_beside(path), f"{digest}  {path.name}\n")


def load(path: pathlib.Path, unit_key: str) -> dict[str, Any] | str | None:
  """Return a stored result; None if there is none, or why it is not used.

  Args:
    path: `path_of` the key.
    unit_key: the whole key.
  """
  try:
    data = path.read_bytes()
    stated = _beside(path).read_text("utf-8").split()
  except (FileNotFoundError, UnicodeDecodeError):
    return None
  if stated[:1] != [hashlib.sha256(data).hexdigest()]:
    return f"{path.name} is not what was measured: it was changed afterwards"
  content = json.loads(data)
  if content.get("key") != unit_key:
    return f"{path.name} holds another key's result"
  return content


def _beside(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f"{path.name}.sha256")
