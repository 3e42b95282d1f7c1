"""Whether hosts agree, from what each has said: pure functions of facts.

Owns the list of checks and their words. A finding is one line: what is wrong,
on which host, what to do.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from nulls_jax import config as run_config
from nulls_jax import errors
from nulls_jax.doctor import exchange

Facts = Mapping[int, dict[str, Any]]

# Leases, tokens and file times of a cluster tolerate a few seconds, not more.
MAX_SKEW_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """The outcome of one check over all hosts.

  Attributes:
    name: in the table and in the JSON.
    detail: what was found, a few words.
    findings: what is wrong, a line each; empty if nothing is.
    tried: False if it could not be made.
  """

  name: str
  detail: str
  findings: tuple[str, ...] = ()
  tried: bool = True

  @property
  def result(self) -> str:
    if not self.tried:
      return "not tried"
    return "FAILED" if self.findings else "ok"


def who(facts: Facts, hosts) -> str:
  """Name hosts by number and machine.

  >>> who({0: {"name": "a"}, 1: {"name": "b"}}, [0, 1, 2])
  'host 0 (a), host 1 (b), host 2'
  """
  return errors.listing(
    f"host {index} ({facts[index]['name']})"
    if index in facts
    else f"host {index}"
    for index in sorted(hosts)
  )


def answered(facts: Facts, count: int, missing, limit_seconds: float) -> Check:
  """Name the hosts that did not answer.

  Args:
    facts: of those that did.
    count: hosts that there should be.
    missing: their numbers.
    limit_seconds: that they had.
  """
  findings = [
    f"{who(facts, [index])}: did not answer within "
    f"{limit_seconds:g} s; start the same command there, with a --run that "
    "all hosts share; its own output says more"
    for index in sorted(missing)
  ]
  return Check(
    name="hosts",
    detail=f"{count - len(missing)} of {count} answered",
    findings=tuple(findings),
  )


def minority(
  facts: Facts, value_of: Callable[[dict], Any]
) -> tuple[Any, dict[Any, list[int]]]:
  """Return the value that most hosts have, and who has which other one."""
  holders = collections.defaultdict(list)
  for index in sorted(facts):
    holders[value_of(facts[index])].append(index)
  # Of two equally frequent ones, that of the first host.
  common = max(
    holders, key=lambda value: (len(holders[value]), -holders[value][0])
  )
  others = {value: held for value, held in holders.items() if value != common}
  return common, others


def versions(facts: Facts) -> Check:
  findings = []
  names = sorted({name for one in facts.values() for name in one["versions"]})
  for name in names:
    common, others = minority(facts, lambda one, n=name: one["versions"].get(n))
    findings += [
      f"{who(facts, held)}: {name} {value or 'not installed'}, the others have "
      f"{common or 'none'}; install the same on all"
      for value, held in others.items()
    ]
  first = facts[min(facts)]["versions"]
  shown = ("nulls_jax", "python", "jax", "libtpu")
  detail = ", ".join(f"{name} {first[name]}" for name in shown if first[name])
  return Check(name="versions", detail=detail, findings=tuple(findings))


def settings(facts: Facts) -> Check:
  common, others = minority(facts, lambda one: one["config_sha256"])
  usual = next(
    one["config"] for one in facts.values() if one["config_sha256"] == common
  )
  findings = []
  for held in others.values():
    changed = _differences(usual, facts[held[0]]["config"])
    findings.append(
      f"{who(facts, held)}: other settings than the other hosts: "
      f"{errors.listing(changed)}; start the same command on all, with the "
      "same --config file"
    )
  return Check(
    name="settings", detail=f"sha256 {common[:12]}", findings=tuple(findings)
  )


def _differences(old: dict, new: dict) -> list[str]:
  """List fields as `section.field: usual -> this`; all sections count."""
  return [
    f"{section}.{field}: {old.get(section, {}).get(field)} -> {value}"
    for section, fields in new.items()
    for field, value in fields.items()
    if old.get(section, {}).get(field) != value
  ]


def data(facts: Facts) -> Check:
  findings = [
    f"{who(facts, [index])}: {facts[index]['data']['problem']}"
    for index in sorted(facts)
    if facts[index]["data"]["problem"]
  ]
  whole = {
    index: one for index, one in facts.items() if not one["data"]["problem"]
  }
  detail = "not read"
  if whole:
    common, others = minority(whole, lambda one: one["data"]["sha256"])
    detail = f"manifest sha256 {common[:12]}"
    findings += [
      f"{who(whole, held)}: {whole[held[0]]['data']['path']} is another "
      f"dataset (manifest sha256 {value[:12]}, the others have {common[:12]}); "
      "copy the same to all hosts"
      for value, held in others.items()
    ]
  return Check(name="data", detail=detail, findings=tuple(findings))


def run_path(facts: Facts) -> Check:
  findings = [
    f"{who(facts, [index])}: {facts[index]['run']['problem']}"
    for index in sorted(facts)
    if facts[index]["run"]["problem"]
  ]
  return Check(
    name="run path",
    detail=f"{facts[min(facts)]['run']['path']}, written and read by "
    f"{len(facts) - len(findings)} of {len(facts)}",
    findings=tuple(findings),
  )


def clocks(facts: Facts) -> Check:
  """Compare clocks with the first host's; see `exchange.skew`."""
  findings, widest = [], 0.0
  for index in sorted(facts):
    if not index:
      continue
    low, high = exchange.skew(
      exchange.Timing(**facts[index]["there"]),
      exchange.Timing(**facts[index]["timing"]),
    )
    # The least that is certain: 0 lies between the bounds of equal clocks.
    least = max(low, -high, 0.0)
    widest = max(widest, least)
    if least > MAX_SKEW_SECONDS:
      way = "ahead of" if low > 0 else "behind"
      findings.append(
        f"{who(facts, [index])}: its clock is {least:.1f} s {way} host 0's; "
        "synchronise the clocks (chrony or systemd-timesyncd)"
      )
  return Check(
    name="clocks",
    detail=f"at least {widest:.1f} s apart, {MAX_SKEW_SECONDS:g} allowed"
    if len(facts) > 1
    else "one host",
    findings=tuple(findings),
  )


def space(facts: Facts, checkpoint_bytes: int | None, kept: int) -> Check:
  """Compare free space with what the checkpoints of a run need.

  Args:
    facts: of the hosts.
    checkpoint_bytes: of one checkpoint; None if that could not be found out.
    kept: checkpoints on the disk at once, with the one being written.
  """
  free = {
    index: one["run"]["free_bytes"]
    for index, one in facts.items()
    if one["run"]["free_bytes"] is not None
  }
  if not free:
    return Check(name="space", detail="a bucket: no bound")
  least = min(free.values())
  if checkpoint_bytes is None:
    return Check(name="space", detail=f"{gib(least)} free; need not known")
  needed = checkpoint_bytes * kept
  findings = [
    f"{who(facts, [index])}: {gib(value)} free at "
    f"{facts[index]['run']['path']}, and {kept} checkpoints of "
    f"{gib(checkpoint_bytes)} need {gib(needed)}; free space, or lower "
    "checkpoint.keep_last"
    for index, value in sorted(free.items())
    if value < needed
  ]
  return Check(
    name="space",
    detail=f"{gib(least)} free, {gib(needed)} needed",
    findings=tuple(findings),
  )


def gib(number: int) -> str:
  """Write bytes with a fitting unit.

  >>> gib(3 * 2**30), gib(5000)
  ('3.0 GiB', '4.9 KiB')
  """
  size, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
  while size >= 1024 and len(units) > 1:
    size /= 1024
    units.pop(0)
  return f"{size:.1f} {units[0]}"


def devices(found: Facts, facts: Facts, expected: dict | None) -> Check:
  """Compare what JAX sees on the hosts.

  Args:
    found: by host, of `devices.look`.
    facts: for the hosts' names.
    expected: `total` and `kind` of a topology, or None.
  """
  findings = [
    f"{who(facts, [index])}: {found[index]['problem']}"
    for index in sorted(found)
    if found[index].get("problem")
  ]
  seen = {index: one for index, one in found.items() if "devices" in one}
  if not seen:
    return Check(name="devices", detail="none", findings=tuple(findings))
  for field, meaning in (
    ("platform", "platform"),
    ("kind", "kind of device"),
    ("local", "devices of its own"),
    ("total", "devices in all"),
    ("processes", "processes in all"),
  ):
    common, others = minority(seen, lambda one, f=field: one["devices"][f])
    findings += [
      f"{who(facts, held)}: {meaning} {value}, the others have {common}; "
      "restart that host, or look at its driver's log"
      for value, held in others.items()
    ]
  first = seen[min(seen)]["devices"]
  if first["processes"] != len(facts):
    findings.append(
      f"JAX joined {first['processes']} processes, and {len(facts)} hosts "
      "answered; start one process on each host, with the same launcher"
    )
  for field, meaning in (
    ("total", "devices in all"),
    ("kind", "kind of device"),
  ):
    if expected and first[field] != expected[field]:
      findings.append(
        f"{meaning}: {first[field]}, and {expected['name']} has "
        f"{expected[field]}; give the --topology that was rented, or look "
        "for the devices that are missing"
      )
  return Check(
    name="devices",
    detail=f"{first['total']} of {first['kind']}, {first['local']} a host",
    findings=tuple(findings),
  )


def layout(found: Facts, facts: Facts) -> Check:
  """Report what the mesh, the batch and the run say to these devices."""
  holders = collections.defaultdict(list)
  for index, one in found.items():
    if one.get("layout_problem"):
      holders[one["layout_problem"]].append(index)
  findings = [
    problem if len(held) == len(found) else f"{who(facts, held)}: {problem}"
    for problem, held in holders.items()
  ]
  mesh = next((one["mesh"] for one in found.values() if one.get("mesh")), None)
  return Check(
    name="mesh and batch",
    detail=mesh or "not laid out",
    findings=tuple(findings),
  )


def not_tried(name: str, reason: str) -> Check:
  return Check(name=name, detail=reason, tried=False)


def kept_checkpoints(config: run_config.RunConfig) -> int:
  """Return how many checkpoints lie on the disk while one is written."""
  return config.checkpoint.keep_last + 1
