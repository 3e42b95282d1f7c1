"""Commands that search: the index of passages, and the sources of a request."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Literal

from nulls_jax import errors
from nulls_jax.commands import arguments

_SHOWN_SOURCES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
  """Index the passages of a prepared dataset, for quotations.

  The index holds the words of the sources: delete it with the dataset.

  Attributes:
    data: a prepared dataset or a mixture; the index is written into it.
    tokens: words, or trigrams for languages without spaces between words.
  """

  data: pathlib.Path
  tokens: Literal["words", "trigrams"] = "words"

  def run(self) -> None:
    from nulls_jax.data import mixture, passages

    prepared = mixture.open_dataset(self.data)
    path = passages.build(
      prepared, kind=self.tokens, progress=arguments.say_progress
    )
    with passages.Index.open(prepared) as index:
      print(
        f"{path}: {index.num_passages} passages by {index.kind}, "
        f"{path.stat().st_size / 2**20:.1f} MiB"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Find(arguments.SourceFlags):
  """Find the sources of a request: by key, glob, metadata or quotation.

  A source must fulfil all that is given. Changes nothing. Look at what is
  found before it is erased.

  Attributes:
    ledger: a run, a prepared dataset, or a ledger.sqlite; that of --data if
      left out.
    data: the prepared dataset, or mixture, in whose passages --quote is looked
      up.
    glob: pattern of keys: *, ? and [a-z].
    where: condition on metadata and on the fields key, index, num_documents,
      num_tokens and status, like "site = 'example.org' AND year >= 1999".
    quote: words that a passage of the source has in a row.
    limit: sources at most; all if left out, for quotations 1000.
    accept_partial: take sources with this share of the quotation, above 0
      and up to 1, where none has all of it.
    out: write the sources here, for --sources-file of the next command.
  """

  ledger: pathlib.Path | None = None
  data: pathlib.Path | None = None
  glob: str | None = None
  where: str | None = None
  quote: str | None = None
  limit: int | None = None
  accept_partial: float | None = None
  out: pathlib.Path | None = None

  def run(self) -> None:
    from nulls_jax.data import ledger, mixture, passages, selection

    if self.out is not None:
      selection.check_new(self.out)
    if self.quote is not None and self.data is None:
      raise errors.UserError(
        "--quote needs --data, the prepared dataset that the run was trained on"
      )
    place = self.data if self.ledger is None else self.ledger
    if place is None:
      raise errors.UserError(
        "no ledger named; give --ledger, a run or a prepared dataset"
      )
    with ledger.Ledger.open(_ledger_path(place)) as book:
      if self.quote is None:
        self._find(book, None)
        return
      prepared = mixture.open_dataset(self.data)
      with passages.Index.open(prepared) as index:
        self._find(book, index)

  def _find(self, book, index) -> None:
    from nulls_jax.data import selection
    from nulls_jax.unlearning import find

    keys = list(self.source)
    if self.sources_file is not None:
      keys += selection.read_keys(self.sources_file, book.fingerprint)
    query = find.Query(
      keys=tuple(dict.fromkeys(keys)),
      glob=self.glob,
      where=self.where,
      quote=self.quote,
      limit=self.limit,
      accept_partial=self.accept_partial,
    )
    findings = find.find(book, query, index)
    shown = []
    count = 0
    with contextlib.ExitStack() as stack:
      writer = None
      if self.out is not None:
        record = {"keys": keys, **query.given()}
        fingerprint = (
          index.ledger_fingerprint
          if index is not None and self.ledger is None
          else book.fingerprint()
        )
        writer = stack.enter_context(
          selection.Writer(self.out, fingerprint, record)
        )
      for one in findings.sources:
        count += 1
        if len(shown) < _SHOWN_SOURCES:
          shown.append(one)
        if writer is not None:
          writer.add(_entry(one))
      if writer is not None:
        writer.finish(map(_entry, findings.candidates), findings.complete)
    _show(shown, findings, count, self.out)


def _entry(found) -> dict:
  """Return a source as the selection file lists it."""
  from nulls_jax.data import selection

  more = {}
  if found.share is not None:
    more = {
      "share": round(found.share, 4),
      "num_passages": found.num_passages,
      "evidence": [dataclasses.asdict(one) for one in found.evidence],
    }
  return selection.entry(found.source, **more)


def _ledger_path(place: pathlib.Path) -> pathlib.Path:
  run_dir, _ = arguments.locate(place)
  return run_dir / "ledger.sqlite" if run_dir.is_dir() else run_dir


def _show(shown, findings, count: int, out: pathlib.Path | None) -> None:
  """Print what was found, and last what to do with it."""
  for one in shown:
    _print_source(one)
  if count > len(shown):
    where = f", all in {out}" if out else "; give --out FILE to have them"
    print(f"... and {count - len(shown):,} more{where}")
  if findings.candidates:
    print("CANDIDATES, to be judged: they have only parts of the quotation")
  for one in findings.candidates[:_SHOWN_SOURCES]:
    _print_source(one)
  if len(findings.candidates) > _SHOWN_SOURCES:
    print(f"... and {len(findings.candidates) - _SHOWN_SOURCES:,} more")
  if findings.num_without_source:
    passages = _count(findings.num_without_source, "passage")
    print(f"{passages} of no source with it: nothing there can be erased")
  candidates = _count(len(findings.candidates), "candidate")
  print(f"{_count(count, 'source')} found, {candidates}")
  if not findings.complete:
    print("THERE ARE MORE SOURCES: the list ended at its limit; raise --limit")
  if out is not None:
    print(f"{out}: look at it, then give it as --sources-file")


def _print_source(found) -> None:
  from nulls_jax.data import suggestions

  source = found.source
  key = "(erased)" if source.key is None else suggestions.shown(source.key)
  parts = [
    f"source {source.index}",
    _count(source.num_documents, "document"),
    _count(source.num_tokens, "token"),
  ]
  if source.key is not None and source.status != "active":
    parts.append(source.status)
  if found.share is not None:
    share = "whole" if found.share == 1 else f"{found.share:.0%} of the parts"
    parts.append(f"{share}, in {_count(found.num_passages, 'passage')}")
  elif source.metadata:
    parts.append(suggestions.shown(json.dumps(source.metadata)).strip("'"))
  print(f"{key}: {', '.join(parts)}")
  for one in found.evidence:
    print(
      f"    row {one.row}, document {one.document}, {one.times} x: "
      f"{_printable(one.passage)}"
    )


def _count(number: int, name: str) -> str:
  return f"{number:,} {name}{'' if number == 1 else 's'}"


def _printable(text: str) -> str:
  """Keep what a terminal would obey off it."""
  return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
