"""How fast `nulls prepare` is, and what memory it takes.

Owns a generated corpus of any size and the runs of the real command on it,
each a process of its own on the cores that it is to use, taken in turn.

    nulls bench prepare --megabytes 200

The text has Zipf's law for its common words, and every thirtieth word is one
of millions: a tokenizer meets new words all along, as it does in natural
text.

Invariant: what is timed is the whole command, from the start of Python to the
dataset under its name, the training of the tokenizer included.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from nulls_jax import errors
from nulls_jax.bench import alone, rounds
from nulls_jax.bench.settings import PrepareSettings
from nulls_jax.data.preparation import dataset

_SYLLABLES = tuple(
  consonant + vowel
  for consonant in ("b", "d", "f", "g", "k", "l", "m", "n", "p", "st", "t", "v")
  for vowel in ("a", "e", "i", "o", "u", "er", "on")
)
_COMMON_WORDS = 60_000
_ZIPF_OFFSET = 2.7
_RARE_SHARE = 1 / 30
_WORDS_AT_ONCE = 200_000
# Of documents' words: the median of an encyclopedia's articles, roughly.
_MEDIAN_WORDS, _SPREAD = 250, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One run of the command.

  Attributes:
    seconds: wall time.
    peak_bytes: resident memory of its largest process.
  """

  seconds: float
  peak_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What was measured.

  Attributes:
    text_bytes: UTF-8 of the texts.
    file_bytes: of the JSON Lines.
    documents: each of a source of its own.
    runs: by number of workers, in the order of the rounds.
  """

  text_bytes: int
  file_bytes: int
  documents: int
  runs: dict[int, list[Run]]


def measure(
  settings: PrepareSettings, progress: Callable[[str], None]
) -> Report:
  """Generate a corpus and prepare it; everything that is written is removed.

  Raises:
    errors.UserError: there are fewer cores than workers.
    errors.MachineError: a run of the command failed.
  """
  cores = sorted(os.sched_getaffinity(0))
  if max(settings.workers) > len(cores):
    raise errors.UserError(
      f"workers={max(settings.workers)}, but this process may use "
      f"{len(cores)} cores; give less"
    )
  if settings.out is not None:
    settings.out.mkdir(parents=True, exist_ok=True)
  runs: dict[int, list[Run]] = {count: [] for count in settings.workers}
  with tempfile.TemporaryDirectory(dir=settings.out) as place:
    path = pathlib.Path(place) / "documents.jsonl"
    progress("writing documents")
    text_bytes, documents = generate(path, settings.megabytes, settings.seed)
    for number in range(settings.rounds):
      for count in settings.workers:
        progress(f"round {number + 1} of {settings.rounds}: {count} workers")
        runs[count].append(_run(path, settings, cores[:count]))
    return Report(
      text_bytes=text_bytes,
      file_bytes=path.stat().st_size,
      documents=documents,
      runs=runs,
    )


def _run(path: pathlib.Path, settings: PrepareSettings, cores: list) -> Run:
  """Prepare the documents with a worker for each core."""
  out = path.with_name("set")
  command = [
    *(sys.executable, "-m", "nulls_jax.cli", "prepare"),
    *("--documents", str(path), "--out", str(out)),
    f"--workers={len(cores)}",
    f"--data.vocab-size={settings.vocab_size}",
  ]
  # From a small process: the peak of a command begins with that of the one
  # that starts it.
  (run, failure), _ = alone.run(_timed, command, cores)
  if failure is not None:
    raise errors.MachineError(f"{' '.join(command)} failed: {failure}")
  dataset.Prepared.open(out)
  shutil.rmtree(out)
  return run


def _timed(command: list[str], cores: list) -> tuple[Run, str | None]:
  """Run a command on some cores; return what it took, and why it failed."""
  start = time.perf_counter()
  process = subprocess.Popen(
    command,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    preexec_fn=lambda: os.sched_setaffinity(0, cores),
  )
  said = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  seconds = time.perf_counter() - start
  process.returncode = os.waitstatus_to_exitcode(status)
  failure = None
  if process.returncode:
    failure = said.decode(errors="replace").strip()
  return Run(seconds=seconds, peak_bytes=1024 * usage.ru_maxrss), failure


def generate(
  path: pathlib.Path, megabytes: float, seed: int
) -> tuple[int, int]:
  """Write JSON Lines with so much text; return bytes of text, and documents.

  A function of the size and the seed.
  """
  draw = np.random.default_rng(seed)
  common = _words(draw, _COMMON_WORDS)
  text_bytes = documents = 0
  with open(path, "w", encoding="utf-8") as file:
    while text_bytes < megabytes * 1e6:
      words = _draw_words(draw, common)
      sizes = draw.lognormal(np.log(_MEDIAN_WORDS), _SPREAD, len(words) // 200)
      ends = np.cumsum(sizes.astype(int) + 3)
      starts = np.concatenate([[0], ends[:-1]])
      for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        text = " ".join(words[start:end])
        if end > len(words) or text_bytes >= megabytes * 1e6:
          break
        text_bytes += len(text)
        documents += 1
        key = f"article/{documents:08d}"
        line = {"source": key, "text": text, "year": 1990 + documents % 35}
        file.write(json.dumps(line) + "\n")
  return text_bytes, documents


def _words(draw: np.random.Generator, count: int) -> list[str]:
  """Return words of one to four syllables, the first ones short."""
  syllables = draw.integers(0, len(_SYLLABLES), (count, 4))
  lengths = 1 + np.minimum(np.log10(np.arange(count) + 1), 3).astype(int)
  return [
    "".join(_SYLLABLES[each] for each in row[:length])
    for row, length in zip(syllables.tolist(), lengths.tolist(), strict=True)
  ]


def _draw_words(draw: np.random.Generator, common: list[str]) -> list[str]:
  """Return many words, with the ends and beginnings of sentences."""
  count = _WORDS_AT_ONCE
  shares = 1 / (np.arange(len(common)) + _ZIPF_OFFSET)
  ends = np.cumsum(shares / shares.sum())
  ranks = np.searchsorted(ends, draw.random(count) * ends[-1]).tolist()
  words = list(map(common.__getitem__, ranks))
  rare = np.flatnonzero(draw.random(count) < _RARE_SHARE).tolist()
  pairs = draw.integers(0, len(common), (len(rare), 2)).tolist()
  for place, (first, second) in zip(rare, pairs, strict=True):
    words[place] = common[first] + common[second]
  stops = np.cumsum(draw.integers(4, 30, count // 16))
  for place in stops[stops < count - 1].tolist():
    words[place] += "."
    words[place + 1] = words[place + 1].capitalize()
  return words


def show(report: Report) -> str:
  """Return a table of speeds, memory and ratios, with their spread."""
  megabytes = report.text_bytes / 1e6
  lines = [
    f"{megabytes:,.0f} MB of text, {report.file_bytes / 1e6:,.0f} MB of JSON "
    f"Lines, {report.documents:,} documents",
    f"{'workers':>7}  {'MB/s':>6}  {'(least to most)':16}  {'memory':>8}",
  ]
  for count, runs in report.runs.items():
    speed = rounds.spread([megabytes / run.seconds for run in runs])
    peak = max(run.peak_bytes for run in runs)
    lines.append(
      f"{count:7}  {speed.median:6.2f}  "
      f"{f'({speed.least:.2f} to {speed.most:.2f})':16}  "
      f"{peak / 1e6:5,.0f} MB"
    )
  first, *others = report.runs
  for count in others:
    ratio = rounds.ratio(
      [run.seconds for run in report.runs[first]],
      [run.seconds for run in report.runs[count]],
    )
    lines.append(
      f"{count} workers over {first}: {ratio.of_medians:.2f} x "
      f"({ratio.by_round.least:.2f} to {ratio.by_round.most:.2f})"
    )
  return "\n".join(lines)
