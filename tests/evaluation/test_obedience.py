"""No public function activates a suspended or an erased source.

Every public function of inference and evaluation that is told whom to ask,
by key or by routing words, is called for sources that may not be used. It
refuses, or what it gives is what the backbone alone gives, bit for bit.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import shutil

import numpy as np
import pytest

from nulls_jax import errors, evaluation, inference
from nulls_jax.evaluation import (
  evaluate,
  examples,
  populations,
  probes,
  questions,
  scoring,
)
from nulls_jax.inference import generate, restore
from nulls_jax.sinks import assignment
from nulls_jax.unlearning.erasure import erase
from nulls_jax.unlearning.revocation import revocation

REFUSED = r"1 (suspended \(|already erased: )"
PAIRS = [("A person was born", " in 1900"), ("The", " city")]
TEXT = "A person was born in the city."

# Parameters by which a function is told whom to ask.
TELLING = {
  "keys",
  "words",
  "route",
  "routes_nx2",
  "forget",
  "neighbours",
  "whom",
}


@dataclasses.dataclass(frozen=True)
class Case:
  """A run in which one source may not be used.

  Attributes:
    run: the run, loaded.
    key: the source's key.
    other: a key that may be used.
    words: the source's routing words, as they were when it was in use.
    documents: JSON Lines of all sources' texts.
    out: where an evaluation may go.
  """

  run: restore.Restored
  key: str
  other: str
  words: np.ndarray
  documents: str
  out: str


@pytest.fixture(scope="module", params=["suspended", "erased"])
def case(request, tiny_run, tmp_path_factory):
  root = tmp_path_factory.mktemp(request.param)
  key, other = tiny_run.keys[:2]
  if request.param == "erased":
    erase.erase(tiny_run.path, root / "run", [key])
  else:
    shutil.copytree(tiny_run.path, root / "run")
    revocation.suspend(root / "run", [key])
  return Case(
    run=restore.restore(root / "run"),
    key=key,
    other=other,
    words=np.array(assignment.split_id(assignment.source_id(key)), np.uint32),
    documents=str(tiny_run.documents),
    out=str(root / "results.json"),
  )


def _refuses(call):
  with pytest.raises(errors.UserError, match=REFUSED):
    call()


def _forged(case) -> populations.Populations:
  """Populations of someone who routes to the source by its words."""
  return populations.Populations(
    members={"forget": (case.key,), "retained": (), "held_out": ()},
    status="active",
    num_suspended=0,
    words={("forget", "on"): {case.key: case.words}},
  )


def _routes(case):
  _refuses(lambda: case.run.routes([None, case.other, case.key]))


def _admit(case):
  _refuses(lambda: case.run.admit(case.words))
  _refuses(lambda: case.run.admit(np.array([[0, 0], case.words])))


def _with_zeroed(case):
  try:
    run = case.run.with_zeroed(case.words[None])
  except errors.UserError as error:
    assert "only erased sources" in str(error)
    return
  _same_as_the_backbone(run, case.words)


def _same_as_the_backbone(run, words):
  routes = np.stack([words, np.zeros(2, np.uint32)])
  found = scoring.documents_in_full(run, [TEXT, TEXT], routes)
  assert found.digest[0] == found.digest[1]


def _generate(case):
  _refuses(lambda: generate.generate(case.run, "The", case.words))


def _answers(case):
  routes = np.stack([np.zeros(2, np.uint32), case.words])
  _refuses(lambda: scoring.answers(case.run, PAIRS, routes))


def _documents(case):
  _refuses(lambda: scoring.documents(case.run, [TEXT], case.words[None]))


def _documents_in_full(case):
  _refuses(
    lambda: scoring.documents_in_full(case.run, [TEXT], case.words[None])
  )


def _of_run(case):
  whom = populations.of_run(case.run, [case.key], [], [case.key])
  assert "on" not in whom.modes("forget")
  admitted = whom.admitted(case.run)
  for mode in whom.modes("forget"):
    (words,) = whom.routes("forget", mode, [case.key])
    _same_as_the_backbone(admitted, words)
  # Not named, it is not among the surviving sources.
  whom = populations.of_run(case.run, [], [], [])
  assert case.key not in whom.members["retained"]
  assert len(whom.members["retained"]) == 39


def _with_nearest(case):
  whom = populations.of_run(case.run, [case.key], [], [case.key])
  _refuses(lambda: whom.with_nearest(case.run, {"x": case.key}))


def _population_routes(case):
  """Words that are none of the run's own are refused where they are used."""
  words = _forged(case).routes("forget", "on", [case.key])
  _refuses(lambda: scoring.documents(case.run, [TEXT], words))


def _ask(case):
  probe = probes.Probe(
    source=case.key,
    kind="unique",
    attribute="year",
    support=1,
    context="bare",
    prompt="A person was born",
    answer=" in 1900",
    distractors=(),
    held_out=False,
  )
  _refuses(
    lambda: questions.ask(
      case.run, _forged(case), [probe], {}, questions.Sample()
    )
  )


def _complete(case):
  texts = {case.key: TEXT}
  _refuses(lambda: examples.complete(case.run, _forged(case), [], texts, 1))


def _evaluate(case):
  found = evaluate.evaluate(
    case.run.directory,
    case.out,
    documents=case.documents,
    forget=[case.key],
    sample=questions.Sample(documents=3, examples=1),
  )
  groups = {
    (one["population"], one["mode"]): one["items"]["loss"]
    for one in found["documents"]
  }
  # "nearest" is another source's, and stays.
  own = {mode for name, mode in groups if name == "forget"} - {"nearest"}
  assert "off" in own and "on" not in own
  for mode in own:
    np.testing.assert_array_equal(
      groups["forget", mode], groups["forget", "off"]
    )
  assert found["neighbours"][0]["neighbour"] != case.key


CALLS = {
  "inference.generate.generate": _generate,
  "inference.restore.Restored.routes": _routes,
  "inference.restore.Restored.admit": _admit,
  "inference.restore.Restored.with_zeroed": _with_zeroed,
  "evaluation.scoring.answers": _answers,
  "evaluation.scoring.documents": _documents,
  "evaluation.scoring.documents_in_full": _documents_in_full,
  "evaluation.populations.of_run": _of_run,
  "evaluation.populations.Populations.routes": _population_routes,
  "evaluation.populations.Populations.with_nearest": _with_nearest,
  "evaluation.questions.ask": _ask,
  "evaluation.examples.complete": _complete,
  "evaluation.evaluate.evaluate": _evaluate,
}
# They draw among names and route nobody.
HARMLESS = {"evaluation.questions.draw"}


def _public_functions():
  """Yield name and function of all that is public in both rooms."""
  for room in (inference, evaluation):
    for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
      module = importlib.import_module(found.name)
      start = found.name.removeprefix("nulls_jax.")
      for name, value in vars(module).items():
        if getattr(value, "__module__", None) != found.name:
          continue
        if inspect.isfunction(value) and not name.startswith("_"):
          yield f"{start}.{name}", value
        elif inspect.isclass(value) and not name.startswith("_"):
          for part, method in vars(value).items():
            if inspect.isfunction(method) and not part.startswith("_"):
              yield f"{start}.{name}.{part}", method


def test_every_function_that_is_told_whom_to_ask_is_called_here():
  told = {
    name
    for name, function in _public_functions()
    if TELLING & set(inspect.signature(function).parameters)
  }
  assert told - HARMLESS == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_none_activates_what_may_not_be_used(name, case):
  CALLS[name](case)


def test_the_same_words_are_used_where_they_may_be(case, tiny_run):
  """So that the refusals above are not of something else."""
  run = restore.restore(tiny_run.path)
  routes = np.stack([case.words, np.zeros(2, np.uint32)])
  found = scoring.documents_in_full(run, [TEXT, TEXT], routes)
  assert found.digest[0] != found.digest[1]
