"""The case studies: what each trains, and what its protocol asks.

Owns the studies' sizes, sources and protocol settings, as data. How they are
run is `case_run`'s business.

- `encyclopedia`: the generated people, several seeds, every attack and every
  baseline, and the training modes side by side.
- `article`: real text, an article a source; fifty erased at once, and one at
  a time.
- `book`: real text, a book a source; one of 66 books removed; no baselines.

A fourth, in which nothing is erased, is `capability`'s.

Invariant: a study is a function of its name, profile, seeds and documents.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from nulls_jax import errors
from nulls_jax.study import corpus

Profile = Literal["full", "quick"]
PROFILES = ("full", "quick")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode:
  """One point of the training modes: a training and how it is called.

  Attributes:
    line: the mode, such as "routed"; points of a line are drawn together.
    setting: the point of the line.
    run: name of the run.
    flags: that change the config.
    open_share: of the retained sources that are read without a source.
  """

  line: str
  setting: str
  run: str
  flags: tuple[str, ...] = ()
  open_share: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A case study.

  Attributes:
    name: of the command.
    title: of the report.
    config: file under `configs/` with the settings of every training.
    real: whether it needs documents.
    corpus: fields of `corpus.CorpusConfig`.
    dense_width: of the dense models' MLP; 0 is backbone and sinks of a
      source of size class 0.
    seeds: trainings of the full and the dense model by profile.
    retrained: trainings without the erased sources by profile, at least.
    modes: other trainings, measured beside the main one in the full profile.
    protocol: settings of the evaluation by profile.
  """

  name: str
  title: str
  config: pathlib.Path
  real: bool
  corpus: Mapping[str, Any]
  dense_width: int = 0
  seeds: Mapping[str, int]
  retrained: Mapping[str, int]
  modes: tuple[Mode, ...] = ()
  protocol: Mapping[str, Mapping[str, Any]]

  def corpus_config(
    self, documents: pathlib.Path | None, **changes: int
  ) -> corpus.CorpusConfig:
    """Return the corpus of given documents; raises `UserError`.

    Args:
      documents: JSON Lines, if the study is of real text.
      changes: other sizes, of the generated encyclopedia.
    """
    if self.real != (documents is not None):
      raise errors.UserError(
        f"study {self.name}: "
        + (
          "give --documents, JSON Lines with a source and a text a line"
          if self.real
          else "is generated; leave --documents out"
        )
      )
    return corpus.CorpusConfig(
      documents=documents, **{"num_sources": 0, **self.corpus, **changes}
    )


def _routed(share: float) -> Mode:
  return Mode(
    line="routed",
    setting=f"off share {share:g}",
    run=f"routed-{share:g}",
    flags=("--training.off-share", f"{share:g}"),
  )


def _full(share: float) -> Mode:
  return Mode(
    line="full (the paper's)",
    setting=f"off share {share:g}",
    run=f"full-{share:g}",
    flags=(
      *("--training.off-share", f"{share:g}"),
      *("--model.backbone-gradient", "full"),
    ),
  )


def _open(share: float) -> Mode:
  return Mode(
    line="routed, off only on text of no source",
    setting=f"{share:.0%} of the sources",
    run=f"open-{share:g}",
    flags=("--training.off-share", "0"),
    open_share=share,
  )


_BASELINES = (
  "ga",
  "graddiff",
  "npo",
  "simnpo",
  "rmu",
  "no_op",
  "placebo_deletion",
)
_ONE = {"seeds": 1}
# The attack on what is claimed, on its reference, and on that of the dense
# model, where it also follows every baseline.
_RELEARNING = {"roles": ["erased", "retrained", "dense_retrained"]}

_ENCYCLOPEDIA = Case(
  name="encyclopedia",
  title="Generated encyclopedia: 30 of 600 people erased",
  config=pathlib.Path("configs/demo.py"),
  real=False,
  corpus={"num_sources": 600, "num_never_trained": 200, "num_erased": 30},
  seeds={"full": 3, "quick": 1},
  retrained={"full": 3, "quick": 1},
  modes=(
    *(_routed(share) for share in (0.02, 0.2, 0.4)),
    *(_full(share) for share in (0, 0.09, 0.3)),
    *(_open(share) for share in (0.1, 0.2)),
  ),
  protocol={
    "full": {
      "attacks": {
        "relearning": _RELEARNING,
        "reenabling": {},
        "membership": {},
        "extraction": _ONE,
        "prompt_search": {**_ONE, "targets": "facts"},
        "quantisation": _ONE,
      },
      "baselines": dict.fromkeys(_BASELINES, _ONE),
      "collateral": _ONE,
    },
    "quick": {
      "sample": {"retained": 60, "truth_ratios": 20},
      "attacks": {
        "relearning": _RELEARNING,
        "reenabling": {},
        "membership": {},
      },
      "baselines": {"npo": {}},
      "collateral": {},
    },
  },
)

_TEXT_PROTOCOL = {
  "full": {
    "attacks": {
      "relearning": _RELEARNING,
      "reenabling": {},
      "membership": {},
      "extraction": {},
      "prompt_search": _ONE,
      "quantisation": _ONE,
    },
    "collateral": _ONE,
  },
  "quick": {
    "sample": {"documents": 300},
    "attacks": {
      "relearning": {"roles": ["erased", "retrained"]},
      "reenabling": {},
      "membership": {},
    },
  },
}

_ARTICLE = Case(
  name="article",
  title="Real text: 50 articles erased, at once and one at a time",
  config=pathlib.Path("configs/jargon.py"),
  real=True,
  corpus={"num_never_trained": 50, "num_erased": 50},
  seeds={"full": 1, "quick": 1},
  retrained={"full": 2, "quick": 1},
  protocol=_TEXT_PROTOCOL
  | {
    "full": _TEXT_PROTOCOL["full"]
    | {
      "baselines": dict.fromkeys(_BASELINES, _ONE),
      # Every article to erase is also erased by itself.
      "collateral": {**_ONE, "one_at_a_time": 50},
    }
  },
)

_BOOK = Case(
  name="book",
  title="Real text: one book of 66 erased",
  config=pathlib.Path("configs/book.py"),
  real=True,
  corpus={
    "num_never_trained": 4,
    "num_erased": 1,
    # A story with names of its own, told in ten chapters; four books of like
    # size and manner that no model sees are its controls.
    "erased": ("Est",),
    "never_trained": ("Dan", "Jonah", "Mark", "Ruth"),
  },
  # The backbone and the sinks of a book of the erased one's size class.
  dense_width=384,
  seeds={"full": 1, "quick": 1},
  retrained={"full": 2, "quick": 1},
  protocol=_TEXT_PROTOCOL,
)

CASES = {case.name: case for case in (_ENCYCLOPEDIA, _ARTICLE, _BOOK)}
