"""The command that looks at a pod before it is rented."""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated

import tyro

from nulls_jax import config as run_config
from nulls_jax import errors, files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compile:
  """Compile a training step for a TPU pod, without a TPU: does it fit?

  Attributes:
    topology: a slice as it is rented (v5e-256, v5p-512, v6e-256) or as JAX
      writes it (v5e:16x16, v5p:4x8x8).
    num_slices: equal slices, joined along the data axis.
    config: file whose settings are the defaults of the flags below.
    out: JSON file of the report.
    markdown: print one row of a table instead of a page.
    shapes: compile nothing and need no libtpu: say at once what the state
      takes and what a step must send, by the shapes of the arrays.
    no_count: do not also compile programs of one and two layers, to count
      FLOPs and bytes in them.
    settings: the whole configuration.
  """

  topology: str
  num_slices: int = 1
  config: pathlib.Path | None = None
  out: pathlib.Path | None = None
  markdown: bool = False
  shapes: bool = False
  no_count: bool = False
  settings: Annotated[run_config.RunConfig, tyro.conf.arg(name="")]

  def run(self) -> None:
    from nulls_jax.planning import topologies

    name = self.config.stem if self.config else "the defaults"
    topology = topologies.parse(self.topology, self.num_slices)
    plan = self._shapes if self.shapes else self._compiled
    found, row, page, refusal = plan(name, topology)
    print(row if self.markdown else page, flush=True)
    if self.out is not None:
      values = json.dumps({"configuration": name, **found}, indent=2)
      files.write_whole(self.out, values + "\n")
    if not found["fits"]:
      raise errors.UserError(refusal)

  def _shapes(self, name, topology):
    from nulls_jax.planning import report, shapes

    found = shapes.plan(self.settings, topology)
    return (
      found,
      report.shapes_row(name, found),
      report.shapes_page(found),
      f"{name} does not fit {topology.name}: its state alone is too large",
    )

  def _compiled(self, name, topology):
    from nulls_jax.planning import plan, report

    found = plan.plan(
      self.settings,
      topology,
      say=lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True),
      count=not self.no_count,
    )
    line = f"{name} {report.verdict(found)}"
    return (
      found,
      report.markdown_row(name, found),
      report.page(found),
      "; try ".join([line, *found["advice"][:1]]),
    )
