"""What is said of progress, and how often."""

import doctest
import io

from nulls_jax.data.preparation import progress


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_examples_in_docstrings():
  result = doctest.testmod(progress)
  assert result.attempted and not result.failed


def test_a_log_gets_a_line_now_and_then():
  now = [0.0]
  stream = io.StringIO()
  report = progress.Reporter(stream, lambda: now[0])
  # 1 GB was done by an earlier start: it is not of this one's rate.
  for second in range(100):
    now[0] = float(second)
    report("documents", 1_000_000_000 + 5_000_000 * second, 4_000_000_000)
  report.close()
  assert stream.getvalue().splitlines() == [
    "packing: 1,150 of 4,000 MB, 5.0 MB/s, 10 min left",
    "packing: 1,300 of 4,000 MB, 5.0 MB/s, 9 min left",
    "packing: 1,450 of 4,000 MB, 5.0 MB/s, 8 min left",
  ]


def test_a_terminal_has_one_line():
  now = [0.0]
  stream = _Terminal()
  report = progress.Reporter(stream, lambda: now[0])
  for stage, done, total in (
    ("tokenizer", 0, 1),
    ("rows", 0, 4),
    ("rows", 1, 4),
  ):
    now[0] += 10
    report(stage, done, total)
  report.close()
  assert stream.getvalue().split("\r") == [
    "",
    "training the tokenizer\x1b[K",
    "writing rows: 0 of 4 files\x1b[K",
    "writing rows: 1 of 4 files, 30 s left\x1b[K",
    "\x1b[K",
  ]
