"""A forecast written down: summary, JSON, plot, and a page that has all.

Owns `forecast.json`, `forecast.svg` and `forecast.html` and their wording;
every value comes from the forecast.
"""

import dataclasses
import json
import pathlib
import textwrap
from typing import Any

import jinja2
import markupsafe

from nulls_jax import errors, files, version
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.forecasting import advice as forecast_advice
from nulls_jax.unlearning.forecasting import forecast as forecast_lib
from nulls_jax.unlearning.forecasting import plot as forecast_plot

FORMAT = "nulls forecast 1"
JSON_FILE, PLOT_FILE, PAGE_FILE = (
  f"forecast.{ending}" for ending in ("json", "svg", "html")
)

_TEMPLATE = "forecast.html.j2"
_FIGURES = (
  ("mean", "mean"),
  ("standard deviation", "standard_deviation"),
  ("median", "median"),
  ("95 % lose at most", "quantile_95"),
  ("99 % lose at most", "quantile_99"),
  ("the worst", "maximum"),
)
# Wider tables of shards are in the JSON only.
_MAX_SHARDS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of words.

  Attributes:
    title: what it shows.
    columns: their names, the first one's over the names of the rows.
    rows: as many words each.
    note: what must be known to read it.
  """

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]
  note: str = ""


def check_output(out_dir: pathlib.Path, run_dir: pathlib.Path | None) -> None:
  """Refuse a place for the files; nothing is made.

  Raises:
    errors.UserError: it is a file, or lies inside the run.
  """
  if out_dir.exists() and not out_dir.is_dir():
    raise errors.UserError(f"{out_dir} is not a folder; give another --out")
  if run_dir and out_dir.resolve().is_relative_to(run_dir.resolve()):
    raise errors.UserError(
      f"{out_dir} lies inside the run {run_dir}, which a forecast does not "
      "change; give a folder outside of it"
    )


def write(forecast: forecast_lib.Forecast, out_dir: pathlib.Path) -> None:
  """Write the three files; those of an earlier forecast are replaced.

  Raises:
    errors.MachineError: they cannot be written.
  """
  plot = forecast_plot.draw(forecast)
  text = json.dumps(content(forecast), indent=1, ensure_ascii=False)
  files.write_whole(out_dir / JSON_FILE, f"{text}\n")
  files.write_whole(out_dir / PLOT_FILE, plot)
  files.write_whole(out_dir / PAGE_FILE, page(forecast, plot))


def content(forecast: forecast_lib.Forecast) -> dict[str, Any]:
  """Return what `forecast.json` holds: the fields of `Forecast`, and the
  assignment instead of the paths of this machine."""
  fields = dataclasses.asdict(forecast)
  pool = fields.pop("pool")
  return {
    "format": FORMAT,
    "tool": {"name": "nulls_jax", "version": version.__version__},
    "assignment": {**pool["config"], "version": assignment.VERSION},
    "num_layers": pool["num_layers"],
    **fields,
  }


def headline(forecast: forecast_lib.Forecast) -> str:
  """Return one sentence on what is erased, and who survives."""
  sources = forecast.sources
  parts = [f"{_number(sources.to_erase, 'source')} to erase"]
  if sources.named_but_erased:
    parts.append(f"{sources.named_but_erased:,} named ones are erased already")
  if sources.erased_before:
    parts.append(f"{sources.erased_before:,} erased by earlier requests")
  parts.append(
    f"{sources.surviving:,} of {sources.in_ledger:,} in the ledger survive"
  )
  return "; ".join(parts)


def tables(forecast: forecast_lib.Forecast) -> list[Table]:
  """Return the tables of the summary and of the page."""
  made = [_rows_table(forecast)]
  if forecast.loss is not None:
    made.append(_loss_table(forecast))
  if forecast.worst:
    made.append(_worst_table(forecast))
  return [*made, _outlook_table(forecast)]


def _number(number: int, noun: str) -> str:
  return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float | None) -> str:
  """Write a share; one that is not whole never looks like 0 or 100 %."""
  if share is None:
    return "-"
  if share not in (0, 1) and not 0.0005 < share < 0.9995:
    return f"{100 * share:.4g} %" if share < 0.5 else f"{100 * share:.6g} %"
  return f"{100 * share:.2f} %"


def _rows_table(forecast: forecast_lib.Forecast) -> Table:
  rows, config = forecast.rows, forecast.pool.config
  total = rows.in_stratum * config.strata
  shown = rows.shards if 1 < rows.shards <= _MAX_SHARDS else 0
  lines = [
    (
      str(layer),
      f"{sum(before):,}",
      f"{sum(new):,}",
      _percent((sum(before) + sum(new)) / total),
      *(f"{number:,}" for number in shards[:shown]),
    )
    for layer, (before, new, shards) in enumerate(
      zip(
        rows.zero_before,
        rows.newly_zero,
        rows.newly_zero_by_shard,
        strict=True,
      )
    )
  ]
  division = {
    "strata": f"{config.strata // max(1, rows.shards)} of {config.strata} "
    "strata of every layer a shard",
    "rows": f"{rows.in_stratum // rows.shards:,} neighbouring rows of every "
    "stratum a shard",
  }[rows.divided]
  note = f"{total:,} rows a layer, one for each sink"
  if config.strata > 1:
    note += f", in {config.strata} strata"
  if rows.shards > 1:
    note += f"; {rows.shards} shards: {division}, newly zero in each"
  return Table(
    title="Rows of the sink table",
    columns=(
      "layer",
      "zero before",
      "newly zero",
      "zero after",
      *(f"shard {number}" for number in range(shown)),
    ),
    rows=tuple(lines),
    note=note,
  )


def _loss_table(forecast: forecast_lib.Forecast) -> Table:
  loss, sources = forecast.loss, forecast.sources
  by_request = [loss.exact_by_request] if sources.erased_before else []
  columns = [loss.exact, *by_request, loss.expected_given_rows, loss.expected]
  most = "up to " if forecast.pool.config.size_classes > 1 else ""
  names = [
    "counted",
    *(["by this request alone"] if by_request else []),
    "formula, given the zero rows",
    "formula, given the number",
  ]
  return Table(
    title="Share of its sinks that a surviving source has lost",
    columns=("", *names),
    rows=tuple(
      (name, *(_percent(getattr(column, field)) for column in columns))
      for name, field in _FIGURES
    ),
    note=f"counted: all {sources.surviving:,} survivors, {most}"
    f"{loss.blocks_of_a_source:,} blocks each",
  )


def _worst_table(forecast: forecast_lib.Forecast) -> Table:
  return Table(
    title="Survivors that will have lost most",
    columns=("source", "lost after the request", "by this request"),
    rows=tuple(
      (hit.key, _percent(hit.share), _percent(hit.share_by_request))
      for hit in forecast.worst
    ),
  )


def _outlook_table(forecast: forecast_lib.Forecast) -> Table:
  outlook = forecast.outlook

  def further(number: int | None) -> str:
    if number is None:
      return "never"
    return f"after {number:,} more" if number else "reached"

  stated = _percent(outlook.stated_loss)
  lines = [
    (f"the mean survivor has lost {stated}", further(outlook.until_mean)),
    (
      f"1 survivor of 100 has lost {stated} or more",
      further(outlook.until_quantile_99),
    ),
  ]
  if outlook.asked is not None:
    lines += [
      (
        f"after {outlook.asked_erasures:,} more: {name}",
        _percent(getattr(outlook.asked, field)),
      )
      for name, field in _FIGURES[:-1]
    ]
  return Table(
    title="Further erasures, by formula",
    columns=("", "sources"),
    rows=tuple(lines),
    note="of sources drawn at random, after this request",
  )


def summary(forecast: forecast_lib.Forecast) -> str:
  """Return the summary for a terminal; layers that are many are shortened."""
  advice = forecast.advice
  lines = [headline(forecast), ""]
  for table in tables(forecast):
    rows = list(table.rows)
    if table.columns[0] == "layer" and len(rows) > 4:
      rows[2:-1] = [("...",) + ("",) * (len(table.columns) - 1)]
    cells = [table.columns, *rows]
    cells = [[_short(cell) for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines.append(f"{table.title} ({table.note})" if table.note else table.title)
    lines += [
      "  " + "  ".join(_aligned(row, widths)).rstrip() for row in cells
    ] + [""]
  lines += [*_wrapped(f"Advice: {advice.action}. {advice.reason}"), ""]
  for sentence in advice.rule:
    lines += _wrapped(f"- {sentence}")
  return "\n".join([*lines, "", *_wrapped(advice.limits)])


def _wrapped(text: str) -> list[str]:
  hanging = "  " if text.startswith("- ") else ""
  return textwrap.wrap(text, 88, subsequent_indent=hanging)


def _short(cell: str, most: int = 60) -> str:
  """Keep a cell on one line of a terminal, whatever a key holds."""
  text = "".join(
    c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell
  )
  return text if len(text) <= most else f"{text[: most - 3]}..."


def _aligned(row: list[str], widths: list[int]) -> list[str]:
  first, *others = zip(row, widths, strict=True)
  return [first[0].ljust(first[1])] + [
    cell.rjust(width) for cell, width in others
  ]


def page(forecast: forecast_lib.Forecast, plot: str) -> str:
  """Return the page, the plot inside it."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("nulls_jax.unlearning.forecasting", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  return environment.get_template(_TEMPLATE).render(
    forecast=forecast,
    headline=headline(forecast),
    tables=tables(forecast),
    # Our own drawing; an SVG file starts with lines that HTML cannot have.
    plot=markupsafe.Markup(plot[plot.index("<svg") :]),
    measured=sorted(
      forecast_advice.MEASURED, key=lambda measurement: measurement.share_lost
    ),
    percent=_percent,
  )
