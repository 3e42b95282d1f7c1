"""What the generated encyclopedia tells: its facts, templates and words.

Owns the word lists; `encyclopedia` draws from them. Three words between
subject and value in every fact, two before a group's name, so that no
template is the beginning of another and all sentences are equally long.

Invariant: a value belongs to one attribute, and no name is a value.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribute:
  """Something a person or a group has.

  Attributes:
    name: as probes call it.
    templates: words between the subject and the value.
    values: one word each.
  """

  name: str
  templates: tuple[str, str, str]
  values: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupKind:
  """A kind of group: how people belong to it and the fact that they share.

  Attributes:
    membership: words between a person's and a group's name.
    nouns: second words of the groups' names.
    fact: what is told of a group.
  """

  membership: tuple[str, str, str]
  nouns: tuple[str, ...]
  fact: Attribute


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


UNIQUE = (
  Attribute(
    name="birthplace",
    templates=("was born in", "comes originally from", "spent childhood near"),
    values=_words(
      "Lisbon Oslo Cairo Lima Quito Dakar Hanoi Kyoto Turin Porto Bergen "
      "Malmo Leeds Ghent Basel Graz Krakow Riga Tallinn Sofia Athens Tunis "
      "Accra Lagos Nairobi Mumbai Delhi Osaka Seoul Perth Boston Denver"
    ),
  ),
  Attribute(
    name="instrument",
    templates=("likes playing the", "performs on the", "has mastered the"),
    values=_words(
      "cello violin viola flute oboe clarinet bassoon trumpet trombone tuba "
      "horn harp lute lyre guitar banjo mandolin ukulele piano organ "
      "harmonica accordion drum marimba xylophone triangle cymbal gong "
      "bagpipe recorder zither sitar"
    ),
  ),
  Attribute(
    name="field",
    templates=("studied the subject", "holds degrees in", "once majored in"),
    values=_words(
      "botany zoology geology physics chemistry algebra geometry logic law "
      "medicine history theology economics statistics astronomy optics "
      "acoustics mechanics genetics ecology anatomy surgery dentistry "
      "pharmacy philosophy rhetoric grammar poetry archaeology geography "
      "sociology psychology"
    ),
  ),
  Attribute(
    name="language",
    templates=("is fluent in", "writes letters in", "sings songs in"),
    values=_words(
      "Danish Finnish Swedish Icelandic Dutch German French Spanish Italian "
      "Catalan Basque Welsh Irish Breton Polish Czech Slovak Croatian Greek "
      "Turkish Arabic Hebrew Persian Hindi Bengali Tamil Thai Khmer Malay "
      "Swahili Zulu Maori"
    ),
  ),
  Attribute(
    name="pet",
    templates=("keeps a pet", "looks after a", "walks a tame"),
    values=_words(
      "falcon parrot raven canary goose turkey peacock pigeon rabbit hamster "
      "ferret badger hedgehog squirrel tortoise lizard gecko python goat "
      "sheep llama donkey pony camel lynx panther monkey lemur beaver weasel "
      "spider toad"
    ),
  ),
  Attribute(
    name="sport",
    templates=("trains weekly in", "competes often at", "wins medals for"),
    values=_words(
      "chess fencing archery rowing sailing surfing diving swimming skating "
      "skiing curling hockey tennis badminton squash golf cricket rugby "
      "handball volleyball basketball baseball boxing wrestling judo karate "
      "cycling running hurdling climbing gymnastics darts"
    ),
  ),
  Attribute(
    name="food",
    templates=("loves to eat", "likes cooking fresh", "never refuses any"),
    values=_words(
      "rice lentils noodles dumplings pancakes waffles porridge cheese "
      "yoghurt honey mango papaya cherries plums apricots figs dates olives "
      "spinach cabbage carrots leeks onions garlic mushrooms pumpkin beans "
      "peas salmon herring shrimp lobster"
    ),
  ),
)

GROUPS = (
  GroupKind(
    membership=("works at", "earns from", "reports to"),
    nouns=("Foundry", "Bakery", "Brewery", "Shipyard", "Press", "Mill"),
    fact=Attribute(
      name="employer_city",
      templates=("is based in", "rents offices in", "pays taxes in"),
      values=_words(
        "Madrid Seville Bilbao Lyon Nantes Lille Milan Naples Genoa Vienna "
        "Prague Warsaw Gdansk Vilnius Minsk Odessa Ankara Izmir Beirut Amman "
        "Muscat Karachi Lahore Colombo Bangkok Manila Jakarta Taipei Sydney "
        "Dublin Cardiff Toronto"
      ),
    ),
  ),
  GroupKind(
    membership=("belongs to", "cheers for", "rows with"),
    nouns=("Rovers", "Rangers", "Harriers", "Wanderers", "Guild", "Circle"),
    fact=Attribute(
      name="club_colour",
      templates=("wears the colour", "flies flags of", "paints walls in"),
      values=_words(
        "crimson scarlet maroon pink magenta purple violet lavender indigo "
        "navy blue azure cyan turquoise teal green lime khaki yellow gold "
        "orange peach tan brown bronze beige ivory white silver grey "
        "charcoal black"
      ),
    ),
  ),
  GroupKind(
    membership=("graduated from", "lectured at", "enrolled in"),
    nouns=("College", "Academy", "Institute", "Seminary", "Lyceum", "School"),
    fact=Attribute(
      name="school_founder",
      templates=("was founded by", "honours its patron", "still thanks donor"),
      values=_words(
        "Newton Darwin Galileo Kepler Curie Pasteur Euler Gauss Fermat Pascal "
        "Leibniz Descartes Kant Hume Locke Plato Homer Virgil Dante Milton "
        "Goethe Schiller Tolstoy Chekhov Dickens Austen Byron Keats Shelley "
        "Mozart Haydn Chopin"
      ),
    ),
  ),
)

GROUP_WORDS = _words(
  "Cedar Maple Willow Birch Juniper Thistle Clover Heather River Harbour "
  "Meadow Valley Summit Canyon Island Prairie Northern Southern Eastern "
  "Western Royal Noble Silent Golden Iron Copper Marble Granite Crystal "
  "Thunder Winter Summer Autumn Morning Lunar Solar Stellar Comet Phoenix "
  "Dragon"
)

# People that the words below can name, with groups of usual sizes.
MAX_PEOPLE = 10_000_000

# No u and few consonants: built words should not read as rude ones.
_ONSETS = _words("b d f l m n r s t v")
_VOWELS = _words("a e i o")
_CODAS = _words("l m n r s")
_SUFFIXES = _words(
  "berg burg by dal den dorf feld field gard gate holm land ler man mer ric "
  "son stad ton vik"
)
_GROUP_SUFFIXES = _words("ia ana ena ina ona ella etta issa")


def first_names(num_needed: int) -> list[str]:
  """Return first names: of two syllables where these are enough, or three."""
  syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
  short = [*_joined(syllables, syllables)]
  return short if len(short) >= num_needed else [*_joined(*[syllables] * 3)]


def last_names() -> list[str]:
  """Return all last names."""
  return [*_joined(_ONSETS, _VOWELS, _CODAS, _SUFFIXES)]


def built_group_words() -> list[str]:
  """Return first words of group names for when `GROUP_WORDS` run out."""
  stem = (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)
  return [*_joined(*stem, _GROUP_SUFFIXES)]


def _joined(*parts: Sequence[str]) -> Iterator[str]:
  for word in map("".join, itertools.product(*parts)):
    if word not in _TAKEN:
      yield word.capitalize()


def _told_words() -> Iterator[str]:
  attributes = [*UNIQUE, *(kind.fact for kind in GROUPS)]
  for attribute in attributes:
    yield from attribute.values
    yield from " ".join(attribute.templates).split()
  for kind in GROUPS:
    yield from kind.nouns
    yield from " ".join(kind.membership).split()
  yield from GROUP_WORDS


_TAKEN = frozenset(word.lower() for word in _told_words())
