"""Time and memory of redaction, against what the disk and tensorstore take.

`nulls bench redact` writes runs of 2 GB of random content in
two layouts, a chunk a shard and chunks of 16 MB, and erases 1 and 10,000
sources. Each measurement is a process of its own, so that its peak of memory
is its own, and all are taken in turn, so that a busy machine disturbs all.

The floor of an erasure is a plain copy of the directory, every file synced,
plus tensorstore alone reading, decoding, encoding and writing the chunks that
must change.
"""

import dataclasses
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable

import tensorstore as ts

from nulls_jax import errors
from nulls_jax.bench import alone, large_run
from nulls_jax.bench.settings import RedactSettings
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.unlearning.checkpoint import arrays, moments, plan, storage
from nulls_jax.unlearning.erasure import erase, output
from nulls_jax.unlearning.verification import verify as verify_lib

LAYOUTS = {"a chunk a shard": None, "16 MB chunks": 16 * 2**20}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One line of the table; lists have a value a repeat.

  Attributes:
    layout: how the run is stored.
    what: what was measured.
    seconds: wall time.
    ratios: over the floor of the same repeat; empty where there is none.
    peaks: resident memory, bytes, imports included.
  """

  layout: str
  what: str
  seconds: list[float]
  ratios: list[float]
  peaks: list[int]


def measure(settings: RedactSettings) -> list[Row]:
  """Return the table's rows; everything that is written is removed."""
  largest = max(settings.sources)
  if largest > large_run.NUM_SOURCES or min(settings.sources) < 1:
    raise errors.UserError(
      f"sources={settings.sources}: the run has {large_run.NUM_SOURCES}; "
      "give numbers from 1 to that"
    )
  rows = []
  if settings.out is not None:
    settings.out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=settings.out) as place:
    for layout, chunk_bytes in LAYOUTS.items():
      run_dir = pathlib.Path(place) / "run"
      geometry = large_run.geometry(settings.gigabytes)
      large_run.write(run_dir, geometry, chunk_bytes)
      rows += _measure_layout(layout, run_dir, settings)
      shutil.rmtree(run_dir)
  return rows


def _measure_layout(layout, run_dir, settings) -> list[Row]:
  out = run_dir.with_name("out")
  taken: dict[str, list[tuple[float, int]]] = {}

  def take(name, action, keep=False):
    taken.setdefault(name, []).append(_in_a_process(action, run_dir, out))
    if not keep:
      shutil.rmtree(out)
    return taken[name][-1][0]

  ratios: dict[str, list[float]] = {}
  for _ in range(settings.repeats):
    copying = take("copy", _copy)
    for count in settings.sources:
      name = f"{count:,} source{'s' * (count > 1)}"
      floor = copying + take(f"tensorstore, {name}", _Tensorstore(count))
      seconds = take(f"erase {name}", _Erase(count), keep=True)
      ratios.setdefault(f"erase {name}", []).append(seconds / floor)
      take(f"verify {name}", _verify)
  return [
    Row(
      layout=layout,
      what=name,
      seconds=[seconds for seconds, _ in found],
      ratios=ratios.get(name, []),
      peaks=[peak for _, peak in found],
    )
    for name, found in taken.items()
  ]


# -- What is measured: functions of the run and of the output


def _copy(run_dir: pathlib.Path, out: pathlib.Path) -> None:
  shutil.copytree(run_dir, out)
  for directory, _, files in os.walk(out):
    for name in files:
      output.sync(os.path.join(directory, name))
    output.sync(directory)


def _verify(run_dir: pathlib.Path, out: pathlib.Path) -> None:
  checked = verify_lib.verify(out)
  if not checked.verified:
    raise errors.MachineError(f"{out}: {checked.conclusion}")


@dataclasses.dataclass(frozen=True)
class _Erase:
  """The erasure of the first sources."""

  count: int

  def __call__(self, run_dir: pathlib.Path, out: pathlib.Path) -> None:
    keys = [large_run.key(number) for number in range(self.count)]
    erase.erase(run_dir, out, keys)


@dataclasses.dataclass(frozen=True)
class _Tensorstore:
  """What tensorstore takes for the chunks that must change."""

  count: int

  def __call__(self, run_dir: pathlib.Path, out: pathlib.Path) -> None:
    keys = [large_run.key(number) for number in range(self.count)]
    step_dir = plan.find_step(run_dir, None)
    config = plan.read_assignment(step_dir / plan.STEP_FILE)
    with ledger_lib.Ledger.open(run_dir / plan.LEDGER_FILE) as ledger:
      sources = ledger.find(keys)
    item = step_dir / plan.ITEM
    found = arrays.read_arrays(storage.Database.open(item))
    tables = moments.find(item, found, config).tables
    rows = plan.rows_to_zero(config, sources, tables[0].shape[0], run_dir)
    out.mkdir()
    for table in tables:
      source, target = (_open(place, table) for place in (item, out))
      for chunk in table.chunks():
        places = rows.inside(chunk.domain)
        if places:
          elements = source[chunk.domain].read().result()
          for layer, stratum, numbers in places:
            elements[layer, stratum, numbers] = 0
          target[chunk.domain].write(elements).result()


def _open(place: pathlib.Path, array: arrays.Array) -> ts.TensorStore:
  """Open an array of an item, or make it in another place."""
  base = {"driver": "file", "path": f"{place}/"}
  store = {"driver": "ocdbt", "base": base}
  opened = ts.KvStore.open({**store, "path": f"{array.name}/"}).result()
  if not opened.read("zarr.json").result().value:
    opened.write("zarr.json", array.metadata).result()
  return ts.open(
    {
      "driver": "zarr3",
      "kvstore": {**store, "path": f"{array.name}/"},
      "store_data_equal_to_fill_value": True,
    },
    open=True,
  ).result()


# -- How it is measured


def _in_a_process(
  action: Callable[[pathlib.Path, pathlib.Path], None], run_dir, out
) -> tuple[float, int]:
  """Return the seconds of an action, and the peak memory of its process."""
  return alone.run(_timed, action, run_dir, out)


def _timed(action, run_dir, out) -> float:
  start = time.monotonic()
  action(run_dir, out)
  return time.monotonic() - start


def show(rows: list[Row]) -> str:
  """Return the table as text."""
  lines = [
    f"{'layout':16} {'what':24} {'seconds':>19} {'x floor':>19} {'peak MB':>8}"
  ]
  for row in rows:
    ratio = _spread(row.ratios) if row.ratios else ""
    peak = max(row.peaks) / 1e6
    lines.append(
      f"{row.layout:16} {row.what:24} {_spread(row.seconds):>19} "
      f"{ratio:>19} {peak:8.0f}"
    )
  return "\n".join(lines)


def _spread(values: list[float]) -> str:
  return (
    f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
  )
