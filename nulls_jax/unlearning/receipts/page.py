"""The receipt as one page that a person prints and files.

Owns what the page says and in which order. It says nothing that the
statement does not; everything that comes from data is escaped.

Invariant: the page is a function of the statement's bytes, so that `verify`
can tell an edited page. A change of this module or its template that shows
in a page needs the next `FORMAT`.
"""

import datetime
from typing import Any

import jinja2

FORMAT = 1

_TEMPLATE = "receipt.html.j2"
# More would not fit a page; the statement lists them all.
_MAX_SOURCES = 40

_ACTIONS = {
  "erase": {
    "title": "Receipt of an erasure",
    "lead": "{sources} erased from {steps} of a language model.",
  },
  "repair": {
    "title": "Receipt of a repair after an erasure",
    "lead": "Surviving sinks trained again in {steps} of a language model.",
  },
}


def render(statement: dict[str, Any], name: str, sha256: str) -> str:
  """Return the page.

  Args:
    statement: the receipt's statement.
    name: file name of the statement.
    sha256: hex digest of the statement's file.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("nulls_jax.unlearning.receipts", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  predicate = statement["predicate"]
  words = _ACTIONS[predicate["action"]]
  time = datetime.datetime.strptime(predicate["time"], "%Y-%m-%dT%H:%M:%SZ")
  files = [
    (subject["name"], subject["digest"]["sha256"])
    for subject in statement["subject"]
    if "sha256" in subject["digest"]
  ]
  sources = predicate["sources"]
  return environment.get_template(_TEMPLATE).render(
    receipt=predicate,
    title=words["title"],
    lead=words["lead"].format(
      sources=_count(len(sources), "source"),
      steps=_count(len(predicate["steps"]), "checkpoint"),
    ),
    # Not strftime: month names would follow the locale.
    time=f"{time:%Y-%m-%d %H:%M:%S} UTC",
    name=name,
    sha256=sha256,
    sources=sources[:_MAX_SOURCES],
    num_more=max(0, len(sources) - _MAX_SOURCES),
    num_before=sum(source["wasErased"] for source in sources),
    has_keys=any("key" in source for source in sources),
    files=files,
  )


def _count(number: int, noun: str) -> str:
  return f"{number:,} {noun}{'' if number == 1 else 's'}"
