"""The outcome on a terminal of 100 columns."""

import io
import pathlib

import pytest
import rich.console

from nulls_jax.study import terminal


@pytest.mark.parametrize("with_facts", [True, False])
def test_everything_fits_100_columns(make_outcome, with_facts):
  summary, _, _ = make_outcome(with_facts=with_facts)
  file = io.StringIO()
  console = rich.console.Console(file=file, width=terminal.WIDTH)
  terminal.show(summary, pathlib.Path("/out/report.html"), console)
  lines = file.getvalue().splitlines()
  assert max(map(len, lines)) <= 100
  text = "\n".join(lines)
  assert "page: /out/report.html" in text
  assert "PASS" in text and "hashed" in text and "dedicated" in text
  # Wide enough that no figure is broken over two lines.
  assert text.count("±") > 10
  assert not [line for line in lines if line.rstrip().endswith("±")]


def test_bounds():
  def bound(direction, unit, threshold):
    return terminal.bound(
      {"direction": direction, "unit": unit, "threshold": threshold}
    )

  assert bound("at least", "share", 0.97) == "≥ 97 %"
  assert bound("at most", "points", 0.03) == "≤ 3 points"
  assert bound("at most", "nats", 0.25) == "≤ 0.25 nats"
  assert bound("at most", "ratio", 1.03) == "≤ 1.03"


def test_a_narrow_terminal_keeps_its_figures_whole(make_outcome):
  file = io.StringIO()
  terminal.show(
    make_outcome()[0],
    pathlib.Path("/out/report.html"),
    rich.console.Console(file=file, width=80),
  )
  lines = file.getvalue().splitlines()
  assert max(map(len, lines)) <= 80
  table = "\n".join(
    lines[: lines.index(next(x for x in lines if "Promi" in x))]
  )
  assert "100.0" in table and "…" not in table and "±" not in table
