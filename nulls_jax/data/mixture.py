"""Several prepared datasets read as one: which row stands where.

Owns the format of a mixture's folder and the order of its parts. A mixture
holds no rows of the sets that it joins: it says where they are, how often
each is seen, and which source of each is which of the joint ledger. `mixing`
makes one, `pipeline` reads it.

Invariant: which part a place belongs to, and which of its rows stands there,
is a pure function of the mixture and the place: no state, no draw.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import packing
from nulls_jax.data.preparation import dataset

FORMAT = "nulls mixture 1"
_NEEDED = {
  "config": dict,
  "counts": dict,
  "ends": bool,
  "files": dict,
  "inputs_sha256": str,
  "parts": list,
  "sha256": dict,
}
# In place of a source's number: its documents are padding in this part.
SILENT = np.uint32(2**32 - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """Rows of a mixture that are shuffled together.

  Attributes:
    directory: the prepared dataset, or the mixture's own folder.
    row_files: ArrayRecord files of packed rows.
    rows_a_pass: places that it has in a pass of the mixture.
    numbers: file of `uint32 [sources + 1]`: the number in the mixture's
      ledger of each source of the part, or SILENT; None changes nothing.
    kept: file of `uint32 [rows]`: the rows that are read; None is all.
  """

  directory: pathlib.Path
  row_files: tuple[pathlib.Path, ...]
  rows_a_pass: int
  numbers: pathlib.Path | None = None
  kept: pathlib.Path | None = None

  def load_numbers(self) -> np.ndarray | None:
    return None if self.numbers is None else np.load(self.numbers)

  def load_kept(self) -> np.ndarray | None:
    if self.kept is None:
      return None
    return np.load(self.kept).astype(np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(dataset.Prepared):
  """An opened mixture; whatever takes a prepared dataset takes it.

  Attributes:
    parts: what it joins.
    end: rows after which nothing is left to train on; None goes on for ever.
  """

  parts: tuple[Part, ...]
  end: int | None


def open_dataset(
  directory: str | os.PathLike, *, verify: bool = False
) -> dataset.Prepared:
  """Open a prepared dataset, or a mixture of several.

  Args:
    directory: where it is.
    verify: read every file, those of a mixture's sets too, and check its
      digest.

  Raises:
    errors.UserError: it is neither, or it is damaged; or a mixture's set is
      missing or was prepared anew.
  """
  directory = pathlib.Path(directory)
  manifest = read_manifest(directory)
  if manifest is None:
    return dataset.Prepared.open(directory, verify=verify)
  wrong = dataset.wrong_sizes(directory, manifest)
  dataset.check_readable(directory, manifest)
  if verify and not wrong:
    wrong = dataset.wrong_files(directory, manifest["sha256"])
  parts = []
  for fields in manifest["parts"]:
    try:
      parts.append(_open_part(directory, fields, verify))
    except errors.UserError as error:
      wrong.append(str(error))
  if wrong:
    raise errors.UserError(
      f"mixture {directory}: {errors.listing(wrong)}; put it right, or delete "
      "the mixture and make it again with `nulls mix`"
    )
  return Mixture(
    directory=directory,
    manifest=manifest,
    config=data_config.DataConfig(**manifest["config"]),
    tokenizer_path=directory / dataset.TOKENIZER,
    ledger_path=directory / dataset.LEDGER,
    row_files=tuple(path for part in parts for path in part.row_files),
    parts=tuple(parts),
    end=manifest["counts"]["rows"] if manifest["ends"] else None,
  )


def read_manifest(directory: pathlib.Path) -> dict | None:
  """Return a mixture's manifest; None if the folder is no mixture.

  Raises:
    errors.UserError: the manifest is damaged.
  """
  path = directory / dataset.MANIFEST
  try:
    manifest = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError):
    return None
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    return None
  dataset.check_whole(path, manifest, _NEEDED)
  return manifest


def digest(prepared: dataset.Prepared) -> str:
  """Return the SHA-256 of a dataset's manifest, which has its digests."""
  return files.sha256(prepared.directory / dataset.MANIFEST)


def _open_part(directory: pathlib.Path, fields: dict, verify: bool) -> Part:
  own = [directory / name for name in fields.get("row_files", ())]
  place = directory
  if not own:
    place = pathlib.Path(os.path.normpath(directory / fields["directory"]))
    opened = dataset.Prepared.open(place, verify=verify)
    if digest(opened) != fields["manifest_sha256"]:
      raise errors.UserError(f"{place} is not the dataset that it was")
    own = opened.row_files
  return Part(
    directory=place,
    row_files=tuple(own),
    rows_a_pass=fields["rows_a_pass"],
    **{
      name: directory / fields[name]
      for name in ("numbers", "kept")
      if fields[name]
    },
  )


def part_fields(**changes) -> dict:
  """Return a part as a manifest has it.

  `directory` and `manifest_sha256` of a prepared dataset, or `row_files` of
  the mixture's own; `rows` that are read, `rows_a_pass`; `weight`, `visits`
  and `no_source` as they were asked for; files of `numbers` and `kept` rows.
  """
  return {
    "rows": 0,
    "rows_a_pass": 0,
    "weight": None,
    "visits": None,
    "no_source": False,
    "numbers": None,
    "kept": None,
  } | changes


def parts_of(prepared: dataset.Prepared) -> tuple[Part, ...]:
  """Return the parts of a mixture, or a dataset as the only part."""
  if isinstance(prepared, Mixture):
    return prepared.parts
  rows = prepared.manifest["counts"]["rows"]
  return (
    Part(
      directory=prepared.directory,
      row_files=prepared.row_files,
      rows_a_pass=rows,
    ),
  )


def end_of(prepared: dataset.Prepared) -> int | None:
  """Return the rows after which nothing is left; None goes on for ever."""
  return prepared.end if isinstance(prepared, Mixture) else None


def check_steps(
  prepared: dataset.Prepared, num_steps: int, batch_size: int
) -> None:
  """Refuse more steps than a mixture of exact visits has rows for.

  Raises:
    errors.UserError: it has not; the message has the most steps.
  """
  end = end_of(prepared)
  if end is None or num_steps <= -(-end // batch_size):
    return
  raise errors.UserError(
    f"{prepared.directory} ends after {end:,} rows, so that what it counts is "
    f"seen as often as was asked: {-(-end // batch_size):,} steps of "
    f"{batch_size}, not {num_steps:,}; give so many steps or one epoch, or "
    "make a longer mixture (`nulls mix` with more --visits or --rows)"
  )


def interleave(
  counts: Sequence[int], places_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Return the part of each place, and which of the part's turns it is.

  The parts take turns as evenly as whole numbers allow: of the first p
  places of a pass, part i has p * counts[i] / sum(counts), give or take less
  than the number of parts. A pass has each part exactly counts[i] times;
  passes follow each other, and turns are counted on.

  >>> parts, turns = interleave([1, 3], np.arange(8))
  >>> parts.tolist(), turns.tolist()
  ([1, 1, 1, 0, 1, 1, 1, 0], [0, 1, 2, 0, 3, 4, 5, 1])

  Args:
    counts: turns of each part a pass; their sum is below 2**31.
    places_P: int64 places in the endless sequence.

  Returns:
    int64 `[P]` parts and turns.
  """
  parts_P = np.full(places_P.shape, len(counts) - 1)
  turns_P = np.array(places_P)
  is_open_P = np.ones(places_P.shape, bool)
  left = sum(counts)
  # One part after the other: is it its turn, or one of the later parts'?
  for number, count in enumerate(counts[:-1]):
    passes_P, within_P = np.divmod(turns_P, left)
    before_P = within_P * count // left
    mine_P = (within_P + 1) * count // left > before_P
    before_P += passes_P * count
    parts_P[is_open_P & mine_P] = number
    turns_P = np.where(
      is_open_P, np.where(mine_P, before_P, turns_P - before_P), turns_P
    )
    is_open_P &= ~mine_P
    left -= count
  return parts_P, turns_P


def renumbered(
  tokens: np.ndarray,
  tile_documents: np.ndarray,
  tile_sources: np.ndarray,
  numbers: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return rows of a part with the mixture's numbers of their sources.

  Documents of a SILENT source become padding.

  >>> rows = renumbered(
  ...   np.array([[1, 5, 2, 0, 1, 6, 7, 2]]),
  ...   np.array([[1, 1, 2, 2]]),
  ...   np.array([[1, 1, 2, 2]]),
  ...   np.array([0, SILENT, 9], np.uint32),
  ... )
  >>> print(*rows)
  [[0 0 0 0 1 6 7 2]] [[0 0 2 2]] [[0 0 9 9]]

  Args:
    tokens: `[B, L]`.
    tile_documents: `[B, T]`.
    tile_sources: `[B, T]`.
    numbers: `uint32 [sources of the part + 1]`; None changes nothing.
  """
  if numbers is None:
    return tokens, tile_documents, tile_sources
  tile_sources = numbers[tile_sources]
  silent = tile_sources == SILENT
  if not silent.any():
    return tokens, tile_documents, tile_sources
  tile = tokens.shape[-1] // silent.shape[-1]
  return (
    np.where(np.repeat(silent, tile, axis=-1), packing.PAD, tokens),
    np.where(silent, 0, tile_documents),
    np.where(silent, 0, tile_sources),
  )
