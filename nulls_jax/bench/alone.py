"""What an action takes: time, and memory in a process of its own.

Imports nothing large: what the process holds is what the action needs.
"""

import dataclasses
import multiprocessing
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from nulls_jax import errors

_STATUS = pathlib.Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Taken:
  """Seconds of the clock, and of the processor, of all threads together.

  The second are those of an idle core; on a busy machine the first are longer.
  """

  clock: float = 0.0
  processor: float = 0.0

  def __add__(self, other: "Taken") -> "Taken":
    return Taken(self.clock + other.clock, self.processor + other.processor)


class Clock:
  """Tells what has been taken since it was made."""

  def __init__(self):
    self._start = time.perf_counter(), time.process_time()

  def taken(self) -> Taken:
    clock, processor = self._start
    return Taken(time.perf_counter() - clock, time.process_time() - processor)


def timed(action: Callable[[], Any]) -> tuple[Any, Taken]:
  """Return what an action gives, and what it took."""
  clock = Clock()
  found = action()
  return found, clock.taken()


def run(action: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
  """Return what an action gives, and the peak memory of its process.

  Args:
    action: picklable, as its arguments and what it returns are.
    arguments: of the action.

  Raises:
    errors.UserError: the action raised it.
    errors.MachineError: the process ended early.
  """
  context = multiprocessing.get_context("spawn")
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(target=_act, args=(sender, action, arguments))
  process.start()
  sender.close()
  try:
    found, peak = receiver.recv()
  except EOFError as error:
    raise errors.MachineError(
      "a measurement ended early; its reason stands above"
    ) from error
  finally:
    process.join()
  if isinstance(found, errors.UserError):
    raise found
  return found, peak


def _act(sender, action, arguments) -> None:
  try:
    found = action(*arguments)
  except errors.UserError as error:
    found = error
  sender.send((found, peak_bytes()))


def peak_bytes() -> int:
  """Return the most resident memory that this process ever had.

  Linux counts anew in a new program, but `getrusage` there begins with the
  peak of the process that started this one.
  """
  if _STATUS.exists():
    for line in _STATUS.read_text("ascii", errors="replace").splitlines():
      if line.startswith("VmHWM:"):
        return 1024 * int(line.split()[1])
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == "darwin" else 1024)
