"""Sources that are seen an exact number of times: rows of their own.

Owns the file of keys and visits, and how a mixture takes such sources out of
the rows of their sets: there they are padding, and their documents are packed
again, with others of as many visits. Streams: memory grows with the number of
rows (a few words each).

Invariant: every part of a document of such a source stands in exactly one row
that is read, whole, and in none of the rows of its set.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import mixture, packing, stored_rows
from nulls_jax.data.preparation import dataset
from nulls_jax.data.preparation import rows as rows_lib
from nulls_jax.data.preparation import work as work_lib


def read_visits(path: str | os.PathLike) -> dict[str, int]:
  """Return keys and visits from JSON Lines: {"source": KEY, "visits": N}.

  Raises:
    errors.UserError: the file cannot be read, a line is none of these, or a
      source stands in two of them.
  """
  found: dict[str, int] = {}
  try:
    lines = pathlib.Path(path).read_text("utf-8").splitlines()
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read ({error.strerror}); give an existing file"
    ) from None
  except UnicodeDecodeError:
    raise errors.UserError(f"{path} is not UTF-8; convert it") from None
  for number, line in enumerate(lines, start=1):
    try:
      fields = json.loads(line)
    except ValueError:
      fields = None
    is_object = isinstance(fields, dict) and set(fields) == {"source", "visits"}
    if not is_object or not isinstance(fields["source"], str):
      problem = 'expected {"source": KEY, "visits": NUMBER}'
    elif type(fields["visits"]) is not int or fields["visits"] < 1:
      problem = "visits must be a whole number from 1"
    elif fields["source"] in found:
      problem = f"{fields['source']!r} stands in two lines; keep one"
    else:
      found[fields["source"]] = fields["visits"]
      continue
    raise errors.UserError(f"{path}:{number}: {problem}")
  if not found:
    raise errors.UserError(f"{path} is empty; name sources or leave it out")
  return found


def by_number(
  book: ledger_lib.Ledger, source_visits: Mapping[str, int]
) -> np.ndarray:
  """Return `int64 [sources + 1]`; 0 where nothing was asked."""
  result = np.zeros(book.num_sources + 1, np.int64)
  if source_visits:
    try:
      found = book.find(source_visits)
    except errors.UserError as error:
      text = str(error).replace(str(book.path), "these datasets")
      raise errors.UserError(text) from None
    result[[source.index for source in found]] = list(source_visits.values())
  return result


def take_out(
  directory: pathlib.Path,
  parts: list[dict],
  opened: Sequence[dataset.Prepared],
  tables: Sequence[np.ndarray],
  asked: np.ndarray,
) -> list[dict]:
  """Give the sources with exact visits rows of their own.

  Marks them SILENT in the tables of their sets, and keeps of each set the
  rows that have another document.

  Args:
    directory: the mixture's.
    parts: fields of the sets; "rows" and "kept" are changed.
    opened: the sets.
    tables: number of each source of each set; changed.
    asked: `int64 [sources + 1]` visits, 0 for all other sources.

  Returns:
    The fields of a part for each number of visits.
  """
  config = opened[0].config
  visits = np.unique(asked[asked > 0]).tolist()
  # By number of visits: the sets, and their rows that have such sources.
  places = {number: [] for number in visits}
  for place, prepared in enumerate(opened):
    found, kept_R = _scan(prepared, asked[tables[place]])
    for number, rows_R in found.items():
      places[number].append((place, rows_R))
    if len(kept_R) < parts[place]["rows"]:
      parts[place] |= {"rows": len(kept_R), "kept": f"kept-{place:03d}.npy"}
      path = directory / parts[place]["kept"]
      work_lib.write_array(path, kept_R.astype(np.uint32))
  result = []
  for number in visits:

    def documents(number=number):
      for place, rows_R in places[number]:
        mine = np.where(asked[tables[place]] == number, tables[place], 0)
        yield from _documents(opened[place], rows_R, mine)

    name = f"visits-{number:06d}.array_record"
    packed = packing.pack(documents(), config.row_length, config.tile)
    count = rows_lib.write_records(
      directory / name, (row.to_bytes() for row in packed)
    )
    result.append(
      mixture.part_fields(row_files=[name], rows=count, visits=number)
    )
  for table in tables:
    table[asked[table] > 0] = mixture.SILENT
  return result


def _scan(
  prepared: dataset.Prepared, visits_of: np.ndarray
) -> tuple[dict[int, np.ndarray], np.ndarray]:
  """Find the rows of sources with exact visits.

  Args:
    prepared: a set.
    visits_of: by the set's own number of a source; 0 for all others.

  Returns:
    Numbers of the rows that have such a source, by its visits; and of those
    that have a document of another.
  """
  found = {}
  kept = []
  with stored_rows.Rows(prepared) as rows:
    for numbers_R, (_, documents, sources) in rows.in_parts():
      visits_RxT = np.where(documents > 0, visits_of[sources], 0)
      for number in np.unique(visits_RxT[visits_RxT > 0]).tolist():
        has_R = (visits_RxT == number).any(-1)
        found.setdefault(number, []).append(numbers_R[has_R])
      others_R = ((documents > 0) & (visits_RxT == 0)).any(-1)
      kept.append(numbers_R[others_R])
  return (
    {number: np.concatenate(chunks) for number, chunks in found.items()},
    np.concatenate(kept),
  )


def _documents(
  prepared: dataset.Prepared, rows_R: np.ndarray, mine: np.ndarray
) -> Iterator[tuple[np.ndarray, int]]:
  """Yield tokens and joint number of the documents of some sources.

  Args:
    prepared: a set.
    rows_R: numbers of the rows that have such documents.
    mine: by the set's own number of a source, its joint number; 0 for all
      others.
  """
  tile = prepared.config.tile
  with stored_rows.Rows(prepared) as rows:
    for _, split in rows.in_parts(rows_R):
      for tokens, documents, sources in zip(*split, strict=True):
        for document in range(1, int(documents.max()) + 1):
          tiles = documents == document
          index = int(mine[sources[tiles][0]])
          if index:
            text = tokens[np.repeat(tiles, tile)]
            yield text[text != packing.PAD], index
