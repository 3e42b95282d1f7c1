"""What a dataset takes over from a run that is to learn more.

Owns what `nulls prepare --extend RUN` reads of the run: its tokenizer as it
is, and its sources with indices, ids, keys, counts, size classes and status.
Reads no weights.

Invariant: a source of the run keeps its index, id, metadata and size class;
one that was erased stays so, and no document of it comes through.
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from nulls_jax import errors
from nulls_jax.data import ledger as ledger_lib
from nulls_jax.data import tokenizer as tokenizer_lib
from nulls_jax.sinks import assignment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
  """A run that a dataset goes on from.

  Attributes:
    tokenizer: the run's.
    ledger_path: the run's.
    fingerprint: of its ledger.
    num_sources: in its ledger.
    erased: ids of those of them that were erased.
  """

  tokenizer: tokenizer_lib.Tokenizer
  ledger_path: pathlib.Path
  fingerprint: str
  num_sources: int
  erased: frozenset[int]

  def is_erased(self, key: str) -> bool:
    """Say whether a key names a source that was erased from the run."""
    return bool(self.erased) and assignment.source_id(key) in self.erased

  def facts(self, num_tokens: np.ndarray) -> dict[str, Any]:
    """Return what the manifest says of the run.

    Args:
      num_tokens: `[sources + 1]`, of the documents, by index in the dataset's
        ledger, the run's sources and the new ones; no source first.
    """
    return {
      "ledger_fingerprint": self.fingerprint,
      "sources": self.num_sources,
      "sources_erased": len(self.erased),
      "sources_new": len(num_tokens) - 1 - self.num_sources,
      "sources_with_documents": int((num_tokens[1:] > 0).sum()),
    }


def read(run_dir: str | os.PathLike) -> Base:
  """Read what a dataset takes over from a run.

  Raises:
    errors.UserError: the directory is no run.
  """
  run_dir = pathlib.Path(run_dir)
  if not (run_dir / "config.json").is_file():
    raise errors.UserError(
      f"{run_dir} is no run (it holds no config.json); give the directory "
      "that `nulls train --run` wrote"
    )
  path = run_dir / "ledger.sqlite"
  with ledger_lib.Ledger.open(path) as book:
    return Base(
      tokenizer=tokenizer_lib.Tokenizer.load(run_dir / "tokenizer.model"),
      ledger_path=path,
      fingerprint=book.fingerprint(),
      num_sources=book.num_sources,
      erased=frozenset(source.id for source in book.erased()),
    )
