"""What `nulls bench scale` measures: each stage of a life with many sources.

Owns what each stage does and counts; `scale` runs each in a process of its
own. All is done by the code that the commands run: nothing here has a second
way of building, reading or counting.

Invariant: a stage reads what it needs and what stages before it wrote, and
times only what it is named after.
"""

import functools
import math
import os
import shutil

import numpy as np

from nulls_jax.bench import alone, corpus, forecast, scale_requests
from nulls_jax.bench import stage as stage_lib
from nulls_jax.bench.settings import ScaleSettings
from nulls_jax.data import routing
from nulls_jax.sinks import assignment

_PARTS = "parts"
# One sink in each layer, as `configs/wiki_dedicated.py` has it.
_DEDICATED = assignment.SinkConfig(kind="dedicated", sinks_per_source=1)
# Sources whose sinks are drawn at once: what they take stays in the cache.
_AT_ONCE = 4096


def _write_rows(settings: ScaleSettings) -> None:
  corpus.make_rows(
    settings.out, settings.sources, settings.seed, settings.rows or None
  )


_ROWS = stage_lib.Made(name="rows", file="manifest.json", write=_write_rows)


def stages(settings: ScaleSettings) -> dict[str, stage_lib.Stage]:
  """Return all stages by name, in their order."""
  partial, line = functools.partial, stage_lib.Stage
  return {
    "nothing but imports": line(action=_nothing),
    "ledger written": line(action=_write_ledger, once=True),
    "ledger fingerprinted": line(action=_fingerprint),
    "routing table, hashed": line(
      action=partial(_routing_table, config=forecast.CONFIG)
    ),
    "routing table, dedicated": line(
      action=partial(_routing_table, config=_DEDICATED)
    ),
    "sinks drawn in a layer, hashed": line(
      action=partial(_draw, config=forecast.CONFIG), once=True
    ),
    "sinks drawn in a layer, dedicated": line(
      action=partial(_draw, config=_DEDICATED), once=True
    ),
    "1 key found and routed": line(action=partial(_find, count=1)),
    "1,000 keys found and routed": line(action=partial(_find, count=1000)),
    **{
      f"erasure of {count:,} forecast, {config.kind}": line(
        action=partial(_forecast, count=count, config=config)
      )
      for config in (forecast.CONFIG, _DEDICATED)
      for count in settings.erase
    },
    "dataset opened": line(action=_open, needs=_ROWS),
    **{
      f"input of 1 host of {hosts:,}": line(
        action=partial(_read, hosts=hosts), needs=_ROWS
      )
      for hosts in settings.hosts
    },
    **scale_requests.stages(settings),
  }


def _nothing(settings: ScaleSettings) -> stage_lib.Done:
  del settings
  return stage_lib.Done(taken=alone.Taken(), count=0)


# -- The ledger and what follows from it


def write_parts(settings: ScaleSettings) -> None:
  """Write the sources as the blocks of `nulls prepare` leave them."""
  corpus.write_parts(
    settings.out / _PARTS, settings.sources, settings.seed, corpus.title
  )


def _write_ledger(settings: ScaleSettings) -> stage_lib.Done:
  path = stage_lib.ledger_path(settings)
  partial = path.with_name(f"{path.name}.partial")
  partial.unlink(missing_ok=True)
  work = corpus.work_lib.Work(settings.out / _PARTS)
  _, taken = alone.timed(lambda: corpus.merge_ledger(partial, work))
  os.replace(partial, path)
  shutil.rmtree(settings.out / _PARTS)
  return stage_lib.Done(
    taken=taken,
    count=settings.sources,
    facts={"bytes on disk": path.stat().st_size},
  )


def _fingerprint(settings: ScaleSettings) -> stage_lib.Done:
  def fingerprint():
    with stage_lib.opened(settings) as book:
      return book.fingerprint()

  _, taken = alone.timed(fingerprint)
  return stage_lib.Done(taken=taken, count=settings.sources)


def _routing_table(
  settings: ScaleSettings, config: assignment.SinkConfig
) -> stage_lib.Done:
  def read():
    with stage_lib.opened(settings) as book:
      return routing.table(routing.lay_out(config, book), book)

  table, taken = alone.timed(read)
  return stage_lib.Done(
    taken=taken,
    count=settings.sources,
    facts={"bytes in memory": table.nbytes},
  )


def _draw(
  settings: ScaleSettings, config: assignment.SinkConfig
) -> stage_lib.Done:
  """Draw every source's sinks in layer 0, and count whom each sink serves."""
  with stage_lib.opened(settings) as book:
    config = routing.lay_out(config, book)
    words_Sx2 = routing.table(config, book)[1:]
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
  return stage_lib.Done(
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


def _find(settings: ScaleSettings, count: int) -> stage_lib.Done:
  count = min(count, settings.sources)
  with stage_lib.opened(settings) as book:
    keys = forecast.spread_keys(book, count)

  def find():
    with stage_lib.opened(settings) as book:
      return routing.words(forecast.CONFIG, book, book.find(keys))

  _, taken = alone.timed(find)
  return stage_lib.Done(taken=taken, count=count)


def _forecast(
  settings: ScaleSettings, count: int, config: assignment.SinkConfig
) -> stage_lib.Done:
  path = stage_lib.ledger_path(settings)
  with stage_lib.opened(settings) as book:
    keys = forecast.spread_keys(book, count)
  done, taken = alone.timed(
    lambda: forecast.once(path, keys, settings.threads, config)
  )
  return stage_lib.Done(
    taken=taken,
    count=settings.sources,
    facts={"mean loss of survivors": done.loss.exact.mean},
  )


# -- The rows


def _open(settings: ScaleSettings) -> stage_lib.Done:
  from nulls_jax.data import mixture

  prepared, taken = alone.timed(lambda: mixture.open_dataset(settings.out))
  rows = prepared.manifest["counts"]["rows"]
  size = sum(path.stat().st_size for path in prepared.row_files)
  manifest = settings.out / "manifest.json"
  return stage_lib.Done(
    taken=taken,
    count=rows,
    unit="rows",
    facts={
      "bytes of rows": size,
      "bytes of the manifest": manifest.stat().st_size,
    },
  )


def _read(settings: ScaleSettings, hosts: int) -> stage_lib.Done:
  """Read a host's part of the batches, in a random order of all rows."""
  from nulls_jax.data import mixture, pipeline

  prepared = mixture.open_dataset(settings.out)
  with stage_lib.opened(settings) as book:
    table = routing.table(forecast.CONFIG, book)

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
  return stage_lib.Done(
    taken=taken,
    count=tokens,
    unit="tokens",
    facts={
      "rows of a batch": len(batch["tokens"]),
      "batches": number,
      "seconds to the first batch": to_first.clock,
    },
  )
