"""The outcome of an examination as text: a table, then what to do."""

import rich.box
import rich.console
import rich.table

from nulls_jax.doctor import examination


def table(outcome: examination.Outcome) -> str:
  """Return a row a check: its name, its result and what was found."""
  made = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
  for column in ("check", "result", "found"):
    made.add_column(column, overflow="fold")
  for check in outcome.checks:
    made.add_row(check.name, check.result, check.detail)
  console = rich.console.Console(width=100, color_system=None)
  with console.capture() as capture:
    console.print(made)
  lines = (line.rstrip() for line in capture.get().splitlines())
  return "\n".join(line for line in lines if line)


def lines(outcome: examination.Outcome) -> list[str]:
  """Return a line for each thing that is wrong."""
  return [
    f"{check.name}: {finding}"
    for check in outcome.checks
    for finding in check.findings
  ]
