"""What requests take with many sources: to suspend them, and to erase them.

Stages of `scale_stages`, each done by the code of its command.
"""

import functools
import json
import os
import pathlib
import shutil

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.bench import alone, forecast, large_run
from nulls_jax.bench import stage as stage_lib
from nulls_jax.bench.settings import ScaleSettings

_SUSPENDED = "run"
_TRAINED = "trained"


def stages(settings: ScaleSettings) -> dict[str, stage_lib.Stage]:
  """Return the stages of requests by name, in their order."""
  partial, line = functools.partial, stage_lib.Stage
  found = {
    f"{settings.suspend:,} suspended": line(action=_suspend),
    f"list of {settings.suspend:,} read": line(action=_read_list),
    f"status with {settings.suspend:,} suspended": line(action=_status),
  }
  for count in settings.erase:
    erasing = partial(_erase, count=count)
    verifying = partial(_verify, count=count)
    found |= {
      f"{count:,} erased": line(action=erasing, once=True, needs=_RUN),
      f"erasure of {count:,} verified": line(action=verifying, once=True),
    }
  return found


# -- A run with a list, and no checkpoint


def _run_dir(settings: ScaleSettings) -> pathlib.Path:
  """Return a run directory without a checkpoint, made if it is not there."""
  path = settings.out / _SUSPENDED
  path.mkdir(exist_ok=True)
  ledger = path / stage_lib.LEDGER
  ledger.unlink(missing_ok=True)
  os.link(stage_lib.ledger_path(settings), ledger)
  config = run_config.RunConfig(sinks=forecast.CONFIG)
  (path / "config.json").write_text(json.dumps(run_config.to_dict(config)))
  return path


def _suspend(settings: ScaleSettings) -> stage_lib.Done:
  from nulls_jax.unlearning.revocation import revocation

  run_dir = _run_dir(settings)
  listed = run_dir / revocation.FILE
  listed.unlink(missing_ok=True)
  with stage_lib.opened(settings) as book:
    keys = forecast.spread_keys(book, settings.suspend)
  done, taken = alone.timed(lambda: revocation.suspend(run_dir, keys))
  return stage_lib.Done(
    taken=taken,
    count=len(done.changed),
    facts={"bytes on disk": listed.stat().st_size},
  )


def _read_list(settings: ScaleSettings) -> stage_lib.Done:
  from nulls_jax.unlearning.revocation import revocation

  run_dir = _run_dir(settings)
  watch, taken = alone.timed(lambda: revocation.Watch(run_dir))
  again, look = alone.timed(watch.current)
  return stage_lib.Done(
    taken=taken,
    count=len(again.suspended),
    facts={"seconds of a later look": look.clock},
  )


def _status(settings: ScaleSettings) -> stage_lib.Done:
  from nulls_jax.unlearning.revocation import status

  run_dir = _run_dir(settings)
  found, taken = alone.timed(lambda: status.read(run_dir))
  return stage_lib.Done(taken=taken, count=found.num_suspended)


# -- A run with a checkpoint


def _write_run(settings: ScaleSettings) -> None:
  """Write a run with the pool in all its layers, of narrow sinks."""
  path = settings.out / _TRAINED
  shutil.rmtree(path, ignore_errors=True)
  config = large_run.narrow(forecast.CONFIG, forecast.NUM_LAYERS)
  large_run.write(path, config, ledger=stage_lib.ledger_path(settings))


# The last file that is written.
_RUN = stage_lib.Made(
  name="a run", file=f"{_TRAINED}/config.json", write=_write_run
)


def _redacted(settings: ScaleSettings, count: int) -> pathlib.Path:
  return settings.out / f"without-{count}"


def _erase(settings: ScaleSettings, count: int) -> stage_lib.Done:
  from nulls_jax.unlearning.erasure import erase, output

  out_dir = _redacted(settings, count)
  shutil.rmtree(out_dir, ignore_errors=True)
  with stage_lib.opened(settings) as book:
    keys = forecast.spread_keys(book, count)
  done, taken = alone.timed(
    lambda: erase.erase(settings.out / _TRAINED, out_dir, keys)
  )
  return stage_lib.Done(
    taken=taken,
    count=len(done.source_ids),
    facts={
      "bytes of the ledger": (out_dir / stage_lib.LEDGER).stat().st_size,
      "bytes in all": output.size_of(out_dir),
    },
  )


def _verify(settings: ScaleSettings, count: int) -> stage_lib.Done:
  """Verify what was erased just before, and delete it."""
  from nulls_jax.unlearning.verification import verify

  out_dir = _redacted(settings, count)
  found, taken = alone.timed(lambda: verify.verify(out_dir))
  if not found.verified:
    raise errors.MachineError(f"{out_dir}: {found.conclusion}")
  shutil.rmtree(out_dir)
  return stage_lib.Done(
    taken=taken, count=count, facts={"checks": len(found.checks)}
  )
