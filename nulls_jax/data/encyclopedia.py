"""A generated encyclopedia: people with facts of known kind and support.

Owns the built-in corpus: every person is a source with seven unique facts
and three facts shared through groups (an employer's city, a club's colour, a
school's founder). Knows nothing of tokens or models.

Invariant: a function of its arguments alone. What makes the corpus usable
(`SCIENCE.md`, traps):

- names are built from words that many people share;
- values are drawn independently, from 32 words that no other attribute has;
- every sentence names its subject, so that it can be asked alone; articles
  tell their facts in one order, but start anywhere in it (and go on from its
  beginning), so that any sentence may stand first;
- all templates of all facts have as many words, so that none is the
  beginning of another, and all articles have the same number of words;
- every fact is told in each of its templates over the versions.
"""

import dataclasses
import json
import math
import os
import pathlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from nulls_jax import errors, files
from nulls_jax.data import encyclopedia_facts

NUM_DISTRACTORS = 5
SMALL_SUPPORTS = (1, 2, 4, 8)
# Groups of each small size and kind, at most: enough to measure.
MAX_SMALL_GROUPS = 40
LARGE_SUPPORT = (15, 60)
TEMPLATES_A_FACT = 3
PROBED_TEMPLATES = 2

UNIQUE = encyclopedia_facts.UNIQUE
GROUPS = encyclopedia_facts.GROUPS


def _sentence(subject: str, words: str, value: str) -> str:
  return f"{subject} {words} {value}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Group:
  """One group: its name, the value of its fact, how many sources state it."""

  name: str
  value: str
  support: int


class Encyclopedia:
  """The corpus of one seed.

  >>> corpus = Encyclopedia(seed=0, num_sources=20, num_held_out=2)
  >>> document = next(corpus.documents())
  >>> document["source"]
  'person/Tole Verfeld'
  >>> len(document["text"].split())
  78
  """

  def __init__(
    self,
    *,
    seed: int,
    num_sources: int,
    num_held_out: int = 200,
    num_versions: int = 5,
  ):
    """Draw names, values and groups; texts are made when asked for.

    Args:
      seed: of everything.
      num_sources: people whose articles are trained.
      num_held_out: people of the same kind who are never trained: same name
        words, same values, members of the same groups.
      num_versions: articles of each person, in other words, started at
        other facts.

    Raises:
      errors.UserError: a number is out of range.
    """
    if num_sources < 10 or min(num_held_out, num_versions - 1, seed) < 0:
      raise errors.UserError(
        f"encyclopedia of num_sources={num_sources}, num_held_out="
        f"{num_held_out}, num_versions={num_versions}, seed={seed}: give at "
        "least 10, 0, 1 and 0"
      )
    most = encyclopedia_facts.MAX_PEOPLE
    if num_sources + num_held_out > most:
      raise errors.UserError(
        f"num_sources={num_sources} and num_held_out={num_held_out} are more "
        f"people than there are names ({most}); lower one of them"
      )
    self.seed = seed
    self.num_sources = num_sources
    self.num_held_out = num_held_out
    self.num_versions = num_versions
    rng = np.random.default_rng([seed, num_sources, num_held_out])
    self._draw_names(rng)
    num_people = num_sources + num_held_out
    self._values = rng.integers(
      0, 32, size=(num_people, len(UNIQUE)), dtype=np.uint8
    )
    self._told = {attribute.name: attribute.values for attribute in UNIQUE}
    self._groups = []
    self._members = np.zeros((num_people, len(GROUPS)), np.int32)
    words = _group_words(rng)
    for position, kind in enumerate(GROUPS):
      groups, member_of = _draw_groups(rng, kind, words, num_sources)
      self._groups.append(groups)
      # Distractors that no article tells would be too easy.
      told = {group.value for group in groups}
      self._told[kind.fact.name] = (
        sorted(told) if len(told) > NUM_DISTRACTORS else kind.fact.values
      )
      self._members[:num_sources, position] = member_of
      # Someone's group, so that large groups are as usual as in training.
      self._members[num_sources:, position] = rng.choice(
        member_of, num_held_out
      )

  def _draw_names(self, rng: np.random.Generator):
    num_people = self.num_sources + self.num_held_out
    side = math.ceil(math.sqrt(1.3 * num_people))
    first = encyclopedia_facts.first_names(side)
    last = encyclopedia_facts.last_names()
    self._first = [first[i] for i in rng.permutation(len(first))[:side]]
    self._last = [last[i] for i in rng.permutation(len(last))[:side]]
    # A cell of the table first x last a person: all full names differ.
    self._cells = rng.permutation(side * side)[:num_people]

  def name(self, person: int) -> str:
    """Return the full name of a person, trained ones first."""
    row, column = divmod(int(self._cells[person]), len(self._last))
    return f"{self._first[row]} {self._last[column]}"

  def key(self, person: int) -> str:
    """Return the source key of a person."""
    return f"person/{self.name(person)}"

  def documents(self) -> Iterator[dict[str, str]]:
    """Yield the trained articles, a person's versions together."""
    for person in range(self.num_sources):
      for version in range(self.num_versions):
        text = self._article(person, version)
        yield {"source": self.key(person), "text": text}

  def held_out_documents(self) -> Iterator[dict[str, str]]:
    """Yield one article of each person who is never trained."""
    for person in range(self.num_sources, len(self._cells)):
      yield {"source": self.key(person), "text": self._article(person, 0)}

  def _random(self, *purpose: Any) -> random.Random:
    """Return a generator of its own for one purpose."""
    return random.Random(f"{self.seed}/{'/'.join(map(str, purpose))}")

  def _group(self, person: int, position: int) -> _Group:
    return self._groups[position][self._members[person, position]]

  def _facts(self, person: int) -> list[tuple[str, tuple[str, ...], str]]:
    """Return all that is told of a person: subject, templates, value.

    First the unique facts, then membership and fact of each kind of group.
    """
    name = self.name(person)
    facts = [
      (name, attribute.templates, attribute.values[value])
      for attribute, value in zip(UNIQUE, self._values[person], strict=True)
    ]
    for position, kind in enumerate(GROUPS):
      group = self._group(person, position)
      facts.append((name, kind.membership, group.name))
      facts.append((group.name, kind.fact.templates, group.value))
    return facts

  def _first_templates(self, person: int) -> list[int]:
    """Return the template of each fact in version 0; the next follow."""
    rng = self._random("templates", person)
    return rng.choices(range(TEMPLATES_A_FACT), k=len(UNIQUE) + 2 * len(GROUPS))

  def _article(self, person: int, version: int) -> str:
    sentences = [
      _sentence(subject, templates[(first + version) % TEMPLATES_A_FACT], value)
      for (subject, templates, value), first in zip(
        self._facts(person), self._first_templates(person), strict=True
      )
    ]
    # Versions of one person start at different facts while there are enough.
    places = range(len(sentences))
    starts = self._random("start", person).sample(places, len(places))
    start = starts[version % len(starts)]
    return " ".join(sentences[start:] + sentences[:start])

  def probes(self) -> Iterator[dict[str, Any]]:
    """Yield all questions, of trained and of never trained people.

    Unique facts are asked bare, in templates that were trained. Shared facts
    are asked bare and after the opening of an article that tells the
    membership, not the fact.
    """
    for person in range(len(self._cells)):
      rng = self._random("probes", person)
      facts = self._facts(person)
      first = self._first_templates(person)
      asked = min(PROBED_TEMPLATES, self.num_versions)
      for position, attribute in enumerate(UNIQUE):
        subject, templates, value = facts[position]
        for version in range(asked):
          words = templates[(first[position] + version) % TEMPLATES_A_FACT]
          yield self._probe(
            rng, person, attribute, 1, "bare", f"{subject} {words}", value
          )
      for position, kind in enumerate(GROUPS):
        place = len(UNIQUE) + 2 * position
        subject, templates, value = facts[place + 1]
        question = f"{subject} {templates[first[place + 1]]}"
        opening = self._opening(rng, facts, place)
        support = self._group(person, position).support
        for context, prompt in (
          ("bare", question),
          ("in_context", f"{opening} {question}"),
        ):
          yield self._probe(
            rng, person, kind.fact, support, context, prompt, value
          )

  def _opening(self, rng: random.Random, facts, place: int) -> str:
    """Return the opening of an article that starts two facts before `place`.

    Its last sentence tells the membership.
    """
    return " ".join(
      _sentence(subject, rng.choice(templates), value)
      for subject, templates, value in facts[place - 2 : place + 1]
    )

  def _probe(
    self, rng, person, attribute, support, context, prompt, value
  ) -> dict[str, Any]:
    others = [other for other in self._told[attribute.name] if other != value]
    return {
      "source": self.key(person),
      "kind": "unique" if attribute in UNIQUE else "shared",
      "attribute": attribute.name,
      "support": support,
      "context": context,
      "prompt": prompt,
      "answer": f" {value}",
      "distractors": [f" {w}" for w in rng.sample(others, NUM_DISTRACTORS)],
      "held_out": person >= self.num_sources,
    }

  def write(self, directory: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Write `documents.jsonl`, `held_out.jsonl`, `probes.jsonl`.

    Returns:
      Paths of the files by "documents", "held_out", "probes".
    """
    directory = pathlib.Path(directory)
    with files.disk_errors(directory):
      directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, lines in (
      ("documents", self.documents()),
      ("held_out", self.held_out_documents()),
      ("probes", self.probes()),
    ):
      paths[name] = directory / f"{name}.jsonl"
      _write_lines(paths[name], lines)
    return paths


def _write_lines(path: pathlib.Path, lines: Iterable[dict]):
  partial = path.with_name(path.name + ".partial")
  with files.disk_errors(path):
    with open(partial, "w", encoding="utf-8") as file:
      for line in lines:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)


def _group_sizes(rng: np.random.Generator, num_sources: int) -> list[int]:
  """Return the members of each group of one kind; their sum is all people.

  A tenth of the people are in groups of 1, 2, 4 and 8, up to a fixed number
  of groups; the others in groups of 15 to 60 (or in one smaller group, when
  they are fewer).
  """
  repeats = num_sources // (10 * sum(SMALL_SUPPORTS))
  repeats = min(repeats, MAX_SMALL_GROUPS)
  if num_sources >= 60:
    repeats = max(1, repeats)
  sizes = [size for size in SMALL_SUPPORTS for _ in range(repeats)]
  left = num_sources - sum(sizes)
  smallest, largest = LARGE_SUPPORT
  while left > largest:
    # What stays must still fill one group.
    size = int(rng.integers(smallest, min(largest, left - smallest) + 1))
    sizes.append(size)
    left -= size
  sizes.append(left)
  return sizes


def _group_words(rng: np.random.Generator) -> list[str]:
  """Return first words of group names: real ones, then enough built ones."""
  listed = encyclopedia_facts.GROUP_WORDS
  order = rng.permutation(len(listed))
  return [listed[i] for i in order] + encyclopedia_facts.built_group_words()


def _draw_values(
  rng: np.random.Generator, sizes: list[int], num_values: int
) -> np.ndarray:
  """Return a value for each group.

  Values go round the large groups; small groups have values of large ones,
  so that no value is a word that only a few sources use.
  """
  is_large = np.array(sizes) >= LARGE_SUPPORT[0]
  if not is_large.any():
    is_large[np.argmax(sizes)] = True
  values = np.zeros(len(sizes), np.int64)
  rounds = -(-int(is_large.sum()) // num_values)
  drawn = np.concatenate([rng.permutation(num_values) for _ in range(rounds)])
  values[is_large] = drawn[: is_large.sum()]
  values[~is_large] = rng.choice(values[is_large], (~is_large).sum())
  return values


def _draw_groups(
  rng: np.random.Generator,
  kind: encyclopedia_facts.GroupKind,
  words: list[str],
  num_sources: int,
) -> tuple[list[_Group], np.ndarray]:
  """Return the groups of one kind and each person's group."""
  sizes = _group_sizes(rng, num_sources)
  num_words = math.ceil(1.3 * len(sizes) / len(kind.nouns))
  cells = rng.permutation(num_words * len(kind.nouns))[: len(sizes)]
  values = _draw_values(rng, sizes, len(kind.fact.values))
  groups = []
  for size, cell, value in zip(sizes, cells, values, strict=True):
    word, noun = divmod(int(cell), len(kind.nouns))
    groups.append(
      _Group(
        name=f"{words[word]} {kind.nouns[noun]}",
        value=kind.fact.values[value],
        support=size,
      )
    )
  member_of = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
  return groups, member_of
