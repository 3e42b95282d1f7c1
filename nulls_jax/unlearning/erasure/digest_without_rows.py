"""The digest of a table after its erasure, from the digest before.

Owns the shortcut that no row is hashed twice: a row either is what it was or
is zero, and the digest of an array is made of its rows' digests.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import tensorstore as ts

from nulls_jax.unlearning.checkpoint import arrays as arrays_lib


class DigestWithoutRows:
  """What the `Digest` of an array will be once some of its rows are zero.

  Follows the digest of the array as it is, so that no row is hashed twice.

  Attributes:
    checksum: as that of `Digest`, once `remove` was told all that goes.
  """

  def __init__(
    self, array: arrays_lib.Array, digest: arrays_lib.Digest, places: Callable
  ):
    """Follow a digest that has seen nothing yet.

    Args:
      array: of four axes.
      digest: of the array as it is.
      places: as `plan.Rows.inside`.
    """
    self._digest = digest
    self._places = places
    self._shape = array.shape
    self._removed = 0
    self._total = arrays_lib.digest_header(array)
    width = array.shape[-1] * ts.dtype(array.data_type).numpy_dtype.itemsize
    zeros = hashlib.sha256(bytes(width)).digest()
    self._zeros = np.frombuffer(zeros, np.uint8)
    digest.on_rows = self._take

  @property
  def checksum(self) -> int:
    return (self._digest.checksum - self._removed) % 2**32

  def remove(self, elements: np.ndarray) -> None:
    """Take elements that become zero."""
    self._removed += int(arrays_lib.as_words(elements).sum(dtype=np.uint64))

  def _take(self, layers: slice, hashes: np.ndarray) -> None:
    whole = (layers, *(slice(0, size) for size in self._shape[1:]))
    for layer, stratum, numbers in self._places(whole):
      hashes[layer, stratum, numbers] = self._zeros
    self._total.update(hashes)

  def hexdigest(self) -> str:
    """Return the digest once the array's was complete (else RuntimeError)."""
    self._digest.hexdigest()
    return self._total.hexdigest()
