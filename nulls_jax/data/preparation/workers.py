"""Processes that do tasks, and end with the process that started them.

Owns starting, feeding and ending them. Spawned, never forked: they import
what their task needs, and no JAX.

Invariant: what is raised does not depend on the number of workers: it is the
error of the first of the items that fail.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nulls_jax import errors

Task = Callable[[int], Any]


class Workers:
  """Does tasks; in this process where there is one worker."""

  def __init__(self, count: int):
    """Start no process yet.

    Args:
      count: of workers.
    """
    self._count = count
    self._running: list[_Worker] = []

  def __enter__(self) -> "Workers":
    return self

  def __exit__(self, *_) -> None:
    for worker in self._running:
      worker.process.kill()
    for worker in self._running:
      worker.process.join()
      worker.connection.close()

  def do(self, task: Task, items: Sequence[int]) -> Iterator[int]:
    """Do a task on items; yield each item that is done, as it is done.

    Args:
      task: picklable; called with an item.
      items: in ascending order.

    Raises:
      errors.UserError: of the task.
      errors.MachineError: of the task, or a worker was killed.
    """
    if min(self._count, len(items)) <= 1:
      for item in items:
        task(item)
        yield item
      return
    while len(self._running) < min(self._count, len(items)):
      self._running.append(_Worker.start())
    content = pickle.dumps(task)
    for worker in self._running:
      worker.send(content)
    yield from self._feed(items)

  def _feed(self, items: Sequence[int]) -> Iterator[int]:
    left = collections.deque(items)
    at: dict[Any, tuple[_Worker, int]] = {}
    failed: dict[int, Exception] = {}
    idle = list(self._running)
    while left or at:
      while left and idle and not failed:
        worker = idle.pop()
        at[worker.connection] = worker, left.popleft()
        worker.send(at[worker.connection][1])
      # An item before the failed one may fail, too: it would be the first.
      if failed and not any(item < min(failed) for _, item in at.values()):
        raise failed[min(failed)]
      for connection in multiprocessing.connection.wait(list(at)):
        worker, item = at.pop(connection)
        failure = worker.receive()
        if failure is not None:
          failed[item] = failure
          continue
        idle.append(worker)
        yield item
    if failed:
      raise failed[min(failed)]


class _Worker:
  """One process and the pipe to it."""

  def __init__(self, process, connection):
    self.process = process
    self.connection = connection

  @classmethod
  def start(cls) -> "_Worker":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    # With this end open, nobody would see the worker's end.
    theirs.close()
    return cls(process, ours)

  def send(self, what: Any) -> None:
    # It is dead: `receive` says so.
    with contextlib.suppress(BrokenPipeError):
      self.connection.send(what)

  def receive(self) -> Exception | None:
    """Return why the item failed, None if it is done."""
    try:
      return self.connection.recv()
    except (EOFError, ConnectionResetError):
      self.process.join()
    code = self.process.exitcode
    if code is not None and code < 0:
      return errors.MachineError(
        f"a worker was killed by {signal.Signals(-code).name}; was there too "
        "little memory? Start the same command again, with fewer --workers: "
        "what is done stays"
      )
    # A defect of this package; the worker has printed its traceback.
    return RuntimeError(f"a worker ended with status {code}; see above")


def _serve(connection) -> None:
  """Do what comes through the pipe; runs in the worker."""
  # The interrupt is for the main process, which ends this one.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  task = None
  while True:
    try:
      what = connection.recv()
    except EOFError:
      return
    if isinstance(what, bytes):
      task = pickle.loads(what)
      continue
    connection.send(_attempt(task, what))


def _attempt(task: Task, item: int) -> Exception | None:
  """Do a task; return what it raised in a form that can be sent."""
  try:
    task(item)
  except errors.UserError as error:
    return errors.UserError(str(error))
  except errors.MachineError as error:
    return errors.MachineError(str(error))
  return None


def _end_with_parent() -> None:
  """End this process when the one that started it is gone."""
  multiprocessing.parent_process().join()
  os._exit(1)
