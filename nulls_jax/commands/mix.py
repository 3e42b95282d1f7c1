"""The command that joins prepared datasets."""

import dataclasses
import os
import pathlib

from nulls_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
  """Join prepared datasets into one, without copying their rows.

  `nulls train --data` takes what this writes. The sets must have one
  tokenizer and layout; a source that several have is one source.

  Attributes:
    out: folder of the mixture.
    data: prepared datasets that take turns by their weights.
    weights: one for each of --data: its share of the rows. By default its
      number of rows, so that an epoch sees each row once.
    exact: prepared datasets of which each row is seen an exact number of
      times in the whole run.
    visits: that number, for each of --exact.
    no_source: those of the datasets above whose documents count as documents
      of no source: backbone only, never deletable.
    source_visits: JSON Lines, {"source": KEY, "visits": N}: each document of
      these sources is seen N times in the whole run, whatever their datasets.
    rows: rows of the whole run, which --data fills; by default as many as
      show each row of --data once at least.
  """

  out: pathlib.Path
  data: tuple[pathlib.Path, ...] = ()
  weights: tuple[float, ...] = ()
  exact: tuple[pathlib.Path, ...] = ()
  visits: tuple[int, ...] = ()
  no_source: tuple[pathlib.Path, ...] = ()
  source_visits: pathlib.Path | None = None
  rows: int | None = None

  def run(self) -> None:
    from nulls_jax.data import exact_visits, mixing

    manifest = mixing.mix(
      self._sets(),
      self.out,
      source_visits=exact_visits.read_visits(self.source_visits)
      if self.source_visits
      else None,
      num_rows=self.rows,
    )
    counts = manifest["counts"]
    print(
      f"{self.out}: {errors.counted(counts['sources'], 'source')}, "
      f"{counts['rows']:,} rows"
      + (", then it ends" if manifest["ends"] else " an epoch")
    )
    for fields in manifest["parts"]:
      if "directory" in fields:
        name = os.path.normpath(self.out / fields["directory"])
      else:
        name = f"sources seen {errors.counted(fields['visits'], 'time')}"
      share = fields["rows_a_pass"] / counts["rows"]
      seen = fields["rows_a_pass"] / fields["rows"]
      print(
        f"  {share:6.1%}  {fields['rows']:,} rows x {seen:.6g}  {name}"
        + ("  (no source)" if fields["no_source"] else "")
      )

  def _sets(self):
    from nulls_jax.data import mixing

    if self.weights and len(self.weights) != len(self.data):
      raise errors.UserError(
        f"{len(self.weights)} --weights for {len(self.data)} --data; give one "
        "for each, in the same order, or none"
      )
    if len(self.visits) != len(self.exact):
      raise errors.UserError(
        f"{len(self.visits)} --visits for {len(self.exact)} --exact; give one "
        "for each, in the same order"
      )
    named = [path.resolve() for path in self.data + self.exact]
    unknown = [str(p) for p in self.no_source if p.resolve() not in named]
    if unknown:
      raise errors.UserError(
        f"--no-source names {errors.listing(unknown)}, which is in neither "
        "--data nor --exact; name it there too"
      )
    silent = [path.resolve() for path in self.no_source]
    weights = self.weights or (None,) * len(self.data)
    return [
      mixing.Set(directory=path, no_source=path.resolve() in silent, **how)
      for path, how in (
        *(
          (path, {"weight": weight})
          for path, weight in zip(self.data, weights, strict=True)
        ),
        *(
          (path, {"visits": visits})
          for path, visits in zip(self.exact, self.visits, strict=True)
        ),
      )
    ]
