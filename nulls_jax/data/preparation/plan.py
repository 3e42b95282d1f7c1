"""What is to be prepared: the blocks, and all that decides the result.

Owns the split of the inputs into blocks and the digest that says whether two
preparations make the same dataset. Reads no text.

Invariant: a plan is a function of the inputs and settings, never of the
number of workers or shards.
"""

import bisect
import dataclasses
import itertools
import pathlib
from typing import Any

from nulls_jax import errors, files
from nulls_jax.data import config as data_config
from nulls_jax.data import splits as splits_lib
from nulls_jax.data.preparation import dataset
from nulls_jax.data.reading import documents
from nulls_jax.data.reading import inputs as inputs_lib
from nulls_jax.sinks import assignment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """One preparation; sent to the workers.

  Attributes:
    inputs: the documents' files.
    blocks: of the inputs; those of one item are read and packed as one.
    config: how documents become rows.
    exclude: keys of sources to leave out.
    erased: ids of sources of which no document may come through.
    refuse: count bad records and go on.
    splits: what is held out.
    identity: what decides the result.
  """

  inputs: inputs_lib.Inputs
  blocks: tuple[tuple[inputs_lib.Block, ...], ...]
  config: data_config.DataConfig
  exclude: frozenset[str]
  erased: frozenset[int]
  refuse: bool
  splits: splits_lib.Splits = splits_lib.Splits()
  identity: dict[str, Any]

  @property
  def digest(self) -> str:
    """One digest of the identity."""
    return files.json_sha256(self.identity)

  def shard(self, number: int, count: int) -> range:
    """Return the blocks of one of `count` shards, about equal in bytes.

    They are neighbours, so that few shards read the same file.
    """
    ends = list(
      itertools.accumulate(map(self.block_bytes, range(len(self.blocks))))
    )
    starts = [0, *ends[:-1]]
    owners = [
      min(start * count // max(1, ends[-1]), count - 1) for start in starts
    ]
    return range(
      bisect.bisect_left(owners, number), bisect.bisect_right(owners, number)
    )

  def block_bytes(self, block: int) -> int:
    """Return the bytes of the input that a block has."""
    return sum(each.num_bytes for each in self.blocks[block])

  def with_documents(self, **identity: Any) -> "Plan":
    """Return the plan with what its documents are, which decides the result."""
    return dataclasses.replace(self, identity=self.identity | identity)

  def with_clusters(self, path: pathlib.Path) -> "Plan":
    """Return the plan with the sources of a saved clustering."""
    return dataclasses.replace(self, inputs=self.inputs.with_clusters(path))

  def kind(self, document: documents.Document) -> str:
    """Say whether a document is trained on, see `splits.Splits.of`."""
    if not self.splits:
      return splits_lib.TRAIN
    return self.splits.of(document.source, document.text)

  def is_erased(self, key: str) -> bool:
    """Say whether a key names a source that was erased from the run."""
    return bool(self.erased) and assignment.source_id(key) in self.erased


def make(
  inputs: inputs_lib.Inputs,
  config: data_config.DataConfig,
  *,
  tokenizer: str | None,
  extends: str | None,
  erased: frozenset[int],
  exclude: frozenset[str],
  refuse: bool,
  splits: splits_lib.Splits | None = None,
) -> Plan:
  """Plan a preparation, but for what its documents hold.

  Args:
    inputs: the documents' files.
    config: how documents become rows.
    tokenizer: fingerprint of the one that is given.
    extends: digest of the ledger of the run that is to learn more.
    erased: ids of sources that were erased from it.
    exclude: keys of sources to leave out.
    refuse: count bad records and go on.
    splits: what is held out.
  """
  # As the first release had it, so that its datasets are known again.
  identity = {
    "format": dataset.FORMAT,
    "config": config.to_dict(),
    "tokenizer": tokenizer,
    "exclude": sorted(exclude),
    "refuse": refuse,
    "allow_no_source": inputs.settings.allow_no_source,
  }
  if extends:
    identity["extends"] = extends
  if splits:
    identity["held_out"] = dataclasses.asdict(splits)
  if reading := inputs.settings.to_dict():
    identity["reading"] = reading
  return Plan(
    inputs=inputs,
    blocks=_group(inputs.blocks(config.block_bytes), config.block_bytes),
    config=config,
    exclude=exclude,
    erased=erased,
    refuse=refuse,
    splits=splits or splits_lib.Splits(),
    identity=identity,
  )


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
  """Say what two identities differ in, as a user would call it."""
  found = []
  for name, what in _WORDS.items():
    was, now = one.get(name), other.get(name)
    if was == now:
      continue
    if isinstance(was, dict) and isinstance(now, dict):
      fields = sorted(was.keys() | now.keys())
      changed = [f for f in fields if was.get(f) != now.get(f)]
      what = f"{what} ({errors.listing(changed)})"
    found.append(what)
  return found


_WORDS = {
  "format": "version of this program",
  "files": "list of files and sizes",
  "documents": "content of the documents",
  "config": "settings",
  "tokenizer": "tokenizer",
  "exclude": "list of excluded keys",
  "refuse": "--refuse-bad-lines",
  "allow_no_source": "--allow-no-source",
  "extends": "run to extend",
  "held_out": "share to hold out",
  "reading": "--sources or --text-field",
  "clusters": "clustering",
}


def _group(blocks, block_bytes: int) -> tuple:
  """Join neighbours, so that many small files do not make many blocks."""
  groups: list[list] = []
  size = 0
  for block in blocks:
    if not groups or size + block.num_bytes > block_bytes:
      groups.append([])
      size = 0
    groups[-1].append(block)
    size += block.num_bytes
  return tuple(map(tuple, groups))
