"""Workers that fail, or are killed."""

import multiprocessing
import signal
import time

import pytest

from nulls_jax import errors
from nulls_jax.data.preparation import workers


def test_a_killed_worker_is_the_machines():
  """The task kills its own process: there, `raise_signal` is importable."""
  with workers.Workers(2) as pool:
    done = pool.do(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL])
    with pytest.raises(
      errors.MachineError, match=r"killed by SIGKILL; .* fewer --workers"
    ):
      list(done)
  assert not multiprocessing.active_children()


def test_workers_end_with_the_pool():
  with workers.Workers(2) as pool:
    assert sorted(pool.do(time.sleep, [0, 0])) == [0, 0]
    assert len(multiprocessing.active_children()) == 2
    # A defect of the task: not the user's, nor the machine's.
    with pytest.raises(RuntimeError, match="a worker ended with status 1"):
      list(pool.do(len, [1, 2]))
  assert not multiprocessing.active_children()


def test_one_worker_is_this_process():
  done = []
  with workers.Workers(1) as pool:
    assert list(pool.do(done.append, [3, 1])) == [3, 1]
    assert list(pool.do(done.append, [])) == []
  assert done == [3, 1]
