"""What a verification found: checks, each passed, failed or not made.

Owns these records and how they read. A check is a function that returns its
figures, or raises `UserError` saying what is wrong.
"""

import dataclasses
import pathlib
import sqlite3
from collections.abc import Callable
from typing import Any

from nulls_jax import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """One thing that was looked at.

  Attributes:
    name: what, in a word.
    passed: None if it was not checked.
    detail: figures, or what is wrong.
  """

  name: str
  passed: bool | None
  detail: str

  def __str__(self):
    word = {True: "ok", False: "FAILED", None: "not checked"}[self.passed]
    return f"{word:12}{self.name:11}{self.detail}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
  """What verifying found.

  Attributes:
    run_dir: what was verified.
    checks: in the order in which they are read.
  """

  run_dir: pathlib.Path
  checks: tuple[Check, ...]

  @property
  def failures(self) -> tuple[Check, ...]:
    return tuple(check for check in self.checks if check.passed is False)

  @property
  def verified(self) -> bool:
    return not self.failures

  @property
  def conclusion(self) -> str:
    """ "verified", or "NOT verified: " and the names of what failed."""
    if self.verified:
      return "verified"
    names = dict.fromkeys(check.name for check in self.failures)
    return f"NOT verified: {', '.join(names)}"

  def to_json(self) -> dict[str, Any]:
    """Return what `nulls verify --json` prints and `--out` writes."""
    return {
      "run": str(self.run_dir),
      "verified": self.verified,
      "checks": [dataclasses.asdict(check) for check in self.checks],
    }


class Report:
  """The checks so far."""

  def __init__(self):
    self.checks: list[Check] = []

  def add(self, name: str, passed: bool | None, detail: str) -> None:
    """Add what is known."""
    self.checks.append(Check(name=name, passed=passed, detail=detail))

  def run(self, name: str, check: Callable[..., str], *arguments) -> bool:
    """Make a check and say whether it passed; damage is a failure of it."""
    try:
      detail = check(*arguments)
    except errors.UserError as error:
      self.add(name, False, _one_line(error))
    except sqlite3.DatabaseError as error:
      self.add(name, False, f"the ledger is damaged: {error}")
    except OSError as error:
      where = f"{error.filename}: " if error.filename else ""
      self.add(name, False, f"{where}{error.strerror or error}")
    else:
      self.add(name, True, detail)
    return self.checks[-1].passed is True


def _one_line(error: Exception) -> str:
  return " ".join(str(error).split())
