"""Mixtures: whose turn it is, how often each document is seen, what fits."""

import collections
import itertools
import math
import shutil

import numpy as np
import pytest

from nulls_jax import errors
from nulls_jax.data import (
  ledger,
  mixing,
  mixture,
  pipeline,
  routing,
  stored_rows,
)
from nulls_jax.data.preparation import dataset
from nulls_jax.sinks import assignment


def _mix(sets, out, *, source_visits=None, num_rows=None, **how):
  """Mix sets by name: {"weight": 1}, {"visits": 3} or {"no_source": True}."""
  mixing.mix(
    [mixing.Set(directory=sets[name].path, **how[name]) for name in how],
    out,
    source_visits=source_visits,
    num_rows=num_rows,
  )
  return mixture.open_dataset(out)


def _table(prepared):
  with ledger.Ledger.open(prepared.ledger_path) as book:
    return routing.table(assignment.SinkConfig(), book)


def _batches(prepared, num_steps=None, **changes):
  arguments = {"batch_size": 4, "seed": 1, "off_share": 0.0} | changes
  return pipeline.batches(
    prepared, _table(prepared), num_steps=num_steps, **arguments
  )


def _assert_equal(first, second):
  for one, other in zip(first, second, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])


def _pass(prepared, read_back, batch_size=1):
  """Count the visits of one pass."""
  steps = math.ceil(prepared.manifest["counts"]["rows"] / batch_size)
  return read_back(prepared, _batches(prepared, steps, batch_size=batch_size))


def _once(made, visits=1, keys=True):
  return collections.Counter(
    {(d.number, d.key if keys else ""): visits for d in made.documents}
  )


def test_turns_of_random_parts():
  draw = np.random.default_rng(0)
  for _ in range(60):
    counts = draw.integers(1, draw.choice([3, 40, 3000]), draw.integers(1, 6))
    counts = counts.tolist()
    whole = sum(counts)
    places = np.arange(3 * whole)
    parts, turns = mixture.interleave(counts, places)
    for number, count in enumerate(counts):
      mine = parts == number
      # In order, none left out, the same number in each pass.
      assert turns[mine].tolist() == list(range(3 * count))
      assert mine.reshape(3, -1).sum(-1).tolist() == [count] * 3
      ahead = np.cumsum(mine) - (places + 1) * count / whole
      assert np.abs(ahead).max() < len(counts)
    some = draw.integers(0, 3 * whole, 20)
    for found, all_ in zip(
      mixture.interleave(counts, some), (parts, turns), strict=True
    ):
      np.testing.assert_array_equal(found, all_[some])


def test_turns_of_parts_as_large_as_can_be():
  counts = [2**30, 2**29, 2**29 - 1]
  whole = sum(counts)
  assert whole == 2**31 - 1
  places = np.array([0, whole - 1, whole, 10 * whole - 1, 10 * whole])
  parts, turns = mixture.interleave(counts, places)
  assert parts[0] == parts[2] == parts[4]
  assert parts[1] == parts[3]
  number = parts[0]
  assert turns[[0, 2, 4]].tolist() == [0, counts[number], 10 * counts[number]]
  number = parts[1]
  assert turns[[1, 3]].tolist() == [counts[number] - 1, 10 * counts[number] - 1]


def test_a_mixture_of_one_dataset_is_that_dataset(sets, tmp_path):
  mixed = _mix(sets, tmp_path / "mix", a={})
  own = dataset.Prepared.open(sets["a"].path)
  _assert_equal(
    _batches(mixed, 40, off_share=0.3), _batches(own, 40, off_share=0.3)
  )


def test_joined_sets_are_seen_once_an_epoch(sets, tmp_path, read_back):
  mixed = _mix(sets, tmp_path / "mix", a={}, b={}, c={})
  once = _once(sets["a"]) + _once(sets["b"]) + _once(sets["c"])
  assert _pass(mixed, read_back) == once
  two = 2 * mixed.manifest["counts"]["rows"]
  twice = read_back(mixed, _batches(mixed, two, batch_size=1, seed=5))
  assert twice == collections.Counter(dict.fromkeys(once, 2))
  # Without an end, for ever: epochs are training's.
  assert len(list(_batches(mixed, 3, start_step=10**6))) == 3


def test_the_ledger_has_every_source_once(sets, tmp_path):
  mixed = _mix(sets, tmp_path / "mix", a={}, b={}, c={"no_source": True})
  documents = sets["a"].documents + sets["b"].documents
  number = collections.Counter(d.key for d in documents)
  tokens = collections.Counter()
  for document in documents:
    tokens[document.key] += len(document.tokens)
  with ledger.Ledger.open(mixed.ledger_path) as book:
    found = list(book)
  assert [s.key for s in found] == list(number)
  assert {s.key: s.num_documents for s in found} == number
  assert {s.key: s.num_tokens for s in found} == tokens
  assert mixed.manifest["counts"]["sources"] == len(number)


def test_size_classes_are_those_of_all_tokens(tmp_path, make_set):
  made = {
    "a": make_set(tmp_path / "a", ["x", "y"], class_tokens=30),
    "b": make_set(tmp_path / "b", ["x"] * 9, start=50, class_tokens=30),
  }
  mixed = _mix(made, tmp_path / "mix", a={}, b={})
  with ledger.Ledger.open(mixed.ledger_path) as book:
    (x, y) = book
    expected = mixed.config.size_classes(np.array([x.num_tokens, y.num_tokens]))
  assert [x.size_class, y.size_class] == expected.tolist()
  assert x.size_class > 0


def test_documents_of_no_source(sets, tmp_path, read_back):
  mixed = _mix(sets, tmp_path / "mix", a={"no_source": True}, b={})
  expected = _once(sets["a"], keys=False) + _once(sets["b"])
  assert _pass(mixed, read_back) == expected
  assert mixed.manifest["counts"]["sources"] == len(sets["b"].keys)


def test_weights_share_the_rows_out(sets, tmp_path, read_back):
  mixed = _mix(sets, tmp_path / "mix", a={"weight": 3}, b={"weight": 1.5})
  counts = {
    name: dataset.Prepared.open(sets[name].path).manifest["counts"]["rows"]
    for name in "ab"
  }
  turns = [part.rows_a_pass for part in mixed.parts]
  assert turns[0] == pytest.approx(2 * turns[1], abs=2)
  # The set that runs out last is seen whole, once.
  assert min(turns[0] - counts["a"], turns[1] - counts["b"]) == 0
  seen = _pass(mixed, read_back)
  assert set(seen) == set(_once(sets["a"]) + _once(sets["b"]))
  of_a = sum(part == 0 for part in mixture.interleave(turns, np.arange(30))[0])
  assert abs(of_a - 20) < 2


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_set_is_seen_so_often(sets, tmp_path, read_back, batch_size):
  mixed = _mix(sets, tmp_path / "mix", a={}, b={"visits": 4}, c={"visits": 2})
  expected = _once(sets["a"]) + _once(sets["b"], 4) + _once(sets["c"], 2)
  assert _pass(mixed, read_back, batch_size) == expected
  # And no more, however one asks.
  steps = math.ceil(mixed.end / batch_size)
  endless = _batches(mixed, batch_size=batch_size)
  found = list(itertools.islice(endless, steps + 1))
  assert len(found) == steps
  assert read_back(mixed, found) == expected
  with pytest.raises(errors.UserError, match=f"{steps} steps of {batch_size}"):
    _batches(mixed, steps + 1, batch_size=batch_size)
  with pytest.raises(errors.UserError, match=f"not {steps + 1}; give so many"):
    _batches(mixed, 2, batch_size=batch_size, start_step=steps - 1)


def test_visits_are_spread_over_the_run(sets, tmp_path, read_back):
  mixed = _mix(sets, tmp_path / "mix", a={}, b={"visits": 4})
  half = round(mixed.end / 2)
  seen = read_back(mixed, _batches(mixed, half, batch_size=1))
  of_b = [seen[d.number, d.key] for d in sets["b"].documents]
  assert set(of_b) <= {1, 2, 3}
  assert sum(of_b) / len(of_b) == pytest.approx(2, abs=0.2)


def test_a_source_is_seen_so_often(sets, tmp_path, read_back):
  """In both of its sets, true to the document; the others as ever."""
  asked = {"a3": 5, "b2": 1, "c4": 3, "a7": 5}
  mixed = _mix(
    sets, tmp_path / "mix", a={}, b={"visits": 2}, c={}, source_visits=asked
  )
  expected = _once(sets["a"]) + _once(sets["b"], 2) + _once(sets["c"])
  for number, key in expected:
    expected[number, key] = asked.get(key, expected[number, key])
  for batch_size in (1, 5):
    assert _pass(mixed, read_back, batch_size) == expected
  assert mixed.manifest["counts"]["sources_with_visits"] == 4


def test_a_set_of_listed_sources_alone_has_no_empty_rows(
  sets, tmp_path, read_back
):
  asked = dict.fromkeys(sets["a"].keys, 2)
  mixed = _mix(sets, tmp_path / "mix", a={}, b={}, source_visits=asked)
  assert len(mixed.parts) == 2, "nothing is left of the rows of a"
  assert all(
    batch["weights"].any(-1).all()
    for batch in _batches(mixed, mixed.end, batch_size=1)
  )
  # The two sources of b that a has, too.
  expected = _once(sets["a"], 2) + _once(sets["b"])
  for document in sets["b"].documents:
    if document.key in asked:
      expected[document.number, document.key] = 2
  assert _pass(mixed, read_back) == expected


def test_a_given_number_of_rows(sets, tmp_path, read_back):
  mixed = _mix(
    sets,
    tmp_path / "mix",
    a={"weight": 1},
    b={"visits": 3},
    c={"weight": 1},
    num_rows=400,
  )
  assert mixed.end == 400
  seen = _pass(mixed, read_back)
  assert {seen[d.number, d.key] for d in sets["b"].documents} == {3}
  turns = [part.rows_a_pass for part in mixed.parts]
  assert abs(turns[0] - turns[2]) <= 1
  # Of the sets that fill the rest, no row is seen twice more than another.
  for name in "ac":
    of_set = {seen[d.number, d.key] for d in sets[name].documents}
    assert max(of_set) - min(of_set) <= 1


def test_any_step_on_any_number_of_processes(sets, tmp_path):
  """Property: slices of any batches, resumed anywhere, are the whole run's."""
  draw = np.random.default_rng(3)
  kinds = (
    {"a": {}, "b": {}},
    {"a": {"weight": 2.5}, "b": {"weight": 1}, "c": {"weight": 0.3}},
    {"a": {}, "b": {"visits": 3}},
    {"a": {}, "c": {}, "source_visits": {"a1": 2, "c3": 7}},
  )
  for number, kind in enumerate(kinds):
    mixed = _mix(sets, tmp_path / f"mix{number}", **kind)
    for _ in range(3):
      processes = int(draw.choice([1, 2, 4, 8]))
      changes = {
        "batch_size": processes * int(draw.integers(1, 5)),
        "seed": int(draw.integers(2**32)),
        "off_share": 0.4,
      }
      most = 12
      if mixed.end is not None:
        most = min(most, math.ceil(mixed.end / changes["batch_size"]))
      whole = list(_batches(mixed, most, **changes))
      start = int(draw.integers(most))
      parts = [
        _batches(
          mixed,
          most - start,
          start_step=start,
          process_index=index,
          process_count=processes,
          **changes,
        )
        for index in range(processes)
      ]
      joined = [
        {name: np.concatenate([one[name] for one in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
      ]
      _assert_equal(joined, whole[start:])


def test_rows_by_number_are_the_same_rows(sets, tmp_path, read_back):
  """What looks at a mixture without training sees what training sees."""
  mixed = _mix(
    sets, tmp_path / "mix", a={}, b={"visits": 2}, source_visits={"a3": 9}
  )
  with stored_rows.Rows(mixed) as found:
    numbers = np.arange(found.num_rows)
    tokens, documents, sources = found.read(numbers)
    for some in (numbers[5:9], numbers[::7], numbers[-1:]):
      for one, all_ in zip(
        found.read(some), (tokens, documents, sources), strict=True
      ):
        np.testing.assert_array_equal(one, all_[some])
  fields = pipeline.packing.token_fields(tokens, documents)
  fields["sources"] = _table(mixed)[sources]
  expected = _once(sets["a"]) + _once(sets["b"])
  assert read_back(mixed, [fields]) == expected


def test_the_same_call_finds_the_mixture(sets, tmp_path):
  out = tmp_path / "mix"
  _mix(sets, out, a={}, b={}, source_visits={"a1": 2})
  before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
  _mix(sets, out, a={}, b={}, source_visits={"a1": 2})
  assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
  with pytest.raises(errors.UserError, match="of other sets or settings"):
    _mix(sets, out, a={}, b={})
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").touch()
  with pytest.raises(errors.UserError, match="is in the way and no mixture"):
    _mix(sets, tmp_path / "full", a={})


def test_sets_may_move_together_but_not_change(sets, tmp_path, make_set):
  root = tmp_path / "root"
  for name in "ab":
    shutil.copytree(sets[name].path, root / name)
  made = {
    name: sets[name].__class__(root / name, sets[name].documents)
    for name in "ab"
  }
  before = list(_batches(_mix(made, root / "mix", a={}, b={}), 10))
  root.rename(tmp_path / "moved")
  moved = tmp_path / "moved"
  _assert_equal(_batches(mixture.open_dataset(moved / "mix"), 10), before)
  shutil.rmtree(moved / "b")
  make_set(moved / "b", sets["b"].keys, start=1000, seed=9)
  with pytest.raises(errors.UserError, match=r"moved/b is not the dataset"):
    mixture.open_dataset(moved / "mix")
  shutil.rmtree(moved / "b")
  (moved / "mix" / "ledger.sqlite").unlink()
  with pytest.raises(errors.UserError) as caught:
    mixture.open_dataset(moved / "mix")
  assert "ledger.sqlite is missing" in str(caught.value)
  assert "b is no prepared dataset (does not exist)" in str(caught.value)
