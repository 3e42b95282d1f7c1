"""The ledger, routing, forecast and input of millions of sources, measured.

`nulls bench scale --out DIR` makes a ledger and rows of generated sources in a
folder that it then keeps, and measures each stage in a process of its own, so
that its peak of memory is its own. `scale.json` in the folder has every
figure; `--only` measures some stages again and leaves the others as they
were.
"""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

from nulls_jax import errors, files
from nulls_jax.bench import alone, machine
from nulls_jax.bench import scale_stages as stages_lib
from nulls_jax.bench import stage as stage_lib
from nulls_jax.bench.settings import ScaleSettings
from nulls_jax.data import ledger as ledger_lib

REPORT = "scale.json"
_WRITTEN = "ledger written"


def run(settings: ScaleSettings, say: Callable[[str], None]) -> str:
  """Make what is missing, measure, write the report, return the table."""
  stages = stages_lib.stages(settings)
  chosen = _chosen(settings, stages)
  path = settings.out / REPORT
  report = _earlier(path, settings)
  report["machine"] = machine.describe()
  if _WRITTEN not in chosen and not stage_lib.ledger_path(settings).exists():
    chosen.insert(0, _WRITTEN)
  for name in chosen:
    stage = stages[name]
    if name == _WRITTEN:
      say("writing sources")
      alone.run(stages_lib.write_parts, settings)
    made = stage.needs
    if made and not (settings.out / made.file).exists():
      say(f"writing {made.name}")
      alone.run(made.write, settings)
    say(name)
    report["rows"][name] = _measure(stage, settings)
    report["rows"] = {
      known: report["rows"][known]
      for known in stages
      if known in report["rows"]
    }
    files.write_whole(path, json.dumps(report, indent=2) + "\n")
  return f"{table(report)}\n\n{path}"


def _chosen(settings: ScaleSettings, stages) -> list[str]:
  for name in ("sources", "suspend", "repeats", "threads", "batch"):
    if getattr(settings, name) < 1:
      raise errors.UserError(
        f"--{name} {getattr(settings, name)}: give a number from 1"
      )
  largest = max(*settings.erase, settings.suspend, 0)
  if largest >= settings.sources or min(settings.erase, default=1) < 1:
    raise errors.UserError(
      f"--erase {' '.join(map(str, settings.erase))}, --suspend "
      f"{settings.suspend}: give numbers from 1, below the "
      f"{settings.sources:,} --sources"
    )
  chosen = [
    name
    for name in stages
    if not settings.only or any(part in name for part in settings.only)
  ]
  if not chosen:
    raise errors.UserError(
      f"--only {' '.join(settings.only)} names no stage; there are "
      f"{errors.listing(stages)}"
    )
  return chosen


def _earlier(path: pathlib.Path, settings: ScaleSettings) -> dict[str, Any]:
  """Return the figures that the folder has, of the same sources.

  Raises:
    errors.UserError: the folder has a ledger of another size.
  """
  ledger = stage_lib.ledger_path(settings)
  if ledger.exists():
    with ledger_lib.Ledger.open(ledger) as book:
      if book.num_sources != settings.sources:
        raise errors.UserError(
          f"{ledger} has {book.num_sources:,} sources, not "
          f"{settings.sources:,}; choose another --out"
        )
  report = {"sources": settings.sources, "rows": {}}
  if ledger.exists() and path.exists():
    report["rows"] = json.loads(path.read_text("utf-8"))["rows"]
  return report


def _measure(stage: stage_lib.Stage, settings: ScaleSettings) -> dict[str, Any]:
  done, peaks = [], []
  for _ in range(1 if stage.once else settings.repeats):
    one, peak = alone.run(stage.action, settings)
    done.append(one)
    peaks.append(peak)
  # The one in the middle, with all its facts.
  done.sort(key=lambda one: one.taken.processor)
  return {
    **dataclasses.asdict(done[(len(done) - 1) // 2]),
    "repeats": [dataclasses.asdict(one.taken) for one in done],
    "peak_memory_bytes": max(peaks),
  }


def table(report: dict[str, Any]) -> str:
  """Return the figures in Markdown."""
  lines = [
    f"{report['sources']:,} sources; {machine.line(report['machine'])}",
    "",
    "| stage | done | processor, s (least-most) | clock, s | a second of the "
    "processor | peak memory, MB | also |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  for name, row in report["rows"].items():
    times = [""] * 3
    if row["count"]:
      times = [
        _seconds([one["processor"] for one in row["repeats"]]),
        _number(row["taken"]["clock"]),
        _number(row["count"] / max(row["taken"]["processor"], 1e-9)),
      ]
    cells = [
      name,
      f"{row['count']:,} {row['unit']}" if row["count"] else "",
      *times,
      f"{row['peak_memory_bytes'] / 1e6:,.0f}",
      "; ".join(_fact(*fact) for fact in row["facts"].items()),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def _seconds(values: list[float]) -> str:
  """Return a median and its range.

  >>> _seconds([0.25]), _seconds([1.0, 2.0, 10.5])
  ('0.25', '2 (1-10.5)')
  """
  median, *ends = map(
    _number, (statistics.median_low(values), min(values), max(values))
  )
  return median if len(values) == 1 else f"{median} ({'-'.join(ends)})"


def _number(value: float) -> str:
  """Return three digits, or all before the point.

  >>> _number(12345.6), _number(123.4), _number(1.234), _number(0.00123)
  ('12,346', '123', '1.23', '0.00123')
  """
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _fact(name: str, value: float) -> str:
  """Return a number with its name, bytes as megabytes.

  >>> _fact("bytes on disk", 2_500_000), _fact("rows", 8)
  ('2.5 MB on disk', 'rows 8')
  """
  if name.startswith("bytes "):
    return f"{_number(value / 1e6)} MB {name.removeprefix('bytes ')}"
  return (
    f"{name} {value:,}"
    if isinstance(value, int)
    else (f"{name} {_number(value)}")
  )
