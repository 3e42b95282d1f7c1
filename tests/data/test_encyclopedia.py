"""The encyclopedia: its facts are what it says they are (SCIENCE, traps)."""

import collections
import doctest
import itertools
import json
import re

import pytest

from nulls_jax import errors
from nulls_jax.data import encyclopedia, encyclopedia_facts


@pytest.fixture(scope="module")
def corpus():
  return encyclopedia.Encyclopedia(seed=3, num_sources=600)


@pytest.fixture(scope="module")
def documents(corpus):
  return list(corpus.documents())


@pytest.fixture(scope="module")
def probes(corpus):
  return list(corpus.probes())


def _all_templates():
  for attribute in encyclopedia.UNIQUE:
    yield from attribute.templates
  for kind in encyclopedia.GROUPS:
    yield from kind.fact.templates
    yield from kind.membership


def _sentences(text):
  assert text.endswith(".")
  return text[:-1].split(". ")


def test_examples_in_docstrings():
  result = doctest.testmod(encyclopedia)
  assert result.attempted >= 3
  assert result.failed == 0


def test_pinned():
  """Other facts or words would make recorded results incomparable."""
  corpus = encyclopedia.Encyclopedia(seed=7, num_sources=10, num_held_out=1)
  text = next(corpus.documents())["text"]
  assert sorted(_sentences(text)) == PINNED, "on purpose? then pin the new"


PINNED = [
  "Harbour Academy still thanks donor Pascal",
  "Harbour Press is based in Genoa",
  "Harbour Rovers flies flags of orange",
  "Vomi Narvik cheers for Harbour Rovers",
  "Vomi Narvik has mastered the xylophone",
  "Vomi Narvik lectured at Harbour Academy",
  "Vomi Narvik likes cooking fresh pancakes",
  "Vomi Narvik looks after a weasel",
  "Vomi Narvik once majored in grammar",
  "Vomi Narvik reports to Harbour Press",
  "Vomi Narvik spent childhood near Athens",
  "Vomi Narvik trains weekly in chess",
  "Vomi Narvik writes letters in Greek",
]


def test_no_template_is_the_beginning_of_another():
  templates = list(_all_templates())
  assert len(set(templates)) == len(templates)
  for one, other in itertools.permutations(templates, 2):
    assert not f"{other} ".startswith(f"{one} ")
  facts = [*encyclopedia.UNIQUE, *(kind.fact for kind in encyclopedia.GROUPS)]
  assert {len(t.split()) for f in facts for t in f.templates} == {3}
  assert {
    len(t.split()) for kind in encyclopedia.GROUPS for t in kind.membership
  } == {2}


def test_values_belong_to_one_attribute():
  facts = [*encyclopedia.UNIQUE, *(kind.fact for kind in encyclopedia.GROUPS)]
  values = [value.lower() for fact in facts for value in fact.values]
  assert len(values) == 32 * 10
  assert len(set(values)) == len(values)
  taken = {
    *values,
    *(word.lower() for word in encyclopedia_facts.GROUP_WORDS),
    *(noun.lower() for kind in encyclopedia.GROUPS for noun in kind.nouns),
  }
  names = [
    *encyclopedia_facts.first_names(10),
    *encyclopedia_facts.first_names(3000),
    *encyclopedia_facts.last_names(),
    *encyclopedia_facts.built_group_words(),
  ]
  assert len(set(names)) == len(names)
  assert not taken.intersection(name.lower() for name in names)
  for kind, other in itertools.combinations(encyclopedia.GROUPS, 2):
    assert not set(kind.nouns) & set(other.nouns)


def test_articles_have_one_shape(documents):
  assert len(documents) == 3000
  assert {len(d["text"].split()) for d in documents} == {78}
  for document in documents:
    sentences = _sentences(document["text"])
    assert len(sentences) == 13
    name = document["source"].removeprefix("person/")
    about_groups = [s for s in sentences if not s.startswith(name + " ")]
    assert len(about_groups) == 3
    # A group's sentence names a group that the person is told to belong to.
    for sentence in about_groups:
      group = " ".join(sentence.split()[:2])
      assert any(s.endswith(f" {group}") for s in sentences)


def test_versions_differ_and_cover_every_template(documents):
  by_source = collections.defaultdict(list)
  for document in documents:
    by_source[document["source"]].append(document["text"])
  assert len(by_source) == 600
  for texts in by_source.values():
    assert len(set(texts)) >= 3
    told = {sentence for text in texts for sentence in _sentences(text)}
    assert len(told) == 13 * 3
  starts = collections.Counter(
    document["text"].split()[2] for document in documents
  )
  # Any sentence may come first: groups' facts in 3 of 13 articles.
  groups = sum(
    not d["text"].startswith(d["source"].removeprefix("person/"))
    for d in documents
  )
  assert 0.19 < groups / len(documents) < 0.27
  assert len(starts) > 25


def test_name_words_are_shared(documents, corpus):
  sources = {document["source"] for document in documents}
  words = [key.removeprefix("person/").split() for key in sources]
  for position in (0, 1):
    counts = collections.Counter(pair[position] for pair in words)
    assert min(counts.values()) >= 8
  held_out = {d["source"] for d in corpus.held_out_documents()}
  assert len(held_out) == 200
  assert not held_out & sources
  trained_words = {word for pair in words for word in pair}
  for key in held_out:
    assert set(key.removeprefix("person/").split()) <= trained_words


def test_every_word_is_used_by_many_sources(documents, corpus):
  """Trap 1: a word with one source needs no sink to carry its facts."""
  sources = collections.defaultdict(set)
  for document in documents:
    for word in re.findall(r"\w+", document["text"]):
      sources[word].add(document["source"])
  assert min(map(len, sources.values())) >= 5
  for document in corpus.held_out_documents():
    assert set(re.findall(r"\w+", document["text"])) <= set(sources)


def test_support_counts_are_true(documents, probes):
  told = collections.defaultdict(set)
  for document in documents:
    for sentence in _sentences(document["text"]):
      subject, value = sentence.split()[:2], sentence.split()[-1]
      told[" ".join(subject), value].add(document["source"])
  supports = collections.Counter()
  for probe in probes:
    if probe["kind"] == "unique":
      assert probe["support"] == 1
      continue
    question = probe["prompt"].split(". ")[-1]
    subject = " ".join(question.split()[:2])
    stating = told[subject, probe["answer"].strip()]
    assert len(stating) == probe["support"]
    assert probe["held_out"] != (probe["source"] in stating)
    if not probe["held_out"] and probe["context"] == "bare":
      supports[probe["support"]] += 1
  assert {n for n in supports if n < 15} == {1, 2, 4, 8}
  assert supports[1] == 12
  assert max(supports) <= 60
  assert sum(n for s, n in supports.items() if s >= 15) == 3 * 540


def test_unique_values_are_independent(corpus, probes):
  answers = collections.defaultdict(dict)
  for probe in probes:
    if probe["kind"] == "unique":
      answers[probe["attribute"]][probe["source"]] = probe["answer"]
  assert len(answers) == 7
  for by_source in answers.values():
    counts = collections.Counter(by_source.values())
    assert len(counts) == 32
    # 800 draws of 32 values: 25 each, standard deviation 4.9.
    assert max(counts.values()) < 25 + 5 * 4.9
  for one, other in itertools.combinations(answers.values(), 2):
    # Mutual information of independent draws is about 31 * 31 / (2 n).
    pairs = collections.Counter((one[s], other[s]) for s in one)
    assert max(pairs.values()) <= 7


def test_probes_ask_what_was_told(documents, probes):
  texts = collections.defaultdict(list)
  for document in documents:
    texts[document["source"]].append(document["text"])
  per_person = collections.Counter(p["source"] for p in probes)
  assert set(per_person.values()) == {7 * 2 + 3 * 2}
  assert len(per_person) == 800
  for probe in probes:
    assert probe["answer"].startswith(" ")
    assert not probe["prompt"].endswith(" ")
    assert len(set(probe["distractors"])) == 5
    assert probe["answer"] not in probe["distractors"]
    assert probe["held_out"] == (probe["source"] not in texts)
    *opening, question = probe["prompt"].split(". ")
    if not probe["held_out"]:
      sentence = f"{question}{probe['answer']}."
      assert any(sentence in text for text in texts[probe["source"]])
    if probe["context"] == "bare":
      assert not opening
    else:
      name = probe["source"].removeprefix("person/")
      group = " ".join(question.split()[:2])
      assert len(opening) == 3
      assert any(
        sentence.startswith(name) and sentence.endswith(group)
        for sentence in opening
      )
      assert probe["answer"] not in " ".join(opening)


def test_distractors_are_told_elsewhere(documents, probes):
  words = {word for d in documents for word in re.findall(r"\w+", d["text"])}
  for probe in probes:
    assert {d.strip() for d in probe["distractors"]} <= words


def test_deterministic_and_seeded(corpus, documents):
  again = encyclopedia.Encyclopedia(seed=3, num_sources=600)
  assert list(again.documents()) == documents
  other = encyclopedia.Encyclopedia(seed=4, num_sources=600)
  assert next(other.documents()) != documents[0]


@pytest.mark.parametrize("num_sources", [10, 59, 61, 100, 151, 5000])
def test_any_number_of_sources(num_sources):
  corpus = encyclopedia.Encyclopedia(
    seed=0, num_sources=num_sources, num_held_out=3, num_versions=1
  )
  documents = list(corpus.documents())
  assert len({d["source"] for d in documents}) == num_sources
  supports = {}
  for probe in corpus.probes():
    if probe["kind"] == "shared" and not probe["held_out"]:
      group = " ".join(probe["prompt"].split(". ")[-1].split()[:2])
      supports[group] = probe["support"]
  assert sum(supports.values()) == 3 * num_sources


def test_millions_of_sources_start_at_once():
  corpus = encyclopedia.Encyclopedia(seed=0, num_sources=1_000_000)
  assert next(corpus.documents())["source"].startswith("person/")
  assert len(list(corpus.held_out_documents())) == 200


@pytest.mark.parametrize(
  "numbers",
  [
    {"num_sources": 9},
    {"num_sources": 10, "num_versions": 0},
    {"num_sources": 10, "num_held_out": -1},
    {"num_sources": 10, "seed": -1},
  ],
)
def test_bad_numbers(numbers):
  with pytest.raises(errors.UserError, match="give at least 10, 0, 1 and 0"):
    encyclopedia.Encyclopedia(**{"seed": 0, **numbers})


def test_more_people_than_names():
  with pytest.raises(errors.UserError, match="more people than there are"):
    encyclopedia.Encyclopedia(seed=0, num_sources=10_000_000)


def test_write(tmp_path, corpus, documents, probes):
  paths = corpus.write(tmp_path / "new" / "corpus")
  lines = {
    name: [json.loads(line) for line in path.read_text().splitlines()]
    for name, path in paths.items()
  }
  assert lines["documents"] == documents
  assert lines["held_out"] == list(corpus.held_out_documents())
  assert lines["probes"] == probes
  assert sorted(p.name for p in (tmp_path / "new" / "corpus").iterdir()) == [
    "documents.jsonl",
    "held_out.jsonl",
    "probes.jsonl",
  ]
