"""Joins several prepared datasets into a mixture.

Owns what may be joined, the joint ledger, how many rows of each set a pass
has, and the rows of sources that are seen an exact number of times. Streams:
memory grows with the number of sources and rows (a few words each).

Invariant: a mixture has its name when it is complete, and one process at a
time makes it; the sets that it joins are read and never written.
"""

import dataclasses
import fractions
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import exact_visits, joint_ledger, mixture
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data.preparation import dataset
from nulls_jax.data.preparation import job as job_lib
from nulls_jax.data.preparation import work as work_lib

# Rows of a pass; products of two such numbers fit 64 bits.
_MAX_ROWS = 2**31 - 1
_SAME = ("row_length", "tile", "class_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Set:
  """A prepared dataset and what it is in a mixture.

  Attributes:
    directory: the prepared dataset.
    weight: its share of the rows over those of the other sets with a
      weight; None takes its number of rows.
    visits: how often each row is seen in all; None leaves it to the weight.
    no_source: its documents count as documents of no source.
  """

  directory: pathlib.Path
  weight: float | None = None
  visits: int | None = None
  no_source: bool = False

  def __post_init__(self):
    if self.weight is not None and not 0 < self.weight < math.inf:
      raise errors.UserError(
        f"the weight of {self.directory} is {self.weight}; give a number "
        "above 0, or leave the set out"
      )
    if self.visits is not None and self.visits < 1:
      raise errors.UserError(
        f"the visits of {self.directory} are {self.visits}; give at least 1, "
        "or leave the set out"
      )


def mix(
  sets: Sequence[Set],
  out_directory: str | os.PathLike,
  *,
  source_visits: Mapping[str, int] | None = None,
  num_rows: int | None = None,
) -> dict[str, Any]:
  """Make a mixture; return its manifest.

  The same call again finds the mixture and returns at once.

  Args:
    sets: prepared with one tokenizer, row length, tile and class_tokens.
    out_directory: its place; must not exist, be empty, or hold this mixture.
    source_visits: how often each document of these sources is seen in all,
      whatever the sets. They get rows of their own, and are padding in the
      rows of their sets.
    num_rows: rows of the whole mixture; sets without `visits` fill what is
      left of them. None: each of those is seen whole once at least.

  Raises:
    errors.UserError: the sets do not fit together, something is in the way,
      or another process is at work there.
    errors.MachineError: the disk is full.
  """
  out_directory = pathlib.Path(os.path.abspath(out_directory))
  opened = [_open(one) for one in sets]
  _check(sets, opened)
  job = _Job(
    sets=list(sets),
    opened=opened,
    out=out_directory,
    source_visits=dict(source_visits or {}),
    num_rows=num_rows,
  )
  inputs = job.inputs_digest()
  found = _find_reusable(out_directory, inputs)
  if found is not None:
    return found
  work = work_lib.Work.beside(out_directory)
  with work.at_work():
    # What a killed one left is made anew.
    job_lib.begin(work, {"identity": {}, "wanted": "mixture"}, {})
    for path in work.final.iterdir():
      path.unlink()
    manifest = job.run(work.final, inputs)
    work.publish(out_directory)
  return manifest


def _open(one: Set) -> dataset.Prepared:
  if mixture.read_manifest(pathlib.Path(one.directory)) is not None:
    raise errors.UserError(
      f"{one.directory} is a mixture itself; give the sets that it joins"
    )
  return dataset.Prepared.open(one.directory)


def _check(sets: Sequence[Set], opened: Sequence[dataset.Prepared]) -> None:
  """Refuse what cannot be joined, all of it in one line."""
  if not sets:
    raise errors.UserError("no dataset is named; give at least one")
  if len({one.weight is None for one in sets if one.visits is None}) > 1:
    raise errors.UserError(
      "some sets have a weight and others neither weight nor visits; give "
      "each of them a weight, or none"
    )
  first, wrong = opened[0], []
  places = {}
  for one in opened:
    name = one.directory
    real = name.resolve()
    if real in places:
      wrong.append(f"{name} stands twice; give it more weight or visits")
    places[real] = name
    fingerprints = [p.manifest["tokenizer_fingerprint"] for p in (one, first)]
    if fingerprints[0] != fingerprints[1]:
      wrong.append(
        f"{name} has another tokenizer than {first.directory}; prepare it "
        f"with --tokenizer {first.tokenizer_path}"
      )
    for field in _SAME:
      values = [getattr(p.config, field) for p in (one, first)]
      if values[0] != values[1]:
        wrong.append(
          f"{name} has data.{field} {values[0]} and {first.directory} "
          f"{values[1]}; prepare it with --data.{field.replace('_', '-')} "
          f"{values[1]}"
        )
    if "extends" in one.manifest:
      wrong.append(
        f"{name} goes on from a run (--extend): its ledger counts what the "
        "run has seen, too; give all documents that the run is to learn from "
        "to one `nulls prepare --extend`, in place of a mixture"
      )
    if not one.manifest["counts"]["rows"]:
      wrong.append(f"{name} has no rows; leave it out")
    with ledger_lib.Ledger.open(one.ledger_path) as book:
      erased = len(book.erased())
    if erased:
      wrong.append(
        f"{name} has {erased} erased sources; prepare its documents again "
        "without them (--exclude)"
      )
  if wrong:
    raise errors.UserError(
      f"these datasets cannot be mixed: {errors.listing(wrong)}"
    )


@dataclasses.dataclass(kw_only=True)
class _Job:
  """One mixture in the making."""

  sets: list[Set]
  opened: list[dataset.Prepared]
  out: pathlib.Path
  source_visits: dict[str, int]
  num_rows: int | None

  def inputs_digest(self) -> str:
    """Return one digest of all that decides what the mixture is."""
    inputs = {
      "format": mixture.FORMAT,
      "sets": [
        [mixture.digest(opened), str(one.weight), one.visits, one.no_source]
        for one, opened in zip(self.sets, self.opened, strict=True)
      ],
      "places": self._places(),
      "source_visits": sorted(self.source_visits.items()),
      "num_rows": self.num_rows,
    }
    return files.json_sha256(inputs)

  def _places(self) -> list[str]:
    """Return the sets' folders as seen from the mixture's."""
    return [
      os.path.relpath(one.directory.resolve(), self.out.parent.resolve())
      for one in self.opened
    ]

  def run(self, directory: pathlib.Path, inputs: str) -> dict[str, Any]:
    """Write everything into `directory`, the manifest last."""
    first = self.opened[0]
    work_lib.write(
      directory / dataset.TOKENIZER,
      lambda file: file.write(first.tokenizer_path.read_bytes()),
    )
    joint_ledger.join(
      directory / dataset.LEDGER,
      [
        opened.ledger_path
        for one, opened in zip(self.sets, self.opened, strict=True)
        if not one.no_source
      ],
      first.config,
    )
    with ledger_lib.Ledger.open(directory / dataset.LEDGER) as book:
      num_sources = book.num_sources
      classes = book.size_classes()
      tables = [
        joint_ledger.numbers(book, opened.ledger_path, one.no_source)
        for one, opened in zip(self.sets, self.opened, strict=True)
      ]
      asked = exact_visits.by_number(book, self.source_visits)
    parts = self._parts(directory, tables, asked)
    own = sorted(directory.iterdir())
    manifest = {
      "format": mixture.FORMAT,
      "config": first.config.to_dict(),
      "counts": {
        "sources": num_sources,
        "sources_with_visits": len(self.source_visits),
        "rows": sum(fields["rows_a_pass"] for fields in parts),
      },
      "ends": self.num_rows is not None
      or any(fields["visits"] for fields in parts),
      "sources_by_size_class": np.bincount(classes[1:]).tolist(),
      "vocab_size": first.manifest["vocab_size"],
      "tokenizer_fingerprint": first.manifest["tokenizer_fingerprint"],
      # The sets' rows, and what is read of them, follow from the inputs.
      "rows_sha256": inputs,
      "inputs_sha256": inputs,
      "parts": parts,
      "files": {path.name: path.stat().st_size for path in own},
      "sha256": {path.name: files.sha256(path) for path in own},
    }
    work_lib.write_json(directory / dataset.MANIFEST, manifest)
    return manifest

  def _parts(
    self,
    directory: pathlib.Path,
    tables: list[np.ndarray],
    asked: np.ndarray,
  ) -> list[dict[str, Any]]:
    """Write the files of the parts; return their fields.

    Args:
      directory: the mixture's.
      tables: `uint32 [sources + 1]` joint numbers by set; changed.
      asked: `int64 [sources + 1]` exact visits; 0 for all other sources.
    """
    parts = [
      mixture.part_fields(
        directory=os.path.join(os.pardir, place),
        manifest_sha256=mixture.digest(opened),
        rows=opened.manifest["counts"]["rows"],
        weight=one.weight,
        visits=one.visits,
        no_source=one.no_source,
      )
      for one, opened, place in zip(
        self.sets, self.opened, self._places(), strict=True
      )
    ]
    own = []
    if self.source_visits:
      own = exact_visits.take_out(directory, parts, self.opened, tables, asked)
    for number, (fields, table) in enumerate(zip(parts, tables, strict=True)):
      # A set whose sources have the mixture's numbers needs no table.
      if not np.array_equal(table, np.arange(len(table))):
        fields["numbers"] = f"numbers-{number:03d}.npy"
        work_lib.write_array(directory / fields["numbers"], table)
    parts = [fields for fields in [*parts, *own] if fields["rows"]]
    turns = _turns(parts, self.num_rows)
    for fields, count in zip(parts, turns, strict=True):
      fields["rows_a_pass"] = count
    return parts


def _turns(parts: Sequence[dict], num_rows: int | None) -> list[int]:
  """Return the rows of each part in a pass.

  Raises:
    errors.UserError: too many, or no room is left in `num_rows`.
  """
  turns = [fields["rows"] * (fields["visits"] or 0) for fields in parts]
  streams = [place for place, count in enumerate(turns) if not count]
  weights = [
    fractions.Fraction(
      fields["rows"] if fields["weight"] is None else str(fields["weight"])
    )
    for fields in parts
  ]
  whole = sum(weights[place] for place in streams)
  if num_rows is None:
    # So many that each is seen whole: exactly once by their own weights.
    room = max(
      (parts[place]["rows"] / weights[place] * whole for place in streams),
      default=0,
    )
  else:
    room = num_rows - sum(turns)
  if num_rows is not None and (room < len(streams) or not streams):
    raise errors.UserError(
      f"a mixture of {num_rows:,} rows has no room: the sets with exact visits "
      f"take {sum(turns):,} of them, and {len(streams)} other sets fill the "
      "rest; change --rows or leave it out"
    )
  filled = 0
  so_far = fractions.Fraction(0)
  for place in streams:
    so_far += weights[place]
    end = math.ceil(room * so_far / whole)
    turns[place] = end - filled
    filled = end
  if sum(turns) > _MAX_ROWS:
    raise errors.UserError(
      f"the mixture has {sum(turns):,} rows a pass, more than {_MAX_ROWS:,}; "
      "give less unequal weights, or --rows"
    )
  if min(turns) < 1:
    raise errors.UserError(
      "a set has so little weight that no row of it is ever seen; give it "
      "more, or more --rows"
    )
  return turns


def _find_reusable(directory: pathlib.Path, inputs: str) -> dict | None:
  """Return the manifest of this very mixture, None when there is room."""
  if not directory.exists() or not any(directory.iterdir()):
    return None
  manifest = mixture.read_manifest(directory)
  if manifest is None:
    raise errors.UserError(
      f"{directory} is in the way and no mixture; choose another place or "
      "delete it"
    )
  if manifest["inputs_sha256"] != inputs:
    raise errors.UserError(
      f"{directory} holds a mixture of other sets or settings; choose another "
      "place or delete it"
    )
  return mixture.open_dataset(directory).manifest
