"""Which process of how many this one is, and where process 0 is.

Read from flags, from `NULLS_*` variables, or from what SLURM, GKE and Cloud
TPU machines say about themselves. Knows nothing of JAX.

Invariant: all processes of a run find the same coordinator and count, and
each its own number.
"""

import dataclasses
import glob
import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Literal

from nulls_jax import errors

_VARIABLES = {
  "coordinator": "NULLS_COORDINATOR",
  "num_processes": "NULLS_NUM_PROCESSES",
  "process_id": "NULLS_PROCESS_ID",
}
# Some of the beats of `hub`, which may come late; a day.
_SILENCES = (5, 86400)
# JAX's own service takes the port above, 8482 on TPU as JAX has it.
_TPU_PORT = 8481
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterFlags:
  """Which process of a run this one is; found by itself on SLURM and TPU.

  Attributes:
    kind: "auto" looks at the variables NULLS_COORDINATOR, NULLS_NUM_PROCESSES
      and NULLS_PROCESS_ID, then at those of SLURM and GKE, then whether this
      is a Cloud TPU machine; "none" trains on this machine alone.
    coordinator: HOST:PORT of process 0, which listens there and at the next
      port.
    num_processes: of the run.
    process_id: of this one, from 0.
    join_seconds: for which all wait for each other at the start.
    silent_seconds: after which a host that was cut off, or a process that was
      stopped, counts as lost, and all others end; at least 5.
  """

  kind: Literal["auto", "none"] = "auto"
  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  join_seconds: float = 300.0
  silent_seconds: float = 40.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """One process among several.

  Attributes:
    host: of process 0.
    port: at which process 0 waits for the others.
    num_processes: at least 2.
    process_id: 0 to num_processes - 1.
    join_seconds: how long the processes wait for each other.
    silent_seconds: after which one that says nothing is lost.
    local_device_ids: the devices of this machine that it takes; None takes
      all.
  """

  host: str
  port: int
  num_processes: int
  process_id: int
  join_seconds: float = 300.0
  silent_seconds: float = 40.0
  local_device_ids: tuple[int, ...] | None = None

  @property
  def coordinator(self) -> str:
    """HOST:PORT of process 0."""
    host = f"[{self.host}]" if ":" in self.host else self.host
    return f"{host}:{self.port}"

  @property
  def patience_seconds(self) -> float:
    """After so long it is known whether another process was lost."""
    return self.silent_seconds + 10.0

  @property
  def was_silent(self) -> str:
    """How one is lost that says nothing."""
    return f"was silent for {self.silent_seconds:g} s"


def find(flags: ClusterFlags, environment: Mapping[str, str]) -> Place | None:
  """Return this process's place, None if it trains alone.

  Args:
    flags: what was given on the command line; it comes first.
    environment: variables, `os.environ`.

  Raises:
    errors.UserError: what was given is not whole, or makes no sense.
  """
  if flags.join_seconds <= 0:
    raise errors.UserError(
      f"cluster.join_seconds is {flags.join_seconds}; give a time in seconds"
    )
  if not _SILENCES[0] <= flags.silent_seconds <= _SILENCES[1]:
    raise errors.UserError(
      f"cluster.silent_seconds is {flags.silent_seconds}; give "
      f"{_SILENCES[0]} to {_SILENCES[1]} seconds"
    )
  given = {
    name: value
    for name, variable in _VARIABLES.items()
    if (value := _first(getattr(flags, name), environment.get(variable)))
  }
  if flags.kind == "none":
    return None
  place = (
    _explicit(given)
    if given
    else _slurm(environment) or _gke(environment) or _tpu_machine(environment)
  )
  if place is None or place.num_processes == 1:
    return None
  return dataclasses.replace(
    place,
    join_seconds=flags.join_seconds,
    silent_seconds=flags.silent_seconds,
  )


def _first(flag, variable) -> str | None:
  return variable if flag is None else str(flag)


def _explicit(given: dict[str, str]) -> Place:
  missing = [
    f"--cluster.{name.replace('_', '-')} ({variable})"
    for name, variable in _VARIABLES.items()
    if name not in given
  ]
  if missing:
    raise errors.UserError(
      f"{errors.listing(sorted(given))} given without "
      f"{errors.listing(missing)}; give all three to every process, or none"
    )
  host, _, port = given["coordinator"].rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 65535:
    raise errors.UserError(
      f"cluster.coordinator is {given['coordinator']!r}; give HOST:PORT of "
      "process 0, with a port below 65535"
    )
  for name in ("num_processes", "process_id"):
    if not given[name].isdecimal():
      raise errors.UserError(
        f"cluster.{name} is {given[name]!r}; give a whole number"
      )
  num_processes, process_id = (
    int(given["num_processes"]),
    int(given["process_id"]),
  )
  if process_id >= num_processes:
    raise errors.UserError(
      f"cluster.process_id is {process_id} of {num_processes} processes; they "
      "are numbered from 0"
    )
  return Place(
    host=host.strip("[]"),
    port=int(port),
    num_processes=num_processes,
    process_id=process_id,
  )


def _slurm(environment) -> Place | None:
  """Inside `srun` only: a batch script of several tasks is one process."""
  names = ("JOB_ID", "STEP_NUM_TASKS", "STEP_NODELIST", "PROCID", "LOCALID")
  found = [environment.get(f"SLURM_{name}", "") for name in names]
  if not all(found):
    return None
  job, num_tasks, nodes, process_id, local_id = found
  return Place(
    host=first_node(nodes),
    port=20000 + 2 * (int(re.match(r"\d*", job).group() or 0) % 5000),
    num_processes=int(num_tasks),
    process_id=int(process_id),
    local_device_ids=_own_gpu(environment, int(local_id)),
  )


def _own_gpu(environment, local_id: int) -> tuple[int, ...] | None:
  """Tasks that see the same GPUs take one each."""
  tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
  on_node = int(re.match(r"\d+", tasks).group())
  visible = environment.get("CUDA_VISIBLE_DEVICES", "")
  if on_node == 1 or len(visible.split(",")) < on_node:
    return None
  return (local_id,)


def first_node(nodes: str) -> str:
  """Return the first name of a SLURM list of nodes.

  >>> first_node("gpu[007-012,20],login1"), first_node("a1,a2")
  ('gpu007', 'a1')
  """
  head, bracket, rest = nodes.partition("[")
  if not bracket or "," in head:
    return head.split(",")[0]
  return head + re.split("[-,\\]]", rest, maxsplit=1)[0]


def _gke(environment) -> Place | None:
  workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
    "TPU_WORKER_HOSTNAMES", ""
  )
  worker = environment.get("TPU_WORKER_ID", "")
  if not workers or not worker.isdecimal():
    return None
  return _of_slices(workers.split(","), int(worker), environment)


def _of_slices(workers, worker, values: Mapping[str, str]) -> Place:
  """Number the workers of all slices, slice after slice, as JAX does."""
  num_slices = int(values.get("MEGASCALE_NUM_SLICES") or 1)
  slice_id = int(values.get("MEGASCALE_SLICE_ID") or 0)
  first = values.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
  return Place(
    host=first.split(":")[0],
    port=_TPU_PORT,
    num_processes=len(workers) * num_slices,
    process_id=worker + slice_id * len(workers),
  )


def _tpu_machine(environment) -> Place | None:
  """Ask the metadata server, on a machine that has TPU chips."""
  if environment.get("TPU_SKIP_MDS_QUERY") or not _has_tpu(environment):
    return None
  worker = _metadata(environment, "agent-worker-number")
  endpoints = _metadata(environment, "worker-network-endpoints")
  if not (worker or "").isdecimal() or not endpoints:
    return None
  # Names alone, or `name:number:address`.
  workers = [one.split(":")[-1] for one in endpoints.split(",")]
  values = dict(
    re.findall(
      r"^(MEGASCALE_\w+): *'?([^'\n]*)",
      _metadata(environment, "tpu-env") or "",
      re.MULTILINE,
    )
  )
  return _of_slices(workers, int(worker), {**values, **environment})


def _has_tpu(environment) -> bool:
  platforms = environment.get("JAX_PLATFORMS", "")
  return (
    (not platforms or "tpu" in platforms)
    and bool(glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"))
    and importlib.util.find_spec("libtpu") is not None
  )


def _metadata(environment, name: str) -> str | None:
  server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    _METADATA.format(server, name), headers={"Metadata-Flavor": "Google"}
  )
  try:
    with urllib.request.urlopen(request, timeout=10) as reply:
      return reply.read().decode()
  except (urllib.error.URLError, TimeoutError):
    return None
