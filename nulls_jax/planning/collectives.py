"""Which collectives a compiled step holds: read from the program's text.

Owns the reading of HLO as XLA prints it: computations and who calls them,
how often a loop runs, shapes and groups. Nothing here runs or compiles.

Invariant: an operation counts as often as its loops run it, and once however
many pieces an overlapped one was cut into.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

_BYTES = {
  "pred": 1,
  "bf16": 2,
  **{f"{kind}8": 1 for kind in ("s", "u")},
  **{f"{kind}16": 2 for kind in "suf"},
  **{f"{kind}32": 4 for kind in "suf"},
  **{f"{kind}64": 8 for kind in "suf"},
}
_COMPUTATION = re.compile(r"^(ENTRY )?(%\S+) .*\{$")
_CALLED = re.compile(
  r"(?:calls|to_apply|body|true_computation|false_computation)=(%[\w.\-]+)"
)
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=(%[\w.\-]+), body=(%[\w.\-]+)")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
# TPUs run a reduce-scatter as an all-reduce that keeps its own part only.
_SCATTERED = "%all-reduce-scatter"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """All operations of one kind in one step.

  Attributes:
    kind: of `KINDS`.
    count: how often a step runs one.
    bytes: of the whole arrays that they exchange, seen from one chip: what
      is gathered, reduced or exchanged, not its parts.
    sent: bytes that one chip must send at the least, to whoever holds the
      other parts.
  """

  kind: str
  count: int
  bytes: int
  sent: int


def read(text: str) -> list[Collective]:
  """Return the collectives of a compiled program, one entry a kind.

  Args:
    text: of `jax.stages.Compiled.as_text()`.
  """
  computations, entry = _computations(text)
  times = _times(computations, entry)
  operations = {}
  for name, lines in computations.items():
    for number, line in enumerate(lines):
      match = _COLLECTIVE.search(line)
      if match is None or not times.get(name):
        continue
      kind, group = match[2], _group_size(line)
      if kind == "all-reduce" and name.startswith(_SCATTERED):
        kind = "reduce-scatter"
      whole = _whole_bytes(match[1], match[2], bool(match[3]), group)
      # Pieces of an overlapped operation share its channel and its size;
      # others may have the same channel.
      channel = re.search(r"channel_id=(\d+)", line)
      key = (channel[1], kind, whole) if channel else (name, number)
      known = operations.get(key)
      if group > 1 and (known is None or known[0] < times[name]):
        operations[key] = times[name], kind, whole, group
  return [
    Collective(
      kind=kind,
      count=sum(runs for runs, one, *_ in operations.values() if one == kind),
      bytes=sum(
        runs * whole
        for runs, one, whole, _ in operations.values()
        if one == kind
      ),
      sent=sum(
        runs * sent_bytes(kind, whole, group)
        for runs, one, whole, group in operations.values()
        if one == kind
      ),
    )
    for kind in sorted({kind for _, kind, *_ in operations.values()})
  ]


def sent_bytes(kind: str, whole: int, group: int) -> int:
  """Return the least bytes that each of a group's chips must send.

  An all-reduce is a reduce-scatter and an all-gather.

  >>> sent_bytes("all-gather", 800, 8), sent_bytes("all-reduce", 800, 8)
  (700, 1400)
  """
  if kind == "collective-permute":
    return whole
  part = whole * (group - 1) // group
  return 2 * part if kind == "all-reduce" else part


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  computations, entry, current = {}, "", []
  for line in text.splitlines():
    match = _COMPUTATION.match(line)
    if match:
      current = computations.setdefault(match[2], [])
      entry = match[2] if match[1] else entry
    else:
      current.append(line)
  return computations, entry


def _times(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
  """Return how often a step runs each computation."""
  times: dict[str, int] = {}
  # Callers come after what they call in the text, so go backwards.
  waiting = [(entry, 1)]
  while waiting:
    name, runs = waiting.pop()
    times[name] = times.get(name, 0) + runs
    for line in computations.get(name, ()):
      loop = _WHILE.search(line)
      if loop:
        trips = _trips(line, computations.get(loop[1], ()))
        waiting.append((loop[2], runs * trips))
      else:
        waiting += [(called, runs) for called in _called(line)]
  return times


def _called(line: str) -> Iterator[str]:
  yield from _CALLED.findall(line)
  for names in _BRANCHES.findall(line):
    yield from re.findall(r"%[\w.\-]+", names)


def _trips(line: str, condition: list[str]) -> int:
  """Return how often a loop's body runs; 1 where the text does not say."""
  known = re.search(r"known_trip_count[^\d]*(\d+)", line)
  if known:
    return int(known[1])
  constants = {}
  for part in condition:
    constant = re.search(r"(%[\w.\-]+) = s32\[\]\S* constant\((\d+)\)", part)
    if constant:
      constants[constant[1]] = int(constant[2])
  for part in condition:
    less = re.search(r"compare\((%[\w.\-]+), (%[\w.\-]+)\), direction=LT", part)
    if less and less[2] in constants:
      return constants[less[2]]
  return 1


def _whole_bytes(result: str, kind: str, started: bool, group: int) -> int:
  """Return the bytes of the array that a collective gathers or reduces."""
  sizes = [
    _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
    for dtype, dims in _SHAPE.findall(result)
  ]
  if started and kind in ("all-gather", "collective-permute"):
    # A started one returns its operands, too: the result is the larger, or
    # the second of two equals.
    return max(sizes)
  if kind == "reduce-scatter":
    # Its result is one part of what is reduced.
    return sum(sizes) * group
  return sum(sizes)


def _group_size(line: str) -> int:
  """Return how many devices take part in one group; 2 where none is named."""
  named = re.search(r"replica_groups=mesh\[(.*?)\].*?\{('[^}]*)\}", line)
  if named:
    axes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    return math.prod(
      int(axes[axis]) for axis in re.findall(r"'([^']+)'", named[2])
    )
  listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
  if listed:
    return len(listed[1].split(","))
  counted = re.search(r"replica_groups=\[\d+,(\d+)\]<=", line)
  if counted:
    return int(counted[1])
  return 2
