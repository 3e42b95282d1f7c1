"""Commands that suspend sources, restore them, and say what is suspended."""

import dataclasses
import json

from nulls_jax import errors
from nulls_jax.commands import arguments

_SHOWN = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspend(arguments.SourceFlags):
  """Hide sources: their sinks are not activated until they are restored.

  Takes effect on every load of the run, and in loaded ones at the next call.
  The weights still hold the sources: `nulls erase` removes them. Other copies
  of the run are not reached.

  Attributes:
    checkpoint: a run directory; all its steps obey.
    reference: the requester's reference, kept in the list.
    reason: in words, kept in the list; no personal data.
  """

  checkpoint: arguments.CheckpointPath
  reference: str | None = None
  reason: str | None = None

  def run(self) -> None:
    from nulls_jax.unlearning.revocation import revocation

    run_dir, _ = arguments.locate(self.checkpoint)
    done = revocation.suspend(
      run_dir, self.keys(run_dir), reference=self.reference, reason=self.reason
    )
    _say(run_dir, done, "suspended", "were suspended before")
    if done.erased:
      print(f"already erased, nothing to suspend: {_listed(done.erased)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restore(arguments.SourceFlags):
  """Take suspended sources back into use; erased ones are gone for good.

  Attributes:
    checkpoint: a run directory.
    reference: reference of the decision, kept in the list.
    reason: in words, kept in the list; no personal data.
  """

  checkpoint: arguments.CheckpointPath
  reference: str | None = None
  reason: str | None = None

  def run(self) -> None:
    from nulls_jax.unlearning.revocation import revocation

    run_dir, _ = arguments.locate(self.checkpoint)
    done = revocation.restore(
      run_dir, self.keys(run_dir), reference=self.reference, reason=self.reason
    )
    _say(run_dir, done, "restored", "were not suspended")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
  """Say which sources of a run are suspended or erased, since when, and why.

  Attributes:
    checkpoint: a run directory.
    source: key of a source whose state is asked for; may be repeated.
    json: print JSON instead of text.
    expect_version: fail when the revocation list is older than this version,
      which shows that lines are missing at its end.
  """

  checkpoint: arguments.CheckpointPath
  source: arguments.Many[tuple[str, ...]] = ()
  json: bool = False
  expect_version: int = 0

  def run(self) -> None:
    from nulls_jax.unlearning.revocation import status

    if self.expect_version < 0:
      raise errors.UserError(
        f"--expect-version {self.expect_version} must be at least 0"
      )
    run_dir, _ = arguments.locate(self.checkpoint)
    found = status.read(
      run_dir,
      list(dict.fromkeys(self.source)),
      expect_version=self.expect_version,
    )
    if self.json:
      print(json.dumps(found.to_dict()))
    else:
      print("\n".join(_lines(found)))


def _say(run_dir, done, what, unchanged) -> None:
  print(
    f"{run_dir}: {errors.counted(len(done.changed), 'source')} {what}; the "
    f"revocation list {_head(done.revocations)}"
  )
  if done.unchanged:
    print(f"{len(done.unchanged)} {unchanged}: {_listed(done.unchanged)}")


def _head(revocations) -> str:
  if not revocations.version:
    return "has version 0 (empty)"
  return f"has version {revocations.version}, head {revocations.head}"


def _listed(keys) -> str:
  from nulls_jax.data import suggestions

  return errors.listing(map(suggestions.shown, keys))


def _lines(found) -> list[str]:
  """Return the text of `nulls status`."""
  lines = [
    f"{found.run_dir}: {found.num_active} sources active, "
    f"{found.num_suspended} suspended, {found.num_erased} erased",
    f"the revocation list {_head(found.revocations)}",
  ]
  history = found.revocations.entries
  if len(history) > _SHOWN:
    lines.append(f"  {len(history) - _SHOWN} older entries (--json has all)")
  for entry in history[-_SHOWN:]:
    notes = [
      f"{name} {text!r}"
      for name, text in (
        ("reference", entry.reference),
        ("reason", entry.reason),
      )
      if text is not None
    ]
    number = errors.counted(len(entry.sources), "source")
    done = f"{entry.version}  {entry.time}  {entry.action} {number}"
    lines.append("; ".join([f"  {done}", *notes]))
  lines.append(_dead_rows(found))
  steps = errors.listing(found.steps) if found.steps else "none"
  lines.append(f"steps: {steps}")
  if found.receipts:
    lines.append(f"receipts: {errors.listing(found.receipts)}")
  for source in found.sources:
    name = _listed([source.key])
    since = f" by version {source.version}" if source.version else ""
    lines.append(
      f"{name}: {source.state}{since} (id {source.id:016x}, index "
      f"{source.index})"
    )
  return lines


def _dead_rows(found) -> str:
  if not found.dead_rows:
    return "a dense model: no sinks"
  if not found.num_erased:
    return "no dead rows"
  counts = [count for layer in found.dead_rows for count in layer]
  share = sum(counts) / (len(counts) * found.rows_per_stratum)
  layers = "; ".join(
    f"layer {number}: " + " + ".join(map(str, layer))
    for number, layer in enumerate(found.dead_rows[:_SHOWN])
  )
  more = len(found.dead_rows) - _SHOWN
  rest = f"; {more} more layers" if more > 0 else ""
  return (
    f"dead rows: {share:.3%} of the pool; of {found.rows_per_stratum} in each "
    f"stratum, {layers}{rest}"
  )
