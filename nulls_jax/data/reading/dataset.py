"""TFDS datasets that lie on the disk as array_record, without TensorFlow.

Owns finding and reading them. A range is numbers of records of one split.
TFDS itself decodes a record; nothing is fetched from the network, and no
dataset's own code is run.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import documents, extra, parts, values

_NAME = re.compile(
  r"tfds:(?P<name>\w+)(/(?P<config>[^/:@]+))?"
  r"(:(?P<version>\d+\.\d+\.\d+))?(@(?P<split>\w+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INFO = "dataset_info.json"
# Read at a time: so many records, or about so many bytes.
_BATCH_RECORDS = 512
_BATCH_BYTES = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(parts.Part):
  """One split of a TFDS dataset.

  Attributes:
    path: as it was asked for, "tfds:c4/en".
    directory: of the version that was found.
    split: its name.
    num_records: of the split.
    num_bytes: of the split, unpacked.
    features: names of the fields.
    shards: files of the split that have records: name, size, and the number
      of the record after its last.
  """

  path: str
  directory: str
  split: str
  num_records: int
  num_bytes: int
  features: tuple[str, ...]
  shards: tuple[tuple[str, int, int], ...]

  @classmethod
  def open(cls, text: str, data_dir: str | None) -> "Dataset":
    """Find a dataset; `tfds:NAME[/CONFIG][:VERSION][@SPLIT]`.

    Args:
      text: which one. Without a version the newest on the disk; the split
        is "train" unless another is named.
      data_dir: where datasets lie, None for TFDS's own place.

    Raises:
      errors.UserError: it is not on the disk (with the command that prepares
        it), of another file format, or TFDS is missing.
    """
    match = _NAME.fullmatch(text)
    if not match:
      raise errors.UserError(
        f"{text} names no dataset; write tfds:NAME[/CONFIG][:VERSION][@SPLIT]"
      )
    directory = _find(text, match, _data_dir(data_dir))
    info = _builder(str(directory)).info
    split = match["split"] or "train"
    if split not in info.splits:
      raise errors.UserError(
        f"{text} has no split {split!r}; it has {errors.listing(info.splits)}"
      )
    if "array_record" not in str(info.file_format.value):
      raise errors.UserError(
        f"{text}: {directory} is in the format {info.file_format.value}, not "
        f"array_record; {_command(text, 'ANOTHER_FOLDER')}"
      )
    found = info.splits[split]
    if not found.num_examples:
      raise errors.UserError(f"{text}: split {split!r} holds no record")
    shards = [directory / name for name in found.filenames]
    absent = [str(shard) for shard in shards if not shard.is_file()]
    if absent:
      raise errors.UserError(
        f"{text} lacks the files {errors.listing(sorted(absent))}; prepare it "
        "again"
      )
    return cls(
      path=text,
      directory=str(directory),
      split=split,
      num_records=found.num_examples,
      num_bytes=int(found.num_bytes) or sum(s.stat().st_size for s in shards),
      features=tuple(sorted(info.features)),
      shards=tuple(
        (shard.name, shard.stat().st_size, stop)
        for shard, length, stop in zip(
          shards,
          found.shard_lengths,
          itertools.accumulate(found.shard_lengths),
          strict=True,
        )
        if length
      ),
    )

  def check_fields(self, text_field: str, names: tuple[str, ...]) -> None:
    parts.check_present(self.path, self.features, [text_field, *names])

  def ranges(self, block_bytes: int) -> list[tuple[int, int]]:
    each = max(1, block_bytes * self.num_records // max(1, self.num_bytes))
    return [
      (start, min(start + each, self.num_records))
      for start in range(0, self.num_records, each)
    ]

  def range_bytes(self, start: int, stop: int) -> int:
    # Rounded so that the sum over adjacent ranges is exact.
    total = self.num_bytes
    return total * stop // self.num_records - total * start // self.num_records

  def records(
    self, start: int, stop: int, text_field: str
  ) -> Iterator[parts.Record]:
    del text_field  # The features have names of their own.
    for name, size, _ in self.shards:
      parts.check_unchanged(os.path.join(self.directory, name), size)
    source = _source(self.directory, self.split)
    label = f"{self.path}: {self.split} record "
    each = _BATCH_BYTES * self.num_records // max(1, self.num_bytes)
    each = min(max(1, each), _BATCH_RECORDS)
    for first in range(start, stop, each):
      numbers = range(first, min(first + each, stop))
      try:
        found = source.__getitems__(list(numbers))
      except (RuntimeError, ValueError, IndexError, OSError) as error:
        cause = str(error).splitlines()[0]
        raise errors.UserError(
          f"{label}{first + 1} or later: damaged ({cause}); prepare it again"
        ) from None
      for number, fields in zip(numbers, found, strict=True):
        place = documents.Place(label, number + 1)
        yield parts.Record(place, values.to_json(fields), "")

  def files(self) -> Iterator[tuple[str, str]]:
    return self.files_of(0, self.num_records)

  def files_of(self, start: int, stop: int) -> Iterator[tuple[str, str]]:
    before = 0
    for name, _, end in self.shards:
      if before < stop and start < end:
        yield name, os.path.join(self.directory, name)
      before = end


def _data_dir(given: str | None) -> pathlib.Path:
  place = given or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return pathlib.Path(place).expanduser()


def _command(text: str, data_dir: str | pathlib.Path) -> str:
  """Return what prepares a dataset; unlike reading it, with TensorFlow."""
  name = text.removeprefix("tfds:").partition("@")[0]
  return (
    "prepare it on a machine that has TensorFlow: tfds build "
    f"{name} --file_format=array_record --data_dir={data_dir}"
  )


def _find(text: str, match: re.Match, data_dir: pathlib.Path) -> pathlib.Path:
  """Return the folder of the wanted version, or of the newest."""
  root = data_dir / match["name"] / (match["config"] or "")
  versions = [path.parent.name for path in root.glob(f"*/{_INFO}")]
  if match["version"]:
    versions = [name for name in versions if name == match["version"]]
  versions = [name for name in versions if _VERSION.fullmatch(name)]
  if not versions:
    present = sorted(
      str(path.parent.relative_to(data_dir))
      for path in (data_dir / match["name"]).glob(f"**/{_INFO}")
    )
    listed = f" (there are {errors.listing(present)})" if present else ""
    raise errors.UserError(
      f"{text} is not in {data_dir}{listed}; name its place with --data-dir, "
      f"or {_command(text, data_dir)}"
    )
  newest = max(versions, key=lambda name: [int(n) for n in name.split(".")])
  return root / newest


def _builder(directory: str) -> Any:
  module = extra.load("tensorflow_datasets", "tfds:")
  formats = extra.load("google.protobuf.json_format", "tfds:")
  try:
    return module.builder_from_directory(directory)
  except (formats.Error, ValueError, KeyError, OSError) as error:
    cause = str(error).partition("\n")[0]
    raise errors.UserError(
      f"{directory}: the dataset's description is damaged ({cause}); prepare "
      "the dataset again"
    ) from None


@functools.lru_cache(maxsize=4)
def _source(directory: str, split: str) -> Any:
  return _builder(directory).as_data_source(split)
