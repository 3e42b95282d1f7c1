"""A plan as text: a page for the terminal, a row of a table in Markdown.

Owns wording and rounding. What it shows comes from `planning.plan`.
"""

from collections.abc import Iterator

_GIB = 2**30
_MIB = 2**20

MARKDOWN_HEAD = (
  "| configuration | topology | data x fsdp x tensor | parameters | "
  "state, GiB | whole step, GiB | of | fits | GFLOPs a token | sent, MiB | "
  "compute / memory / interconnect, ms | tokens/s, at most |\n"
  "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)

SHAPES_HEAD = (
  "| configuration | topology | chips | data x fsdp | rows a step | state, "
  "GiB | of | it fits | sent, MiB: parameters | gradients | rows | "
  "embeddings | all | between slices |\n" + "| --- " * 14 + "|"
)


def page(report: dict) -> str:
  """Return what `nulls compile` prints."""
  return "\n".join(_lines(report))


def _lines(report: dict) -> Iterator[str]:
  topology, mesh = report["topology"], report["mesh"]
  yield (
    f"{report['parameters']:,} parameters, "
    f"{report['tokens_per_step']:,} tokens a step, on {topology['name']}: "
    f"{topology['chips']} chips as data {mesh['data']} x fsdp {mesh['fsdp']} x "
    f"tensor {mesh['tensor']}"
  )
  yield ""
  yield from _memory(report)
  if "collectives" in report:
    yield ""
    yield from _collectives(report["collectives"])
  if report["fits"]:
    yield ""
    yield from _speed(report)


def _memory(report: dict) -> Iterator[str]:
  held, memory = report["state_bytes"], report.get("memory")
  needed = report["needed_bytes"]
  unit, name = (_GIB, "GiB") if needed >= _GIB else (_MIB, "MiB")

  def row(label: str, num_bytes: int) -> str:
    return f"  {label:38}{num_bytes / unit:10,.3f}"

  yield f"memory of one chip{name:>32}"
  yield row("parameters, by their shapes", held["params"])
  yield row("optimiser, by its shapes", held["opt_state"])
  yield row("batch, by its shapes", report["batch_bytes"])
  if memory is None:
    yield row("the whole step, says the compiler", needed)
  else:
    shapes = sum(held.values()) + report["batch_bytes"]
    more = memory["arguments"] / shapes - 1
    yield row("all three, says the compiler", memory["arguments"]) + (
      f"   {more:+.2%}: TPUs pad the last two axes to tiles"
    )
    yield row("temporaries", memory["temporaries"])
    yield row("outputs", memory["outputs"])
    yield row("donated: outputs in arguments' place", -memory["donated"])
    yield row("program", memory["program"])
    yield row("the whole step", memory["total"])
  yield row("what a program can have", report["available_bytes"])
  yield f"  {verdict(report)}"
  if report["advice"]:
    yield "  what to change; estimates, to be compiled:"
  for line in report["advice"]:
    yield f"  - {line}"


def verdict(report: dict) -> str:
  """Return in one line whether it fits, and by how much."""
  needed, available = report["needed_bytes"], report["available_bytes"]
  share = needed / available
  if report["fits"]:
    return (
      f"fits: {(available - needed) / _GIB:.2f} GiB a chip are free "
      f"({share:.0%} used)"
    )
  return (
    f"does not fit: a chip needs {needed / _GIB:.2f} GiB and has "
    f"{available / _GIB:.2f} GiB, {(needed - available) / _GIB:.2f} GiB too "
    "few"
  )


def _collectives(found: list[dict]) -> Iterator[str]:
  yield (
    "collectives of one step     count   of arrays, MiB   sent by a chip, MiB"
  )
  for one in found:
    yield (
      f"  {one['kind']:22}{one['count']:9,}{one['bytes'] / _MIB:17,.1f}"
      f"{one['sent'] / _MIB:22,.1f}"
    )
  if not found:
    yield "  none"


def _speed(report: dict) -> Iterator[str]:
  flops, bound = report["flops_per_token"], report["roofline"]
  counted = flops["counted"] is not None
  yield f"{'FLOPs of a token (millions)':28}{'this':>9}   dense twin   ratio"
  if counted:
    yield _flops(
      "counted in the program", flops["counted"], flops["counted_dense"]
    )
  yield _flops(
    "by the matrices' sizes", flops["analytic"], flops["analytic_dense"]
  )
  if flops["kernels"]:
    yield (
      _flops("of it in kernels", flops["kernels"])
      + "   by their sizes; compilers count them as nothing"
    )
  if flops["recomputed"]:
    yield _flops("computed a second time", flops["recomputed"])
  yield ""
  yield "one step at the chip's peaks: a bound and not a measurement"
  accessed = (
    "bytes accessed" if counted else "the state, read and written once,"
  )
  for name, what in (
    ("compute", "FLOPs over the bf16 peak"),
    ("memory", f"{accessed} over the memory's bandwidth"),
    ("interconnect", "bytes sent over the bandwidth of all links"),
  ):
    mark = "  <- binds" if bound["binds"] == name else ""
    yield f"  {name:14}{bound[name] * 1e3:10.2f} ms   {what}{mark}"
  yield (
    f"  so at most {bound['tokens_per_second']:,.0f} tokens/s, model FLOP "
    f"utilisation {bound['utilisation']:.0%}"
  )
  if report["topology"]["num_slices"] > 1:
    yield (
      "  the network between slices, slower than the chips' links, is left out"
    )


def _flops(name: str, this: float, dense: float | None = None) -> str:
  line = f"  {name:26}{this / 1e6:9,.1f}"
  if dense is None:
    return line
  return line + f"{dense / 1e6:13,.1f}{this / dense:8.3f}"


def markdown_row(name: str, report: dict) -> str:
  """Return a row under `MARKDOWN_HEAD`.

  Args:
    name: of the configuration.
    report: from `plan.plan`.
  """
  mesh = report["mesh"]
  cells = [
    name,
    report["topology"]["name"],
    f"{mesh['data']} x {mesh['fsdp']} x {mesh['tensor']}",
    _large(report["parameters"]),
    f"{sum(report['state_bytes'].values()) / _GIB:.2f}",
    f"{report['needed_bytes'] / _GIB:.2f}",
    f"{report['available_bytes'] / _GIB:.2f}",
    "yes" if report["fits"] else "**no**",
  ]
  if report["fits"]:
    flops, bound = report["flops_per_token"], report["roofline"]
    this, dense = flops["counted"], flops["counted_dense"]
    ratio = f" ({this / dense:.3f} x dense)" if dense else ""
    times = (
      bound[part] * 1e3 for part in ("compute", "memory", "interconnect")
    )
    cells += [
      f"{(this or flops['analytic']) / 1e9:.3f}{ratio}",
      f"{sum(one['sent'] for one in report['collectives']) / _MIB:,.0f}",
      " / ".join(f"{milliseconds:.1f}" for milliseconds in times),
      f"{bound['tokens_per_second'] / 1e6:.1f} M",
    ]
  else:
    cells += [""] * 4
  return f"| {' | '.join(cells)} |"


def shapes_page(report: dict) -> str:
  """Return what `nulls compile --shapes` prints.

  Args:
    report: from `shapes.plan`.
  """
  topology, mesh = report["topology"], report["mesh"]
  held, sent = report["state_bytes"], report["sent_bytes"]
  needed, available = sum(held.values()), topology["usable_bytes"]
  lines = [
    f"{report['parameters']:,} parameters, "
    f"{report['tokens_per_step']:,} tokens a step, on {topology['name']}: "
    f"{topology['chips']} chips as data {mesh['data']} x fsdp {mesh['fsdp']}",
    "",
    f"memory of one chip, by shapes{'GiB':>22}",
  ]
  for name, size in (
    ("parameters", held["params"]),
    ("optimiser", held["opt_state"]),
    ("of both: the sink table's", report["table_bytes"]),
    ("batch", report["batch_bytes"]),
    ("what a program can have", available),
  ):
    lines.append(f"  {name:38}{size / _GIB:10,.3f}")
  verdict = "fits" if report["fits"] else "does not fit"
  lines += [
    f"  the state alone {verdict} ({needed / available:.0%} of a chip); what "
    "lives within the step comes on top",
    "",
    f"sent by a chip in one step, at the least{'MiB':>11}",
  ]
  for name, label in (
    ("parameters", "parameters, gathered over fsdp"),
    ("gradients", "gradients, over fsdp and data"),
    ("rows", "rows of sinks, and their gradients"),
    ("embeddings", "embeddings, and their gradients"),
    ("total", "all"),
    ("between_slices", "of it between slices"),
  ):
    lines.append(f"  {label:38}{sent[name] / _MIB:10,.1f}")
  return "\n".join(lines)


def shapes_row(name: str, report: dict) -> str:
  """Return a row under `SHAPES_HEAD`; arguments as `markdown_row`."""
  topology, mesh = report["topology"], report["mesh"]
  sent = report["sent_bytes"]
  parts = ("parameters", "gradients", "rows", "embeddings", "total")
  between = sent["between_slices"] if topology["num_slices"] > 1 else None
  cells = [
    name,
    topology["name"],
    f"{topology['chips']:,}",
    f"{mesh['data']} x {mesh['fsdp']}",
    f"{report['rows_per_step']:,}",
    f"{sum(report['state_bytes'].values()) / _GIB:.2f}",
    f"{topology['usable_bytes'] / _GIB:.2f}",
    "yes" if report["fits"] else "**no**",
    *(f"{sent[part] / _MIB:,.0f}" for part in parts),
    "" if between is None else f"{between / _MIB:,.1f}",
  ]
  return f"| {' | '.join(cells)} |"


def _large(number: int) -> str:
  return f"{number / 1e9:.3f} G" if number >= 1e9 else f"{number / 1e6:.0f} M"
