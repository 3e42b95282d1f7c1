"""The prepared directory: its files, its manifest, and opening it.

Owns names, formats and checks of what training reads. Makes nothing but the
manifest.

Invariant: a directory with a manifest is complete, and the manifest has the
size and the SHA-256 of every other file of the dataset.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import config as data_config

FORMAT = "nulls prepared 1"
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"
LEDGER = "ledger.sqlite"


def rows_name(number: int, count: int) -> str:
  """Return the name of one of `count` files of rows, counted from 0.

  >>> rows_name(0, 1)
  'rows-00000-of-00001.array_record'
  """
  return f"rows-{number:05d}-of-{count:05d}.array_record"


_NEEDED = {
  "config": dict,
  "files": dict,
  "rows_sha256": str,
  "tokenizer_fingerprint": str,
}
# The name where there is one file of rows.
ROWS = rows_name(0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
  """An opened prepared dataset.

  Attributes:
    directory: where it is.
    manifest: what it holds, see `docs/formats.md`.
    config: the settings that it was made with.
    tokenizer_path: the SentencePiece model.
    ledger_path: the ledger.
    row_files: ArrayRecord files of packed rows, in their order.
  """

  directory: pathlib.Path
  manifest: dict[str, Any]
  config: data_config.DataConfig
  tokenizer_path: pathlib.Path
  ledger_path: pathlib.Path
  row_files: tuple[pathlib.Path, ...]

  @classmethod
  def open(
    cls, directory: str | os.PathLike, *, verify: bool = False
  ) -> "Prepared":
    """Open a prepared dataset; checks format and file sizes.

    Args:
      directory: where it is.
      verify: read every file, too, and check its digest.

    Raises:
      errors.UserError: the directory is missing, none of ours, of another
        format, or a file is missing or is not what the manifest says.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    wrong = wrong_sizes(directory, manifest)
    check_readable(directory, manifest)
    if verify and not wrong:
      wrong = _wrong_digests(directory, manifest)
    if wrong:
      raise errors.UserError(
        f"prepared dataset {directory} is damaged: {errors.listing(wrong)}; "
        "delete it and prepare again"
      )
    names = sorted(name for name in manifest["files"] if _is_rows(name))
    return cls(
      directory=directory,
      manifest=manifest,
      config=data_config.DataConfig(**manifest["config"]),
      tokenizer_path=directory / TOKENIZER,
      ledger_path=directory / LEDGER,
      row_files=tuple(directory / name for name in names),
    )


def _is_rows(name: str) -> bool:
  return name.startswith("rows-")


def wrong_sizes(directory: pathlib.Path, manifest: dict) -> list[str]:
  """Say which files of a manifest are missing or of another size."""
  wrong = []
  for name, size in manifest["files"].items():
    path = directory / name
    if not path.is_file():
      wrong.append(f"{name} is missing")
    elif path.stat().st_size != size:
      wrong.append(f"{name} has {path.stat().st_size} bytes, not {size}")
  return wrong


def check_readable(directory: pathlib.Path, manifest: dict) -> None:
  """Raise `errors.UserError` if files of a manifest may not be read."""
  paths = [directory / name for name in manifest["files"]]
  found = [p.name for p in paths if p.exists() and not os.access(p, os.R_OK)]
  if found:
    raise errors.UserError(
      f"{directory}: {errors.listing(found)} may not be read; change their "
      "permissions"
    )


def _wrong_digests(directory: pathlib.Path, manifest: dict) -> list[str]:
  """Read all files; say what is not as the manifest's digests have it."""
  # Datasets of earlier releases have those of the tokenizer and one row file.
  expected = manifest.get(
    "sha256",
    {
      TOKENIZER: manifest["tokenizer_fingerprint"],
      ROWS: manifest["rows_sha256"],
    },
  )
  wrong = wrong_files(directory, expected)
  if rows_digest(expected) != manifest["rows_sha256"]:
    wrong.append("the digests of its rows do not match rows_sha256")
  if expected[TOKENIZER] != manifest["tokenizer_fingerprint"]:
    wrong.append("the digest of its tokenizer is not its fingerprint")
  return wrong


def wrong_files(directory: pathlib.Path, expected: dict[str, str]) -> list[str]:
  """Read files; say which have another SHA-256 than is expected by name."""
  wrong = []
  for name in expected:
    try:
      found = files.sha256(directory / name)
    except OSError as error:
      wrong.append(f"{name} cannot be read: {error.strerror}")
      continue
    if found != expected[name]:
      wrong.append(
        f"{name} has the SHA-256 {found[:12]}..., not {expected[name][:12]}..."
      )
  return wrong


def rows_digest(digests: dict[str, str]) -> str:
  """Return one digest of all rows: of one file its own.

  Args:
    digests: hex SHA-256 of the files by name; others than rows do not count.
  """
  of_rows = [digests[name] for name in sorted(digests) if _is_rows(name)]
  if len(of_rows) == 1:
    return of_rows[0]
  return hashlib.sha256("\n".join(of_rows).encode()).hexdigest()


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """Read the manifest of a dataset; raises `errors.UserError`."""
  path = directory / MANIFEST
  if not path.is_file():
    what = "holds no manifest.json" if directory.is_dir() else "does not exist"
    raise errors.UserError(
      f"{directory} is no prepared dataset ({what}); make one with "
      "`nulls prepare`"
    )
  try:
    manifest = json.loads(path.read_text("utf-8"))
  except ValueError:
    raise errors.UserError(
      f"{path} is not JSON; delete {directory} and prepare again"
    ) from None
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    raise errors.UserError(
      f"{path} is not a manifest of format {FORMAT!r}; prepare again with "
      "this version"
    )
  check_whole(path, manifest, _NEEDED)
  return manifest


def check_whole(
  path: pathlib.Path, manifest: dict[str, Any], needed: dict[str, type]
) -> None:
  """Raise `errors.UserError` if fields of a manifest lack or are others."""
  wrong = [
    name for name in needed if not isinstance(manifest.get(name), needed[name])
  ]
  if wrong:
    raise errors.UserError(
      f"{path} is damaged: {errors.listing(wrong)} missing or of another kind; "
      f"delete {path.parent} and make it again"
    )


def find_reusable(
  out_directory: pathlib.Path, inputs: str
) -> dict[str, Any] | None:
  """Return the manifest of a dataset of the same inputs.

  Args:
    out_directory: where it may be.
    inputs: digest of all that decides what the dataset holds.

  Raises:
    errors.UserError: the dataset is damaged, or of other inputs.
  """
  if not has_dataset(out_directory):
    return None
  manifest = Prepared.open(out_directory).manifest
  if manifest["inputs_sha256"] != inputs:
    raise errors.UserError(
      f"{out_directory} holds a dataset prepared from other documents or "
      "settings; choose another place or delete it"
    )
  return manifest


def has_dataset(out_directory: pathlib.Path) -> bool:
  """Say whether a dataset is at a place; something else there is an error.

  Raises:
    errors.UserError: a file, or a folder with something else.
  """
  if not out_directory.exists():
    return False
  if out_directory.is_dir() and not any(out_directory.iterdir()):
    return False
  if not (out_directory / MANIFEST).is_file():
    raise errors.UserError(
      f"{out_directory} is in the way and no prepared dataset; choose another "
      "place or delete it"
    )
  return True
