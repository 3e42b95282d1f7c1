"""How a run directory is created, and what it refuses to take up.

Invariant: a directory with a `config.json` is a whole run, of that config,
tokenizer and ledger; one that was killed while it was created has none.
"""

import json
import os
import shutil

import numpy as np

from nulls_jax import config as run_config
from nulls_jax import errors, files
from nulls_jax.data import ledger, tokenizer
from nulls_jax.training import growth
from nulls_jax.unlearning.revocation import revocation

# Which rows a run was started with.
DATASET = "dataset.json"
# What a run that was killed while it was being created may have left.
_OPENING_FILES = (
  "tokenizer.model",
  "ledger.sqlite",
  growth.FILE,
  DATASET,
  "config.json",
)


def open_run(run_dir, config, prepared, fingerprint, origin):
  """Create the run directory, or check that it is this config's."""
  with files.disk_errors(run_dir):
    path = run_dir / "config.json"
    if path.exists():
      _check_run(run_dir, config, prepared, fingerprint, origin)
    elif run_dir.exists() and (
      not run_dir.is_dir()
      or {entry.name.removesuffix(".partial") for entry in run_dir.iterdir()}
      - set(_OPENING_FILES)
    ):
      raise errors.UserError(
        f"{run_dir}: not empty and not a run; give another --run"
      )
    run_dir.mkdir(parents=True, exist_ok=True)
    for source, name in (
      (prepared.tokenizer_path, "tokenizer.model"),
      (prepared.ledger_path, "ledger.sqlite"),
    ):
      if not (run_dir / name).exists():
        shutil.copyfile(source, run_dir / f"{name}.partial")
        os.replace(run_dir / f"{name}.partial", run_dir / name)
    if origin is not None:
      growth.write(run_dir, origin, config)
    if not path.exists():
      facts = {"rows_sha256": prepared.manifest["rows_sha256"]}
      files.write_whole(run_dir / DATASET, json.dumps(facts) + "\n")
    partial = run_dir / "config.json.partial"
    partial.write_text(json.dumps(run_config.to_dict(config), indent=2) + "\n")
    os.replace(partial, path)


def _check_run(run_dir, config, prepared, fingerprint, origin):
  """Refuse to take up a run with another config, tokenizer or ledger."""
  path = run_dir / "ledger.sqlite"
  with ledger.Ledger.open(path) as before:
    check_erased(path, before.erased(), origin)
  changed = run_config.differences(
    run_config.read(run_dir / "config.json"), config
  )
  if changed:
    raise errors.UserError(
      f"{run_dir}: this run was started with another config: "
      f"{errors.listing(changed)}; give another --run, or that config"
    )
  model = run_dir / "tokenizer.model"
  if tokenizer.Tokenizer.load(model).fingerprint != fingerprint:
    raise errors.UserError(
      f"{run_dir}: its tokenizer is not that of {prepared.directory}; give "
      "the dataset that the run was started with, or another --run"
    )
  with (
    ledger.Ledger.open(path) as before,
    ledger.Ledger.open(prepared.ledger_path) as now,
  ):
    if not np.array_equal(before.ids(), now.ids()):
      raise errors.UserError(
        f"{run_dir}: its {before.num_sources} sources are not the "
        f"{now.num_sources} of {prepared.directory}; give the dataset that "
        "the run was started with, or another --run"
      )
  _check_rows(run_dir, prepared)
  revocations = revocation.read(run_dir)
  if revocations.suspended:
    raise errors.UserError(
      f"{run_dir}: {len(revocations.suspended)} sources are suspended in this "
      f"run (revocation list version {revocations.version}), and training "
      "would teach it them again; restore them with `nulls restore`, or "
      "prepare the documents with --exclude and give another --run"
    )


def _check_rows(run_dir, prepared):
  """Refuse other rows, or another order of them; old runs have no record."""
  path = run_dir / DATASET
  if not path.exists():
    return
  if json.loads(path.read_text("utf-8")) != {
    "rows_sha256": prepared.manifest["rows_sha256"]
  }:
    raise errors.UserError(
      f"{run_dir}: {prepared.directory} has other rows, or mixes them in "
      "another way, than the dataset that the run was started with; give that "
      "one, or another --run"
    )


def check_erased(ledger_path, erased, origin):
  """Refuse to teach sources again that were erased.

  Those that a run was grown without have no documents: `prepare --extend`
  refuses them.
  """
  if len(erased) > (origin.num_erased if origin else 0):
    raise errors.UserError(
      f"{ledger_path.parent}: {len(erased)} sources were erased here, and "
      "training would teach them again; prepare the documents with --exclude "
      "and give another --run (`nulls repair` mends what an erasure cost)"
    )
