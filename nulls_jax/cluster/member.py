"""The process that trains, and what it says to its supervisor.

Invariant: whoever fails says so before it waits for anybody.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from typing import Any

from nulls_jax import errors
from nulls_jax.cluster import hub, preemption

# Descriptors and addresses that a supervisor hands to its process.
VARIABLE = "NULLS_MEMBER"
_SHUTDOWN_SECONDS = 60
# JAX's own patience with a silent process, beyond that of the supervisors,
# which can name it.
_HEARTBEAT_SECONDS = 60


class Member:
  """One process of a run that has `count`, alone unless it was joined."""

  def __init__(
    self,
    rank: int = 0,
    count: int = 1,
    line: hub.Line | None = None,
    inbox: queue.SimpleQueue | None = None,
    patience_seconds: float = 0.0,
  ):
    """A process on its own, or at the line of a supervisor.

    Args:
      rank: its number.
      count: of all processes.
      line: to the supervisor.
      inbox: of what the supervisor says.
      patience_seconds: see `places.Place`.
    """
    self.rank = rank
    self.count = count
    self.notice = preemption.Notice()
    self._line = line
    self._inbox = inbox
    self._patience = patience_seconds
    self._has_failed = False
    self._last: BaseException | None = None

  def meet(self, name: str, facts: Any = None) -> list:
    """Wait for all processes; return what each has brought, by rank.

    Args:
      name: of the occasion, the same in all processes.
      facts: anything that JSON holds, of some hundred bytes.
    """
    if self._line is None:
      return [facts]
    self._line.send({"meet": name, "facts": facts})
    met = self._inbox.get()
    assert met["met"] == name, (met, name)
    return met["facts"]

  def beat(self) -> None:
    """From here on let the supervisor know that this process is alive."""
    threading.Thread(target=self._beat, daemon=True).start()

  def _beat(self):
    while True:
      self._line.send({})
      time.sleep(hub.BEAT_SECONDS)

  def check_same(self, name: str, facts: dict[str, Any]) -> None:
    """Meet, and raise `UserError` if another process has other facts."""
    found = self.meet(name, facts)
    wrong = [
      f"{key} is {one[key]} on rank {rank} and {found[0][key]} on rank 0"
      for rank, one in enumerate(found)
      for key in one
      if one[key] != found[0][key]
    ]
    if wrong:
      raise errors.UserError(
        f"the processes of this run do not agree: {errors.listing(wrong, 4)}; "
        "give all of them the same command, code and storage"
      )

  def fail(self, status: int, text: str) -> None:
    """Have all other processes stop; only the first call counts."""
    if self._line is not None and not self._has_failed:
      self._has_failed = True
      self._line.send({"fail": {"status": status, "line": text}})

  @contextlib.contextmanager
  def telling(self):
    """Tell the others of failures that they do not see themselves."""
    try:
      yield
    except BaseException as error:
      if not getattr(error, "is_agreed", False) and not self._told(error):
        self._wait_for_the_reason(error)
        self.fail(_status(error), _text(error))
        self._last = error
      raise

  def _told(self, error: BaseException) -> bool:
    return self._line is None or error is self._last

  def _wait_for_the_reason(self, error: BaseException | None) -> None:
    """When a process is lost, first JAX fails in all others, in many ways.

    The supervisor ends this process as soon as it knows; or when another
    thread has told what failed here first.
    """
    import jax

    while error is not None:
      if self._has_failed or isinstance(error, jax.errors.JaxRuntimeError):
        time.sleep(self._patience)
        return
      error = error.__cause__ or error.__context__

  def leave(self, status: int) -> None:
    """End together with all others."""
    if self._line is None:
      return
    import jax

    jax.distributed.shutdown()
    self._line.send({"leave": status})


ALONE = Member()
_was_joined = False


def _status(error: BaseException) -> int:
  if isinstance(error, errors.StartAgain):
    return errors.START_AGAIN
  if isinstance(error, KeyboardInterrupt):
    return 130
  return 2 if isinstance(error, errors.UserError) else 1


def _text(error: BaseException) -> str:
  if isinstance(error, errors.MachineError | errors.UserError):
    return " ".join(str(error).split())
  if isinstance(error, errors.StartAgain | KeyboardInterrupt):
    return str(error) or "interrupted"
  return f"ended with {type(error).__name__}; its log has the traceback"


@contextlib.contextmanager
def join():
  """Become a member of the run that this process was started for.

  Yields a `Member`. All members leave together when they end alike.
  """
  me, place = _adopted()
  with me.notice.listening(), me.telling():
    if place is not None:
      _join_jax(me, place)
    try:
      yield me
    except (errors.StartAgain, errors.MachineError) as error:
      if getattr(error, "is_agreed", False):
        me.leave(_status(error))
      raise
    me.leave(0)


def _adopted():
  """Return the member that this process is, and where JAX's service is."""
  given = os.environ.pop(VARIABLE, None)
  if given is None:
    return Member(), None
  given = json.loads(given)
  global _was_joined
  _was_joined = True
  # Native libraries write to 1 and 2, which the supervisor keeps to itself.
  out, err, control = given["descriptors"]
  for descriptor in (out, err, control):
    os.set_inheritable(descriptor, False)
  sys.stdout = os.fdopen(out, "w", buffering=1)
  sys.stderr = os.fdopen(err, "w", buffering=1)
  arrivals = hub.Inbox()
  line = hub.Line(socket.socket(fileno=control), arrivals, "supervisor")
  inbox = queue.SimpleQueue()
  threading.Thread(target=_hand_on, args=(arrivals, inbox), daemon=True).start()
  me = Member(
    given["rank"], given["count"], line, inbox, given["patience_seconds"]
  )
  return me, given


def end(status: int) -> int:
  """Return the status; a process of several ends with it here.

  Threads of JAX and Orbax may wait for others for a long time.
  """
  if _was_joined:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def is_supervised() -> bool:
  """Whether a supervisor has started this process."""
  return VARIABLE in os.environ


def _hand_on(arrivals, inbox):
  while True:
    _, message = arrivals.get()
    if message is None:  # Nobody watches any more.
      os._exit(1)
    inbox.put(message)


def _join_jax(me: Member, place: dict) -> None:
  import jax

  local = place["local_device_ids"]
  jax.distributed.initialize(
    coordinator_address=place["coordinator"],
    num_processes=me.count,
    process_id=me.rank,
    local_device_ids=local,
    cluster_detection_method="deactivate",
    initialization_timeout=int(place["join_seconds"]) + 1,
    heartbeat_timeout_seconds=int(place["silent_seconds"]) + _HEARTBEAT_SECONDS,
    shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
  )
  me.notice.is_shared()
  ranks = me.meet("devices", jax.process_index())
  if ranks != list(range(me.count)):
    raise errors.UserError(
      f"the processes are numbered {ranks} by their devices; give them the "
      "process ids that the machines have, or let them be found"
    )
  # Not before: to load and start devices may hold Python's lock for long.
  me.beat()
