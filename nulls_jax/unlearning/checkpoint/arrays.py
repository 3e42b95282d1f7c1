"""The arrays of an Orbax item, read without Orbax.

Owns what is known about the item's tree (`_METADATA`) and its zarr3 arrays:
their chunks, one chunk's encoding, and the digest of an array's contents.
Knows nothing of sinks or of run directories.

Invariant: `read_arrays` accounts for every key of the database, so what it
returns is all that the item stores.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorstore as ts

from nulls_jax import errors
from nulls_jax.unlearning.checkpoint import storage

TREE_FILE = "_METADATA"

# Decoded bytes of one batch: what is read, and written in one transaction.
BATCH_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
  """One chunk of one array: one value of the database.

  Attributes:
    index: position in the array's grid of chunks.
    key: the value's key in the database.
    domain: the elements that the chunk holds, one slice an axis, clipped to
      the array.
  """

  index: tuple[int, ...]
  key: str
  domain: tuple[slice, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Array:
  """One zarr3 array of the item.

  Attributes:
    path: the leaf's path in the tree, such as ("params", "head", "kernel").
    metadata: the content of its `zarr.json`.
    shape: elements an axis.
    chunk_shape: elements of a chunk an axis.
    data_type: zarr's name of the element type, such as "float32".
    separator: what stands between a chunk's indices in its key.
  """

  path: tuple[str, ...]
  metadata: bytes
  shape: tuple[int, ...]
  chunk_shape: tuple[int, ...]
  data_type: str
  separator: str

  @property
  def name(self) -> str:
    """The path joined by dots, which is how Orbax names the array."""
    return ".".join(self.path)

  @property
  def metadata_key(self) -> str:
    return f"{self.name}/zarr.json"

  @property
  def grid(self) -> tuple[int, ...]:
    """Chunks an axis."""
    pairs = zip(self.shape, self.chunk_shape, strict=True)
    return tuple(-(-size // chunk) for size, chunk in pairs)

  @property
  def num_chunks(self) -> int:
    return math.prod(self.grid)

  @property
  def chunk_bytes(self) -> int:
    """Decoded bytes of a whole chunk."""
    item = ts.dtype(self.data_type).numpy_dtype.itemsize
    return math.prod(self.chunk_shape) * item

  def chunks(self) -> Iterator[Chunk]:
    """Yield every chunk, last axis fastest."""
    for index in itertools.product(*map(range, self.grid)):
      domain = tuple(
        slice(i * chunk, min((i + 1) * chunk, size))
        for i, chunk, size in zip(
          index, self.chunk_shape, self.shape, strict=True
        )
      )
      parts = ["c", *map(str, index)]
      key = f"{self.name}/{self.separator.join(parts)}"
      yield Chunk(index=index, key=key, domain=domain)


def read_tree(directory: pathlib.Path) -> list[tuple[str, ...]]:
  """Return the paths of the item's arrays, as `_METADATA` lists them.

  Empty nodes of the tree (optax has many) hold nothing and are left out.

  Raises:
    UserError: the file is missing, damaged or of another format.
  """
  path = directory / TREE_FILE
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    leaves = [
      tuple(str(part["key"]) for part in leaf["key_metadata"])
      for leaf in content["tree_metadata"].values()
      if not leaf["value_metadata"]["skip_deserialize"]
    ]
    formats = {name: content[name] for name in ("use_ocdbt", "use_zarr3")}
  except FileNotFoundError as error:
    raise errors.UserError(
      f"{path} is missing, so this is no whole Orbax item; use another step "
      "or a backup of the checkpoint"
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f"{path}: not the tree of an Orbax item ({error}); use another step or "
      "a backup of the checkpoint"
    ) from error
  if not all(formats.values()):
    raise errors.UserError(
      f"{path}: {formats}; only OCDBT with zarr3 (what Orbax v1 writes unless "
      "told otherwise) can be read: save the checkpoint again that way"
    )
  return leaves


def read_arrays(database: storage.Database) -> list[Array]:
  """Return the item's arrays, sorted by name; every key accounted for.

  Raises:
    UserError: an array or a chunk that the tree promises is missing, or the
      database holds a key that no array of the tree explains.
  """
  directory = database.directory
  leaves = sorted(read_tree(directory), key=".".join)
  keys = set(database.keys())
  missing = [
    name
    for name in (f"{'.'.join(leaf)}/zarr.json" for leaf in leaves)
    if name not in keys
  ]
  if missing:
    raise errors.UserError(
      f"{directory}: {errors.listing(missing)} missing although {TREE_FILE} "
      "lists the array; use another step or a backup of the checkpoint"
    )
  values = database.read(f"{'.'.join(leaf)}/zarr.json" for leaf in leaves)
  arrays = [
    _parse_array(directory, leaf, value)
    for leaf, value in zip(leaves, values, strict=True)
  ]
  expected = {array.metadata_key for array in arrays}
  for array in arrays:
    expected.update(chunk.key for chunk in array.chunks())
  if expected - keys:
    raise errors.UserError(
      f"{directory}: chunks are missing: "
      f"{errors.listing(sorted(expected - keys))}; use another step or a "
      "backup of the checkpoint"
    )
  if keys - expected:
    raise errors.UserError(
      f"{directory}: the database holds keys that {TREE_FILE} does not "
      f"explain: {errors.listing(sorted(keys - expected))}; this release of "
      "nulls_jax does not know such a checkpoint"
    )
  return arrays


def _parse_array(
  directory: pathlib.Path, path: tuple[str, ...], metadata: bytes
) -> Array:
  name = ".".join(path)
  try:
    content = json.loads(metadata)
    grid, keys = content["chunk_grid"], content["chunk_key_encoding"]
    kinds = (grid["name"], keys["name"])
    array = Array(
      path=path,
      metadata=metadata,
      shape=tuple(content["shape"]),
      chunk_shape=tuple(grid["configuration"]["chunk_shape"]),
      data_type=content["data_type"],
      separator=keys.get("configuration", {}).get("separator", "/"),
    )
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UserError(
      f"{directory}: {name}/zarr.json is not zarr3 metadata ({error}); use "
      "another step or a backup of the checkpoint"
    ) from error
  if kinds != ("regular", "default") or len(array.shape) != len(
    array.chunk_shape
  ):
    raise errors.UserError(
      f"{directory}: {name}/zarr.json has chunk grid and key encoding {kinds}, "
      f"shape {array.shape}, chunks {array.chunk_shape}; expected a regular "
      "grid with default keys"
    )
  return array


def batches(
  arrays: Iterable[Array],
) -> Iterator[list[tuple[Array, Chunk | None]]]:
  """Yield every value of the arrays once, in batches of `BATCH_BYTES`.

  None stands for the array's `zarr.json`. A batch holds at least one value,
  so that a chunk larger than a batch is a batch of its own.
  """
  batch, size = [], 0
  for array in arrays:
    for chunk in itertools.chain([None], array.chunks()):
      needed = len(array.metadata) if chunk is None else array.chunk_bytes
      if batch and size + needed > BATCH_BYTES:
        yield batch
        batch, size = [], 0
      batch.append((array, chunk))
      size += needed
  if batch:
    yield batch


class Codec:
  """Decodes and encodes single chunks of one array, in memory."""

  def __init__(self, array: Array):
    # A cached chunk would hide the next bytes that are given for it.
    context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
    self._prefix = len(array.name) + 1
    self._store = ts.KvStore.open(
      {"driver": "memory"}, context=context
    ).result()
    self._store.write("zarr.json", array.metadata).result()
    with storage.reading(f"{array.name}/zarr.json"):
      self._array = ts.open(
        {
          "driver": "zarr3",
          "kvstore": {"driver": "memory"},
          # Orbax refuses arrays with missing chunks, so zeros are stored.
          "store_data_equal_to_fill_value": True,
        },
        context=context,
        open=True,
      ).result()

  def decode(self, chunk: Chunk, value: bytes, where) -> np.ndarray:
    """Return the elements of an encoded chunk, shaped like its domain.

    Raises:
      UserError: the bytes are no such chunk, naming `where` (the item they
        come from) and the chunk.
    """
    key = chunk.key[self._prefix :]
    self._store.write(key, value).result()
    with storage.reading(f"{where}: {chunk.key}"):
      values = self._array[chunk.domain].read().result()
    self._store.write(key, None).result()
    return values

  def encode(self, chunk: Chunk, values: np.ndarray) -> bytes:
    """Encode a whole chunk the way the array's metadata says."""
    key = chunk.key[self._prefix :]
    self._array[chunk.domain].write(values).result()
    value = self._store.read(key).result().value
    self._store.write(key, None).result()
    return value


def as_bytes(values: np.ndarray) -> np.ndarray:
  """View an array as `uint8 [..., bytes of the last axis]`, for equality."""
  values = np.ascontiguousarray(values)
  if not values.ndim:
    values = values[None]
  return values.view(np.uint8)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
  """Say whether arrays of one type and shape are equal bit for bit.

  NaN equals itself here, and -0 is not 0.
  """
  words = [as_words(values) for values in (one, other)]
  return bool(np.array_equal(*words))


def as_words(values: np.ndarray) -> np.ndarray:
  """View an array's elements as unsigned integers, flat."""
  word = f"u{values.dtype.itemsize}"
  return np.ascontiguousarray(values).reshape(-1).view(word)


class Digest:
  """SHA-256 of an array's contents, whatever chunks it is stored in.

  The hash of a header line (format, element type, shape) followed by the
  SHA-256 of every row (the elements along the last axis) in C order, so
  that chunks are hashed as they come, each decoded once, in the memory of
  32 bytes a row of one slab of chunks along the first axis.

  Attributes:
    checksum: sum modulo 2**32 of the elements' bits as unsigned integers, of
      the chunks so far; checkpoints state it of their arrays.
    on_rows: called with each complete range along the first axis and the
      SHA-256 of its rows, `uint8 [range, ..., 32]`, which it may overwrite.
  """

  def __init__(self, array: Array):
    self.checksum = 0
    self.on_rows: Callable[[slice, np.ndarray], None] | None = None
    self._total = digest_header(array)
    padding = (1,) * max(0, 2 - len(array.shape))
    self._shape = padding + array.shape
    self._grid = padding + array.grid
    self._padding = len(padding)
    self._remaining = array.num_chunks
    self._slab = None
    self._rows = []

  def update(self, chunk: Chunk, values: np.ndarray) -> None:
    """Take the next chunk; they must come in the order of `Array.chunks`."""
    index = (0,) * self._padding + chunk.index
    domain = (slice(0, 1),) * self._padding + chunk.domain
    first = domain[0].start
    if self._slab is None:
      leading = (domain[0].stop - first, *self._shape[1:-1])
      self._slab = np.empty((*leading, hashlib.sha256().digest_size), np.uint8)
    elements = as_bytes(values).reshape(-1)
    words = elements.view(f"u{values.dtype.itemsize}")
    total = self.checksum + int(words.sum(dtype=np.uint64))
    self.checksum = total % 2**32
    lines = memoryview(elements)
    num_rows = math.prod(part.stop - part.start for part in domain[:-1])
    width = len(lines) // num_rows
    starts = range(0, len(lines), width)
    if index[-1] == 0:
      sha256 = hashlib.sha256
      self._rows = [sha256(lines[i : i + width]) for i in starts]
    else:
      for row, i in zip(self._rows, starts, strict=True):
        row.update(lines[i : i + width])
    if index[-1] == self._grid[-1] - 1:
      place = (slice(0, domain[0].stop - first), *domain[1:-1])
      hashes = b"".join(row.digest() for row in self._rows)
      target = self._slab[place]
      target[...] = np.frombuffer(hashes, np.uint8).reshape(target.shape)
      self._rows = []
    if all(
      i == size - 1 for i, size in zip(index[1:], self._grid[1:], strict=True)
    ):
      self._total.update(self._slab)
      if self.on_rows is not None:
        self.on_rows(domain[0], self._slab)
      self._slab = None
    self._remaining -= 1

  def hexdigest(self) -> str:
    """Return the digest once every chunk was taken (else RuntimeError)."""
    if self._remaining:
      raise RuntimeError(f"{self._remaining} chunks were not digested")
    return self._total.hexdigest()


def digest_header(array: Array):
  """Return the hash that an array's digest begins with."""
  header = f"nulls_jax array 1\n{array.data_type}\n{list(array.shape)}\n"
  return hashlib.sha256(header.encode())
