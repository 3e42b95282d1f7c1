"""One size after the other, everything else equal: what a step's cost follows.

`nulls bench sweep` times all sizes in turn, in one process, each beside a
dense transformer of equal active width, its twin. Owns the sweeps, their
table and their promises.

Invariant: every row of a sweep takes as many tokens a step as the first.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from nulls_jax import errors
from nulls_jax.bench import (
  geometries,
  machine,
  measure,
  plots,
  report,
  rounds,
  throughput,
  workload,
)
from nulls_jax.bench.settings import SweepSettings

# Of one source in the sweep over sources: 100,000 of them must fit a machine
# of 24 GB (`small`: 2.5 GB of parameters, 7.4 GB with both moments).
_SINKS_OF_MANY = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
  """What is swept over.

  Attributes:
    about: of its values, for people.
    values: swept over by default.
    variant: key of `geometries.VARIANTS` that is timed.
    own_twin: whether each value has a dense twin of its own.
  """

  about: str
  values: tuple[int, ...]
  variant: str
  own_twin: bool = False


SWEEPS = {
  "pool": Sweep(
    about="sinks a layer",
    values=(2048, 4096, 8192, 16384, 32768),
    variant="gather",
  ),
  "sources-a-row": Sweep(
    about="sources a row", values=(1, 2, 4, 8), variant="gather"
  ),
  "sources": Sweep(
    about="sources of the dedicated table",
    values=(1000, 10_000, 100_000),
    variant="dedicated",
  ),
  "length": Sweep(
    about="tokens a row",
    values=(256, 512, 1024, 2048),
    variant="gather",
    own_twin=True,
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One size's figures and what follows from them.

  Attributes:
    value: the size.
    figures: as measured.
    twin: figures of the dense transformer of equal active width.
    step: seconds over the first row's.
    gradients: seconds of forward and backward over the first row's.
    update_seconds: median of step less forward and backward.
    over_twin: seconds of the step over the twin's.
    allowed_bytes: parameters, two moments, and what the twin's step needs
      beside its state; None where the compiler tells no memory.
  """

  value: int
  figures: measure.Figures
  twin: measure.Figures
  step: rounds.Ratio
  gradients: rounds.Ratio
  update_seconds: float
  over_twin: rounds.Ratio
  allowed_bytes: int | None


def run(settings: SweepSettings, progress: Callable[[str], None]) -> str:
  """Measure, write the files and return what is printed.

  Raises:
    errors.UserError: a setting is wrong, or the sizes do not fit the memory.
    errors.MachineError: a loss is not finite, or a file cannot be written.
  """
  measure.check(settings)
  if settings.over not in SWEEPS:
    raise errors.UserError(
      f"no sweep over {settings.over!r}; there are {', '.join(SWEEPS)}"
    )
  sweep = SWEEPS[settings.over]
  values = settings.values or sweep.values
  if any(value < 1 for value in values) or len(set(values)) != len(values):
    raise errors.UserError(
      f"--values {' '.join(map(str, values))}: give different sizes, each at "
      "least 1"
    )
  where = machine.describe()
  workloads, twins = _workloads(settings, sweep, values)
  figures = measure.measure(
    workloads, settings.repeats, settings.seconds, progress
  )
  found = compare(figures, twins)
  promises = promise(settings.over, found)
  content = {
    "benchmark": f"sweep over {settings.over}",
    "geometry": settings.geometry,
    "settings": settings,
    "machine": where | {"peak_bytes": machine.peak_bytes()},
    "rows": found,
    "promises": promises,
  }
  title = f"{settings.geometry}: {sweep.variant}"
  written = report.write(
    settings.out,
    f"sweep-{settings.over}-{settings.geometry}",
    content,
    plots.sweep(title, sweep.about, found),
  )
  return "\n".join(
    [
      f"{title} over {sweep.about}, {_shape(found[0].figures)}",
      f"on {machine.line(where)}",
      "",
      show(sweep.about, found),
      "",
      report.show_promises(promises),
      throughput.accelerator(where),
      f"written: {', '.join(map(str, written))}",
    ]
  )


def _shape(figures: measure.Figures) -> str:
  model, sinks = figures.config["model"], figures.config["sinks"]
  return (
    f"{model['num_layers']} layers of {model['d_model']}, "
    f"{sinks['sinks_per_source']} sinks a source and layer, "
    f"{figures.tokens_a_step:,} tokens a step"
  )


def _workloads(
  settings: SweepSettings, sweep: Sweep, values: Sequence[int]
) -> tuple[list[workload.Workload], dict[int, tuple[str, str]]]:
  """Return the workloads, and by value the names of a row's and its twin's."""
  layers = settings.layers
  if settings.over == "sources" and not layers:
    layers = 1
  geometry = geometries.find(
    settings.geometry,
    {"layers": layers, "rows": settings.rows, "tile": settings.tile},
  )
  made: dict[str, workload.Workload] = {}
  names = {}

  def make(name, geometry, variant):
    if name not in made:
      made[name] = measure.prepare(name, geometry, variant, settings)
    return name

  for value in values:
    sized = _sized(geometry, settings.over, value)
    variant = geometries.VARIANTS[sweep.variant]
    if settings.over == "sources-a-row":
      variant = dataclasses.replace(variant, sources_a_row=value)
    twin = f"dense {value:,}" if sweep.own_twin else "dense"
    names[value] = (
      make(f"{sweep.variant} {value:,}", sized, variant),
      make(twin, sized, geometries.VARIANTS[geometries.BASE]),
    )
  return list(made.values()), names


def _sized(
  geometry: geometries.Geometry, over: str, value: int
) -> geometries.Geometry:
  """Return a geometry of another size."""
  if over == "pool":
    sinks = dataclasses.replace(geometry.sinks, pool_size=value)
    return dataclasses.replace(geometry, sinks=sinks)
  if over == "sources":
    sinks = dataclasses.replace(geometry.sinks, sinks_per_source=_SINKS_OF_MANY)
    return dataclasses.replace(geometry, sinks=sinks, num_sources=value)
  if over == "length":
    tokens = geometry.rows * geometry.data.row_length
    if tokens % value:
      raise errors.UserError(
        f"--values {value}: a step of {tokens} tokens does not divide into "
        "rows of that length; give another length, or --rows"
      )
    data = dataclasses.replace(geometry.data, row_length=value)
    return dataclasses.replace(geometry, data=data, rows=tokens // value)
  return geometry


def compare(
  figures: Mapping[str, measure.Figures],
  names: Mapping[int, tuple[str, str]],
) -> list[Row]:
  """Return a row a value.

  Args:
    figures: by workload.
    names: by value, the workload and its dense twin.
  """
  found = []
  first = figures[next(iter(names.values()))[0]]
  for value, (name, twin_name) in names.items():
    one, twin = figures[name], figures[twin_name]
    allowed = None
    if one.bytes is not None and twin.bytes is not None:
      allowed = 3 * one.parameter_bytes + twin.bytes.peak - twin.state_bytes
    found.append(
      Row(
        value=value,
        figures=one,
        twin=twin,
        step=rounds.ratio(one.step, first.step),
        gradients=rounds.ratio(one.gradients, first.gradients),
        update_seconds=rounds.spread(one.update).median,
        over_twin=rounds.ratio(one.step, twin.step),
        allowed_bytes=allowed,
      )
    )
  return found


def promise(over: str, found: Sequence[Row]) -> list[report.Promise]:
  """Judge what was promised of a sweep, by its last row."""
  last = found[-1]
  span = f"{found[0].value:,} to {last.value:,}"
  if over == "pool":
    return [
      report.at_most(
        f"flat in the pool, {span} sinks a layer: forward and backward",
        last.gradients,
        1.05,
        also=f"whole step {report.show_ratio(last.step)}",
      )
    ]
  if over == "sources-a-row":
    bounds = {1: 1.10, 4: 1.20}
    return [
      report.at_most(
        f"sources a row {row.value}: step over its dense twin's",
        row.over_twin,
        bounds[row.value],
      )
      for row in found
      if row.value in bounds
    ]
  if over != "sources":
    return []
  judged = [report.at_most(f"flat in sources, {span}: step", last.step, 1.05)]
  for row in found:
    if row.allowed_bytes is not None:
      share = row.figures.bytes.peak / row.allowed_bytes
      judged.append(
        report.Promise(
          promise=(
            f"{row.value:,} sources: peak memory over parameters, moments and "
            "the twin's working set <= 1.15"
          ),
          measured=f"{share:.3f}",
          held=share <= 1.15,
        )
      )
  return judged


def show(about: str, found: Sequence[Row]) -> str:
  """Return the table."""
  header = [
    about,
    "tokens/s",
    "step ms",
    "x first (quartiles)",
    "f+b ms",
    "f+b x first (quartiles)",
    "update ms",
    "x dense (quartiles)",
    "peak MB",
    "allowed MB",
    "compile s",
  ]
  lines = []
  for row in found:
    step = rounds.spread(row.figures.step).median
    allowed = "not known"
    if row.allowed_bytes is not None:
      allowed = f"{row.allowed_bytes / 1e6:,.0f}"
    lines.append(
      [
        f"{row.value:,}",
        f"{row.figures.tokens_a_step / step:,.0f}",
        f"{1e3 * step:,.1f}",
        report.show_ratio(row.step),
        f"{1e3 * rounds.spread(row.figures.gradients).median:,.1f}",
        report.show_ratio(row.gradients),
        f"{1e3 * row.update_seconds:,.1f}",
        report.show_ratio(row.over_twin),
        throughput.megabytes(row.figures.bytes),
        allowed,
        f"{row.figures.compile_seconds:.1f}",
      ]
    )
  return report.table(header, lines)
