"""One host's part in the examination of all, from first fact to last check.

Owns the order: what each host knows of itself, then who is there, then the
devices, which are started only where every host is there and has the same
versions: starting them waits for all.

Invariant: it ends. Each wait has a deadline, and what starts devices is a
process that is killed at its own.
"""

import dataclasses
import os
from typing import Any

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.cluster import places
from nulls_jax.doctor import checks, devices, exchange, facts
from nulls_jax.training import storage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What was found.

  Attributes:
    index: the host that found it.
    count: hosts in all.
    facts: by host, as `facts.collect` gives them, with times.
    devices: by host, as `devices.look` gives them.
    checks: in the order of the table.
  """

  index: int
  count: int
  facts: dict[int, dict[str, Any]]
  devices: dict[int, dict[str, Any]]
  checks: tuple[checks.Check, ...]

  @property
  def findings(self) -> list[str]:
    return [line for check in self.checks for line in check.findings]

  def to_dict(self) -> dict[str, Any]:
    """Return it as JSON stores it."""
    return {
      "ok": not self.findings,
      "host": self.index,
      "hosts": self.count,
      "checks": [
        {**dataclasses.asdict(check), "result": check.result}
        for check in self.checks
      ],
      "facts": self.facts,
      "devices": self.devices,
    }


def examine(
  config: run_config.RunConfig,
  data: os.PathLike | str,
  run_dir: os.PathLike | str,
  *,
  place: places.Place | None,
  limit_seconds: float,
  expected: dict | None = None,
  with_devices: bool = True,
) -> Outcome:
  """Examine all hosts, from one of them; every host calls this.

  Args:
    config: the settings of the run.
    data: a prepared dataset or a mixture.
    run_dir: where the run is or will be; messages go through a folder beside
      it.
    place: which host this is; None is the only one.
    limit_seconds: how long other hosts, and the devices, may take.
    expected: `name`, `total` and `kind` of the devices there should be.
    with_devices: start them.
  """
  index, count = _numbers(place)
  own = facts.collect(config, data, run_dir, limit_seconds)
  if not own["run"]["answers"]:  # Nor does the folder beside it.
    return _alone(own, index, count)
  messages = exchange.Exchange(
    f"{os.fspath(run_dir).rstrip('/')}.doctor", index, count, limit_seconds
  )
  is_silent = False
  try:
    missing = messages.open()
    own["there"] = dataclasses.asdict(messages.opened)
    known = messages.gather("facts", own)
  except exchange.Silence as silence:
    known, missing, is_silent = {index: own}, silence.missing, True
  except (ImportError, *storage.store_errors()) as error:
    own["run"]["problem"] = own["run"]["problem"] or facts.unwritable(
      run_dir, error
    )
    return _alone(own, index, count)
  missing = {*missing, *messages.members} - set(known)
  made = [
    checks.answered(known, count, missing, limit_seconds),
    checks.versions(known),
    checks.settings(known),
    checks.data(known),
    checks.run_path(known),
    checks.clocks(_timed(known)),
  ]
  found: dict[int, dict] = {}
  reason = _reason(made, with_devices)
  if reason is None:
    asked = devices.question(config, data, run_dir, place, limit_seconds)
    found = _look(asked, messages, limit_seconds)
  made += _device_checks(found, known, expected, reason, config)
  if not is_silent:
    messages.close()
  return Outcome(
    index=index, count=count, facts=known, devices=found, checks=tuple(made)
  )


def _numbers(place: places.Place | None) -> tuple[int, int]:
  if place is None:
    return 0, 1
  return place.process_id, place.num_processes


def _device_checks(found, known, expected, reason, config):
  """Return the checks that need devices; `reason` says why there are none."""
  if reason is None:
    made = [
      checks.devices(found, known, expected),
      checks.layout(found, known),
    ]
  else:
    made = [
      checks.not_tried("devices", reason),
      checks.not_tried("mesh and batch", reason),
    ]
  sizes = [one.get("checkpoint_bytes") for one in found.values()]
  size = next((size for size in sizes if size), None)
  return [*made, checks.space(known, size, checks.kept_checkpoints(config))]


def _timed(known):
  """Leave out hosts whose messages were not timed."""
  return {index: one for index, one in known.items() if "timing" in one}


def _reason(made: list[checks.Check], with_devices: bool) -> str | None:
  """Say why devices are not started, None if they are."""
  if not with_devices:
    return "as asked"
  failed = [
    check.name
    for check in made
    if check.findings and check.name in ("hosts", "versions", "settings")
  ]
  if failed:
    return f"first mend {errors.listing(failed)}"
  return None


def _look(asked, messages, limit_seconds):
  own = devices.look(asked, limit_seconds)
  try:
    found = messages.gather("devices", own)
  except exchange.Silence as silence:
    found = {0: {"problem": str(silence)}}
  for index in messages.members:
    found.setdefault(
      index,
      {"problem": f"went silent after {limit_seconds:g} s; see its output"},
    )
  return found


def _alone(own, index, count) -> Outcome:
  """Report what can be said without the other hosts."""
  reason = "no way to the other hosts"
  known = {index: own}
  return Outcome(
    index=index,
    count=count,
    facts=known,
    devices={},
    checks=(
      checks.not_tried("hosts", reason),
      checks.data(known),
      checks.run_path(known),
    ),
  )
