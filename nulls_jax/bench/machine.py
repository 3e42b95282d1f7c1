"""What a benchmark ran on, and how much memory is left there."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax
import psutil

from nulls_jax import version

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def describe() -> dict[str, Any]:
  """Return the machine, its devices, versions and the date, for JSON."""
  device = jax.devices()[0]
  return {
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "processor": _processor(),
    "cores": cores(),
    "memory_bytes": psutil.virtual_memory().total,
    "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    "platform": device.platform,
    "device": device.device_kind,
    "num_devices": jax.device_count(),
    "system": platform.platform(),
    "python": platform.python_version(),
    "jax": importlib.metadata.version("jax"),
    "jaxlib": importlib.metadata.version("jaxlib"),
    "nulls_jax": version.__version__,
  }


def cores() -> int:
  """Return the processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def line(found: dict[str, Any]) -> str:
  """Return the machine in one line."""
  devices = ""
  if found["platform"] != "cpu":
    devices = f"{found['num_devices']} x {found['device']}, "
  load = found["load_before"]
  return (
    f"{devices}{found['processor']}, {found['cores']} cores, "
    f"{found['memory_bytes'] / 1e9:.0f} GB, jax {found['jax']}, "
    f"{found['date']}"
    + (f", load before {load:.1f}" if load is not None else "")
  )


def free_bytes() -> int | None:
  """Return the memory that one device has left, None where not known."""
  device = jax.local_devices()[0]
  if device.platform == "cpu":
    # All CPU devices share the machine's.
    return psutil.virtual_memory().available // jax.local_device_count()
  stats = device.memory_stats()
  if not stats or "bytes_limit" not in stats:
    return None
  return stats["bytes_limit"] - stats["bytes_in_use"]


def peak_bytes() -> int | None:
  """Return the most memory the first device ever held, None if not told."""
  stats = jax.local_devices()[0].memory_stats()
  return stats.get("peak_bytes_in_use") if stats else None


def _processor() -> str:
  """Return the processor's model, or its kind where the model is not told."""
  if _CPU_INFO.exists():
    for text in _CPU_INFO.read_text("utf-8", errors="replace").splitlines():
      if text.startswith("model name"):
        return text.partition(":")[2].strip()
  return platform.processor() or platform.machine()
