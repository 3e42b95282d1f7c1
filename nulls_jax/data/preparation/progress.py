"""What a preparation says while it works: how much, how fast, how long yet.

Owns the wording and how often. Writes one line that changes on a terminal,
and a line now and then into a log.
"""

import time
from collections.abc import Callable
from typing import TextIO

# What a stage is called, and the unit of what it counts.
_STAGES = {
  "sample": ("reading for the tokenizer", "MB"),
  "tokenizer": ("training the tokenizer", ""),
  "documents": ("packing", "MB"),
  "ledger": ("numbering sources", "parts"),
  "rows": ("writing rows", "files"),
}
_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 30.0


class Reporter:
  """Reports progress; called with a stage, what is done, and all of it."""

  def __init__(
    self, stream: TextIO, clock: Callable[[], float] = time.monotonic
  ):
    """Say nothing yet.

    Args:
      stream: a terminal or a log.
      clock: seconds.
    """
    self._stream = stream
    self._clock = clock
    self._is_terminal = stream.isatty()
    self._stage = ""
    self._began = (0.0, 0)
    self._said = clock()

  def __call__(self, stage: str, done: int, total: int) -> None:
    """Say where a stage is, unless that was said just now."""
    now = self._clock()
    if stage != self._stage:
      # What an earlier start has done is not of this one's rate.
      self._stage, self._began = stage, (now, done)
    wait = _TERMINAL_SECONDS if self._is_terminal else _LOG_SECONDS
    if now - self._said < wait:
      return
    self._said = now
    began, done_before = self._began
    text = line(stage, done, total, done - done_before, now - began)
    before, after = ("\r", "\x1b[K") if self._is_terminal else ("", "\n")
    self._stream.write(f"{before}{text}{after}")
    self._stream.flush()

  def close(self) -> None:
    """Leave the terminal's line empty."""
    if self._is_terminal:
      self._stream.write("\r\x1b[K")
      self._stream.flush()


def line(stage: str, done: int, total: int, new: int, seconds: float) -> str:
  """Return one line of progress.

  >>> line("documents", 600_000_000, 5_000_000_000, 400_000_000, 100.0)
  'packing: 600 of 5,000 MB, 4.0 MB/s, 18 min left'
  >>> line("rows", 3, 4, 0, 2.0)
  'writing rows: 3 of 4 files'

  Args:
    stage: its name.
    done: what of it is done.
    total: all of it.
    new: what of it this process has done.
    seconds: since this process began it.
  """
  what, unit = _STAGES[stage]
  if not unit:
    return what
  scale = 1e6 if unit == "MB" else 1
  text = f"{what}: {done / scale:,.0f} of {total / scale:,.0f} {unit}"
  if new > 0 and seconds > 0:
    rate = new / seconds
    if unit == "MB":
      text += f", {rate / scale:.1f} MB/s"
    text += f", {_duration((total - done) / rate)} left"
  return text


def _duration(seconds: float) -> str:
  if seconds < 90:
    return f"{seconds:.0f} s"
  minutes = seconds / 60
  if minutes < 90:
    return f"{minutes:.0f} min"
  return f"{minutes / 60:.1f} h"
