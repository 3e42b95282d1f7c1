"""All documents of a corpus, in blocks that any worker can read alone.

Owns the choice of a reader, the cutting into blocks and the way from a
record to a document. Writes nothing and knows no tokens.

    inputs = open(["web/", "books.jsonl.zst"], Settings(sources="path"))
    for block in inputs.blocks(64 * 2**20):
      for document in inputs.documents(block, refusals):
        ...

Invariant: blocks are a pure function of what is on the disk, and together
they hold every record exactly once; the documents of one block, in their
order, are too. Workers only change who reads which.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import (
  clustering,
  contents,
  discovery,
  jsonl,
  keys,
  parts,
  values,
)
from nulls_jax.data.reading import documents as documents_lib

_SAMPLE_BLOCK_BYTES = 2**20
_SAMPLE_BLOCKS = 4096
_SAMPLE_SEED = b"nulls sample 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """How records become documents.

  Attributes:
    text_field: the field that holds the text; with dots for a field of a
      field.
    sources: the rule that gives a record its source key, see `keys.parse`;
      None is "path" for text files and "field:source" for the rest.
    allow_no_source: take records without a key as text of no source, instead
      of refusing them.
    data_dir: where TFDS datasets lie; None is TFDS's own place.
  """

  text_field: str = "text"
  sources: str | None = None
  allow_no_source: bool = False
  data_dir: str | None = None

  def to_dict(self) -> dict[str, Any]:
    """Return the settings that differ from their defaults.

    `allow_no_source` and `data_dir` are left out: the first is told apart
    by `nulls prepare` itself, the second names a place and no content.
    """
    fields: dict[str, Any] = {}
    if self.text_field != "text":
      fields["text_field"] = self.text_field
    if self.sources is not None:
      fields["sources"] = keys.parse(self.sources).identity()
    return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
  """Records that are read together; JSON-able and picklable.

  Attributes:
    index: its number, from 0.
    part: the number of the file, folder or dataset that it lies in.
    start: first byte, row group, record or file of it.
    stop: the one after the last.
    num_bytes: about how much there is to read, for progress; their sum over
      all blocks is `Inputs.num_bytes`.
  """

  index: int
  part: int
  start: int
  stop: int
  num_bytes: int

  def to_dict(self) -> dict[str, int]:
    """Return the fields; `Block(**fields)` is the block again."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """An opened corpus; small, picklable, holds no file open.

  Attributes:
    settings: how records become documents.
    parts: files, folders of texts and datasets, in the order of reading.
    clusters: the fitted clustering's file, see `with_clusters`.
  """

  settings: Settings
  parts: tuple[parts.Part, ...]
  clusters: str | None = None

  @property
  def num_bytes(self) -> int:
    """About how much there is to read (packed files as they are)."""
    return sum(part.num_bytes for part in self.parts)

  @property
  def num_clusters(self) -> int:
    """How many clusters `--sources` asks for, 0 if none."""
    rule = keys.parse(self.settings.sources or "path")
    return rule.num_clusters if isinstance(rule, keys.Cluster) else 0

  def with_clusters(self, path: str | os.PathLike) -> "Inputs":
    """Return inputs whose documents get the keys of a saved clustering.

    Raises:
      errors.UserError: the file holds no clustering of `num_clusters`.
    """
    found = clustering.load(path).num_clusters
    if found != self.num_clusters:
      raise errors.UserError(
        f"{path} has {found} clusters, not {self.num_clusters}; write "
        f"--sources cluster:{found}, or give another file"
      )
    return dataclasses.replace(self, clusters=str(path))

  def blocks(self, block_bytes: int) -> tuple[Block, ...]:
    """Cut the corpus into blocks of about `block_bytes` bytes, in order.

    A packed file is one block, and so is a Parquet row group at least.
    """
    ranges = [
      (number, part, start, stop)
      for number, part in enumerate(self.parts)
      for start, stop in part.ranges(block_bytes)
    ]
    return tuple(
      Block(
        index=index,
        part=number,
        start=start,
        stop=stop,
        num_bytes=part.range_bytes(start, stop),
      )
      for index, (number, part, start, stop) in enumerate(ranges)
    )

  def documents(
    self, block: Block, refusals: documents_lib.Refusals | None = None
  ) -> Iterator[documents_lib.Document]:
    """Yield the documents of a block.

    Args:
      block: one of `blocks`.
      refusals: counts bad records here and goes on; without it the first
        bad record raises. An input that cannot be read to its end, a
        truncated .gz for one, always raises: what it lost cannot be counted.

    Raises:
      errors.UserError: one line with the place and the remedy.
      RuntimeError: the sources are clusters and none are given.
    """
    if not self.num_clusters:
      return self._keyed(block, refusals, self.settings.allow_no_source)
    if self.clusters is None:
      raise RuntimeError("fit a clustering first, and use with_clusters")
    found = self._keyed(block, refusals, allow_no_source=True)
    return clustering.load(self.clusters).assign(found)

  def sample(
    self, num_documents: int, num_bytes: int
  ) -> Iterator[documents_lib.Document]:
    """Yield documents from all over the corpus, bad records left out.

    The same ones for the same files. The corpus is cut into up to some
    thousand pieces, which are visited in a fixed shuffled order; the first
    documents of each are taken, the same number of each. Pieces are small
    where a file can be entered anywhere (plain JSON Lines, TFDS, text files,
    row groups); of a packed file it is the beginning. Where clusters are
    asked for and not yet given, documents without a key come with "".

    Args:
      num_documents: at most so many.
      num_bytes: stop when their texts have so many bytes of UTF-8.
    """
    size = max(_SAMPLE_BLOCK_BYTES, self.num_bytes // _SAMPLE_BLOCKS)
    blocks = sorted(self.blocks(size), key=_shuffled)
    each = -(-num_documents // len(blocks))
    for block in blocks:
      ignored = documents_lib.Refusals()
      if self.num_clusters and self.clusters is None:
        found = self._keyed(block, ignored, allow_no_source=True)
      else:
        found = self.documents(block, ignored)
      for _, document in zip(range(each), found, strict=False):
        num_documents -= 1
        num_bytes -= len(document.text.encode("utf-8"))
        yield document
        if num_documents <= 0 or num_bytes <= 0:
          return

  def stamp(self, *, times: bool = True) -> str:
    """Return a digest of names, sizes and times; cheap, reads no content.

    It tells, on one machine, whether files changed since a run began.
    Without times it is the same on all machines that have the same files.
    """
    digest = hashlib.sha256()
    for number, part in enumerate(self.parts):
      for name, path in part.files():
        status = os.stat(path)
        time = status.st_mtime_ns if times else ""
        line = f"{number}\0{name}\0{status.st_size}\0{time}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

  def contents(self, blocks: Iterable[Block]) -> list[contents.Content]:
    """Return by part what those of its files hold that some blocks read.

    Reads these files from end to end, each once.

    Args:
      blocks: of `blocks`, in their order.
    """
    wanted: list[dict[str, str]] = [{} for _ in self.parts]
    for block in blocks:
      found = self.parts[block.part].files_of(block.start, block.stop)
      wanted[block.part].update(found)
    return contents.read(
      (part.is_file, names.items())
      for part, names in zip(self.parts, wanted, strict=True)
    )

  def digests(self) -> list[str]:
    """Return the hex SHA-256 of each part; reads everything once.

    That of a file is the file's own; that of a folder or dataset is over the
    names and SHA-256 of its files. Nothing depends on where they lie.
    """
    found = contents.read((part.is_file, part.files()) for part in self.parts)
    return [content.digest() for content in found]

  def _keyed(
    self,
    block: Block,
    refusals: documents_lib.Refusals | None,
    allow_no_source: bool,
  ) -> Iterator[documents_lib.Document]:
    part = self.parts[block.part]
    rule = discovery.rule(self.settings.sources, part)
    text_field = self.settings.text_field
    records = part.records(block.start, block.stop, text_field)
    return _documents(records, rule, text_field, allow_no_source, refusals)


def open(  # The module is the word before it: `inputs.open`.
  paths: Sequence[str | os.PathLike], settings: Settings | None = None
) -> Inputs:
  """Open a corpus; checks what is cheap to check, reads no text.

  Args:
    paths: files, folders and TFDS datasets (`tfds:NAME[/CONFIG][:VERSION]`,
      with `@SPLIT` for another than "train"), read in this order; see
      `discovery.find`.
    settings: how records become documents.

  Raises:
    errors.UserError: a path that is missing, empty, of no known kind or may
      not be read, a Parquet file or dataset without the wanted fields, a
      rule that is none or does not fit, or a missing package.
  """
  settings = settings or Settings()
  found = tuple(
    part for path in paths for part in discovery.find(path, settings.data_dir)
  )
  if not found:
    raise errors.UserError("no documents named; give a file or a folder")
  discovery.check(
    found, settings.text_field, settings.sources, settings.allow_no_source
  )
  return Inputs(settings=settings, parts=found)


def read_documents(
  path: str | os.PathLike,
  *,
  refusals: documents_lib.Refusals | None = None,
  allow_no_source: bool = False,
) -> Iterator[documents_lib.Document]:
  """Yield the documents of one JSON Lines file, plain or packed.

  Args:
    path: the file; fields "source" and "text", the rest is metadata.
    refusals: counts bad lines here and goes on; without it the first bad
      line raises. A file that cannot be read to its end always raises.
    allow_no_source: accept `"source": ""` and `null` as text of no source.

  Raises:
    errors.UserError: the file is missing, empty or damaged, or a line is no
      document; one line with `file:line` and the remedy.
  """
  part = jsonl.JsonLines.open(path)
  records = part.records(0, part.num_bytes, "text")
  rule = keys.Field(keys.DEFAULT_FIELD)
  yield from _documents(records, rule, "text", allow_no_source, refusals)


def _documents(
  records: Iterator[parts.Record],
  rule: keys.Rule,
  text_field: str,
  allow_no_source: bool,
  refusals: documents_lib.Refusals | None,
) -> Iterator[documents_lib.Document]:
  for place, fields, path in records:
    try:
      if isinstance(fields, documents_lib.BadRecord):
        raise fields
      text = keys.take(fields, text_field)
      source = rule.key(fields, path, allow_no_source)
      text = documents_lib.check_text(text, text_field)
      metadata = values.described(fields)
    except documents_lib.BadRecord as bad:
      if refusals is None:
        raise errors.UserError(f"{place}: {bad}") from None
      refusals.add(bad.reason, place, str(bad))
      continue
    yield documents_lib.Document(
      source=source,
      text=text,
      metadata=metadata,
      place=place,
    )


def _shuffled(block: Block) -> bytes:
  return hashlib.sha256(_SAMPLE_SEED + b"%d" % block.index).digest()
