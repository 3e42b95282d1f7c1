"""Every value that an item's databases hold, in any version of theirs.

Owns the walk through OCDBT's manifests and nodes (as `tensorstore.ocdbt.dump`
decodes them), the reading of single values by their place in a file, and the
account of every byte of the data files. Knows nothing of arrays or sinks.

Invariant: a value that any version of any database under the item still
refers to, in a file or inlined in a node, is in the survey; bytes that no
version refers to are named as unaccounted for.
"""

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any, BinaryIO

import tensorstore as ts

from nulls_jax.unlearning.checkpoint import storage

# A superseded node of the tree of versions starts so; it holds no value.
_VERSION_NODE_MAGIC = bytes.fromhex("0cdb1234")
_HEADER_BYTES = 12
_PIECE_BYTES = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """Where an encoded value lies: in a file, or inlined in a node.

  Attributes:
    path: the data file; None if inlined.
    offset: of its first byte in the file.
    length: in bytes.
    inlined: the bytes themselves, if inlined.
  """

  path: pathlib.Path | None
  offset: int
  length: int
  inlined: bytes = b""

  def read(self) -> bytes:
    """Return the bytes; fewer than `length` where the file is cut."""
    if self.path is None:
      return self.inlined
    with self.path.open("rb") as file:
      file.seek(self.offset)
      return file.read(self.length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Superseded:
  """A value of an older version, or of a database that was merged.

  Attributes:
    key: its key.
    place: where it lies.
    version: the number of the version that refers to it.
    directory: the directory of its database.
  """

  key: str
  place: Place
  version: int
  directory: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
  """What the databases of an item hold.

  Attributes:
    num_versions: versions of all databases together.
    newest: the values of the newest version of the item's own database, which
      is what Orbax loads, by key.
    superseded: every other value, each place once a key.
    unaccounted: data files and pieces of them that no version refers to.
  """

  num_versions: int
  newest: dict[str, Place]
  superseded: tuple[Superseded, ...]
  unaccounted: tuple[str, ...]

  def different(self) -> Iterator[Superseded]:
    """Yield superseded values whose bytes are not the newest of their key."""
    for value in self.superseded:
      newest = self.newest.get(value.key)
      if newest is None or newest.read() != value.place.read():
        yield value


def survey(item: pathlib.Path) -> Survey:
  """Walk through all versions of all databases under an item.

  Raises:
    UserError: a manifest or a node is missing or damaged.
  """
  manifests = sorted(item.glob(f"*/{storage.MANIFEST_FILE}"))
  directories = [item, *(path.parent for path in manifests)]
  walk = _Walk()
  for directory in directories:
    with storage.reading(directory):
      walk.database(directory)
  newest = walk.newest_of(item)
  superseded = tuple(
    value
    for (key, place), value in walk.values.items()
    if newest.get(key) != place
  )
  with storage.reading(item):
    unaccounted = tuple(
      line
      for directory in directories
      for line in walk.unaccounted(item, directory)
    )
  return Survey(
    num_versions=walk.num_versions,
    newest=newest,
    superseded=superseded,
    unaccounted=unaccounted,
  )


class _Walk:
  """Collects values and byte ranges, database by database."""

  def __init__(self):
    self.num_versions = 0
    self.values: dict[tuple[str, Place], Superseded] = {}
    self._ranges: dict[pathlib.Path, set[tuple[int, int]]] = {}
    self._roots: dict[pathlib.Path, dict[str, Any]] = {}
    self._seen: set[tuple] = set()

  def database(self, directory: pathlib.Path) -> None:
    base = _base(directory)
    manifest = ts.ocdbt.dump(base).result()
    versions = list(manifest["versions"])
    self._roots[directory] = versions[-1] if versions else {}
    pending = list(manifest["version_tree_nodes"])
    while pending:
      entry = pending.pop()
      self._refer(directory, entry["location"])
      node = ts.ocdbt.dump(base, entry["location"]).result()
      for inner in node["entries"]:
        (versions if "root" in inner else pending).append(inner)
    for version in sorted(versions, key=lambda one: one["generation_number"]):
      self.num_versions += 1
      location = version["root"].get("location")
      if location:
        self._tree(directory, base, location, version["generation_number"])

  def newest_of(self, directory: pathlib.Path) -> dict[str, Place]:
    """Return the values of the newest version of one database, by key."""
    location = self._roots[directory].get("root", {}).get("location")
    if not location:
      return {}
    base = _base(directory)
    return {
      key: _place(directory, entry)
      for key, entry in _leaves(base, location, b"", lambda _: True)
    }

  def unaccounted(
    self, item: pathlib.Path, directory: pathlib.Path
  ) -> Iterator[str]:
    """Yield what no version refers to among the database's data files."""
    data = directory / storage.DATA_DIRECTORY
    for path in sorted(data.rglob("*")):
      if path.is_dir() and not path.is_symlink():
        continue
      name = path.relative_to(item).as_posix()
      if path not in self._ranges:
        yield name
        continue
      position, size = 0, path.stat().st_size
      for offset, length in [*sorted(self._ranges[path]), (size, 0)]:
        if offset > position and not _holds_no_value(
          directory, path, position, offset
        ):
          yield f"bytes {position} to {offset} of {name}"
        position = max(position, offset + length)

  def _tree(self, directory, base, location: str, version: int) -> None:
    def first_time(prefixed: tuple) -> bool:
      if (directory, *prefixed) in self._seen:
        return False
      self._seen.add((directory, *prefixed))
      self._refer(directory, prefixed[1])
      return True

    for key, entry in _leaves(base, location, b"", first_time):
      place = _place(directory, entry)
      if place.path is not None:
        ranges = self._ranges.setdefault(place.path, set())
        ranges.add((place.offset, place.length))
      self.values.setdefault(
        (key, place),
        Superseded(key=key, place=place, version=version, directory=directory),
      )

  def _refer(self, directory: pathlib.Path, location: str) -> None:
    path, offset, length = _parse(directory, location)
    self._ranges.setdefault(path, set()).add((offset, length))


def _base(directory: pathlib.Path) -> ts.KvStore:
  spec = {"driver": "file", "path": f"{directory.absolute()}/"}
  return ts.KvStore.open(spec).result()


def _leaves(
  base, location: str, prefix: bytes, enter
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yield key and entry of the leaves under a node that `enter` allows."""
  if not enter((prefix, location)):
    return
  for entry in ts.ocdbt.dump(base, location).result()["entries"]:
    if "location" in entry:
      inner = prefix + entry.get("subtree_common_prefix", b"")
      yield from _leaves(base, entry["location"], inner, enter)
    else:
      yield (prefix + entry["key"]).decode(errors="replace"), entry


def _place(directory: pathlib.Path, entry: dict[str, Any]) -> Place:
  if "inline_value" in entry:
    value = bytes(entry["inline_value"])
    return Place(path=None, offset=0, length=len(value), inlined=value)
  path, offset, length = _parse(directory, entry["indirect_value"])
  return Place(path=path, offset=offset, length=length)


def _parse(
  directory: pathlib.Path, location: str
) -> tuple[pathlib.Path, int, int]:
  """Parse "value:ocdbt.process_0/:d/0123:40:8": kind, two paths, range."""
  _, base, relative, offset, length = location.split(":")
  name = urllib.parse.unquote(base) + urllib.parse.unquote(relative)
  return directory / name, int(offset), int(length)


def _holds_no_value(directory, path, start: int, stop: int) -> bool:
  """Say whether a piece of a file is superseded version nodes and padding.

  Large files are padded with zeros to whole pages of the disk.
  """
  base, name = _base(directory), path.relative_to(directory).as_posix()
  with path.open("rb") as file:
    while start < stop:
      file.seek(start)
      header = file.read(_HEADER_BYTES)
      length = int.from_bytes(header[4:], "little")
      if header[:4] != _VERSION_NODE_MAGIC or start + length > stop:
        file.seek(start)
        return _is_zero(file, stop - start)
      location = f"versionnode::{name}:{start}:{length}"
      try:
        ts.ocdbt.dump(base, location).result()
      except ValueError:
        return False
      start += length
  return True


def _is_zero(file: BinaryIO, length: int) -> bool:
  while length:
    piece = file.read(min(length, _PIECE_BYTES))
    if not piece or piece.strip(b"\0"):
      return False
    length -= len(piece)
  return True
