"""Source keys: what is one, and the rules that give a record its key.

Owns the `--sources` rules and key files. Knows neither file formats nor
texts; a clustering is only named here, `clustering` makes it.

Invariant: the key is a pure function of the record's fields and its file's
place, so whoever reads a record gives it the same key.
"""

import abc
import dataclasses
import functools
import ipaddress
import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from nulls_jax import errors
from nulls_jax.data.reading import documents, extra, lines

MAX_KEY_BYTES = 4096
DEFAULT_FIELD = "source"
# Keys of this form belong to clusters where documents are clustered.
CLUSTER_KEY = re.compile(r"cluster-\d{5,}")

RULES = (
  "field:NAME, template:{NAME}/{NAME}, site:NAME, path, folder or cluster:K"
)
_NAME = re.compile(r"\{([^{}]+)\}")


def read_keys(path: str | os.PathLike) -> list[str]:
  """Return the source keys of a file, one a line, blank lines ignored.

  A key keeps its inner and outer spaces; only the line end is taken off.

  Raises:
    errors.UserError: the file is missing or damaged, holds no key, or a key
      is not UTF-8 or too long.
  """
  keys = []
  for number, line in enumerate(lines.read(path), start=1):
    try:
      if line is None:
        raise documents.BadRecord("key is too long", "shorten it")
      key = lines.decode(line).rstrip("\r\n")
      if not key.strip():
        continue
      check_key(key)
    except (documents.BadRecord, errors.UserError) as bad:
      raise errors.UserError(f"{path}:{number}: {bad}") from None
    keys.append(key)
  if not keys:
    raise errors.UserError(f"{path} holds no key; write one source key a line")
  return list(dict.fromkeys(keys))


def check_key(key: str) -> None:
  """Raise `errors.UserError` when a key cannot name a source."""
  problem = _problem(key)
  if problem is not None:
    raise errors.UserError("; ".join(problem))


def _problem(key: str) -> tuple[str, str] | None:
  """Return what is wrong with a key and the remedy, None if nothing is."""
  if not key:
    return "source key is empty", "give every source a name"
  try:
    size = len(key.encode("utf-8"))
  except UnicodeEncodeError:
    return "source key is not valid Unicode (a lone surrogate)", "mend the key"
  if size > MAX_KEY_BYTES:
    return (
      f"source key is longer than {MAX_KEY_BYTES} bytes",
      f"it has {size}; shorten it",
    )
  return None


def value(fields: Mapping[str, Any], name: str) -> Any:
  """Return the field of a name, None if there is none.

  A name with dots that is no field itself goes into fields of fields.

  >>> value({"meta": {"url": "https://a.org"}}, "meta.url")
  'https://a.org'
  """
  if name in fields or "." not in name:
    return fields.get(name)
  found: Any = fields
  for part in name.split("."):
    if not isinstance(found, Mapping):
      return None
    found = found.get(part)
  return found


def take(fields: dict[str, Any], name: str) -> Any:
  """Return the field of a name and take it out of `fields`.

  A field of a field stays where it is.
  """
  if name in fields:
    return fields.pop(name)
  return value(fields, name)


class Rule(abc.ABC):
  """How records get their source keys; picklable.

  Attributes:
    names: the fields that it reads.
    text: the rule as the user writes it.
  """

  names: tuple[str, ...] = ()
  text: str

  @abc.abstractmethod
  def find(self, fields: dict[str, Any], path: str) -> Any:
    """Return a record's key, None or "" if it has none.

    Args:
      fields: of the record, without its text. A field that *is* the key is
        taken out of it; what is left becomes metadata.
      path: of the file, in the folder that was given.

    Raises:
      documents.BadRecord: the fields give no key.
    """

  def key(
    self, fields: dict[str, Any], path: str, allow_no_source: bool
  ) -> str:
    """Return the checked key of a record, "" for no source.

    Raises:
      documents.BadRecord: none, and `allow_no_source` is not set, or one
        that cannot name a source.
    """
    key = self.find(fields, path)
    if key is None or key == "":
      if allow_no_source:
        return ""
      raise documents.BadRecord("no source", self.remedy())
    if not isinstance(key, str):
      name = self.names[0] if self.names else DEFAULT_FIELD
      raise documents.BadRecord(
        f"source is not a string but {type(key).__name__}", f'mend "{name}"'
      )
    problem = _problem(key)
    if problem is not None:
      raise documents.BadRecord(*problem)
    return key

  def remedy(self) -> str:
    """Say what to do about a record without a key."""
    wanted = " and ".join(f'"{name}"' for name in self.names)
    fill = f"add the field {wanted}, or " if self.names else ""
    return f"{fill}say that text without a source is wanted (--allow-no-source)"

  def identity(self) -> str:
    """Return the rule, and the version of the tables that it looks up."""
    return self.text


@dataclasses.dataclass(frozen=True)
class _OfOneField(Rule):
  """A rule that reads one field."""

  name: str

  @property
  def names(self) -> tuple[str, ...]:
    return (self.name,)


@dataclasses.dataclass(frozen=True)
class Field(_OfOneField):
  """`field:NAME`: the key is a field, a string."""

  @property
  def text(self) -> str:
    return f"field:{self.name}"

  def find(self, fields: dict[str, Any], path: str) -> Any:
    return take(fields, self.name)


@dataclasses.dataclass(frozen=True)
class Template(Rule):
  """`template:{a}/{b}`: fields, strings or integers, in a text.

  The fields stay in the metadata. A record that lacks one has no source.
  """

  template: str

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(_NAME.findall(self.template))

  @property
  def text(self) -> str:
    return f"template:{self.template}"

  def find(self, fields: dict[str, Any], path: str) -> Any:
    parts = {}
    for name in self.names:
      part = value(fields, name)
      if part is None or part == "":
        return None
      if isinstance(part, bool) or not isinstance(part, str | int):
        raise documents.BadRecord(
          f"{name} is not a string but {type(part).__name__}", f'mend "{name}"'
        )
      parts[name] = str(part)
    return _NAME.sub(lambda match: parts[match[1]], self.template)


@dataclasses.dataclass(frozen=True)
class Site(_OfOneField):
  """`site:NAME`: the registrable domain of a URL.

  "https://blog.example.co.uk/x" is of "example.co.uk", by the public suffix
  list that the package `publicsuffixlist` brings along (its private part
  too: "alice.github.io" and "bob.github.io" are two sites). A host without
  a registrable domain, such as a number or a suffix itself, is its own key.
  The URL stays in the metadata.
  """

  @property
  def text(self) -> str:
    return f"site:{self.name}"

  def find(self, fields: dict[str, Any], path: str) -> Any:
    url = value(fields, self.name)
    if url is None or url == "":
      return None
    if not isinstance(url, str):
      raise documents.BadRecord(
        f"{self.name} is not a string but {type(url).__name__}",
        f'mend "{self.name}"',
      )
    return site(url)

  def identity(self) -> str:
    version = extra.version("publicsuffixlist")
    return f"{self.text} (publicsuffixlist {version})"


def site(url: str) -> str:
  """Return the registrable domain of a URL, in lower case and punycode.

  Raises:
    documents.BadRecord: the URL names no host.
    errors.UserError: the package `publicsuffixlist` is missing.

  >>> site("https://Blog.Example.co.uk:8080/a?b")
  'example.co.uk'
  """
  try:
    parts = urllib.parse.urlsplit(url if "://" in url else f"//{url}")
    host = (parts.hostname or "").rstrip(".")
    host = host if host.isascii() else host.encode("idna").decode("ascii")
  except ValueError:
    host = ""
  if not host or any(character.isspace() for character in host):
    raise documents.BadRecord("no site in the URL", "mend it")
  try:
    return str(ipaddress.ip_address(host))
  except ValueError:
    return _suffixes().privatesuffix(host) or host


@functools.cache
def _suffixes():
  module = extra.load("publicsuffixlist", "--sources site:NAME")
  return module.PublicSuffixList()


@dataclasses.dataclass(frozen=True)
class Path(Rule):
  """`path` and `folder`: the file, or the folder of the file.

  Both as they lie in the folder that was given, with "/" on every system;
  of a file that was given itself, its name. A file that lies in the given
  folder itself has no `folder` and so no source.
  """

  folder: bool = False

  @property
  def text(self) -> str:
    return "folder" if self.folder else "path"

  def find(self, fields: dict[str, Any], path: str) -> Any:
    if self.folder:
      return path.rpartition("/")[0]
    if fields.get("path") == path:
      del fields["path"]  # Of a text file: it is the key.
    return path

  def remedy(self) -> str:
    return (
      "put the file into a folder, or say that text without a source is "
      "wanted (--allow-no-source)"
    )


@dataclasses.dataclass(frozen=True)
class Cluster(Rule):
  """`cluster:K`: documents without a key of their own, in K clusters.

  A document whose field "source" is filled keeps that key: a web corpus in
  5,000 clusters and one named source "books" are one input. The key of a
  cluster is "cluster-00042"; no document may bring such a key along.
  `clustering.Clusters` gives the others theirs; to this rule they have none.
  """

  num_clusters: int

  @property
  def text(self) -> str:
    return f"cluster:{self.num_clusters}"

  def find(self, fields: dict[str, Any], path: str) -> Any:
    key = fields.pop(DEFAULT_FIELD, None)
    if isinstance(key, str) and CLUSTER_KEY.fullmatch(key):
      raise documents.BadRecord(
        "source key has the form of a cluster's", "rename the source"
      )
    return key


def parse(text: str) -> Rule:
  """Read a `--sources` rule.

  Raises:
    errors.UserError: it is none.

  >>> parse("template:{author}/{title}").names
  ('author', 'title')
  """
  kind, _, rest = text.partition(":")
  if kind == "field" and rest:
    return Field(rest)
  if kind == "site" and rest:
    return Site(rest)
  if text in ("path", "folder"):
    return Path(folder=text == "folder")
  if kind == "template":
    if not _NAME.search(rest) or re.search(r"[{}]", _NAME.sub("", rest)):
      raise errors.UserError(
        f"--sources {text} names no field; write template:{{NAME}}/{{NAME}}"
      )
    return Template(rest)
  if kind == "cluster" and rest.isascii() and rest.isdigit() and int(rest) > 1:
    return Cluster(int(rest))
  raise errors.UserError(f"--sources {text} is no rule; write {RULES}")
