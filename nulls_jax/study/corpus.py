"""The corpus of a study: who is trained, erased, never trained.

Owns the folder `corpus/` with `documents.jsonl` (trained sources),
`held_out.jsonl` (never trained), `erased.txt` (keys, one a line), for the
generated encyclopedia `probes.jsonl`, and `digests.json`, the SHA-256 of each,
by which an evaluation notices that one was changed.

Invariant: a function of its settings; the folder appears when it is whole.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import encyclopedia
from nulls_jax.data.reading import inputs
from nulls_jax.data.reading import keys as source_keys

# Shorter texts say too little for a loss of their own.
_LEAST_CHARACTERS = 200
_DIGESTS = "digests.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
  """What a study is about.

  Attributes:
    documents: JSON Lines of real text; None for the encyclopedia.
    num_sources: people of the encyclopedia that are trained.
    num_never_trained: sources that no model sees.
    num_erased: sources that are erased.
    seed: of the encyclopedia and of the draws.
    erased: keys of the sources that are erased, where documents are given
      and they are not to be drawn.
    never_trained: keys of the sources that no model sees, the same.
  """

  documents: pathlib.Path | None
  num_sources: int
  num_never_trained: int
  num_erased: int
  seed: int = 0
  erased: tuple[str, ...] = ()
  never_trained: tuple[str, ...] = ()

  def to_dict(self) -> dict:
    """Return what identifies the corpus, the documents by their digest."""
    values = dataclasses.asdict(self)
    for name in ("erased", "never_trained"):
      if not values[name]:
        del values[name]
    if self.documents is None:
      return values
    try:
      values["documents"] = files.sha256(self.documents)
    except OSError as error:
      raise errors.UserError(
        f"{self.documents} cannot be read ({error.strerror}); give a JSON "
        "Lines file"
      ) from None
    del values["num_sources"]
    return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
  """The files of a corpus; `probes` is None for real text."""

  documents: pathlib.Path
  held_out: pathlib.Path
  erased: pathlib.Path
  probes: pathlib.Path | None

  def inputs(self) -> dict[str, Any]:
    """Return the inputs of a protocol, with the digests of their making."""
    found: dict[str, Any] = {
      "documents": self.documents,
      "held_out": self.held_out,
      "forget": self.erased,
    }
    if self.probes is not None:
      found["probes"] = self.probes
    made = json.loads((self.documents.parent / _DIGESTS).read_text())
    digests = {name: made[path.name] for name, path in found.items()}
    return {**found, "digests": digests}

  @property
  def erased_keys(self) -> list[str]:
    """Keys of the sources to erase."""
    return source_keys.read_keys(self.erased)


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
    _write_digests(partial)
    os.replace(partial, directory)
  probes = directory / "probes.jsonl"
  return Corpus(
    documents=directory / "documents.jsonl",
    held_out=directory / "held_out.jsonl",
    erased=directory / "erased.txt",
    probes=probes if probes.exists() else None,
  )


def _write_digests(directory: pathlib.Path) -> None:
  digests = {
    path.name: files.sha256(path) for path in sorted(directory.iterdir())
  }
  _write_lines(directory / _DIGESTS, [json.dumps(digests, indent=2)])


def write_open(
  texts: Corpus, share: float, path: pathlib.Path, seed: int = 0
) -> None:
  """Write the trained documents with a share of the sources left unnamed.

  Documents of no source stand for text that nobody can ask to delete: they
  are always read by the backbone alone. Sources to erase keep their names.

  Args:
    texts: a corpus.
    share: of the other sources, more than 0 and less than 1.
    path: JSON Lines to write; `prepare` takes it with `allow_no_source`.
    seed: of the draw.
  """
  found = list(inputs.read_documents(texts.documents))
  erased = set(texts.erased_keys)
  others = sorted({document.source for document in found} - erased)
  order = np.random.default_rng([seed, len(others)]).permutation(len(others))
  unnamed = {others[place] for place in order[: round(share * len(others))]}
  _write_lines(
    path,
    [
      json.dumps(
        {
          "source": None if document.source in unnamed else document.source,
          "text": document.text,
        },
        ensure_ascii=False,
      )
      for document in found
    ],
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
  for document in inputs.read_documents(config.documents):
    size[document.source] = size.get(document.source, 0) + len(document.text)
  eligible = [
    key
    for key in sorted(size)
    if size[key] >= _LEAST_CHARACTERS and "\n" not in key and "\r" not in key
  ]
  erased, never = _choose(config, eligible)
  lines: dict[str, list[str]] = {"documents": [], "held_out": []}
  for document in inputs.read_documents(config.documents):
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


def _choose(config, eligible: list[str]) -> tuple[list[str], set[str]]:
  """Return the sources to erase and those to keep from every model."""
  if not config.erased and not config.never_trained:
    chosen = _draw(
      config,
      eligible,
      config.num_erased + config.num_never_trained,
      f"{config.documents} with {_LEAST_CHARACTERS} characters or more",
    )
    return chosen[: config.num_erased], set(chosen[config.num_erased :])
  named = [*config.erased, *config.never_trained]
  strange = sorted({repr(key) for key in named if key not in eligible})
  twice = sorted({repr(key) for key in named if named.count(key) > 1})
  if strange or twice:
    raise errors.UserError(
      f"{config.documents}: "
      f"{errors.listing(strange or twice)} "
      + (
        f"is no source of {_LEAST_CHARACTERS} characters or more"
        if strange
        else "is named twice"
      )
      + "; correct the keys to erase and to keep from training"
    )
  return list(config.erased), set(config.never_trained)


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
