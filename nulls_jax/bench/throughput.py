"""Sinks against dense transformers: the training step and generation.

`nulls bench` times the variants of one geometry in turn, in one process.
Owns their comparison, its table and its promises.

Invariant: every ratio is over the dense transformer of equal active width.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nulls_jax import errors
from nulls_jax.bench import (
  geometries,
  machine,
  measure,
  plots,
  report,
  rounds,
  workload,
)
from nulls_jax.bench.settings import ThroughputSettings
from nulls_jax.training import metrics

BASE = geometries.BASE

# Most that a step may take over the dense one's.
_GATHER_BOUNDS = (
  ("gather", "one source", 1.10),
  ("gather-4", "four sources", 1.20),
)
# The pool is not seventeen times the active width in the other ones.
_LARGE_POOLS = ("1b-layer", "1b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One variant's figures and what follows from them.

  Attributes:
    about: the variant, for people.
    figures: as measured.
    tokens_per_second: of the training step, median.
    update_seconds: median of step less forward and backward.
    flops_per_second: model FLOPs of the step.
    utilisation: of the devices' peak; None where that is not known.
    step: seconds over the base's.
    gradients: seconds of forward and backward over the base's.
    new_tokens_per_second: of generation, median; None if there was none.
    generation: rate over the base's rate; None if there was none.
  """

  about: str
  figures: measure.Figures
  tokens_per_second: float
  update_seconds: float
  flops_per_second: float
  utilisation: float | None
  step: rounds.Ratio
  gradients: rounds.Ratio
  new_tokens_per_second: float | None
  generation: rounds.Ratio | None


def run(settings: ThroughputSettings, progress: Callable[[str], None]) -> str:
  """Measure, write the files and return what is printed.

  Raises:
    errors.UserError: a setting is wrong, or the geometry does not fit the
      memory.
    errors.MachineError: a loss is not finite, or a file cannot be written.
  """
  measure.check(settings)
  names = chosen(settings.only)
  geometry = geometries.find(
    settings.geometry,
    {
      "layers": settings.layers,
      "rows": settings.rows,
      "length": settings.length,
      "tile": settings.tile,
    },
  )
  where = machine.describe()
  workloads = []
  for name in names:
    variant = geometries.VARIANTS[name]
    # One source: for two variants that would be the same.
    new_tokens = geometry.new_tokens if variant.sources_a_row == 1 else 0
    workloads.append(
      measure.prepare(name, geometry, variant, settings, new_tokens)
    )
  figures = measure.measure(
    workloads, settings.repeats, settings.seconds, progress
  )
  found = compare(figures, metrics.peak_flops())
  promises = promise(settings.geometry, found)
  content = {
    "benchmark": "throughput",
    "geometry": settings.geometry,
    "about": geometry.about,
    "settings": settings,
    "machine": where | {"peak_bytes": machine.peak_bytes()},
    "variants": found,
    "promises": promises,
  }
  name = f"throughput-{settings.geometry}"
  written = report.write(
    settings.out, name, content, plots.throughput(settings.geometry, found)
  )
  return "\n".join(
    [
      f"{settings.geometry}: {geometry.about}",
      f"on {machine.line(where)}",
      "",
      show(found),
      "",
      report.show_promises(promises),
      accelerator(where),
      f"written: {', '.join(map(str, written))}",
    ]
  )


def chosen(only: Sequence[str]) -> list[str]:
  """Return the variants to measure, the base among them, in their order."""
  unknown = [name for name in only if name not in geometries.VARIANTS]
  if unknown:
    raise errors.UserError(
      f"no variant {errors.listing(unknown)}; there are "
      f"{', '.join(geometries.VARIANTS)}"
    )
  return [
    name
    for name in geometries.VARIANTS
    if not only or name in only or name == BASE
  ]


def accelerator(where: Mapping[str, Any]) -> str:
  """Return the line that says whether an accelerator was measured."""
  if where["platform"] == "cpu":
    return "accelerator: not measured"
  return f"accelerator: {where['num_devices']} x {where['device']}"


def compare(
  figures: Mapping[str, measure.Figures], peak_flops: float | None
) -> dict[str, Row]:
  """Return a row a variant.

  Args:
    figures: by variant, `BASE` among them.
    peak_flops: of all devices, None if not known.
  """
  return {
    name: _row(geometries.VARIANTS[name].about, one, figures[BASE], peak_flops)
    for name, one in figures.items()
  }


def _row(about, one, base, peak_flops) -> Row:
  step = rounds.spread(one.step).median
  flops = one.tokens_a_step * one.flops_a_token / step
  rate, generation = None, None
  if one.generation and base.generation:
    rate = one.new_tokens / rounds.spread(one.generation).median
    # Rates: the base's seconds over this one's.
    generation = rounds.ratio(base.generation, one.generation)
  return Row(
    about=about,
    figures=one,
    tokens_per_second=one.tokens_a_step / step,
    update_seconds=rounds.spread(one.update).median,
    flops_per_second=flops,
    utilisation=flops / peak_flops if peak_flops else None,
    step=rounds.ratio(one.step, base.step),
    gradients=rounds.ratio(one.gradients, base.gradients),
    new_tokens_per_second=rate,
    generation=generation,
  )


def promise(geometry: str, found: Mapping[str, Row]) -> list[report.Promise]:
  """Judge what was promised of the variants that were measured."""
  judged = []
  for name, sources, bound in _GATHER_BOUNDS:
    if name in found:
      alone = report.show_ratio(found[name].gradients)
      judged.append(
        report.at_most(
          f"gather, {sources} a row: step over dense of active width",
          found[name].step,
          bound,
          also=f"forward and backward alone {alone}",
        )
      )
  if geometry in _LARGE_POOLS and {"masked", "gather"} <= set(found):
    slow, fast = found["masked"].figures, found["gather"].figures
    judged.append(
      report.at_least(
        "masked: step over gather's", rounds.ratio(slow.step, fast.step), 4.0
      )
    )
  for name in ("gather", "dedicated"):
    if name in found and found[name].generation is not None:
      judged.append(
        report.at_least(
          f"{name}: generation, tokens/s over dense of active width",
          found[name].generation,
          0.9,
        )
      )
  return judged


def show(found: Mapping[str, Row]) -> str:
  """Return the tables of training, generation and spread."""
  parts = ["training step", _show_training(found)]
  if any(row.generation for row in found.values()):
    parts += ["", "generation, one source", _show_generation(found)]
  return "\n".join([*parts, "", "spread, ms", _show_spread(found)])


def _show_training(found) -> str:
  lines = [
    [
      name,
      f"{row.tokens_per_second:,.0f}",
      f"{row.step.of_medians:.3f}",
      report.show_ratio(row.step),
      f"{1e3 * rounds.spread(row.figures.gradients).median:,.1f}",
      report.show_ratio(row.gradients),
      f"{1e3 * row.update_seconds:,.1f}",
      f"{row.flops_per_second / 1e9:,.1f}",
      utilisation(row.utilisation),
      megabytes(row.figures.bytes),
      f"{row.figures.compile_seconds:.1f}",
    ]
    for name, row in found.items()
  ]
  header = [
    "variant",
    "tokens/s",
    "x (a)",
    "by round (quartiles)",
    "f+b ms",
    "f+b x (a) (quartiles)",
    "update ms",
    "GFLOP/s",
    "MFU",
    "peak MB",
    "compile s",
  ]
  return report.table(header, lines)


def utilisation(value: float | None) -> str:
  """Return a model FLOP utilisation in words."""
  return "not known" if value is None else f"{100 * value:.1f} %"


def megabytes(found: workload.Bytes | None) -> str:
  """Return a program's memory in words."""
  return "not known" if found is None else f"{found.peak / 1e6:,.0f}"


def _show_generation(found) -> str:
  lines = []
  for name, row in found.items():
    if row.generation is None:
      continue
    flops = row.new_tokens_per_second * row.figures.flops_a_new_token
    lines.append(
      [
        name,
        f"{row.new_tokens_per_second:,.1f}",
        f"{row.generation.of_medians:.3f}",
        report.show_ratio(row.generation),
        f"{flops / 1e9:,.2f}",
        f"{row.figures.parameter_bytes / 1e6:,.0f}",
      ]
    )
  header = [
    "variant",
    "tokens/s",
    "x (a)",
    "by round (quartiles)",
    "GFLOP/s",
    "parameters MB",
  ]
  return report.table(header, lines)


def _show_spread(found) -> str:
  lines = []
  for name, row in found.items():
    for kind in ("step", "gradients", "generation"):
      samples = getattr(row.figures, kind)
      if samples:
        values = rounds.spread(samples)
        lines.append(
          [f"{name}, {kind}"]
          + [
            f"{1e3 * value:,.1f}"
            for value in (
              values.least,
              values.lower,
              values.median,
              values.upper,
              values.most,
            )
          ]
        )
  header = ["", "least", "quartile", "median", "quartile", "most"]
  return report.table(header, lines)
