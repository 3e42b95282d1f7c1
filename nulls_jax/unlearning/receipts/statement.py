"""The statement of a receipt: its fields, built from the facts.

Owns the in-toto Statement v1 with this project's predicate, as
`receipt.schema.json` publishes it, and its canonical bytes. Opens no file.

Invariant: a statement's bytes are a function of its facts, of the files'
digests and of the receipt before it.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any, Literal

from nulls_jax import version
from nulls_jax.unlearning.receipts import guarantee
from nulls_jax.unlearning.receipts import page as receipt_page

FORMAT = 1
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
# A name that nobody else can have and that no domain has to keep alive; it is
# the schema's own `$id`, so that the type leads to the schema.
SCHEMA_ID = "urn:uuid:a44e8b8c-6801-46b2-a3d8-34c31b2d3c75"
PREDICATE_TYPE = f"{SCHEMA_ID}#nulls-redaction-v1"
ARRAY_DIGEST = "nullsArrayV1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayRecord:
  """One array of a step.

  Attributes:
    name: its path in the state, joined by dots.
    shape: elements an axis.
    data_type: zarr's name of the element type, such as "float32".
    before: hex of `arrays.Digest` in the source; None: was not there.
    after: the same in the output; None: was dropped.
  """

  name: str
  shape: tuple[int, ...]
  data_type: str
  before: str | None
  after: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepRecord:
  """One checkpoint.

  Attributes:
    step: its number.
    arrays: all of its arrays, before or after.
    edited: names of the arrays that were edited.
    rows_zeroed: rows of the named sources, `[layers][strata]`, which are zero
      in every edited sink table; a shared row counts once.
  """

  step: int
  arrays: tuple[ArrayRecord, ...]
  edited: tuple[str, ...]
  rows_zeroed: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRecord:
  """One named source.

  Attributes:
    id: its unsigned 64-bit id, a hash of the key.
    index: its number in the ledger, from 1.
    key: its key, only where the user asked to have it in the receipt.
    was_erased: that an earlier erasure had already erased it.
  """

  id: int
  index: int
  key: str | None
  was_erased: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
  """What a receipt states.

  Attributes:
    action: "erase", or "repair" (training of what an erasure left).
    steps: the checkpoints in the output.
    assignment: the fields of `assignment.SinkConfig` and its "version".
    sources: the sources of an erasure; of a repair, none.
    optimizer: whether the output has the optimiser's state.
    ledger_fingerprint: `Ledger.fingerprint()` of the run's ledger.
    reference: the requester's, such as a case number.
    time: of the action, aware.
    not_reached: what the action cannot reach, a line each.
  """

  action: Literal["erase", "repair"]
  steps: tuple[StepRecord, ...]
  assignment: dict[str, Any]
  sources: tuple[SourceRecord, ...]
  optimizer: Literal["kept", "dropped"]
  ledger_fingerprint: str
  reference: str | None
  time: datetime.datetime
  not_reached: tuple[str, ...]


def build(
  facts: Facts,
  file_digests: Mapping[str, str],
  number: int,
  previous: dict[str, str] | None,
) -> dict[str, Any]:
  """Return the statement.

  Args:
    facts: what was done.
    file_digests: hex SHA-256 of every file of the run, by path in it.
    number: the receipt's place in the chain, from 1.
    previous: "name" and "sha256" of the receipt before it; None for the
      first.

  Raises:
    ValueError: the time has no time zone.
  """
  if facts.time.utcoffset() is None:
    raise ValueError(f"the time {facts.time} has no time zone")
  time = facts.time.astimezone(datetime.UTC)
  predicate = {
    "format": FORMAT,
    "pageFormat": receipt_page.FORMAT,
    "tool": {"name": "nulls_jax", "version": version.__version__},
    "number": number,
    "previous": previous,
    "action": facts.action,
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "reference": facts.reference,
    "assignment": dict(facts.assignment),
    "ledgerFingerprint": {"sha256": facts.ledger_fingerprint},
    "sources": [
      {
        "id": f"{source.id:016x}",
        "index": source.index,
        "wasErased": source.was_erased,
        **({} if source.key is None else {"key": source.key}),
      }
      for source in facts.sources
    ],
    "optimizer": facts.optimizer,
    "steps": [_step(step) for step in facts.steps],
    "notReached": list(facts.not_reached),
    "guarantee": guarantee.guarantee(facts.action),
    "limits": guarantee.limits(facts.action, facts.assignment["kind"]),
    "definitions": guarantee.DEFINITIONS,
  }
  return {
    "_type": STATEMENT_TYPE,
    "subject": _subjects(facts.steps, file_digests),
    "predicateType": PREDICATE_TYPE,
    "predicate": predicate,
  }


def _step(step: StepRecord) -> dict[str, Any]:
  return {
    "step": step.step,
    "edited": sorted(step.edited),
    "rowsZeroed": [list(layer) for layer in step.rows_zeroed],
    "numRowsZeroed": sum(map(sum, step.rows_zeroed)),
    "numArraysUntouched": sum(
      array.before == array.after for array in step.arrays
    ),
    "arrays": [
      {
        "name": array.name,
        "shape": list(array.shape),
        "dataType": array.data_type,
        "before": array.before,
        "after": array.after,
      }
      for array in sorted(step.arrays, key=lambda array: array.name)
    ],
  }


def _subjects(
  steps: tuple[StepRecord, ...], file_digests: Mapping[str, str]
) -> list[dict[str, Any]]:
  found = [
    {
      "name": array_subject(step.step, array.name),
      "digest": {ARRAY_DIGEST: array.after},
    }
    for step in steps
    for array in step.arrays
    if array.after is not None
  ]
  found += [
    {"name": name, "digest": {"sha256": digest}}
    for name, digest in file_digests.items()
  ]
  return sorted(found, key=lambda subject: subject["name"])


def array_subject(step: int, name: str) -> str:
  """Return the subject's name of an array of a step."""
  return f"checkpoints/{step}/state/{name}"


def encode(statement: dict[str, Any]) -> bytes:
  """Return the canonical bytes: sorted keys, no spaces, UTF-8, a newline."""
  text = json.dumps(
    statement, sort_keys=True, ensure_ascii=False, separators=(",", ":")
  )
  return f"{text}\n".encode()
