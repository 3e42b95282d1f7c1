"""What an action guarantees, and what it does not: the words of receipts.

Owns these sentences and nothing else. They say what was done, never more;
a release that changes them changes new receipts only.
"""

DEFINITIONS = {
  "sources": (
    "An id is the first 64 bits of a hash of the source's key (BLAKE2b), not "
    "a secret: who can guess a key can recompute its id and see whether it "
    "is listed here. An index is the source's number in the run's ledger, "
    "counted from 1."
  ),
  "nullsArrayV1": (
    "Digest of an array's contents, whatever chunks it is stored in: SHA-256 "
    "of the line 'nulls_jax array 1', the line of the element type and the "
    "line of the shape as in [2, 8], followed by the SHA-256 of every row "
    "(the little-endian elements along the last axis) in C order."
  ),
  "rowsZeroed": (
    "By layer and stratum, how many rows belong to the sources of this "
    "receipt. Each is zero after the action in every edited sink table: "
    "parameters and whatever the optimiser keeps of them. A row that several "
    "of the sources share counts once."
  ),
  "arrays": (
    "Digests before and after the action. Equal digests: not one bit of the "
    "array differs. No digest before: the array is new; none after: it was "
    "dropped."
  ),
}

_ERASE = (
  "In the checkpoints listed here, every weight that belongs to the sources, "
  "alone or together with others, is zero: the gate, up and down vectors of "
  "their sinks in every layer. So is what the optimiser had stored of them, "
  "unless the optimiser's state was dropped as a whole.",
  "A row of zeros gives no output and gets no gradient: the sources' sinks "
  "contribute nothing, and ordinary training does not bring them back.",
  "The files listed here were written anew: no older version of these rows "
  "is in them.",
  "Every array that is not listed as edited has the digest it had before.",
  "The ledger holds the sources' ids and numbers, and neither their keys nor "
  "their metadata.",
)
_REPAIR = (
  "In the checkpoints listed here, sinks of surviving sources were trained "
  "again, on retained data only, after earlier erasures.",
  "The rows of every source erased before are zero, as they were.",
  "Every array whose digests before and after are equal was not changed.",
)
_LIMITS = (
  "This is not exact unlearning: the model is not the one that training "
  "without the sources would have given. The backbone (all other weights) "
  "was trained on the sources too and is unchanged: it may hold what other "
  "sources also support, and a small rest of the sources themselves, which "
  "the evaluation measures against retraining.",
  "The receipt speaks of the files that it lists. Other copies, earlier "
  "checkpoints, exports, logs, the training data and texts that the model "
  "has written are not touched.",
  "The receipt states what was done. Whether that satisfies a request or a "
  "law is not for it to say.",
)
_HASHED = (
  "The sinks come from a shared pool (assignment: hashed): other sources "
  "that shared a row with the erased ones have lost that row, and the model "
  "may recall them less well."
)
_DEDICATED = (
  "Every source owns its rows (assignment: dedicated): no other source has "
  "lost a row."
)


def guarantee(action: str) -> list[str]:
  """Return what the action ("erase", "repair") guarantees, in sentences."""
  return list({"erase": _ERASE, "repair": _REPAIR}[action])


def limits(action: str, kind: str) -> list[str]:
  """Return what it does not; `kind` is the assignment's."""
  sharing = {"hashed": [_HASHED], "dedicated": [_DEDICATED]}.get(kind, [])
  return [*_LIMITS, *(sharing if action == "erase" else [])]
