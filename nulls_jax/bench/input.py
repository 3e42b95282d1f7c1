"""How fast training gets its batches: prepared rows to NumPy arrays.

Owns the generated datasets and how reading them is timed. What is timed is
`data.pipeline.batches` as training calls it: order, ArrayRecord files, the
model's fields, routing words and the draw of off documents, in this process
and its thread that reads ahead. Knows nothing of models or devices.

Invariant: every measurement reads other places of the order than the one
before, and counts only batches that it has waited for.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from array_record.python import array_record_module

from nulls_jax import errors, files
from nulls_jax.bench import corpus, machine
from nulls_jax.bench.settings import InputSettings
from nulls_jax.data import config as data_config
from nulls_jax.data import ledger, mixing, mixture, packing, pipeline, routing
from nulls_jax.data.preparation import dataset
from nulls_jax.sinks import assignment

REPORT = "input.json"
# Tokens a second of a core that training must be able to read.
PROMISED = 1_000_000
_SETS = 3
_SOURCES = 20_000
_VOCABULARY = 3000
_OFF_SHARE = 0.2
_TOKENS_A_DOCUMENT = 300


def run(settings: InputSettings, say: Callable[[str], None]) -> str:
  """Make the datasets, measure, write the report, return the table.

  Raises:
    errors.UserError: the settings do not fit together.
  """
  _check(settings)
  rows = []
  with tempfile.TemporaryDirectory(prefix="nulls-bench-input-") as place:
    for length in settings.lengths:
      say(f"rows of {length} tokens")
      directory = pathlib.Path(place) / str(length)
      sets = make(directory, settings, length)
      for name, prepared in (
        ("one dataset", dataset.Prepared.open(sets[0])),
        (f"mixture of {_SETS}", _mixed(directory, sets)),
      ):
        rows.append({"length": length, "what": name})
        rows[-1] |= measure(prepared, settings)
  report = {
    "settings": json.loads(
      json.dumps(dataclasses.asdict(settings), default=str)
    ),
    "machine": machine.describe(),
    "rows": rows,
  }
  path = settings.out / REPORT
  files.write_whole(path, json.dumps(report, indent=2) + "\n")
  return f"{table(report)}\n{path}"


def _check(settings: InputSettings) -> None:
  if settings.repeats < 1 or settings.batch < 1:
    raise errors.UserError(
      f"--repeats={settings.repeats} and --batch={settings.batch} must be at "
      "least 1"
    )
  for length in settings.lengths:
    data_config.DataConfig(row_length=length, tile=settings.tile)
    count = settings.tokens // length // _SETS
    if count < settings.batch:
      raise errors.UserError(
        f"{settings.tokens} tokens are {count} rows of {length} in each of "
        f"{_SETS} datasets, less than a batch of {settings.batch}; give more "
        "--tokens or a smaller --batch"
      )


def make(
  directory: pathlib.Path, settings: InputSettings, length: int
) -> list[pathlib.Path]:
  """Write prepared datasets of drawn tokens, the same sources in each.

  Their tokenizer is a stand-in: nothing of them is decoded.
  """
  config = data_config.DataConfig(row_length=length, tile=settings.tile)
  count = settings.tokens // length // _SETS
  places = [directory / f"set-{number}" for number in range(_SETS)]
  for number, place in enumerate(places):
    place.mkdir(parents=True)
    (place / dataset.TOKENIZER).write_bytes(b"nothing is decoded")
    corpus.make_ledger(place / dataset.LEDGER, _SOURCES, settings.seed)
    draw = np.random.default_rng([settings.seed, number])
    path = place / dataset.ROWS
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for row in packing.pack(
      _documents(draw, count * length, length), length, settings.tile
    ):
      writer.write(row.to_bytes())
    writer.close()
    reader = array_record_module.ArrayRecordReader(str(path))
    num_rows = reader.num_records()
    reader.close()
    names = (dataset.TOKENIZER, dataset.LEDGER, dataset.ROWS)
    manifest = {
      "format": dataset.FORMAT,
      "config": config.to_dict(),
      "counts": {"sources": _SOURCES, "rows": num_rows},
      "vocab_size": _VOCABULARY,
      "tokenizer_fingerprint": files.sha256(place / dataset.TOKENIZER),
      "rows_sha256": files.sha256(path),
      "files": {name: (place / name).stat().st_size for name in names},
    }
    files.write_whole(place / dataset.MANIFEST, json.dumps(manifest))
  return places


def _documents(draw: np.random.Generator, num_tokens: int, length: int):
  """Yield documents of words by Zipf's law, some 300 tokens each."""
  while num_tokens > 0:
    size = int(np.clip(draw.exponential(_TOKENS_A_DOCUMENT), 8, length))
    ranks = corpus.draw_words(draw, size)
    yield 4 + ranks % (_VOCABULARY - 4), int(draw.integers(1, _SOURCES + 1))
    num_tokens -= size


def _mixed(directory: pathlib.Path, sets: list[pathlib.Path]):
  out = directory / "mixture"
  weights = range(1, len(sets) + 1)
  mixing.mix(
    [
      mixing.Set(directory=place, weight=weight, no_source=weight == 1)
      for place, weight in zip(sets, weights, strict=True)
    ],
    out,
  )
  return mixture.open_dataset(out)


def measure(
  prepared: dataset.Prepared, settings: InputSettings
) -> dict[str, Any]:
  """Time reading, files in memory; and once with files on the disk.

  Returns:
    Tokens a second of the clock (median, least, most, from disk) and of
    processor time (median); padding counts as the model's tokens do.
  """
  with ledger.Ledger.open(prepared.ledger_path) as book:
    words = routing.table(assignment.SinkConfig(), book)
  step = 0
  by_clock, by_processor = [], []
  for _ in range(settings.repeats + 1):
    step, clock, processor = _read(prepared, words, settings, step)
    by_clock.append(clock)
    by_processor.append(processor)
  for path in prepared.row_files:
    _drop_from_cache(path)
  _, from_disk, _ = _read(prepared, words, settings, step)
  # The first has opened the files and filled the caches.
  return {
    "median": statistics.median(by_clock[1:]),
    "least": min(by_clock[1:]),
    "most": max(by_clock[1:]),
    "processor_median": statistics.median(by_processor[1:]),
    "from_disk": from_disk,
  }


def _read(prepared, words, settings, step) -> tuple[int, float, float]:
  """Read on from a step; return the next one and tokens a second."""
  batches = pipeline.batches(
    prepared,
    words,
    batch_size=settings.batch,
    seed=settings.seed,
    off_share=_OFF_SHARE,
    start_step=step,
  )
  clock, processor = time.perf_counter(), time.process_time()
  num_tokens = 0
  while time.perf_counter() - clock < settings.seconds:
    num_tokens += next(batches)["tokens"].size
    step += 1
  return (
    step,
    num_tokens / (time.perf_counter() - clock),
    num_tokens / (time.process_time() - processor),
  )


def _drop_from_cache(path: pathlib.Path) -> None:
  """Ask the system to read a file from the disk the next time."""
  descriptor = os.open(path, os.O_RDONLY)
  os.fsync(descriptor)
  os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
  os.close(descriptor)


def table(report: dict[str, Any]) -> str:
  """Return the figures as a Markdown table, and whether they suffice."""
  lines = [
    machine.line(report["machine"]),
    "",
    "| row | what | M tokens/s (least-most) | of processor time | from disk |",
    "| --- | --- | --- | --- | --- |",
  ]
  slow = []
  for row in report["rows"]:
    median, least, most, processor, disk = (
      row[name] / 1e6
      for name in ("median", "least", "most", "processor_median", "from_disk")
    )
    lines.append(
      f"| {row['length']:,} | {row['what']} | {median:.1f} "
      f"({least:.1f}-{most:.1f}) | {processor:.1f} | {disk:.1f} |"
    )
    if min(row["median"], row["processor_median"]) < PROMISED:
      slow.append(f"{row['what']} of {row['length']}")
  verdict = f"1 M tokens a second of a core: {'missed' if slow else 'held'}"
  if slow:
    verdict += f" ({errors.listing(slow)})"
  return "\n".join([*lines, "", verdict])
