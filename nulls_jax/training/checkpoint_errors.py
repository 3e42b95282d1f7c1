"""What a checkpoint that fails says, in one line, and when.

Orbax wraps its reasons, and with several processes keeps them for long.
"""

import contextlib
import errno
import logging
import pathlib
import re
from collections.abc import Callable

import absl.logging
import jax

from nulls_jax import errors
from nulls_jax.training import storage

REMEDY = (
  "put a copy of it back, use another step, or delete it to train on from the "
  "one before"
)


def _cause(error: BaseException) -> BaseException:
  """Orbax wraps the reason of a failure; dig it out."""
  seen = error
  while seen.__cause__ is not None or seen.__context__ is not None:
    seen = seen.__cause__ or seen.__context__
  return seen


def one_line(error: BaseException) -> str:
  """Return what an error says, cut to a line."""
  # Tensorstore appends a specification of many lines.
  text = re.split(r" \[\w+='", str(error), maxsplit=1)[0]
  text = " ".join(text.split())
  return text if len(text) <= 300 else text[:300] + " ..."


@contextlib.contextmanager
def reading(folder: pathlib.Path):
  """Report an unreadable checkpoint in one line, as `UserError`."""
  try:
    yield
  except (ValueError, KeyError, TypeError, OSError) as error:
    raise errors.UserError(
      f"{folder} cannot be read, it is damaged or of another model "
      f"({one_line(_cause(error))}); {REMEDY}"
    ) from error


@contextlib.contextmanager
def saving(folder: pathlib.Path):
  """Report a failed write in one line, as `MachineError`."""
  try:
    yield
  except storage.store_errors() as error:
    raise errors.MachineError(_failed_save(folder, error)) from error


def _failed_save(folder: pathlib.Path, error: BaseException) -> str:
  cause = _cause(error)
  full = (
    isinstance(cause, OSError) and cause.errno == errno.ENOSPC
  ) or "No space left" in str(cause)
  remedy = (
    "the disk is full; free space and start the same command again"
    if full
    else "start the same command again when it is mended"
  )
  return (
    f"{folder}: saving failed ({one_line(cause)}); {remedy}; earlier "
    "checkpoints are kept"
  )


class Listener(logging.Handler):
  """Hears at once of a save that failed in this process alone.

  Orbax raises it only when it has waited twenty minutes for the others, who
  wait for this one. Before that it writes to the log.
  """

  def __init__(self, folder: pathlib.Path, tell: Callable[[int, str], None]):
    """Call `tell` with exit status 1 and the line."""
    super().__init__(logging.ERROR)
    self._folder = folder
    self._tell = tell

  def start(self) -> None:
    """Listen; what Orbax logs goes nowhere else."""
    logger = logging.getLogger("absl")
    self._before = logger.propagate, absl.logging.get_verbosity()
    logger.propagate = False
    absl.logging.set_verbosity(absl.logging.ERROR)
    logger.addHandler(self)

  def stop(self) -> None:
    """Leave the log as it was."""
    logger = logging.getLogger("absl")
    logger.removeHandler(self)
    logger.propagate, verbosity = self._before
    absl.logging.set_verbosity(verbosity)

  def emit(self, record: logging.LogRecord) -> None:
    if record.threadName != "async_save" or not record.exc_info:
      return
    error = record.exc_info[1]
    # JAX's own are those of other processes, see `cluster.member`.
    if not isinstance(_cause(error), jax.errors.JaxRuntimeError):
      self._tell(1, _failed_save(self._folder, error))
