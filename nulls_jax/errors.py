"""What a command reports in one line, without a traceback.

Everything else that is raised is a defect of this package and keeps its
traceback.
"""

# Exit status of a run that can go on: what is saved is whole, and the same
# command takes it up. Launchers start it again on this status only.
START_AGAIN = 75


class UserError(ValueError):
  """Input that the user can mend: what is wrong, where, what to do.

  The command line prints the message and exits with status 2.
  """


class MachineError(RuntimeError):
  """A failure of the machine (full disk, lost file): exit status 1."""


class StartAgain(RuntimeError):
  """A run that was told to end, or lost a process: exit status 75."""


def agreed(error: Exception) -> Exception:
  """Mark what all processes of a run raise alike, at the same step."""
  error.is_agreed = True
  return error


def listing(items, limit: int = 20) -> str:
  """Join the first `limit` items and say how many more there are.

  >>> listing(["a", "b", "c"], limit=2)
  'a, b and 1 more'
  """
  items = [str(item) for item in items]
  head = ", ".join(items[:limit])
  rest = len(items) - limit
  return f"{head} and {rest} more" if rest > 0 else head


def counted(number: int, noun: str) -> str:
  """Return a number and its noun.

  >>> counted(1, "source"), counted(6400000, "source")
  ('1 source', '6,400,000 sources')
  """
  return f"{number:,} {noun}{'' if number == 1 else 's'}"
