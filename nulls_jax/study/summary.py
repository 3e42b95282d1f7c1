"""Where and how a study ran: time, memory, machine, versions.

Owns the part of `summary.json` that is not about results.
"""

import dataclasses
import datetime
import importlib.metadata
import os
import pathlib
import platform
import sys
from collections.abc import Mapping
from typing import Any

import psutil

from nulls_jax import version
from nulls_jax.study import jobs

FORMAT = "nulls study summary 1"

_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "sentencepiece",
  "numpy",
)


def circumstances(
  records: Mapping[str, jobs.Record], directory: pathlib.Path
) -> dict[str, Any]:
  """Return `written`, `steps`, `wall_seconds`, `peak_memory_bytes` and more.

  Args:
    records: of all steps.
    directory: the study's folder, shown as `OUT` in commands.
  """
  steps = []
  for record in sorted(records.values(), key=lambda record: record.started):
    command = record.command.replace(f"{directory}/", "OUT/")
    command = command.replace(f"{os.getcwd()}/", "")
    steps.append({**dataclasses.asdict(record), "command": command})
  return {
    "written": datetime.datetime.now(datetime.UTC).isoformat(
      timespec="seconds"
    ),
    "directory": short_path(directory),
    "steps": steps,
    "wall_seconds": covered(
      [(step["started"], step["started"] + step["seconds"]) for step in steps]
    ),
    "peak_memory_bytes": max(
      (step["peak_total_bytes"] for step in steps), default=0
    ),
    "machine": machine(),
    "versions": versions(),
  }


def short_path(path: pathlib.Path) -> str:
  """Return a path as seen from the current folder, if it lies in there."""
  if path.is_relative_to(pathlib.Path.cwd()):
    return str(path.relative_to(pathlib.Path.cwd()))
  return str(path)


def covered(intervals: list[tuple[float, float]]) -> float:
  """Return the length of the union of intervals.

  >>> covered([(0, 2), (1, 3), (5, 6)])
  4
  """
  total, reached = 0, None
  for start, end in sorted(intervals):
    if reached is None or start > reached:
      total, reached = total + end - start, end
    elif end > reached:
      total, reached = total + end - reached, end
  return total


def machine() -> dict[str, Any]:
  """Describe this machine."""
  usable = os.cpu_count()
  if hasattr(os, "sched_getaffinity"):
    usable = len(os.sched_getaffinity(0))
  return {
    "cores": usable,
    "memory_bytes": psutil.virtual_memory().total,
    "processor": platform.processor() or platform.machine(),
    "system": platform.platform(),
    "python": platform.python_version(),
    "implementation": sys.implementation.name,
    "jax_platforms": os.environ.get("JAX_PLATFORMS", "cpu") or "cpu",
  }


def versions() -> dict[str, str]:
  """Return the versions of this package and of those that decide results."""
  found = {"nulls_jax": version.__version__}
  for name in _PACKAGES:
    found[name] = importlib.metadata.version(name)
  return found
