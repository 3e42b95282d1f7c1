"""Runs in every role, made once a session of the tiny run, and a protocol."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from nulls_jax import config as run_config
from nulls_jax.data.preparation import dataset, job, prepare
from nulls_jax.protocol import protocol as protocol_lib
from nulls_jax.training import loop
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.revocation import revocation

# Steps of the run that stands for retraining.
RETRAINED_STEPS = 2


@dataclasses.dataclass(frozen=True)
class World:
  """A corpus, and runs by role.

  Attributes:
    root: folder of the inputs.
    forget: keys.
    runs: run directories by role.
    data: the dataset without the sources to forget.
  """

  root: pathlib.Path
  forget: tuple[str, ...]
  runs: dict[str, pathlib.Path]
  data: pathlib.Path

  def content(self, *roles, **more):
    """Return a protocol of one run for each role, with more fields."""
    inputs = {
      name: self.root / f"{name}.{'txt' if name == 'forget' else 'jsonl'}"
      for name in ("documents", "held_out", "probes", "forget")
    }
    return {
      "name": "tiny",
      "runs": {role: [self.runs[role]] for role in roles or ("full",)},
      "inputs": inputs,
      **more,
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_run, dense_run):
  """Full, suspended, erased, retrained and dense, of forty people."""
  root = tmp_path_factory.mktemp("protocol")
  forget = tiny_run.keys[3:6]
  for name in ("documents", "held_out", "probes"):
    lines = tiny_run.documents.with_name(f"{name}.jsonl").read_text()
    keys = () if name == "held_out" else tiny_run.keys[:8]
    (root / f"{name}.jsonl").write_text(_shortened(lines, keys))
  (root / "forget.txt").write_text("".join(f"{key}\n" for key in forget))
  full = root / "full"
  shutil.copytree(tiny_run.path, full)
  for step in tiny_run.kept_steps[:-1]:
    shutil.rmtree(full / "checkpoints" / str(step))
  runs = {"full": full, "dense": dense_run}
  runs["erased"] = root / "erased"
  erase.erase(full, runs["erased"], forget)
  runs["suspended"] = root / "suspended"
  shutil.copytree(full, runs["suspended"])
  revocation.suspend(runs["suspended"], forget)
  config = run_config.read(full / "config.json")
  prepare.prepare(
    job.Job(
      tiny_run.documents,
      config.data,
      tokenizer_path=tiny_run.data / dataset.TOKENIZER,
      exclude=frozenset(forget),
    ),
    root / "data",
  )
  runs["retrained"] = root / "retrained"
  training = dataclasses.replace(config.training, num_steps=RETRAINED_STEPS)
  loop.train(
    dataclasses.replace(config, training=training),
    root / "data",
    runs["retrained"],
  )
  return World(root, forget, runs, root / "data")


def _shortened(text, keys):
  """Keep one text and the bare unique probes of these and held-out sources."""
  kept, seen = [], set()
  for line in text.splitlines():
    fields = json.loads(line)
    if "prompt" in fields:
      wanted = fields["kind"] == "unique" and fields["context"] == "bare"
      wanted = wanted and (fields["held_out"] or fields["source"] in keys)
    else:
      wanted = fields["source"] not in seen
      wanted = wanted and (not keys or fields["source"] in keys)
      seen.add(fields["source"])
    if wanted:
      kept.append(f"{line}\n")
  return "".join(kept)


@pytest.fixture
def write(tmp_path):
  """Return a function that writes a protocol; gives its path."""

  def write_protocol(content, name="protocol.json", check=True):
    path = tmp_path / name
    if check:
      protocol_lib.write(path, content)
    else:
      path.write_text(json.dumps({"format": protocol_lib.FORMAT, **content}))
    return path

  return write_protocol
