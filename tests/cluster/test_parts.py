"""Which rows of a batch a process reads, and where they go."""

import jax
import numpy as np
import pytest

from nulls_jax.config import MeshConfig
from nulls_jax.training import partitioning


class _Sharding:
  """The slices of a batch that the devices of one process hold."""

  def __init__(self, *ranges):
    self._ranges = ranges

  def addressable_devices_indices_map(self, shape):
    assert shape == (16,)
    return {
      number: (slice(*found),) for number, found in enumerate(self._ranges)
    }


@pytest.mark.parametrize(
  ("ranges", "part"),
  [
    ([(0, 4), (4, 8)], (0, 2)),
    ([(12, 14), (14, 16)], (3, 4)),
    ([(None, None)], (0, 1)),  # Cut along no axis of the batch.
    ([(8, 12), (8, 12)], (2, 4)),  # Copies, along the tensor axis.
    ([(6, 10)], (0, 1)),  # No equal part holds it but the whole.
    ([(0, 4), (12, 16)], (0, 1)),  # As devices may lie on a pod.
  ],
)
def test_reads_the_smallest_part_that_its_devices_need(
  ranges, part, monkeypatch
):
  mesh = partitioning.make_mesh(MeshConfig())
  monkeypatch.setattr(
    partitioning, "batch_sharding", lambda _: _Sharding(*ranges)
  )
  assert partitioning.batch_part(mesh, 16) == part


def test_rows_go_to_the_devices_that_hold_them():
  mesh = partitioning.make_mesh(MeshConfig(fsdp=2, tensor=2))
  assert partitioning.batch_part(mesh, 16) == (0, 1)
  rows_BxL = np.arange(32).reshape(16, 2)
  found = partitioning.to_devices(mesh, {"tokens": rows_BxL})["tokens"]
  assert isinstance(found, jax.Array)
  np.testing.assert_array_equal(found, rows_BxL)
  assert found.sharding == partitioning.batch_sharding(mesh)
  for shard in found.addressable_shards:
    np.testing.assert_array_equal(shard.data, rows_BxL[shard.index])
