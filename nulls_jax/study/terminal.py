"""The outcome of a study on the terminal, within 100 columns."""

import pathlib
import textwrap
from collections.abc import Mapping
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

from nulls_jax.study import tables

WIDTH = 100
_HEADING_WIDTH = 12
_SHOWN = ("modes", "together", "texts", "text_together", "cost")


def standard_output() -> rich.console.Console:
  """Return a console on standard output; a log gets the full width."""
  console = rich.console.Console()
  return console if console.is_terminal else rich.console.Console(width=WIDTH)


def show(
  summary: Mapping[str, Any],
  page: pathlib.Path,
  console: rich.console.Console,
) -> None:
  """Print the tables, the verdicts and where the page is.

  Args:
    summary: what `summary.json` holds.
    page: the written report.
    console: where to print.
  """
  made = tables.of_summary(summary)
  narrow = console.width < WIDTH
  for name in _SHOWN:
    if name in made:
      console.print(_table(made[name], narrow), width=WIDTH)
  console.print(_verdicts(summary["verdicts"]), width=WIDTH)
  cores = summary["machine"]["cores"]
  console.print(
    f"{summary['wall_seconds'] / 60:.1f} minutes of computing on {cores} "
    f"core{'' if cores == 1 else 's'}, "
    f"{summary['peak_memory_bytes'] / 2**30:.1f} GiB at most",
    highlight=False,
  )
  # Never wrapped, so that it can be clicked or copied.
  console.print(f"page: {page}", highlight=False, soft_wrap=True)


def _table(table: tables.Table, narrow: bool) -> rich.table.Table:
  """Lay a table out; a narrow one goes without standard errors."""
  shown = rich.table.Table(
    title=table.title,
    title_justify="left",
    title_style="bold",
    box=rich.box.SIMPLE_HEAD,
    pad_edge=False,
    padding=(0, 0, 0, 1),
  )
  shown.add_column("", no_wrap=True)
  for column in table.columns:
    heading = "\n".join(textwrap.wrap(column, _HEADING_WIDTH - 3 * narrow))
    shown.add_column(heading, justify="right", no_wrap=True)
  for name, rows in table.groups:
    if name:
      shown.add_row(rich.text.Text(name, style="bold"))
    for label, cells in rows:
      indent = "  " if name else ""
      shown.add_row(
        rich.text.Text(f"{indent}{label}"),
        *(one.value if narrow else one.text for one in cells),
      )
  return shown


def _verdicts(verdicts) -> rich.table.Table:
  shown = rich.table.Table(
    title="Promises",
    title_justify="left",
    title_style="bold",
    box=rich.box.SIMPLE_HEAD,
    pad_edge=False,
  )
  for column in ("", "model", "promise", "found", "bound"):
    figure = column in ("found", "bound")
    shown.add_column(
      column, justify="right" if figure else "left", no_wrap=figure
    )
  for verdict in verdicts:
    shown.add_row(
      _badge(verdict["passed"]),
      verdict["model"],
      rich.text.Text(verdict["title"]),
      found(verdict),
      bound(verdict),
    )
  return shown


def _badge(passed: bool | None) -> rich.text.Text:
  if passed is None:
    return rich.text.Text("not measured", style="yellow")
  if passed:
    return rich.text.Text("PASS", style="bold green")
  return rich.text.Text("FAIL", style="bold red")


def found(verdict: Mapping[str, Any]) -> str:
  """Return what was found with its unit, as `97.4 ± 0.8 %`."""
  text = tables.cell(verdict, verdict["unit"]).text
  return text if verdict["value"] is None else text + _unit(verdict)


def bound(verdict: Mapping[str, Any]) -> str:
  """Return a verdict's bound with its unit, as `≥ 97 %`."""
  sign = "≥" if verdict["direction"] == "at least" else "≤"
  scale = 100 if verdict["unit"] in ("share", "points") else 1
  return f"{sign} {scale * verdict['threshold']:g}{_unit(verdict)}"


def _unit(verdict) -> str:
  return {"share": " %", "points": " points", "nats": " nats", "ratio": ""}[
    verdict["unit"]
  ]
