"""What JAX sees on this host, and what a run says to it; a process of its own.

Starting devices waits for other hosts, and does so for ever if one of them
never comes. `look` therefore starts this module as a process, with a time
limit; it reads what to look for from its standard input and writes one line
of JSON. It joins the other hosts as `nulls train` does, arranges the mesh,
divides the batch and takes the sizes of the state from the real shapes; it
computes nothing and allocates nothing.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from typing import Any

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.cluster import places

# The line of the answer: libraries write to standard output, too.
_MARK = "nulls-doctor: "


def question(
  config: run_config.RunConfig,
  data: os.PathLike | str,
  run_dir: os.PathLike | str,
  place: places.Place | None,
  limit_seconds: float,
) -> dict[str, Any]:
  """Return what the process has to know, as JSON stores it."""
  asked: dict[str, Any] = {
    "config": run_config.to_dict(config),
    "data": os.fspath(data),
    "run": os.fspath(run_dir),
    "join": None,
  }
  if place is not None:
    # The port beside the one at which the processes of a run meet, as there.
    beside = dataclasses.replace(place, port=place.port + 1)
    asked["join"] = {
      "coordinator_address": beside.coordinator,
      "num_processes": place.num_processes,
      "process_id": place.process_id,
      "local_device_ids": place.local_device_ids,
      "initialization_timeout": max(1, int(limit_seconds)),
    }
  return asked


def look(asked: dict[str, Any], limit_seconds: float) -> dict[str, Any]:
  """Return what this host's devices are, or why that is not known.

  Args:
    asked: from `question`.
    limit_seconds: after so long the process is killed.

  Returns:
    `problem` (None or a line), and if the devices came up `devices`
    (`platform`, `kind`, `local`, `total`, `processes`), `mesh` (a word),
    `layout_problem` (None or a line) and `checkpoint_bytes`.
  """
  try:
    done = subprocess.run(
      [sys.executable, "-m", __name__],
      input=json.dumps(asked).encode(),
      capture_output=True,
      check=False,
      timeout=limit_seconds,
    )
    out, err, status = done.stdout, done.stderr, str(done.returncode)
  except subprocess.TimeoutExpired as error:
    out, err, status = error.stdout or b"", b"", "none"
  for line in out.decode(errors="replace").splitlines():
    if line.startswith(_MARK):
      return json.loads(line.removeprefix(_MARK))
  if status == "none":
    return {
      "problem": f"its devices did not come up within {limit_seconds:g} s; do "
      "the hosts reach each other's ports, and does another program hold the "
      "devices?"
    }
  said = err.decode(errors="replace").split("\n")
  last = [" ".join(line.split()) for line in said if line.strip()]
  return {
    "problem": f"its devices did not come up (status {status}: "
    f"{last[-1][:300] if last else 'it said nothing'}); mend that and start "
    "again"
  }


def answer(asked: dict[str, Any]) -> dict[str, Any]:
  """Look at the devices in this process; raises what the looking raises."""
  import jax

  config = run_config.from_dict(asked["config"], "the doctor's input")
  if asked["join"] is not None:
    jax.distributed.initialize(
      **asked["join"], cluster_detection_method="deactivate"
    )
  here = jax.local_devices()
  found: dict[str, Any] = {
    "problem": None,
    "devices": {
      "platform": here[0].platform,
      "kind": here[0].device_kind,
      "local": len(here),
      "total": jax.device_count(),
      "processes": jax.process_count(),
    },
    "mesh": None,
    "layout_problem": None,
    "checkpoint_bytes": None,
  }
  try:
    _lay_out(found, config, asked["data"], asked["run"])
  except errors.UserError as error:
    found["layout_problem"] = " ".join(str(error).split())
  return found


def _lay_out(found, config, data, run_dir) -> None:
  """Do what `nulls train` does before its first step, on shapes only."""
  import jax

  from nulls_jax.data import mixture
  from nulls_jax.training import loop, partitioning, state, storage

  mesh = partitioning.make_mesh(config.mesh)
  found["mesh"] = " x ".join(
    f"{axis} {size}" for axis, size in mesh.shape.items()
  )
  training = config.training
  partitioning.check_batch(training.batch_size, training.accumulation, mesh)
  found["mesh"] += f", batch {training.batch_size}"
  config = loop.resolve(config, mixture.open_dataset(data))
  settings = storage.root(run_dir) / "config.json"
  if settings.exists():
    values = json.loads(settings.read_text())
    changed = run_config.differences(
      run_config.from_dict(values, str(settings)), config
    )
    if changed:
      raise errors.UserError(
        f"{run_dir}: this run was started with another config: "
        f"{errors.listing(changed)}; give another --run, or that config"
      )
  with partitioning.context(mesh):
    leaves = jax.tree.leaves(state.abstract(config, mesh))
  found["checkpoint_bytes"] = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves
  )


def _main() -> None:
  asked = json.load(sys.stdin)
  try:
    found = answer(asked)
  except (errors.UserError, errors.MachineError) as error:
    found = {"problem": " ".join(str(error).split())}
  print(f"{_MARK}{json.dumps(found)}", flush=True)
  if asked["join"] is not None and found.get("devices"):
    import jax

    # The first process serves the others until all are here.
    jax.distributed.shutdown()
  os._exit(0)


if __name__ == "__main__":
  _main()
