"""The corpus of a study: who is trained, erased, never trained.

Owns the folder `corpus/` with `documents.jsonl` (trained sources),
`held_out.jsonl` (never trained), `erased.txt` (keys, one a line) and, for the
generated encyclopedia, `probes.jsonl`.

Invariant: a function of its settings; the folder appears when it is whole.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil

import numpy as np

from nulls_jax import errors
from nulls_jax.data import encyclopedia, readers

# Shorter texts say too little for a loss of their own.
_LEAST_CHARACTERS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
  """What a study is about.

  Attributes:
    documents: JSON Lines of real text; None for the encyclopedia.
    num_sources: people of the encyclopedia that are trained.
    num_never_trained: sources that no model sees.
    num_erased: sources that are erased.
    seed: of the encyclopedia and of the draws.
  """

  documents: pathlib.Path | None
  num_sources: int
  num_never_trained: int
  num_erased: int
  seed: int = 0

  def to_dict(self) -> dict:
    """Return what identifies the corpus, the documents by their digest."""
    values = dataclasses.asdict(self)
    if self.documents is None:
      return values
    digest = hashlib.sha256()
    try:
      with open(self.documents, "rb") as file:
        while block := file.read(1 << 20):
          digest.update(block)
    except OSError as error:
      raise errors.UserError(
        f"{self.documents} cannot be read ({error.strerror}); give a JSON "
        "Lines file"
      ) from None
    values["documents"] = digest.hexdigest()
    del values["num_sources"]
    return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """The files of a corpus; `probes` is None for real text."""

  documents: pathlib.Path
  held_out: pathlib.Path
  erased: pathlib.Path
  probes: pathlib.Path | None

  @property
  def erased_keys(self) -> list[str]:
    """Keys of the sources to erase."""
    return readers.read_keys(self.erased)


def make(config: CorpusConfig, directory: pathlib.Path) -> Corpus:
  """Write the corpus, or find it.

  Raises:
    errors.UserError: bad documents, or too few sources to draw from.
  """
  if not directory.exists():
    partial = directory.with_name(f"{directory.name}.partial")
    if partial.exists():
      shutil.rmtree(partial)
    partial.mkdir(parents=True)
    if config.documents is None:
      _generate(config, partial)
    else:
      _split(config, partial)
    os.replace(partial, directory)
  probes = directory / "probes.jsonl"
  return Corpus(
    documents=directory / "documents.jsonl",
    held_out=directory / "held_out.jsonl",
    erased=directory / "erased.txt",
    probes=probes if probes.exists() else None,
  )


def _generate(config: CorpusConfig, directory: pathlib.Path) -> None:
  people = encyclopedia.Encyclopedia(
    seed=config.seed,
    num_sources=config.num_sources,
    num_held_out=config.num_never_trained,
  )
  people.write(directory)
  keys = sorted({document["source"] for document in people.documents()})
  chosen = _draw(config, keys, config.num_erased, "the encyclopedia")
  _write_lines(directory / "erased.txt", sorted(chosen))


def _split(config: CorpusConfig, directory: pathlib.Path) -> None:
  """Take never-trained sources out of given documents."""
  size: dict[str, int] = {}
  for document in readers.read_documents(config.documents):
    size[document.source] = size.get(document.source, 0) + len(document.text)
  eligible = [
    key
    for key in sorted(size)
    if size[key] >= _LEAST_CHARACTERS and "\n" not in key and "\r" not in key
  ]
  chosen = _draw(
    config,
    eligible,
    config.num_erased + config.num_never_trained,
    f"{config.documents} with {_LEAST_CHARACTERS} characters or more",
  )
  erased = chosen[: config.num_erased]
  never = set(chosen[config.num_erased :])
  lines: dict[str, list[str]] = {"documents": [], "held_out": []}
  for document in readers.read_documents(config.documents):
    fields = {
      "source": document.source,
      "text": document.text,
      **document.metadata,
    }
    part = "held_out" if document.source in never else "documents"
    lines[part].append(json.dumps(fields, ensure_ascii=False))
  for name, content in lines.items():
    _write_lines(directory / f"{name}.jsonl", content)
  _write_lines(directory / "erased.txt", sorted(erased))


def _draw(config, keys: list[str], count: int, where: str) -> list[str]:
  if count >= len(keys):
    raise errors.UserError(
      f"num_erased={config.num_erased} and num_never_trained="
      f"{config.num_never_trained} leave nothing of the {len(keys)} sources "
      f"of {where}; lower them"
    )
  rng = np.random.default_rng([config.seed, len(keys)])
  return [keys[place] for place in rng.permutation(len(keys))[:count]]


def _write_lines(path: pathlib.Path, lines: list[str]) -> None:
  with open(path, "w", encoding="utf-8") as file:
    file.writelines(f"{line}\n" for line in lines)
    file.flush()
    os.fsync(file.fileno())
