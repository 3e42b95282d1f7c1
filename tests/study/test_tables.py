"""Cells, and the three that never stand apart."""

from nulls_jax.study import tables


def test_cells():
  figure = {"value": 0.0312, "standard_error": 0.0041, "n": 7}
  assert tables.cell(figure, "share").text == "3.1 ± 0.4"
  assert tables.cell(figure, "points").text == "+3.1 ± 0.4"
  assert tables.cell(figure, "nats").text == "0.03 ± 0.00"
  assert tables.cell(None, "nats").text == tables.NOTHING
  assert tables.cell(figure, "loss").text == "0.031 ± 0.004"
  assert tables.cell(figure, "exact") == tables.Cell("0.0312", "", 7)
  for value, text in ((0.0, "0"), (347.2, "347"), (4.4e-5, "4.4e-05")):
    assert tables.cell({**figure, "value": value}, "exact").text == text


def test_leak_new_text_and_shared_facts_stand_together(make_outcome):
  table = tables.of_summary(make_outcome()[0])["together"]
  headings = " ".join(table.columns)
  assert "leak" in headings and "new text" in headings
  assert "in context" in headings and "bare" in headings
  ((_, rows),) = table.groups
  assert [label for label, _ in rows] == [
    "hashed sinks, erased",
    "dedicated sinks, erased",
    "dense model",
  ]
  for label, cells in rows:
    empty = [one.value == tables.NOTHING for one in cells]
    # Only dense over dense is nothing.
    assert empty == [False, False, label == "dense model", False, False]


def test_gap_leak_and_new_text_stand_together(make_outcome):
  found = tables.of_summary(make_outcome(with_facts=False)[0])
  assert "modes" not in found
  headings = " ".join(found["text_together"].columns)
  assert "gap" in headings and "leak" in headings and "new text" in headings
  populations = found["texts"].columns
  assert [name.split()[0] for name in populations] == [
    "erased",
    "retained",
    "never-trained",
  ]
