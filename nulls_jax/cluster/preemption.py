"""The notice that this run is to end: SIGTERM, to any of its processes.

Invariant: after a notice all processes hear "now" at one and the same step.
"""

import contextlib
import signal
import threading

from nulls_jax import errors


class Notice:
  """Whether a run was told to end.

  One process keeps the notice itself. Several use JAX's service, which takes
  SIGTERM over when they join, and names a step that none has reached.
  """

  def __init__(self):
    """Not told, not training, alone."""
    self._told = False
    self._training = False
    self._several = False

  def is_shared(self) -> None:
    """From here on JAX takes the signal."""
    self._several = True

  def reached(self, step: int) -> bool:
    """Whether to save and end after `step`; ask at every step, in order."""
    self._training = True
    if not self._several:
      return self._told
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def _hear(self, *_):
    self._told = True
    if not self._training:
      raise errors.StartAgain(
        "told to end before the first step; start the same command again to "
        "go on"
      )

  @contextlib.contextmanager
  def listening(self):
    """Take SIGTERM while inside."""
    if threading.current_thread() is not threading.main_thread():
      yield  # Signals are the main thread's.
      return
    before = signal.signal(signal.SIGTERM, self._hear)
    try:
      yield
    finally:
      if not self._several:
        signal.signal(signal.SIGTERM, before)
