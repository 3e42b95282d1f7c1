"""Commands that make documents and prepared datasets."""

import dataclasses
import pathlib

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
class Prepare:
  """Turn documents into packed rows, a ledger of sources and a tokenizer.

  Attributes:
    documents: JSON Lines files (.gz too), an object a line with "source" and
      "text".
    out: folder of the prepared dataset; must not exist.
    config: file whose `data` section gives the defaults below.
    exclude: file of source keys to leave out, one a line.
    extend: run that is to learn more, `nulls train --grow-from`: take its
      tokenizer and begin the ledger with its sources; its settings are the
      defaults of the flags below.
    tokenizer: use this SentencePiece model instead of training one.
    refuse_bad_lines: count bad lines and go on, instead of stopping.
    allow_no_source: accept documents without a source (backbone only).
    data: how documents become rows.
  """

  documents: tuple[pathlib.Path, ...]
  out: pathlib.Path
  config: pathlib.Path | None = None
  exclude: pathlib.Path | None = None
  extend: pathlib.Path | None = None
  tokenizer: pathlib.Path | None = None
  refuse_bad_lines: bool = False
  allow_no_source: bool = False
  data: DataConfig = DataConfig()

  def run(self) -> None:
    from nulls_jax.data import prepare, readers

    manifest = prepare.prepare(
      self.documents,
      self.out,
      self.data,
      tokenizer_path=self.tokenizer,
      extends=arguments.locate(self.extend)[0] if self.extend else None,
      exclude=frozenset(readers.read_keys(self.exclude))
      if self.exclude
      else frozenset(),
      on_error="refuse" if self.refuse_bad_lines else "stop",
      allow_no_source=self.allow_no_source,
      progress=arguments.say_progress,
    )
    counts, trained = manifest["counts"], manifest["tokenizer_training"]
    old = manifest.get("extends", {})
    num_sources = old.get("sources_with_documents", counts["sources"])
    print(
      f"{self.out}: {counts['documents_out']:,} documents of "
      f"{num_sources:,} sources, {counts['tokens']:,} tokens in "
      f"{counts['rows']:,} rows; {counts['documents_refused']:,} refused, "
      f"{counts['documents_excluded']:,} excluded; vocabulary "
      f"{manifest['vocab_size']:,}"
    )
    if old:
      print(
        f"{counts['sources']:,} sources: the {old['sources']:,} of "
        f"{self.extend} ({old['sources_erased']:,} erased) and "
        f"{old['sources_new']:,} new"
      )
    retired = trained["retired"] - trained["retired_unused"] if trained else 0
    print(
      f"tokenizer: {retired:,} pieces retired that fewer than "
      f"{self.data.min_piece_sources} sources used; "
      f"{manifest['pieces_below_min_sources']:,} that remain are below that"
    )
