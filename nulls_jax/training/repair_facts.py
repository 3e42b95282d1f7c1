"""What the receipt of a repair states, read from the two checkpoints' files.

Owns the digests before and after, and the check that they say what a repair
may say. NumPy and tensorstore only.

Invariant: facts are given only of a checkpoint whose every array, the table
and the step apart, has the digest that it had before.
"""

import datetime
import pathlib
from typing import Any

from nulls_jax import errors
from nulls_jax.unlearning.checkpoint import arrays as arrays_lib
from nulls_jax.unlearning.checkpoint import moments, storage
from nulls_jax.unlearning.receipts import receipt

_TABLE = ".".join(("params", *moments.SINK_PATH))
_STEP = "step"

_NOT_REACHED = (
  "The run that was repaired, and every copy of it: they are as they were.",
)


def digests(item: pathlib.Path) -> dict[str, tuple[arrays_lib.Array, str]]:
  """Return every array of an item and its digest, by name.

  Raises:
    errors.UserError: the item is damaged.
  """
  database = storage.Database.open(item)
  found = {}
  for array in arrays_lib.read_arrays(database):
    digest, codec = arrays_lib.Digest(array), arrays_lib.Codec(array)
    for chunk in array.chunks():
      (value,) = database.read([chunk.key])
      digest.update(chunk, codec.decode(chunk, value, item))
    found[array.name] = array, digest.hexdigest()
  return found


def collect(
  source: pathlib.Path,
  output: pathlib.Path,
  metadata: dict[str, Any],
  step: int,
  reference: str | None,
) -> receipt.Facts:
  """Return what the receipt states.

  Args:
    source: the item that was repaired.
    output: the item that was written.
    metadata: custom metadata of both.
    step: of the output.
    reference: the requester's.

  Raises:
    errors.MachineError: a frozen array has another digest than before.
  """
  before, after = digests(source), digests(output)
  wrong = sorted(
    name
    for name, (_, digest) in after.items()
    if name not in (_TABLE, _STEP)
    and (name not in before or before[name][1] != digest)
  )
  if wrong:
    raise errors.MachineError(
      f"{source}: repair changed {errors.listing(wrong)}; nothing was kept; "
      "check memory and disk, and repeat"
    )
  records = []
  for name in sorted({**before, **after}):
    array, _ = after[name] if name in after else before[name]
    records.append(
      receipt.ArrayRecord(
        name=name,
        shape=array.shape,
        data_type=array.data_type,
        before=before[name][1] if name in before else None,
        after=after[name][1] if name in after else None,
      )
    )
  # A repair names no sources, so none of its rows are theirs.
  layers, strata = after[_TABLE][0].shape[:2]
  done = receipt.StepRecord(
    step=step,
    arrays=tuple(records),
    edited=(_TABLE, _STEP),
    rows_zeroed=((0,) * strata,) * layers,
  )
  return receipt.Facts(
    action="repair",
    steps=(done,),
    assignment=metadata["assignment"],
    sources=(),
    optimizer="dropped",
    ledger_fingerprint=metadata["ledger_fingerprint"],
    reference=reference,
    time=datetime.datetime.now(datetime.UTC),
    not_reached=_NOT_REACHED,
  )
