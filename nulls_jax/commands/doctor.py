"""The command that examines hosts before they train."""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Annotated

import tyro

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.cluster import places


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
  """Check all hosts before a run: versions, data, places, clocks, devices.

  It takes the flags of `nulls train` (but --grow-from); start it as that, on
  every host.

  Attributes:
    data: a prepared dataset or a mixture.
    run_dir: where the run is or will be; hosts meet in a folder beside it.
    config: file whose settings are the defaults of the flags below.
    limit_seconds: how long other hosts, and the devices, may take.
    topology: the slice that was rented (v6e-256); its devices are expected.
    num_slices: equal slices of it.
    no_devices: do not start devices.
    json: print everything as JSON in place of the table.
    cluster: which host this is.
    settings: the whole configuration.
  """

  data: Annotated[pathlib.Path, tyro.conf.arg(name="data")]
  run_dir: Annotated[str, tyro.conf.arg(name="run", metavar="PATH")]
  config: pathlib.Path | None = None
  limit_seconds: float = 120.0
  topology: str | None = None
  num_slices: int = 1
  no_devices: bool = False
  json: bool = False
  cluster: places.ClusterFlags = places.ClusterFlags()
  settings: Annotated[run_config.RunConfig, tyro.conf.arg(name="")]

  def run(self) -> None:
    from nulls_jax.doctor import examination, report

    if not 0 < self.limit_seconds <= 86400:
      raise errors.UserError(
        f"--limit-seconds {self.limit_seconds:g} is not between 0 and 86400"
      )
    outcome = examination.examine(
      self.settings,
      self.data,
      self.run_dir,
      place=places.find(self.cluster, os.environ),
      limit_seconds=self.limit_seconds,
      expected=self._expected(),
      with_devices=not self.no_devices,
    )
    # One host's table is enough where all say the same.
    if outcome.index == 0 or outcome.findings:
      print(
        json.dumps(outcome.to_dict(), indent=2)
        if self.json
        else report.table(outcome)
      )
    lines = report.lines(outcome)
    for line in lines:
      print(f"nulls: {line}", file=sys.stderr, flush=True)
    if lines:
      raise errors.MachineError(
        f"{errors.counted(len(lines), 'thing')} to mend before training"
      )

  def _expected(self) -> dict | None:
    if self.topology is None:
      return None
    from nulls_jax.planning import topologies

    found = topologies.parse(self.topology, self.num_slices)
    return {
      "name": found.name,
      "total": found.num_chips,
      "kind": found.chip.device_kind,
    }
