"""What an evaluation is given: texts, questions, and who is to be forgotten.

Owns which files may be given and how they become one value. Knows neither
runs nor routing.

Invariant: the same files give the same value on every machine; a file that
cannot be used raises one clear line before a model is loaded.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nulls_jax import errors
from nulls_jax.data.reading import keys as source_keys
from nulls_jax.evaluation import formats
from nulls_jax.evaluation import probes as probes_lib

# A file, or {"path": file, "format": name, ...}, see `formats.Spec`.
Given = str | os.PathLike | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """All that is asked about, read once and used for every run.

  Attributes:
    documents: texts of trained sources by key, those to forget included; in
      the order of the file.
    held_out: texts of never-trained sources by key.
    probes: questions about any of them; a probe's number is its place.
    forget: keys of the sources that are, or were, to be erased.
    public: texts of no source and no population; may be empty.
  """

  documents: Mapping[str, Sequence[str]]
  held_out: Mapping[str, Sequence[str]]
  probes: tuple[probes_lib.Probe, ...]
  forget: tuple[str, ...] = ()
  public: tuple[str, ...] = ()

  @property
  def held_out_keys(self) -> set[str]:
    """Keys of never-trained sources that have a text or a probe."""
    asked = {probe.source for probe in self.probes if probe.held_out}
    return asked | set(self.held_out)

  @property
  def trained_keys(self) -> set[str]:
    """Keys of other sources that have a text or a probe."""
    asked = {probe.source for probe in self.probes if not probe.held_out}
    return asked | set(self.documents)

  def texts(self, population: str) -> Mapping[str, Sequence[str]]:
    """Return the texts, by key, in which a population's are to be found."""
    return self.held_out if population == "held_out" else self.documents


def read(
  *,
  documents: Given | Sequence[Given] = None,
  held_out: Given | Sequence[Given] = None,
  probes: Given | Sequence[Given] = None,
  forget: str | os.PathLike | None = None,
  public: Given | Sequence[Given] = None,
) -> Inputs:
  """Read the files of an evaluation; what is None stays empty.

  Each is a file, an object with "path" and what is said about its shape (see
  `formats`), or a list of these.

  Args:
    documents: texts of the trained sources: JSON Lines as for `prepare`, or
      in the shape of a common suite.
    held_out: the same of never-trained sources.
    probes: questions: JSON Lines as `nulls encyclopedia` writes them, or in
      the shape of a common suite.
    forget: file of source keys, one a line.
    public: JSON Lines of texts; their sources are not looked at.

  Raises:
    errors.UserError: a file is missing, empty or damaged, or a line is not
      what it should be; nothing to ask at all.
  """
  asked = [probe for one in _all(probes) for probe in formats.read_probes(one)]
  found = Inputs(
    documents=_texts(documents),
    held_out=_texts(held_out),
    probes=tuple(asked),
    forget=() if forget is None else tuple(source_keys.read_keys(forget)),
    public=tuple(
      text for one in _all(public) for text in formats.read_public(one)
    ),
  )
  if not found.documents and not found.held_out and not found.probes:
    raise errors.UserError(
      "nothing to score; give --documents, --held-out or --probes"
    )
  return found


def _all(given) -> list[Given]:
  """Return what is given, one or several, as a list."""
  if given is None:
    return []
  if isinstance(given, Sequence) and not isinstance(given, str):
    return list(given)
  return [given]


def _texts(given) -> dict[str, list[str]]:
  found: dict[str, list[str]] = {}
  for one in _all(given):
    for key, texts in formats.read_texts(one).items():
      found.setdefault(key, []).extend(texts)
  return found


def draw(keys: Iterable[str], count: int, seed: int) -> list[str]:
  """Draw `count` of the keys, in their order; all if there are fewer."""
  keys = list(keys)
  if len(keys) <= count:
    return keys
  rng = np.random.default_rng([seed, len(keys)])
  places = np.sort(rng.choice(len(keys), count, replace=False))
  return [keys[place] for place in places]
