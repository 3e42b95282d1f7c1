"""Watches over the process that trains, one on each host.

When a process is lost, JAX ends all others with SIGABRT and a stack trace, or
leaves them waiting. So training runs in a child, and this process, which has
no JAX, hears from the hub which rank is lost, ends the child, says so in one
line and gives the status. It stays alive whatever native code does.

Invariant: the child does not outlive it, nor it the child by long.
"""

import collections
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from nulls_jax import errors
from nulls_jax.cluster import hub, member, places

# After it has said how it ends.
_END_SECONDS = 10.0
_KILLED = {
  signal.SIGKILL: "killed (by the system when memory is short)",
  signal.SIGTERM: "told to end before it had begun",
}


def run(place: places.Place, arguments: Sequence[str]) -> int:
  """Run `nulls ARGUMENTS` as one process of several; return its status.

  Raises:
    errors.UserError, errors.MachineError, errors.StartAgain: as another
      process did; or that one is lost, or never came.
  """
  inbox = hub.Inbox()
  with contextlib.ExitStack() as stack:
    if place.process_id == 0:
      center = hub.Hub(place)
      stack.callback(center.close)
    line = hub.connect(place, inbox)
    stack.callback(line.close)
    watch = _Watch(place, arguments, line, inbox)
    stack.callback(watch.close)
    stack.enter_context(_signals_to(inbox))
    return watch.run()


@contextlib.contextmanager
def _signals_to(inbox):
  def put(number, _):
    inbox.put(("signal", number))

  numbers = (signal.SIGTERM, signal.SIGINT)
  before = [signal.signal(number, put) for number in numbers]
  try:
    yield
  finally:
    for number, handler in zip(numbers, before, strict=True):
      signal.signal(number, handler)


class _Child:
  """The process that trains."""

  def __init__(self, place, arguments, port, inbox):
    ours, theirs = socket.socketpair()
    with theirs:
      out, err = os.dup(1), os.dup(2)
      address = f"{place.coordinator.rpartition(':')[0]}:{port}"
      given = {
        "descriptors": (out, err, theirs.fileno()),
        "rank": place.process_id,
        "count": place.num_processes,
        "coordinator": address,
        "join_seconds": place.join_seconds,
        "silent_seconds": place.silent_seconds,
        "patience_seconds": place.patience_seconds,
        "local_device_ids": place.local_device_ids,
      }
      self.process = subprocess.Popen(
        [sys.executable, "-m", "nulls_jax.cli", *arguments],
        env={**os.environ, member.VARIABLE: json.dumps(given)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=given["descriptors"],
        # A signal to the group comes here, and once to the child.
        process_group=0,
      )
      os.close(out)
      os.close(err)
    self.line = hub.Line(ours, inbox, "child")
    self._said = collections.deque(maxlen=40)
    self._reader = threading.Thread(target=self._keep, daemon=True)
    self._reader.start()

  def _keep(self):
    for text in self.process.stdout:
      self._said.append(text.decode(errors="replace").rstrip())

  def wait(self) -> int:
    """Return its status; it has closed its line and is ending."""
    try:
      return self.process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
      return self.kill()

  def kill(self) -> int:
    self.process.kill()
    return self.process.wait()

  def said(self) -> list[str]:
    """Return the last lines that native code wrote; it has ended."""
    self._reader.join(1)
    return list(self._said)


class _Watch:
  """What a supervisor knows and does."""

  def __init__(self, place, arguments, line, inbox):
    self._place = place
    self._arguments = list(arguments)
    self._hub = line
    self._inbox = inbox
    self._child: _Child | None = None
    # What the child has said of its end: status, and a line if it fails alone.
    self._ending: dict | None = None
    self._until = float("inf")

  def close(self) -> None:
    if self._child is not None:
      self._child.kill()

  def run(self) -> int:
    status = None
    beat = time.monotonic()
    while status is None:
      try:
        name, message = self._inbox.get(timeout=hub.BEAT_SECONDS / 2)
      except queue.Empty:
        name = None
      if name == "hub":
        self._hear_hub(message)
      elif name == "child":
        status = self._hear_child(message)
      elif name == "signal":
        self._pass_on(message)
      now = time.monotonic()
      if now - beat > hub.BEAT_SECONDS:
        beat = now
        self._hub.send({})
      if now - self._hub.heard > self._place.silent_seconds:
        self._lose(0, f"its host {self._place.was_silent}")
      if self._ending is None and self._child_is_silent(now):
        self._lose_child(f"{self._place.was_silent}, as if it was stopped")
      if now > self._until:
        status = self._end_slow_child()
    return status

  def _hear_hub(self, message):
    if message is None:
      self._lose(0, "its host ended the connection")
    elif "welcome" in message:
      port = message["welcome"]["port"]
      self._child = _Child(self._place, self._arguments, port, self._inbox)
    elif "met" in message and self._child is not None:
      self._child.line.send(message)
    elif "stop" in message and self._ending is None:
      self._stop(message["stop"])

  def _stop(self, stop: dict):
    """Stop as another process has."""
    if "lost" in stop:
      self._lose(stop["rank"], stop["lost"])
    rank = stop["rank"]
    line = stop["line"] if rank is None else f"rank {rank}: {stop['line']}"
    if stop["status"] == 130:
      raise KeyboardInterrupt
    kind = {2: errors.UserError, errors.START_AGAIN: errors.StartAgain}
    raise kind.get(stop["status"], errors.MachineError)(line)

  def _lose(self, rank: int, how: str):
    if self._ending is None:
      raise errors.StartAgain(
        f"rank {rank} of {self._place.num_processes} is lost ({how}), so rank "
        f"{self._place.process_id} stops; the newest whole checkpoint is "
        "kept; start the same command again to go on"
      )

  def _hear_child(self, message) -> int | None:
    if message is None:
      return self._see_end(self._child.wait())
    if "meet" in message:
      self._hub.send(message)
    elif "fail" in message:
      self._ending = message["fail"]
      self._until = time.monotonic() + _END_SECONDS
      self._hub.send(message)
    elif "leave" in message:
      self._ending = {"status": message["leave"]}
      self._until = time.monotonic() + _END_SECONDS
      self._hub.send(message)
    return None

  def _pass_on(self, number):
    """Hand a signal to the child."""
    if self._child is not None:
      self._child.process.send_signal(number)
    elif number == signal.SIGTERM:
      self._fail(errors.START_AGAIN, lost=_KILLED[number])
      raise errors.StartAgain(
        f"{_KILLED[number]}; start the same command again"
      )
    else:
      self._fail(130, line="interrupted")
      raise KeyboardInterrupt

  def _fail(self, status, **why):
    self._hub.send({"fail": {"status": status, **why}})

  def _see_end(self, code: int) -> int:
    """The child has ended; return the status, or raise what to say."""
    if self._ending is not None:
      if code < 0:  # Before it could say why.
        self._speak_for_child()
      return self._ending["status"]
    if code >= 0:  # With a traceback, a defect.
      self._fail(code or 1, line=f"ended with status {code}; see its log")
      return code or 1
    number = signal.Signals(-code)
    if number in _KILLED:
      self._lose_child(f"was {_KILLED[number]}")
    return self._explain(number)

  def _child_is_silent(self, now: float) -> bool:
    """Whether its beats have ended; they go on while it compiles or saves."""
    if self._child is None or not self._child.line.has_beaten:
      return False
    return now - self._child.line.heard > self._place.silent_seconds

  def _lose_child(self, how: str):
    self._fail(errors.START_AGAIN, lost=f"it {how}")
    raise errors.StartAgain(
      f"rank {self._place.process_id}: the training process {how}; the newest "
      "whole checkpoint is kept; start the same command again to go on"
    )

  def _explain(self, number) -> int:
    """JAX may have ended the child because another one is lost."""
    deadline = time.monotonic() + self._place.patience_seconds
    while (left := deadline - time.monotonic()) > 0:
      self._hub.send({})
      try:
        name, message = self._inbox.get(timeout=min(left, hub.BEAT_SECONDS))
      except queue.Empty:
        continue
      if name == "hub":
        self._hear_hub(message)
    self._fail(1, line=f"its training process died of {number.name}")
    for text in self._child.said():
      print(text, file=sys.stderr)
    raise errors.MachineError(
      f"rank {self._place.process_id}: the training process died of "
      f"{number.name}; what it wrote last stands above"
    )

  def _end_slow_child(self) -> int:
    """It has said how it ends, and does not."""
    self._child.kill()
    self._speak_for_child()
    return self._ending["status"]

  def _speak_for_child(self):
    if "line" in self._ending:
      print(f"nulls: {self._ending['line']}", file=sys.stderr, flush=True)
