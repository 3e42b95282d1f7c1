"""What `nulls bench scale` measures: each stage of a life with many sources.

Owns what each stage does and counts; `scale` runs each in a process of its
own. All is done by the code that the commands run: nothing here has a second
way of building, reading or counting.

Invariant: a stage reads what the stages before it wrote, and times only what
it is named after.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from nulls_jax.bench import alone, corpus, forecast
from nulls_jax.bench.settings import ScaleSettings
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import routing
from nulls_jax.sinks import assignment

_LEDGER = "ledger.sqlite"
_PARTS = "parts"
# One sink in each layer, as `configs/wiki_dedicated.py` has it.
_DEDICATED = assignment.SinkConfig(kind="dedicated", sinks_per_source=1)
# Sources whose sinks are drawn at once: what they take stays in the cache.
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """What a stage has done.

  Attributes:
    taken: time of what the stage is named after.
    count: how many things it did then.
    unit: what they are.
    facts: other numbers, by name.
  """

  taken: alone.Taken
  count: int
  unit: str = "sources"
  facts: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """One line of the table.

  Attributes:
    action: from settings to `Done`; picklable.
    once: whether it is too long, or changes too much, to be repeated.
    rows: whether it reads rows.
  """

  action: Callable[[ScaleSettings], Done]
  once: bool = False
  rows: bool = False


def stages(settings: ScaleSettings) -> dict[str, Stage]:
  """Return all stages by name, in their order."""
  partial = functools.partial
  return {
    "nothing but imports": Stage(action=_nothing),
    "ledger written": Stage(action=_write_ledger, once=True),
    "ledger fingerprinted": Stage(action=_fingerprint),
    "routing table, hashed": Stage(
      action=partial(_routing_table, config=forecast.CONFIG)
    ),
    "routing table, dedicated": Stage(
      action=partial(_routing_table, config=_DEDICATED)
    ),
    "sinks drawn in a layer, hashed": Stage(
      action=partial(_draw, config=forecast.CONFIG), once=True
    ),
    "sinks drawn in a layer, dedicated": Stage(
      action=partial(_draw, config=_DEDICATED), once=True
    ),
    "1 key found and routed": Stage(action=partial(_find, count=1)),
    "1,000 keys found and routed": Stage(action=partial(_find, count=1000)),
    **{
      f"erasure of {count:,} forecast, {config.kind}": Stage(
        action=partial(_forecast, count=count, config=config)
      )
      for config in (forecast.CONFIG, _DEDICATED)
      for count in settings.erase
    },
    "dataset opened": Stage(action=_open, rows=True),
    **{
      f"input of 1 host of {hosts:,}": Stage(
        action=partial(_read, hosts=hosts), rows=True
      )
      for hosts in settings.hosts
    },
    f"{settings.suspend:,} suspended": Stage(action=_suspend),
    f"list of {settings.suspend:,} read": Stage(action=_read_list),
    f"status with {settings.suspend:,} suspended": Stage(action=_status),
    **{
      f"{count:,} erased in a copy of the ledger": Stage(
        action=partial(_erase, count=count), once=True
      )
      for count in settings.erase
    },
  }


def _nothing(settings: ScaleSettings) -> Done:
  del settings
  return Done(taken=alone.Taken(), count=0)


def ledger_path(settings: ScaleSettings) -> pathlib.Path:
  """Return where the ledger is."""
  return settings.out / _LEDGER


def _opened(settings: ScaleSettings) -> ledger_lib.Ledger:
  return ledger_lib.Ledger.open(ledger_path(settings))


# -- The ledger and what follows from it


def write_parts(settings: ScaleSettings) -> None:
  """Write the sources as the blocks of `nulls prepare` leave them."""
  corpus.write_parts(
    settings.out / _PARTS, settings.sources, settings.seed, corpus.title
  )


def _write_ledger(settings: ScaleSettings) -> Done:
  path = ledger_path(settings)
  partial = path.with_name(f"{path.name}.partial")
  partial.unlink(missing_ok=True)
  work = corpus.work_lib.Work(settings.out / _PARTS)
  _, taken = alone.timed(lambda: corpus.merge_ledger(partial, work))
  os.replace(partial, path)
  shutil.rmtree(settings.out / _PARTS)
  return Done(
    taken=taken,
    count=settings.sources,
    facts={"bytes on disk": path.stat().st_size},
  )


def _fingerprint(settings: ScaleSettings) -> Done:
  def fingerprint():
    with _opened(settings) as book:
      return book.fingerprint()

  _, taken = alone.timed(fingerprint)
  return Done(taken=taken, count=settings.sources)


def _routing_table(
  settings: ScaleSettings, config: assignment.SinkConfig
) -> Done:
  def read():
    with _opened(settings) as book:
      return book.routing_table(routing.lay_out(config, book))

  table, taken = alone.timed(read)
  return Done(
    taken=taken,
    count=settings.sources,
    facts={"bytes in memory": table.nbytes},
  )


def _draw(settings: ScaleSettings, config: assignment.SinkConfig) -> Done:
  """Draw every source's sinks in layer 0, and count whom each sink serves."""
  with _opened(settings) as book:
    config = routing.lay_out(config, book)
    words_Sx2 = book.routing_table(config)[1:]
  loads_GxR = np.zeros((config.strata, config.rows_per_stratum), np.int64)
  taken = alone.Taken()
  for start in range(0, len(words_Sx2), _AT_ONCE):
    part = words_Sx2[start : start + _AT_ONCE]
    rows_SxGxA, part_taken = alone.timed(
      functools.partial(assignment.rows, config, part, 0)
    )
    taken += part_taken
    for stratum, loads_R in enumerate(loads_GxR):
      loads_R += np.bincount(
        rows_SxGxA[:, stratum].ravel(), minlength=len(loads_R)
      )
  return Done(
    taken=taken, count=settings.sources, facts=_spread(config, loads_GxR)
  )


def _spread(config: assignment.SinkConfig, loads_GxR) -> dict[str, float]:
  """Return how many sources the sinks serve, beside the draw by chance."""
  facts = {
    "fewest sources of a sink": int(loads_GxR.min()),
    "on average": float(loads_GxR.mean()),
    "at most": int(loads_GxR.max()),
  }
  if config.kind == "hashed":
    share = config.active_per_stratum / config.rows_per_stratum
    by_chance = math.sqrt(facts["on average"] * (1 - share))
    facts["standard deviation over that by chance"] = float(
      loads_GxR.std() / by_chance
    )
  return facts


def _find(settings: ScaleSettings, count: int) -> Done:
  count = min(count, settings.sources)
  with _opened(settings) as book:
    keys = forecast.spread_keys(book, count)

  def find():
    with _opened(settings) as book:
      return routing.words(forecast.CONFIG, book, book.find(keys))

  _, taken = alone.timed(find)
  return Done(taken=taken, count=count)


def _forecast(
  settings: ScaleSettings, count: int, config: assignment.SinkConfig
) -> Done:
  path = ledger_path(settings)
  with _opened(settings) as book:
    keys = forecast.spread_keys(book, count)
  done, taken = alone.timed(
    lambda: forecast.once(path, keys, settings.threads, config)
  )
  return Done(
    taken=taken,
    count=settings.sources,
    facts={"mean loss of survivors": done.loss.exact.mean},
  )


# -- The rows


def write_rows(settings: ScaleSettings) -> None:
  """Write the dataset's rows."""
  corpus.make_rows(
    settings.out, settings.sources, settings.seed, settings.rows or None
  )


def _open(settings: ScaleSettings) -> Done:
  from nulls_jax.data import mixture

  prepared, taken = alone.timed(lambda: mixture.open_dataset(settings.out))
  rows = prepared.manifest["counts"]["rows"]
  size = sum(path.stat().st_size for path in prepared.row_files)
  manifest = settings.out / "manifest.json"
  return Done(
    taken=taken,
    count=rows,
    unit="rows",
    facts={
      "bytes of rows": size,
      "bytes of the manifest": manifest.stat().st_size,
    },
  )


def _read(settings: ScaleSettings, hosts: int) -> Done:
  """Read a host's part of the batches, in a random order of all rows."""
  from nulls_jax.data import mixture, pipeline

  prepared = mixture.open_dataset(settings.out)
  with _opened(settings) as book:
    table = book.routing_table(forecast.CONFIG)

  def first():
    batches = pipeline.batches(
      prepared,
      table,
      batch_size=settings.batch,
      seed=settings.seed,
      off_share=0.2,
      process_count=hosts,
    )
    return batches, next(batches)

  (batches, batch), to_first = alone.timed(first)
  tokens = number = 0
  clock = alone.Clock()
  while (taken := clock.taken()).clock < settings.seconds:
    tokens += next(batches)["tokens"].size
    number += 1
  return Done(
    taken=taken,
    count=tokens,
    unit="tokens",
    facts={
      "rows of a batch": len(batch["tokens"]),
      "batches": number,
      "seconds to the first batch": to_first.clock,
    },
  )


# -- Requests


def _run_dir(settings: ScaleSettings) -> pathlib.Path:
  """Return a run directory without a checkpoint, made if it is not there."""
  from nulls_jax import config as run_config

  path = settings.out / "run"
  path.mkdir(exist_ok=True)
  ledger = path / _LEDGER
  ledger.unlink(missing_ok=True)
  os.link(ledger_path(settings), ledger)
  config = run_config.RunConfig(sinks=forecast.CONFIG)
  (path / "config.json").write_text(json.dumps(run_config.to_dict(config)))
  return path


def _suspend(settings: ScaleSettings) -> Done:
  from nulls_jax.unlearning.revocation import revocation

  run_dir = _run_dir(settings)
  listed = run_dir / revocation.FILE
  listed.unlink(missing_ok=True)
  with _opened(settings) as book:
    keys = forecast.spread_keys(book, settings.suspend)
  done, taken = alone.timed(lambda: revocation.suspend(run_dir, keys))
  return Done(
    taken=taken,
    count=len(done.changed),
    facts={"bytes on disk": listed.stat().st_size},
  )


def _read_list(settings: ScaleSettings) -> Done:
  from nulls_jax.unlearning.revocation import revocation

  run_dir = _run_dir(settings)
  watch, taken = alone.timed(lambda: revocation.Watch(run_dir))
  again, look = alone.timed(watch.current)
  return Done(
    taken=taken,
    count=len(again.suspended),
    facts={"seconds of a later look": look.clock},
  )


def _status(settings: ScaleSettings) -> Done:
  from nulls_jax.unlearning.revocation import status

  run_dir = _run_dir(settings)
  found, taken = alone.timed(lambda: status.read(run_dir))
  return Done(taken=taken, count=found.num_suspended)


def _erase(settings: ScaleSettings, count: int) -> Done:
  """Copy the ledger as `nulls erase` does, with sources erased."""
  from nulls_jax.unlearning.erasure import ledger_copy

  with _opened(settings) as book:
    sources = book.find(forecast.spread_keys(book, count))
  target = settings.out / "erased.sqlite"
  target.unlink(missing_ok=True)
  _, taken = alone.timed(
    lambda: ledger_copy.write(ledger_path(settings), target, sources)
  )
  size = target.stat().st_size
  target.unlink()
  return Done(taken=taken, count=count, facts={"bytes on disk": size})
