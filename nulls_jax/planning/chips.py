"""What a TPU chip has: memory, arithmetic, bandwidths, and the pods it is in.

The one table of such facts. Source: the chips' pages of the Cloud TPU
documentation (docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e), but for
`usable_bytes`, which is what libtpu 0.0.42 says is available when a program
is too large for the chip.
"""

import dataclasses

from nulls_jax.training import metrics

_GIB = 2**30

# Of v5e and v6e: slices of one host or more that Google Cloud offers.
_PLANES = (
  (1, 1),
  (2, 2),
  (2, 4),
  (4, 4),
  (4, 8),
  (8, 8),
  (8, 16),
  (16, 16),
)
_CUBES = (
  (2, 2, 1),
  (2, 2, 2),
  (2, 2, 4),
  (2, 4, 4),
  (4, 4, 4),
  (4, 4, 8),
  (4, 4, 12),
  (4, 8, 8),
  (4, 4, 20),
  (4, 8, 12),
  (8, 8, 8),
  (8, 8, 12),
  (8, 8, 16),
  (8, 12, 16),
  (8, 16, 16),
  (12, 16, 16),
  (16, 16, 16),
  (16, 16, 24),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One generation of TPU.

  Attributes:
    name: as in `v5e-256`.
    device_kind: what JAX calls it.
    hbm_bytes: memory of one chip, as published (binary GB).
    usable_bytes: of them, what a program can have.
    hbm_bandwidth: bytes a second between memory and chip.
    ici_bandwidth: bytes a second that a chip can send, over all its links to
      other chips together; half of the published figure, which counts both
      directions.
    units: that the number in a rented name counts, a chip.
    shapes: chips along each axis of the slices that can be rented.
  """

  name: str
  device_kind: str
  hbm_bytes: int
  usable_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  units: int
  shapes: tuple[tuple[int, ...], ...]

  @property
  def peak_flops(self) -> float:
    """Dense bf16 operations a second."""
    return metrics.PEAK_FLOPS[self.device_kind]


CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name="v5e",
      device_kind="TPU v5 lite",
      hbm_bytes=16 * _GIB,
      usable_bytes=int(15.75 * _GIB),
      hbm_bandwidth=819e9,
      ici_bandwidth=200e9,
      units=1,
      shapes=_PLANES,
    ),
    Chip(
      name="v5p",
      device_kind="TPU v5",
      hbm_bytes=95 * _GIB,
      usable_bytes=int(95.74 * _GIB),
      hbm_bandwidth=2765e9,
      ici_bandwidth=600e9,
      # A chip has two TensorCores, which JAX sees as one device.
      units=2,
      shapes=_CUBES,
    ),
    Chip(
      name="v6e",
      device_kind="TPU v6 lite",
      hbm_bytes=32 * _GIB,
      usable_bytes=int(31.25 * _GIB),
      hbm_bandwidth=1638e9,
      ici_bandwidth=400e9,
      units=1,
      shapes=_PLANES,
    ),
  )
}
