"""How a benchmark is shown and kept: tables, promises, files.

Knows no measurement; `throughput` and `sweeps` say what the columns are.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from nulls_jax import files
from nulls_jax.bench import rounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Promise:
  """What was promised, and what came out.

  Attributes:
    promise: in words, with the bound.
    measured: in words.
    held: whether the measured value keeps the bound.
  """

  promise: str
  measured: str
  held: bool


def at_most(
  promise: str, value: rounds.Ratio, bound: float, also: str = ""
) -> Promise:
  """Judge the median of a ratio's rounds.

  Args:
    promise: what the ratio is of.
    value: its quartiles are shown, too.
    bound: that the median must not exceed.
    also: shown behind the value, not judged.
  """
  return Promise(
    promise=f"{promise} <= {bound:.2f}",
    measured=f"{show_ratio(value)}{also and f'; {also}'}",
    held=value.by_round.median <= bound,
  )


def at_least(promise: str, value: rounds.Ratio, bound: float) -> Promise:
  """As `at_most`, the other way round."""
  return Promise(
    promise=f"{promise} >= {bound:.2f}",
    measured=show_ratio(value),
    held=value.by_round.median >= bound,
  )


def show_ratio(value: rounds.Ratio) -> str:
  """Return `median (quartiles)` of the rounds.

  >>> show_ratio(rounds.ratio([2.0, 4.0, 3.0], [1.0, 4.0, 2.0]))
  '1.500 (1.250-1.750)'
  """
  found = value.by_round
  return f"{found.median:.3f} ({found.lower:.3f}-{found.upper:.3f})"


def show_promises(promises: Sequence[Promise]) -> str:
  """Return a line a promise."""
  return "\n".join(
    f"{'held  ' if one.held else 'MISSED'}  {one.promise}: {one.measured}"
    for one in promises
  )


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """Return an aligned table: the first column to the left, others right.

  >>> print(table(["a", "bc"], [["long", "1"]]))
  a     bc
  long   1
  """
  widths = [
    max(len(line[place]) for line in [header, *lines])
    for place in range(len(header))
  ]
  shown = []
  for line in [header, *lines]:
    cells = [line[0].ljust(widths[0])]
    cells += [
      cell.rjust(width)
      for cell, width in zip(line[1:], widths[1:], strict=True)
    ]
    shown.append("  ".join(cells).rstrip())
  return "\n".join(shown)


def write(
  out: pathlib.Path, name: str, content: dict[str, Any], plot: bytes
) -> list[pathlib.Path]:
  """Write `name.json` and `name.png` into a folder; return their paths."""
  paths = [out / f"{name}.json", out / f"{name}.png"]
  text = json.dumps(content, indent=2, default=_plain) + "\n"
  for path, one in zip(paths, (text, plot), strict=True):
    files.write_whole(path, one)
  return paths


def _plain(value: Any) -> Any:
  """Return what JSON can hold of a path or a dataclass."""
  if dataclasses.is_dataclass(value):
    return dataclasses.asdict(value)
  return str(value)
