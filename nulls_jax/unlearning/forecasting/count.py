"""How many of its blocks each source would lose, counted for all of them.

Owns a second, fast evaluation of the hashed assignment that never writes the
block numbers down: NumPy in place, in buffers that stay in the cache, one
thread a core, in 16-bit words where a stratum has at most 2^16 blocks. Knows
neither ledgers nor checkpoints.

Invariant: the counts are exactly those of `assignment.blocks`.

A stratum of a layer (a *cell*) is answered in one of three ways. No block or
every block is lost: nothing is drawn. At most `blocks_per_source` blocks are
lost, or are not: the bijection pi is inverted, since a source owns block b if
and only if pi^-1(b) < blocks_per_source. Otherwise the blocks are drawn and
looked up.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nulls_jax.sinks import assignment

# Sources of one task of a thread, and at most of one pass.
_TASK, _MAX_CHUNK = 2**17, 2**13
# Block numbers of one pass, and of one look-up, whose places take 8 bytes.
_DRAWN, _LOOKED_UP = 2**17, 2**15

Progress = Callable[[int, int], None]


def lost_blocks(
  config: assignment.SinkConfig,
  words_Sx2: np.ndarray,
  sets: Sequence[np.ndarray],
  *,
  threads: int | None = None,
  progress: Progress | None = None,
) -> np.ndarray:
  """Count each source's blocks that are in a set, all layers together.

  With blocks 3 and 5 of layer 0 in the only set, a source that owns blocks 1
  and 5 of layer 0 and blocks 3 and 5 of layer 1 has lost 1.

  Args:
    config: the settings of a hashed pool.
    words_Sx2: `uint32`, routing words of the sources.
    sets: each `bool [layers, strata, blocks]`; several are counted in little
      more time than one.
    threads: the cores that this process may use by default.
    progress: called with sources done, and all.

  Returns:
    `uint32 [sets, sources]`, 0 to all that the source owns.
  """
  progress = progress or (lambda done, total: None)
  if config.size_classes == 1:
    return _lost_blocks(config, words_Sx2, sets, threads, progress)
  counts = np.zeros((len(sets), len(words_Sx2)), np.uint32)
  classes, done = assignment.size_class(config, words_Sx2), 0
  for number in np.unique(classes):
    chosen = np.flatnonzero(classes == number)
    counts[:, chosen] = _lost_blocks(
      *assignment.of_class(config, int(number), words_Sx2[chosen]),
      sets,
      threads,
      lambda part, _, before=done: progress(before + part, len(classes)),
    )
    done += len(chosen)
  return counts


def _lost_blocks(config, words_Sx2, sets, threads, progress) -> np.ndarray:
  """Count as `lost_blocks`, for a pool without size classes."""
  num_sources = len(words_Sx2)
  counts = np.zeros((len(sets), num_sources), np.uint32)
  cells: dict[tuple[int, int], list[_Member]] = {}
  for number, lost_NxGxB in enumerate(sets):
    whole = lost_NxGxB.all(axis=2).sum()
    counts[number] = config.blocks_per_source * whole
    for place, member in _members(config, number, lost_NxGxB):
      cells.setdefault(place, []).append(member)
  if not cells:
    progress(num_sources, num_sources)
    return counts
  threads = threads or len(os.sched_getaffinity(0))
  chunk = max(256, min(_MAX_CHUNK, _DRAWN // config.blocks_per_source))

  def count(start: int) -> int:
    stop = min(start + _TASK, num_sources)
    passes = _Passes(config, dict(sorted(cells.items())), chunk)
    for first in range(start, stop, chunk):
      part = slice(first, min(first + chunk, stop))
      passes.add(words_Sx2[part], counts[:, part])
    return stop

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for done in pool.map(count, range(0, num_sources, _TASK)):
      progress(done, num_sources)
  return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Member:
  """What one set has in one cell.

  Attributes:
    number: of the set.
    table: which draws are in it, to look up; None where `pi` is inverted.
    blocks: a column of block numbers, otherwise.
    others: the blocks are those that are not in the set.
  """

  number: int
  table: np.ndarray | None = None
  blocks: np.ndarray | None = None
  others: bool = False


def _members(
  config: assignment.SinkConfig, number: int, lost_NxGxB: np.ndarray
) -> Iterator[tuple[tuple[int, int], _Member]]:
  """Yield the cells of a set that are to be evaluated."""
  blocks, owned = config.blocks_per_stratum, config.blocks_per_source
  drawn = np.arange(blocks)
  drawn ^= drawn >> _shift(blocks.bit_length() - 1)
  for place, size in np.ndenumerate(lost_NxGxB.sum(axis=2)):
    lost = lost_NxGxB[place]
    if size in (0, blocks):
      continue
    if min(size, blocks - size) > owned:
      # The bijection's last step is the same for all: it is in the table.
      yield place, _Member(number=number, table=lost[drawn].view(np.uint8))
    else:
      others = bool(blocks - size < size)
      members = np.flatnonzero(lost != others)[:, None]
      yield place, _Member(number=number, blocks=members, others=others)


def _shift(bits: int) -> int:
  return max(1, bits // 2)


class _Passes:
  """The buffers of one thread, and what it does with a chunk of sources.

  `_key_words` and `_draw` are `assignment._blocks` in place; multiplication
  and addition modulo 2^bits may run in any longer word.
  """

  def __init__(self, config: assignment.SinkConfig, cells, chunk: int):
    self._config = config
    self._bits = config.blocks_per_stratum.bit_length() - 1
    self._cells = cells
    owned = config.blocks_per_source
    word = np.uint16 if self._bits <= 16 else np.uint32
    self._mask = word(2**self._bits - 1)
    self._number = np.arange(owned, dtype=word)[:, None]
    count = 2 * assignment.NUM_ROUNDS
    self._round = np.arange(count, dtype=np.uint32)[:, None]
    self._mixed = np.empty((2, count, chunk), np.uint32)
    self._keys = np.empty((count, chunk), word)
    self._values = np.empty((2, owned, chunk), word)
    # So few that what one look-up finds of a source fits a byte.
    self._rows = min(owned, 255, max(1, _LOOKED_UP // chunk))
    self._places = np.empty((self._rows, chunk), np.intp)
    self._found = np.empty((self._rows, chunk), np.uint8)

  def add(self, words_Cx2: np.ndarray, counts_KxC: np.ndarray) -> None:
    """Add a chunk's losses to the counts of each set."""
    size = len(words_Cx2)
    spare = np.empty(size, np.uint32)
    seed = (self._config.seed + assignment.VERSION) % 2**32
    source = np.full(size, seed, np.uint32)
    _mix(source, spare)
    for word in np.ascontiguousarray(words_Cx2.T):
      _absorb(source, word, spare)
    now, in_layer, in_stratum = None, source, np.empty_like(source)
    for (layer, stratum), members in self._cells.items():
      if layer != now:
        now, in_layer = layer, source.copy()
        _absorb(in_layer, np.uint32(layer), spare)
      np.copyto(in_stratum, in_layer)
      _absorb(in_stratum, np.uint32(stratum), spare)
      keys = self._key_words(in_stratum)
      for member in members:
        if member.table is None:
          self._add_owned(keys, member, counts_KxC[member.number])
      tables = [member for member in members if member.table is not None]
      values = self._draw(keys) if tables else None
      for member in tables:
        self._look_up(values, member.table, counts_KxC[member.number])

  def _add_owned(self, keys, member: _Member, counts: np.ndarray) -> None:
    found = self._invert(keys, member.blocks)
    if member.others:
      counts += np.uint32(self._config.blocks_per_source)
      counts -= found
    else:
      counts += found

  def _key_words(self, key: np.ndarray) -> np.ndarray:
    """Return the words of the rounds, [2 * rounds, size]; odd ones are odd."""
    mixed, spare = self._mixed[:, :, : len(key)]
    np.copyto(mixed, key)
    _absorb(mixed, self._round, spare)
    keys = self._keys[:, : len(key)]
    np.copyto(keys, mixed, casting="unsafe")
    keys[1::2] |= keys.dtype.type(1)
    return keys

  def _draw(self, keys: np.ndarray) -> np.ndarray:
    """Return the sources' blocks but for the bijection's last step."""
    values, spare = self._values[:, :, : keys.shape[1]]
    shift = values.dtype.type(_shift(self._bits))
    np.copyto(values, self._number)
    for place in range(0, len(keys), 2):
      if place:
        np.right_shift(values, shift, out=spare)
        np.bitwise_xor(values, spare, out=values)
      np.add(values, keys[place], out=values)
      np.multiply(values, keys[place + 1], out=values)
      np.bitwise_and(values, self._mask, out=values)
    return values

  def _look_up(self, values, table, counts) -> None:
    for first in range(0, len(values), self._rows):
      part = values[first : first + self._rows]
      places = self._places[: len(part), : len(counts)]
      found = self._found[: len(part), : len(counts)]
      np.copyto(places, part)
      # The mode spares a check: every place lies in the table.
      np.take(table, places, out=found, mode="wrap")
      counts += np.add.reduce(found, axis=0, dtype=np.uint8)

  def _invert(self, keys: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Return how many of the blocks each source owns."""
    count, size = len(blocks), keys.shape[1]
    values, spare = self._values[:, :count, :size]
    multipliers = keys[1::2]
    inverses = multipliers.copy()
    known = 3  # An odd number is its own inverse modulo 2^3.
    while known < self._bits:
      inverses *= keys.dtype.type(2) - multipliers * inverses
      known *= 2
    np.copyto(values, blocks, casting="unsafe")
    for place in reversed(range(assignment.NUM_ROUNDS)):
      shift = _shift(self._bits)
      while shift < self._bits:
        np.right_shift(values, values.dtype.type(shift), out=spare)
        np.bitwise_xor(values, spare, out=values)
        shift *= 2
      np.multiply(values, inverses[place], out=values)
      np.subtract(values, keys[2 * place], out=values)
      np.bitwise_and(values, self._mask, out=values)
    owned = values < values.dtype.type(self._config.blocks_per_source)
    return np.add.reduce(owned, axis=0, dtype=np.uint32)


def _mix(x: np.ndarray, spare: np.ndarray) -> None:
  """`assignment._mix` in place."""
  multipliers = (*assignment.MULTIPLIERS, None)
  for shift, multiplier in zip((16, 15, 16), multipliers, strict=True):
    np.right_shift(x, np.uint32(shift), out=spare)
    np.bitwise_xor(x, spare, out=x)
    if multiplier is not None:
      np.multiply(x, multiplier, out=x)


def _absorb(state: np.ndarray, word, spare: np.ndarray) -> None:
  """`assignment._absorb` in place."""
  np.bitwise_xor(state, word, out=state)
  np.add(state, assignment.GOLDEN, out=state)
  _mix(state, spare)
