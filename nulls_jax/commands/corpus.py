"""Commands that make documents and prepared datasets."""

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from typing import Any

from nulls_jax import errors
from nulls_jax.commands import arguments
from nulls_jax.data.config import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encyclopedia:
  """Write the generated corpus: documents, never-trained documents, probes.

  Attributes:
    out: folder for documents.jsonl, held_out.jsonl and probes.jsonl.
    sources: people with articles, each a source.
    held_out: people who are never trained on.
    versions: articles a person.
    seed: of everything drawn.
  """

  out: pathlib.Path
  sources: int = 600
  held_out: int = 200
  versions: int = 5
  seed: int = 0

  def run(self) -> None:
    from nulls_jax.data import encyclopedia

    corpus = encyclopedia.Encyclopedia(
      seed=self.seed,
      num_sources=self.sources,
      num_held_out=self.held_out,
      num_versions=self.versions,
    )
    for path in corpus.write(self.out).values():
      print(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Documents:
  """What documents are read, and how.

  Attributes:
    documents: files of JSON Lines or Parquet, folders, or TFDS datasets
      (tfds:NAME/CONFIG); .gz and .zst files are unpacked on the fly.
    text_field: field that holds the text.
    sources: what names a source: field:NAME, template:{NAME}/{NAME},
      site:NAME (of a URL), path, folder or cluster:K. By default the field
      "source", and the path of text files.
    data_dir: where TFDS datasets lie.
    exclude: file of source keys to leave out, one a line.
    refuse_bad_lines: count bad lines and go on, instead of stopping.
    allow_no_source: accept documents without a source (backbone only).
    hold_out_sources: share of the sources that nothing is trained on.
    hold_out_documents: share of the other documents that is not trained on.
    workers: processes; 0 is one for each core. The result is the same.
    data: how documents become rows.
  """

  documents: tuple[str, ...]
  text_field: str = "text"
  sources: str | None = None
  data_dir: pathlib.Path | None = None
  exclude: pathlib.Path | None = None
  refuse_bad_lines: bool = False
  allow_no_source: bool = False
  hold_out_sources: float = 0.0
  hold_out_documents: float = 0.0
  workers: int = 0
  data: DataConfig = DataConfig()

  def _job(self, **more: Any):
    from nulls_jax.data import splits
    from nulls_jax.data.preparation import job
    from nulls_jax.data.reading import inputs, keys

    return job.Job(
      self.documents,
      self.data,
      reading=inputs.Settings(
        text_field=self.text_field,
        sources=self.sources,
        allow_no_source=self.allow_no_source,
        data_dir=str(self.data_dir) if self.data_dir else None,
      ),
      exclude=keys.read_keys(self.exclude) if self.exclude else (),
      on_error="refuse" if self.refuse_bad_lines else "stop",
      splits=splits.Splits(
        sources=self.hold_out_sources, documents=self.hold_out_documents
      ),
      **more,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare(_Documents):
  """Turn documents into packed rows, a ledger of sources and a tokenizer.

  Attributes:
    out: folder of the prepared dataset; must not exist. What is not finished
      is beside it, and the same command goes on with it.
    config: file whose `data` section gives the defaults below.
    extend: run that is to learn more, `nulls train --grow-from`: take its
      tokenizer and begin the ledger with its sources; its settings are the
      defaults of the flags below.
    tokenizer: use this SentencePiece model instead of training one.
    shard: I/N, do only this part of the work, I from 0 to N - 1; `nulls
      prepare merge` makes one dataset of all. Needs a tokenizer.
  """

  out: pathlib.Path
  config: pathlib.Path | None = None
  extend: pathlib.Path | None = None
  tokenizer: pathlib.Path | None = None
  shard: str | None = None

  def run(self) -> None:
    from nulls_jax.data.preparation import prepare, shards

    job = self._job(
      tokenizer_path=self.tokenizer,
      extends=arguments.locate(self.extend)[0] if self.extend else None,
    )
    with _progress() as progress:
      how = {"workers": _count_workers(self.workers), "progress": progress}
      if self.shard is not None:
        done = shards.prepare_shard(
          job, self.out, _parse_shard(self.shard), **how
        )
        print(
          f"{done['directory']}: {done['out']:,} documents in "
          f"{done['blocks']:,} blocks; when all shards are done: nulls "
          f"prepare merge --out {self.out}"
        )
        return
      manifest = prepare.prepare(job, self.out, **how)
    _print_counts(self.out, manifest)
    old = manifest.get("extends", {})
    if old:
      print(
        f"{manifest['counts']['sources']:,} sources: the {old['sources']:,} "
        f"of {self.extend} ({old['sources_erased']:,} erased) and "
        f"{old['sources_new']:,} new"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareTokenizer(_Documents):
  """Train only the tokenizer, which all shards of a preparation need.

  Attributes:
    out: the SentencePiece model to write; must not exist.
    config: file whose `data` section gives the defaults below.
  """

  out: pathlib.Path
  config: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.data.preparation import prepare

    with _progress() as progress:
      trained = prepare.train_tokenizer(
        self._job(),
        self.out,
        workers=_count_workers(self.workers),
        progress=progress,
      )
    print(
      f"{self.out}: {trained['vocab_size']:,} pieces from "
      f"{trained['sampled_documents']:,} documents "
      f"({trained['sampled_bytes'] / 1e6:,.1f} MB)"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareMerge:
  """Make one dataset of all shards of a preparation.

  Attributes:
    out: folder of the prepared dataset, as it was given to the shards, which
      lie beside it. They stay.
    workers: processes; 0 is one for each core. The result is the same.
  """

  out: pathlib.Path
  workers: int = 0

  def run(self) -> None:
    from nulls_jax.data.preparation import shards

    with _progress() as progress:
      manifest = shards.merge(
        self.out, workers=_count_workers(self.workers), progress=progress
      )
    _print_counts(self.out, manifest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareCheck:
  """Check every file of a prepared dataset against its manifest.

  Of a mixture, its own files and those of the sets that it joins.

  Attributes:
    data: folder of the prepared dataset, or of a mixture.
  """

  data: pathlib.Path

  def run(self) -> None:
    from nulls_jax.data import mixture
    from nulls_jax.data.preparation import dataset

    found = mixture.open_dataset(self.data, verify=True)
    manifests = {found.directory: found.manifest}
    for part in mixture.parts_of(found):
      if part.directory not in manifests:
        manifests[part.directory] = dataset.read_manifest(part.directory)
    for place, manifest in manifests.items():
      print(
        f"{place}: {len(manifest['files'])} files are what the manifest says"
      )


def _count_workers(asked: int) -> int:
  if asked < 0:
    raise errors.UserError(
      f"--workers={asked}; give a number of processes, or 0 for one a core"
    )
  if asked:
    return asked
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _parse_shard(text: str) -> tuple[int, int]:
  match = re.fullmatch(r"(\d+)/(\d+)", text)
  if not match:
    raise errors.UserError(
      f"--shard {text} is not I/N, like 0/64 for the first of 64"
    )
  return int(match[1]), int(match[2])


@contextlib.contextmanager
def _progress():
  from nulls_jax.data.preparation import progress

  reporter = progress.Reporter(sys.stderr)
  try:
    yield reporter
  finally:
    reporter.close()


def _print_counts(out: pathlib.Path, manifest: dict[str, Any]) -> None:
  counts, trained = manifest["counts"], manifest["tokenizer_training"]
  num_sources = manifest.get("extends", {}).get(
    "sources_with_documents", counts["sources"]
  )
  print(
    f"{out}: {errors.counted(counts['documents_out'], 'document')} of "
    f"{errors.counted(num_sources, 'source')}, {counts['tokens']:,} tokens in "
    f"{errors.counted(counts['rows'], 'row')}; "
    f"{counts['documents_refused']:,} refused, "
    f"{counts['documents_excluded']:,} excluded; vocabulary "
    f"{manifest['vocab_size']:,}"
  )
  if "held_out" in manifest:
    held = manifest["held_out"]["documents"]
    print(
      f"held out: {held['source']:,} documents of untrained sources, "
      f"{held['document']:,} of trained ones, {held['public']:,} of no source"
    )
  for reason, number in counts["refusals"].items():
    print(f"refused {number:,}: {counts['first_refusals'][reason]}")
  retired = trained["retired"] - trained["retired_unused"] if trained else 0
  min_sources = manifest["config"]["min_piece_sources"]
  print(
    f"tokenizer: {retired:,} pieces retired that fewer than "
    f"{min_sources} sources used; "
    f"{manifest['pieces_below_min_sources']:,} that remain are below that"
  )
