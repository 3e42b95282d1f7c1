"""The hosts of a run on one star of TCP connections, process 0 in its middle.

Says who is there, brings all to one point, and tells the rest when one fails
or falls silent. Carries small JSON lines; nothing that is received is ever
run. JAX has a service of its own, but it ends a process with SIGABRT before
anything can be said, and does not name the hosts that never came.

Invariant: once one process has failed or is lost, every other one hears of
it, or loses process 0 itself, within `Place.silent_seconds`.
"""

import contextlib
import json
import queue
import socket
import threading
import time
from typing import Any

from nulls_jax import errors
from nulls_jax.cluster import places
from nulls_jax.version import __version__

BEAT_SECONDS = 2.0
_LEAVE_SECONDS = 30.0
_LINE_BYTES = 1 << 20

# What arrives in an inbox: (from whom, message), None for the end of a line.
Inbox = queue.SimpleQueue


class Line:
  """JSON messages over one connection; a thread reads into an inbox."""

  def __init__(
    self, connection: socket.socket, inbox: Inbox, name: str | None = None
  ):
    """Begin to read; messages come as `(name, message)`, `(name, None)` last.

    Args:
      connection: connected; owned from here on.
      inbox: where messages are put.
      name: of the other side; None takes the line itself.
    """
    connection.settimeout(None)
    self._connection = connection
    self._lock = threading.Lock()
    self.heard = time.monotonic()
    self.has_beaten = False
    arguments = (inbox, name or self)
    threading.Thread(target=self._read, args=arguments, daemon=True).start()

  def _read(self, inbox, name):
    try:
      with self._connection.makefile("rb") as file:
        while line := file.readline(_LINE_BYTES):
          self.heard = time.monotonic()
          message = json.loads(line)
          if not isinstance(message, dict):
            break
          if message:
            inbox.put((name, message))
          else:
            self.has_beaten = True
    except (OSError, ValueError):
      pass  # Cut off, or no program of ours: the line ends here.
    inbox.put((name, None))

  def send(self, message: dict) -> None:
    """Send one message; a line that has ended is told by its reader."""
    with contextlib.suppress(OSError), self._lock:
      self._connection.sendall(json.dumps(message).encode() + b"\n")

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._connection.shutdown(socket.SHUT_RDWR)
    self._connection.close()


class Hub:
  """Process 0's side: knows all processes, and speaks to all of them."""

  def __init__(self, place: places.Place):
    """Listen; raises `MachineError` if the port is not to be had."""
    self._place = place
    try:
      self._socket = _listen(place.port)
    except OSError as error:
      raise errors.MachineError(
        f"port {place.port} of this host cannot be opened "
        f"({error.strerror}): another run may hold it; give another port to "
        "all processes, or end that run"
      ) from error
    self._inbox = Inbox()
    self._lines: dict[int, Line] = {}
    self._gone: set[int] = set()
    self._meetings: dict[str, dict[int, Any]] = {}
    self._stop: dict | None = None
    self._welcomed = False
    self._deadline = time.monotonic() + place.join_seconds
    threading.Thread(target=self._accept, daemon=True).start()
    self._thread = threading.Thread(target=self._serve, daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Wait, for a limited time, until the others have left."""
    self._thread.join(_LEAVE_SECONDS)
    # Closed alone, it would go on listening while a thread accepts from it.
    with contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_RDWR)
    self._socket.close()

  def _accept(self):
    while True:
      try:
        connection, _ = self._socket.accept()
      except OSError:  # Closed.
        return
      Line(connection, self._inbox)

  def _serve(self):
    ranks: dict[Line, int] = {}
    beat = time.monotonic()
    while not self._is_over():
      try:
        line, message = self._inbox.get(timeout=BEAT_SECONDS / 4)
      except queue.Empty:
        line, message = None, None
      if line in ranks:
        self._handle(ranks[line], message)
      elif message is not None:
        self._greet(line, message, ranks)
      if time.monotonic() - beat > BEAT_SECONDS:
        beat = time.monotonic()
        self._tell_all({})
        self._look_around()

  def _is_over(self) -> bool:
    """All have left; or, after a stop, all who had come, or time is up.

    Process 0 is the hub's own and always comes, if after another's refusal.
    """
    if self._stop is None:
      return len(self._gone) == self._place.num_processes
    late = time.monotonic() > self._stop_at + _LEAVE_SECONDS
    have_left = len(self._gone) == len(self._lines)
    return late or (0 in self._lines and have_left)

  def _greet(self, line, message, ranks):
    rank, place = message.get("rank"), self._place
    if not isinstance(rank, int):  # No program of ours.
      line.close()
      return
    mine = {"num_processes": place.num_processes, "version": __version__}
    theirs = {key: message.get(key) for key in mine}
    wrong = None
    if theirs != mine:
      wrong = f"it was started with {theirs}, and process 0 with {mine}"
    elif rank in self._lines:
      wrong = f"there are two processes with the number {rank}"
    if wrong:
      stop = {"rank": rank, "status": 2, "line": wrong}
      line.send({"stop": stop})
      if not self._welcomed:  # A latecomer does not disturb those at work.
        self._halt(stop)
      return
    ranks[line] = rank
    self._lines[rank] = line
    if self._stop is not None:
      line.send({"stop": self._stop})
    elif len(self._lines) == place.num_processes:
      self._welcomed = True
      self._tell_all({"welcome": {"port": _free_port(place.port + 1)}})

  def _handle(self, rank, message):
    if message is None:
      if rank not in self._gone:
        self._lose(rank, "its host ended the connection")
      self._gone.add(rank)
    elif "meet" in message:
      facts = self._meetings.setdefault(message["meet"], {})
      facts[rank] = message["facts"]
      if len(facts) == self._place.num_processes:
        del self._meetings[message["meet"]]
        found = [facts[one] for one in range(len(facts))]
        self._tell_all({"met": message["meet"], "facts": found})
    elif "fail" in message:
      self._halt({"rank": rank, **message["fail"]})
    elif "leave" in message:
      self._gone.add(rank)

  def _look_around(self):
    now = time.monotonic()
    if not self._welcomed and now > self._deadline and self._stop is None:
      count = self._place.num_processes
      missing = [rank for rank in range(count) if rank not in self._lines]
      self._halt(
        {
          "rank": None,
          "status": 1,
          "line": f"{_ranks(missing)} of {count} did not answer within "
          f"{self._place.join_seconds:.0f} s; see whether the same command "
          "runs there and reaches process 0 at "
          f"{self._place.coordinator}, then start again",
        }
      )
    since = now - self._place.silent_seconds
    for rank, line in self._lines.items():
      if rank not in self._gone and line.heard < since:
        self._lose(rank, f"its host {self._place.was_silent}")
        self._gone.add(rank)

  def _lose(self, rank, how):
    self._halt({"rank": rank, "status": errors.START_AGAIN, "lost": how})

  def _halt(self, stop: dict):
    """Tell all to stop, once; the first reason is the reason."""
    if self._stop is None:
      self._stop, self._stop_at = stop, time.monotonic()
      self._tell_all({"stop": stop})

  def _tell_all(self, message):
    for rank, line in self._lines.items():
      if rank not in self._gone:
        line.send(message)


def connect(place: places.Place, inbox: Inbox) -> Line:
  """Reach process 0 and say who this is; messages come as from "hub".

  Raises:
    errors.MachineError: it did not answer within `join_seconds`.
  """
  deadline = time.monotonic() + place.join_seconds
  while True:
    try:
      connection = socket.create_connection((place.host, place.port), 5.0)
      break
    except OSError as error:
      if time.monotonic() > deadline:
        raise errors.MachineError(
          f"process {place.process_id} of {place.num_processes}: process 0 at "
          f"{place.coordinator} did not answer within "
          f"{place.join_seconds:.0f} s ({error.strerror or error}); see "
          "whether the same command runs there, then start again"
        ) from error
      time.sleep(0.2)
  connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  line = Line(connection, inbox, "hub")
  line.send(
    {
      "rank": place.process_id,
      "num_processes": place.num_processes,
      "version": __version__,
    }
  )
  return line


def _listen(port: int) -> socket.socket:
  """Listen on all addresses of this host, of both kinds where it has both."""
  if socket.has_dualstack_ipv6():
    try:
      return socket.create_server(
        ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
      )
    except OSError as error:
      if error.strerror == "Address already in use":
        raise
  return socket.create_server(("", port), backlog=1024)


def _free_port(wanted: int) -> int:
  """Return the wanted port if it is free, else any."""
  for port in (wanted, 0):
    try:
      with _listen(port) as found:
        return found.getsockname()[1]
    except OSError:
      continue
  return wanted


def _ranks(ranks: list[int]) -> str:
  noun = "process" if len(ranks) == 1 else "processes"
  return f"{noun} {errors.listing(ranks)}"
