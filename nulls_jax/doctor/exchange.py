"""Messages between hosts through a folder that they share, with a deadline.

Needs no network and no devices, so that it can say which hosts are not there
before anything waits for them. Each host writes its part, the first one reads
all parts and writes the whole, and all read that: what was exchanged has been
written by every host and read by another.

Invariant: nothing that an earlier exchange has left is taken for an answer.
A host's part counts if it names the session, which the first host makes anew;
and a host takes a session for its own if that names the word it has just made.
"""

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from nulls_jax import errors

# Pauses between two looks, seconds: short at first, for hosts that are there.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# The first host answers at its deadline; the others wait that much longer.
_GRACE = 10.0


class Silence(errors.MachineError):
  """Some hosts did not answer in time.

  Attributes:
    missing: their numbers.
  """

  def __init__(self, missing: Iterable[int], message: str):
    super().__init__(message)
    self.missing = tuple(sorted(missing))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
  """When a message was written and seen, seconds of the clocks there.

  Attributes:
    sent: when it was written, by its writer's clock.
    seen: when it was first read, by its reader's clock.
  """

  sent: float
  seen: float


class Exchange:
  """One host's end of the exchange."""

  def __init__(
    self,
    folder: str,
    index: int,
    count: int,
    limit_seconds: float,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
  ):
    """Name a folder; nothing is done before `open`.

    Args:
      folder: that all hosts share and nothing else uses; it is made.
      index: this host.
      count: all hosts.
      limit_seconds: how long one answer may take.
      clock: seconds since 1970.
      sleep: waits so many seconds.
    """
    self._folder = epath.Path(folder)
    self._index = index
    self._count = count
    self._limit = limit_seconds
    self._clock = clock
    self._sleep = sleep
    self._session = ""
    self.members: tuple[int, ...] = ()
    self.opened = Timing(sent=0, seen=0)

  @property
  def is_first(self) -> bool:
    return self._index == 0

  def open(self) -> tuple[int, ...]:
    """Find the other hosts; return the numbers of those that are not there.

    Raises:
      Silence: the first host is not there.
      OSError: the folder cannot be made or written.
    """
    self._folder.mkdir(parents=True, exist_ok=True)
    word = secrets.token_hex(8)
    if self.is_first:
      for path in self._folder.iterdir():
        path.unlink(missing_ok=True)
      self._session = word
      words = {0: word}
      self._collect("hello", words, lambda message: message["word"])
      self.members = tuple(sorted(words))
      session = {"session": word, "words": words}
      self._write("session", session)
    else:
      session, self.opened = self._join(word)
      self._session = session["session"]
      self.members = tuple(sorted(int(index) for index in session["words"]))
    return tuple(sorted(set(range(self._count)) - set(self.members)))

  def gather(self, stage: str, message: dict[str, Any]) -> dict[int, dict]:
    """Return every host's message, the same on all hosts.

    Args:
      stage: a name that is used once.
      message: this host's part, as JSON stores it.

    Returns:
      Messages by host, of those that answered in time; the others of
      `members` went silent. Each has `timing`, how the first host saw it.

    Raises:
      Silence: the first host went silent.
    """
    name = f"{stage}-{self._session}"
    if not self.is_first:
      self._write(f"{name}-{self._index}", message)
      # The first host may need a limit for its own part, and waits another.
      whole, _ = self._await(name, 2 * self._limit + _GRACE)
      return {int(index): part for index, part in whole["parts"].items()}
    now = self._clock()
    parts = {0: {**message, "timing": {"sent": now, "seen": now}}}
    self._collect(name, parts, lambda part: part, self.members)
    self._write(name, {"parts": parts})
    return parts

  def close(self) -> None:
    """Take the folder away, once the other hosts are done with it."""
    if not self.is_first:
      # It may be gone already.
      with contextlib.suppress(Silence):
        self._write(f"bye-{self._session}-{self._index}", {})
      return
    wait = min(self._limit, _GRACE)
    self._collect(f"bye-{self._session}", {0: {}}, dict, self.members, wait)
    # A host that was not waited for may be writing into it.
    with contextlib.suppress(OSError):
      self._folder.rmtree(missing_ok=True)

  def _collect(self, stage, parts, take, hosts=None, seconds=None):
    """Add the other hosts' parts of a stage to `parts`, until the deadline."""
    waited_for = set(range(self._count) if hosts is None else hosts)
    for _ in self._looks(self._limit if seconds is None else seconds):
      for index in sorted(waited_for - set(parts)):
        found = self._read(f"{stage}-{index}")
        if found is not None:
          message, timing = found
          message["timing"] = dataclasses.asdict(timing)
          parts[index] = take(message)
      if waited_for <= set(parts):
        return

  def _join(self, word):
    """Say hello until the first host's session has the word for it."""
    hello = f"hello-{self._index}"
    for _ in self._looks(self._limit + _GRACE):
      # The first host clears the folder when it starts.
      if not self._path(hello).exists():
        with contextlib.suppress(Silence):
          self._folder.mkdir(parents=True, exist_ok=True)
          self._write(hello, {"word": word})
      found = self._read("session")
      if found is not None:
        words = found[0]["words"]
        if words.get(str(self._index)) == word:
          return found
    raise Silence(
      [0],
      f"host 0 did not answer within {self._limit:g} s in {self._folder}; is "
      "it running, with the same --run?",
    )

  def _await(self, name, seconds):
    for _ in self._looks(seconds):
      found = self._read(name)
      if found is not None:
        return found
    raise Silence(
      [0], f"host 0 went silent: no {name} in {self._folder}; see its output"
    )

  def _looks(self, seconds):
    """Yield now, and again after each pause, until the time is over."""
    end = self._clock() + seconds
    pause = _FIRST_PAUSE
    while True:
      yield
      left = end - self._clock()
      if left <= 0:
        return
      self._sleep(min(pause, left))
      pause = min(1.5 * pause, _LONGEST_PAUSE)

  def _path(self, name):
    return self._folder / f"{name}.json"

  def _write(self, name: str, message: dict) -> None:
    """Write a message whole: nobody reads half of it."""
    partial = self._folder / f"{name}.partial"
    try:
      partial.write_text(json.dumps({"sent": self._clock(), "body": message}))
      partial.replace(self._path(name))
    except FileNotFoundError as error:
      raise Silence(
        [0],
        f"host 0 has cleared {self._folder}: it began anew, or went on "
        "without this host; see its output",
      ) from error

  def _read(self, name: str):
    """Return a message and its timing, None if it is not there yet."""
    try:
      text = self._path(name).read_text()
    except FileNotFoundError:
      return None
    content = json.loads(text)
    timing = Timing(sent=content["sent"], seen=self._clock())
    return content["body"], timing


def skew(there: Timing, back: Timing) -> tuple[float, float]:
  """Bound how far a host's clock is ahead of the first host's.

  A message went from the first host to the other and one came back; the time
  under way is not known, but it is not negative.

  >>> skew(Timing(sent=100, seen=131), Timing(sent=140, seen=111))
  (29.0, 31.0)

  Args:
    there: of a message from the first host, seen by the other's clock.
    back: of the answer, seen by the first host's clock.

  Returns:
    The least and the most that the other clock can be ahead, seconds.
  """
  return float(back.sent - back.seen), float(there.seen - there.sent)
