"""The revocation list of a run: which sources are suspended.

Owns `revocations.jsonl` in the run directory, its lock, and every change of
it; `revocation_list` has its format. Knows neither parameters nor checkpoints
and needs no JAX: suspending opens the ledger, the settings and the list,
whatever the size of the run. `inference` obeys the list. Suspending hides;
whoever holds the weights can undo it.

Invariant: the list only grows, and is whole under its name at any moment (a
new one is written beside it and renamed, under a lock). A line that was
edited, moved, or removed before the last one makes every reader refuse the
list. Lines removed from its end cannot be seen from the list alone, nor that
it was removed altogether: note version and head, which every change and
`nulls status` print, and compare (`at_least`).
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import suggestions
from nulls_jax.unlearning.revocation import record as revocation_list
from nulls_jax.unlearning.revocation.record import Revocations

FILE = "revocations.jsonl"

CONFIG_FILE, LEDGER_FILE = "config.json", "ledger.sqlite"
_MAX_NOTE = 1000
# A shorter key may be part of an ordinary word.
_MIN_KEY_IN_NOTE = 4
_LOCK_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """What suspending or restoring did; keys as they were named.

  Attributes:
    changed: suspended, or restored, now.
    unchanged: were in that state before.
    erased: were erased; there is nothing to suspend.
    revocations: the list as it is now.
  """

  changed: tuple[str, ...]
  unchanged: tuple[str, ...]
  erased: tuple[str, ...]
  revocations: Revocations


def suspend(
  run_dir: str | os.PathLike,
  keys: Iterable[str],
  *,
  reference: str | None = None,
  reason: str | None = None,
) -> Change:
  """Add sources to the revocation list of a run.

  Nothing is written when all are suspended or erased already.

  Args:
    run_dir: a run directory.
    keys: source keys.
    reference: the requester's, a ticket number for one; stored in the list.
    reason: in words, stored in the list; without personal data.

  Raises:
    errors.UserError: no run, a dense one, unknown keys (all of them), a bad
      reference or reason, or a list that is broken; nothing changes.
    errors.MachineError: the list cannot be written; it is as it was.
  """
  return _change(run_dir, keys, revocation_list.SUSPEND, reference, reason)


def restore(
  run_dir: str | os.PathLike,
  keys: Iterable[str],
  *,
  reference: str | None = None,
  reason: str | None = None,
) -> Change:
  """Take sources off the revocation list of a run; arguments of `suspend`.

  Raises:
    errors.UserError: as `suspend`, or sources were erased: nothing changes.
    errors.MachineError: the list cannot be written; it is as it was.
  """
  return _change(run_dir, keys, revocation_list.RESTORE, reference, reason)


def read(run_dir: str | os.PathLike, *, at_least: int = 0) -> Revocations:
  """Read and check the list of a run; a run without one has version 0.

  Args:
    run_dir: a run directory.
    at_least: version that the list is known to have had.

  Raises:
    errors.UserError: the list was changed by something else than this
      module, is another run's, or is older than `at_least`.
  """
  run_dir = pathlib.Path(run_dir)
  path = run_dir / FILE
  try:
    content = path.read_bytes()
  except FileNotFoundError:
    content = b""
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be read: {error.strerror}; a run whose list is not known "
      "cannot be used: mend the file or its permissions"
    ) from error
  revocations = revocation_list.parse(path, content)
  if revocations.version < at_least:
    raise errors.UserError(
      f"{path} has version {revocations.version}, but had {at_least}: lines "
      "are missing at its end; put a copy of the whole list back"
    )
  if revocations.entries:
    _check_sources(run_dir, path, revocations)
  return revocations


class Watch:
  """The list of a run for a program that lives long: re-read when it changes.

  A look costs one `stat` while the list stays as it is. Not only the load of
  a model obeys the list then, but every call after it.
  """

  def __init__(self, run_dir: str | os.PathLike):
    """Read the list; raises as `read` does."""
    self._path = pathlib.Path(run_dir) / FILE
    # One tuple, replaced at once: readers may be threads.
    self._seen: tuple[Any, Revocations] = (None, Revocations())
    self.current()

  def current(self) -> Revocations:
    """Return the list as it is now.

    Raises:
      errors.UserError: as `read`, or lines have disappeared since the last
        look.
    """
    state = self._state()
    seen, revocations = self._seen
    if seen is None or state != seen:
      found = read(self._path.parent, at_least=revocations.version)
      if found.entries[: revocations.version] != revocations.entries:
        raise errors.UserError(
          f"{self._path} is not the list that it was: earlier lines differ; "
          f"{revocation_list.REMEDY}"
        )
      revocations = found
      self._seen = (state, revocations)
    return revocations

  def _state(self) -> tuple[int, ...]:
    """Return what differs for every file that was ever under this name."""
    try:
      with files.disk_errors(self._path):
        found = self._path.stat()
    except FileNotFoundError:
      return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _check_sources(
  run_dir: pathlib.Path, path: pathlib.Path, revocations: Revocations
) -> None:
  """Refuse the list of another run."""
  listed = {source for entry in revocations.entries for source in entry.sources}
  with ledger_lib.Ledger.open(run_dir / LEDGER_FILE) as ledger:
    known = ledger.indices(source_id for source_id, _ in listed)
  for source_id, index in sorted(listed):
    if known.get(source_id) != index:
      raise errors.UserError(
        f"{path}: {run_dir / LEDGER_FILE} has no source {source_id:016x} with "
        f"index {index}; this is the list, or the ledger, of another run"
      )


# -- Writing


def _change(run_dir, keys, action, reference, reason) -> Change:
  run_dir, keys = pathlib.Path(run_dir), list(dict.fromkeys(keys))
  _check_run(run_dir)
  if not keys:
    raise errors.UserError("no source keys given; name at least one source")
  for name, text in (("reference", reference), ("reason", reason)):
    _check_note(name, text, keys)
  with ledger_lib.Ledger.open(run_dir / LEDGER_FILE) as ledger:
    found = dict(zip(keys, ledger.find(keys, allow_erased=True), strict=True))
  erased = tuple(key for key in keys if found[key].status == ledger_lib.ERASED)
  if erased and action == revocation_list.RESTORE:
    listed = errors.listing(map(suggestions.shown, erased))
    raise errors.UserError(
      f"{run_dir}: {len(erased)} sources were erased and cannot be restored: "
      f"{listed}; their sinks are gone from this run, take them off the list"
    )
  with files.disk_errors(run_dir), _locked(run_dir) as directory:
    before = read(run_dir)
    changed = tuple(
      key
      for key in keys
      if key not in erased
      and (found[key].id in before.suspended)
      == (action == revocation_list.RESTORE)
    )
    after = before
    if changed:
      sources = [found[key] for key in changed]
      after = _append(
        run_dir / FILE, before, action, sources, reference, reason
      )
      # The rename itself must outlive a power cut, too.
      os.fsync(directory)
  kept = {*changed, *erased}
  return Change(
    changed=changed,
    unchanged=tuple(key for key in keys if key not in kept),
    erased=erased,
    revocations=after,
  )


def read_settings(run_dir: pathlib.Path) -> dict[str, Any]:
  """Return the settings of a run as they are in its file.

  Raises:
    errors.UserError: this is no run directory, or the file is damaged.
  """
  path = run_dir / CONFIG_FILE
  try:
    with files.disk_errors(path):
      settings = json.loads(path.read_text("utf-8"))
  except FileNotFoundError:
    raise errors.UserError(
      f"{run_dir} is not a run directory: {CONFIG_FILE} missing; give the "
      "directory that training wrote"
    ) from None
  except ValueError as error:
    raise errors.UserError(
      f"{path} is damaged ({error}); put the run's own file back"
    ) from error
  if not isinstance(settings, dict) or not isinstance(
    settings.get("sinks"), dict
  ):
    raise errors.UserError(
      f"{path} has no settings of sinks; put the run's own file back"
    )
  return settings


def _check_run(run_dir: pathlib.Path) -> None:
  """Check that there are sinks to suspend, by the settings alone."""
  if read_settings(run_dir)["sinks"].get("kind") == "none":
    raise errors.UserError(
      f"{run_dir}: a dense model has no sinks, so no source of it can be "
      "suspended or restored; take the whole model out of use"
    )


def _check_note(name: str, text: str | None, keys: list[str]) -> None:
  if text is None:
    return
  if not text.isprintable() or not text.strip() or len(text) > _MAX_NOTE:
    raise errors.UserError(
      f"--{name} {text[:60]!a} must be one line of 1 to {_MAX_NOTE} printable "
      "characters"
    )
  inside = [
    suggestions.shown(key)
    for key in keys
    if len(key) >= _MIN_KEY_IN_NOTE and key in text
  ]
  if inside:
    raise errors.UserError(
      f"--{name} contains the source key {errors.listing(inside)}, but the "
      "list holds no keys, to outlive their erasure; name the request instead"
    )


@contextlib.contextmanager
def _locked(run_dir: pathlib.Path) -> Iterator[int]:
  """Hold the directory's lock; it ends with the process, leaving no file."""
  directory = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
  deadline = time.monotonic() + _LOCK_SECONDS
  try:
    while True:
      try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if time.monotonic() > deadline:
          raise errors.UserError(
            f"{run_dir}: another program has been changing its {FILE} for "
            f"{_LOCK_SECONDS:.0f} s; end it, then repeat"
          ) from None
        time.sleep(0.01)
      except OSError as error:
        raise errors.MachineError(
          f"{run_dir} cannot be locked: {error.strerror}; run this where the "
          "file system has locks"
        ) from error
    yield directory
  finally:
    os.close(directory)


def _append(path, before, action, sources, reference, reason) -> Revocations:
  """Write the list anew with one more line, beside it, and rename it."""
  content = path.read_bytes() if before.entries else b""
  content += revocation_list.line(before, action, sources, reference, reason)
  after = revocation_list.parse(path, content)
  files.write_whole(path, content.decode("ascii"))
  return after
