"""A small corpus that is cut into many blocks."""

import dataclasses
import hashlib
import json
import pathlib

import pytest

from nulls_jax.data import config as data_config
from nulls_jax.data.preparation import job, prepare


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Documents whose sources come again in other blocks, and bad lines.

  Attributes:
    path: JSON Lines.
    config: with blocks so small that there are more than twenty.
    flags: the same for `nulls prepare`.
    undisturbed: the dataset, made in one go by one process.
  """

  path: pathlib.Path
  config: data_config.DataConfig
  flags: tuple[str, ...]
  undisturbed: pathlib.Path

  def job(self, **settings) -> job.Job:
    """Return what is to be prepared."""
    return job.Job(self.path, self.config, on_error="refuse", **settings)

  def prepare(self, out: pathlib.Path, progress=None, **settings):
    """Prepare the documents in this process."""
    return prepare.prepare(self.job(**settings), out, progress=progress)


@pytest.fixture(scope="session")
def many_blocks(tmp_path_factory) -> Corpus:
  root = tmp_path_factory.mktemp("many_blocks")
  lines = []
  for number in range(240):
    words = " ".join(
      f"word{(number * number + i * 7) % 90}" for i in range(5 + number % 40)
    )
    source = f"author/{number * 7 % 50}"
    lines.append(
      json.dumps({"source": source, "text": words, "year": 1900 + number})
    )
    if number % 60 == 59:
      lines.append("no JSON")
  path = root / "documents.jsonl"
  path.write_text("\n".join(lines) + "\n")
  corpus = Corpus(
    path=path,
    config=data_config.DataConfig(
      row_length=96, tile=32, vocab_size=400, block_bytes=2500
    ),
    flags=(
      *("--documents", str(path), "--refuse-bad-lines"),
      *("--data.row-length=96", "--data.tile=32", "--data.vocab-size=400"),
      "--data.block-bytes=2500",
    ),
    undisturbed=root / "set",
  )
  corpus.prepare(corpus.undisturbed)
  return corpus


@pytest.fixture
def contents():
  """Return the SHA-256 of every file of a folder, by name."""

  def read(directory: pathlib.Path) -> dict[str, str]:
    return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in sorted(directory.iterdir())
    }

  return read
