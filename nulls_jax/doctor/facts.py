"""What one host knows of itself: versions, settings, data, places, disk.

Owns the small tests of a place: can it be written, read back, listed? Imports
no JAX and starts no device; see `devices` for those.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import queue
import shutil
import socket
import threading
from typing import Any

from etils import epath

from nulls_jax import config as run_config
from nulls_jax import errors, files, version
from nulls_jax.data import mixture
from nulls_jax.jobs import provenance
from nulls_jax.training import storage

# What has to be equal on all hosts; those that are not installed are None.
PACKAGES = (
  "jax",
  "jaxlib",
  "libtpu",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)


def collect(
  config: run_config.RunConfig,
  data: os.PathLike | str,
  run_dir: os.PathLike | str,
  limit_seconds: float,
) -> dict[str, Any]:
  """Return everything about this host, as JSON stores it.

  What is wrong is part of it: `data.problem` and `run.problem` are None or a
  line that says what and what to do.

  Args:
    config: the settings of the run.
    data: a prepared dataset or a mixture.
    run_dir: where the run is or will be.
    limit_seconds: how long each of the two places may take to answer.
  """
  settings = run_config.to_dict(config)
  return {
    "name": socket.gethostname(),
    "versions": versions(),
    "config": settings,
    "config_sha256": files.json_sha256(settings),
    "data": _within(limit_seconds, _data, data),
    "run": _within(limit_seconds, _run, run_dir),
  }


def versions() -> dict[str, str | None]:
  """Return the versions that have to agree, and the commit of this code."""
  found: dict[str, str | None] = {"python": platform.python_version()}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  found["nulls_jax"] = version.__version__
  found["commit"] = provenance.commit()
  return found


def _within(limit_seconds: float, look, place) -> dict[str, Any]:
  """Look at a place, which a network may leave without an answer for ever."""
  seen = queue.SimpleQueue()

  def run():
    found = None
    try:
      found = look(place)
    finally:
      seen.put(found)

  # An executor would wait for it when this program ends.
  threading.Thread(target=run, daemon=True).start()
  try:
    found = seen.get(timeout=limit_seconds)
  except queue.Empty:
    return {
      "path": os.fspath(place),
      "sha256": None,
      "free_bytes": None,
      "answers": False,
      "problem": f"{place}: did not answer within {limit_seconds:g} s; see "
      "whether this host reaches it, or choose another place",
    }
  if found is None:
    raise RuntimeError(f"{place}: see the traceback above")
  return found


def _data(place) -> dict[str, Any]:
  found: dict[str, Any] = {
    "path": os.fspath(place),
    "sha256": None,
    "problem": None,
  }
  try:
    prepared = mixture.open_dataset(place)
    found["sha256"] = mixture.digest(prepared)
    for path in prepared.row_files:
      with open(path, "rb") as file:
        file.read(1)
  except errors.UserError as error:
    found["problem"] = str(error)
  except OSError as error:
    found["problem"] = (
      f"{error.filename or place}: cannot be read ({error.strerror}); mend "
      "its permissions or mount it on this host"
    )
  return found


def _run(place) -> dict[str, Any]:
  found: dict[str, Any] = {
    "path": os.fspath(place),
    "problem": None,
    "answers": True,
  }
  try:
    write_probe(place)
  except (ImportError, *storage.store_errors()) as error:
    found["problem"] = unwritable(place, error)
    found["answers"] = not storage.is_remote(place)
  found["free_bytes"] = free_bytes(place)
  return found


def unwritable(place, error: Exception) -> str:
  """Say why a run's place cannot be written, and what to do."""
  if isinstance(error, ImportError):
    return (
      f"{place}: cannot be written ({error}); install this package with the "
      "extra [gcs] on all hosts, or choose another --run"
    )
  if storage.is_remote(place):
    return (
      f"{place}: cannot be reached ({' '.join(str(error).split())}); log in on "
      "this host (at gs://, `gcloud auth application-default login`, or give "
      "its service account a role), or choose another --run"
    )
  name = getattr(error, "filename", None) or place
  reason = getattr(error, "strerror", None) or error
  return (
    f"{name}: cannot be written ({reason}); mend its permissions, mount it on "
    "this host, or choose another --run"
  )


def write_probe(place: os.PathLike | str) -> None:
  """Write, read and delete a small file in a run's folder, or beside it.

  The folder itself is not made: `nulls train` wants to find it empty.

  Raises:
    OSError: that is not possible, or other bytes came back; a store's library
      has errors of its own, see `storage.store_errors`.
    ImportError: what reads such places is not installed.
  """
  folder = epath.Path(place)
  if not folder.exists():
    folder = folder.parent
    folder.mkdir(parents=True, exist_ok=True)
  word = f"{socket.gethostname()} {os.getpid()}"
  name = f"doctor-{hashlib.sha256(word.encode()).hexdigest()[:16]}.partial"
  probe = folder / name
  try:
    probe.write_text(word)
    if probe.read_text() != word:
      raise OSError(f"{probe}: other bytes came back than were written")
  finally:
    probe.unlink(missing_ok=True)


def free_bytes(place: os.PathLike | str) -> int | None:
  """Return the free space where a run is; None where there is no such bound.

  That is in a bucket, or where the place cannot be found.
  """
  if storage.is_remote(place):
    return None
  path = pathlib.Path(place).absolute()
  while not path.exists() and path != path.parent:
    path = path.parent
  return shutil.disk_usage(path).free
