"""Where a process finds that it is one of several."""

import contextlib
import http.server
import math
import threading

import pytest

from nulls_jax import errors
from nulls_jax.cluster import places

SLURM = {
  "SLURM_JOB_ID": "5003",
  "SLURM_STEP_NUM_TASKS": "4",
  "SLURM_STEP_NODELIST": "gpu[07-10]",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
  "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
GKE = {"TPU_WORKER_HOSTNAMES": "job-0.svc,job-1.svc", "TPU_WORKER_ID": "1"}
SLICES = {
  "MEGASCALE_COORDINATOR_ADDRESS": "job-a:8080",
  "MEGASCALE_NUM_SLICES": "3",
  "MEGASCALE_SLICE_ID": "2",
}


def find(environment=(), **flags):
  return places.find(places.ClusterFlags(**flags), dict(environment))


def test_flags_come_before_variables():
  variables = {
    "NULLS_COORDINATOR": "host:1234",
    "NULLS_NUM_PROCESSES": "8",
    "NULLS_PROCESS_ID": "5",
  }
  place = places.Place(host="host", port=1234, num_processes=8, process_id=5)
  assert find(variables) == place
  assert find({**SLURM, **variables}) == place
  found = find(variables, process_id=6, join_seconds=5.0, silent_seconds=9.0)
  assert (found.process_id, found.join_seconds) == (6, 5.0)
  assert found.silent_seconds == 9.0
  found = find(variables, coordinator="[::1]:99")
  assert (found.host, found.coordinator) == ("::1", "[::1]:99")
  assert find(variables, kind="none") is None
  assert find({**variables, "NULLS_NUM_PROCESSES": "1"}, process_id=0) is None


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"process_id": 0}, r"process_id given without --cluster\.coordinator \(N"),
    ({"coordinator": "host"}, "give HOST:PORT of process 0"),
    ({"coordinator": "host:65535"}, "with a port below 65535"),
    ({"process_id": 2}, "process_id is 2 of 2 processes; they are numbered"),
    ({"process_id": -1}, "process_id is '-1'; give a whole number"),
    ({"join_seconds": 0}, "join_seconds is 0; give a time"),
    ({"silent_seconds": 4.9}, "silent_seconds is 4.9; give 5 to 86400 sec"),
    ({"silent_seconds": math.nan}, "silent_seconds is nan; give 5 to"),
  ],
)
def test_what_is_not_whole_is_refused(given, said):
  whole = {"coordinator": "host:1", "num_processes": 2, "process_id": 0}
  flags = given if "without" in said else {**whole, **given}
  with pytest.raises(errors.UserError, match=said):
    find(**flags)


def test_slurm_says_where_it_runs_a_step():
  assert find(SLURM) == places.Place(
    host="gpu07", port=20006, num_processes=4, process_id=2
  )
  # A batch script, outside `srun`, is one process.
  batch = {name: SLURM[name] for name in SLURM if "STEP" not in name}
  assert find({**batch, "SLURM_NTASKS": "4"}) is None
  assert find({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_tasks_that_see_the_same_gpus_take_one_each():
  shared = {
    **SLURM,
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
  }
  assert find(shared).local_device_ids is None
  both = find({**shared, "CUDA_VISIBLE_DEVICES": "0,1"})
  assert both.local_device_ids == (1,)
  # Bound to one already.
  one = find({**shared, "CUDA_VISIBLE_DEVICES": "1"})
  assert one.local_device_ids is None


def test_gke_says_where_it_runs_a_worker():
  assert find(GKE) == places.Place(
    host="job-0.svc", port=8481, num_processes=2, process_id=1
  )
  found = find({**GKE, **SLICES})
  assert (found.host, found.num_processes) == ("job-a", 6)
  assert found.process_id == 2 * 2 + 1
  # As tools set it that compile for a slice on one machine.
  assert find({**GKE, "TPU_WORKER_HOSTNAMES": "localhost"}) is None


@contextlib.contextmanager
def metadata_server(attributes):
  """Answer as the metadata server of a Cloud TPU machine."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
      known = name in attributes and self.headers["Metadata-Flavor"] == "Google"
      self.send_response(200 if known else 404)
      self.end_headers()
      self.wfile.write(attributes.get(name, "").encode())

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
  "endpoints", ["10.0.0.1,10.0.0.2", "a:0:10.0.0.1,b:1:10.0.0.2"]
)
def test_a_tpu_machine_asks_its_metadata_server(endpoints, monkeypatch):
  attributes = {
    "agent-worker-number": "1",
    "worker-network-endpoints": endpoints,
    "tpu-env": "ACCELERATOR_TYPE: 'v5p-16'\nWORKER_ID: '1'\n",
  }
  sliced = "".join(f"{name}: '{value}'\n" for name, value in SLICES.items())
  with metadata_server(attributes) as address:
    variables = {"GCE_METADATA_IP": address}
    assert find(variables) is None  # No TPU in this machine.
    monkeypatch.setattr(places, "_has_tpu", lambda _: True)
    assert find(variables) == places.Place(
      host="10.0.0.1", port=8481, num_processes=2, process_id=1
    )
    assert find({**variables, "TPU_SKIP_MDS_QUERY": "1"}) is None
    attributes["tpu-env"] += sliced
    found = find(variables)
    assert (found.num_processes, found.process_id) == (6, 5)
    assert found.host == "job-a"
    del attributes["agent-worker-number"]
    assert find(variables) is None
  assert find(variables) is None  # Nobody answers.
