"""The page: whole, self-contained, escaped, and plain about failures."""

import re

import pytest

from nulls_jax.study import report


@pytest.fixture
def page(make_outcome):
  return report.render(*make_outcome())


@pytest.mark.parametrize("with_facts", [True, False])
def test_the_page_needs_nothing_beside_it(make_outcome, with_facts):
  page = report.render(*make_outcome(with_facts=with_facts))
  assert page.strip().startswith("<!doctype html>")
  assert page.rstrip().endswith("</html>")
  assert not re.findall(r"<(?:script|link|iframe|object)\b", page)
  links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s>)]*)", page)
  images = [link for link in links if link.startswith("data:image/png;base64,")]
  assert len(images) == len(links) >= 3
  assert "http://" not in page and "https://" not in page


def test_what_comes_from_data_is_escaped(page):
  assert "&lt;b&gt;Ann&lt;/b&gt; was born in" in page
  assert "<b>Ann</b>" not in page
  assert "Lima &amp; more" in page
  assert "nulls train --run OUT/runs/&lt;x&gt;" in page


def test_a_failure_is_as_plain_as_a_pass(make_outcome):
  summary, results, curves = make_outcome()
  states = [one["passed"] for one in summary["verdicts"]]
  assert states.count(True) and not states.count(False)
  summary["verdicts"][0] |= {"passed": False, "value": 0.5}
  summary["verdicts"][1] |= {"passed": None, "value": None}
  page = report.render(summary, results, curves)
  assert '<span class="badge">FAIL</span>' in page
  assert '<span class="badge">NOT MEASURED</span>' in page
  assert '<span class="badge fail">1 FAIL</span>' in page
  assert f'<span class="badge pass">{len(states) - 2} PASS</span>' in page
  row = page[page.index('<tr class="fail">') :]
  assert "50.0" in row[: row.index("</tr>")]


def test_the_record_of_the_erasure(make_outcome):
  summary, results, curves = make_outcome()
  page = report.render(summary, results, curves)
  assert "hashed-erased-seed0/receipts/0001-ab.html</code>" in page
  assert "NOT verified" not in page and "<td>not checked</td>" in page
  summary["receipts"]["hashed"]["verified"] = False
  assert "NOT verified" in report.render(summary, results, curves)


def test_limits_are_named(page):
  assert "Erasing is not exact unlearning" in page


def test_two_seeds(make_outcome):
  assert "2 seeds" in report.render(*make_outcome(seeds=2))
