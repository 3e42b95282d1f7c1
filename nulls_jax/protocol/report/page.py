"""The report as one HTML page that needs nothing beside it.

Owns what the page says and in which order: the outcome and its bounds before
anything else, then what speaks against it, then all that it rests on. The
template escapes everything that comes from a report; only the drawings, which
`drawing` made, are passed as they are.

Invariant: no address is loaded, and nothing that failed or is open looks like
something that passed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from nulls_jax import page_style
from nulls_jax.protocol.report import (
  drawing,
  formatting,
  outcome,
  plot,
  tables,
)

_TEMPLATE = "report.html.j2"
STATES = {
  "pass": "PASS",
  "fail": "FAIL",
  "open": "NOT SETTLED",
  "none": "NOT MEASURED",
}
GATE_STATES = {"pass": "PASS", "fail": "FAIL", "none": "NOT CHECKED"}
OVERALL = {
  "unlearned": "pass",
  "not unlearned": "fail",
  "not kept": "fail",
  "not settled": "open",
}
# (id, heading, what to see, kinds of plots, attacks whose tables belong here)
SECTIONS = (
  (
    "forgotten",
    "What is left of the forgotten",
    "What was erased must lie where retraining lies, not merely lower than "
    "before.",
    ("distributions",),
    (),
  ),
  (
    "relearning",
    "What comes back under fine-tuning",
    "Each model is trained again on what an attacker may have, with one "
    "optimiser for all, and asked what was not in it. The stripe is "
    "how much retrained models differ from seed to seed: inside it, nothing "
    "was hidden. Thin lines are intervals.",
    ("relearning",),
    ("relearning",),
  ),
  (
    "reenabling",
    "What comes back to who holds the weights",
    "Suspending only switches a source off: the attacker must get all of it "
    "back. Erasing must leave nothing to switch on.",
    (),
    ("reenabling",),
  ),
  (
    "membership",
    "Can one tell that it was ever trained on it?",
    "Members are the erased sources, non-members never-trained ones of the "
    "same kind. A curve on the diagonal is chance; the target is not chance "
    "but the retrained model.",
    ("roc",),
    ("membership",),
  ),
  (
    "extraction",
    "What can be extracted",
    "Prefixes, paraphrases, searched prompts and coarser weights: ways "
    "around a polite question.",
    (),
    ("extraction", "prompt_search", "quantisation"),
  ),
  (
    "baselines",
    "Against other ways to unlearn",
    "Whole sweeps, not chosen points. Filled marks are the settings that "
    "validation facts chose.",
    ("baselines",),
    (),
  ),
  (
    "cost",
    "What it cost the others",
    "Retained sources as more and more are erased, and facts that many "
    "sources share.",
    ("collateral", "support"),
    (),
  ),
  (
    "modes",
    "Leak, new text and sharing, together",
    "Each is easy alone: a backbone that learns nothing leaks nothing. The "
    "stripe is what retraining itself differs by from seed to seed; a leak "
    "inside it cannot be told from none.",
    ("training_modes",),
    (),
  ),
  ("other", "Further curves", "", ("other",), ()),
)


def render(
  report: Mapping[str, Any], drawn: Mapping[str, Sequence[plot.Plot]]
) -> str:
  """Return the page.

  Args:
    report: that `document.check` accepts.
    drawn: its plots by kind.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("nulls_jax.protocol.report", "."),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  found = tables.of_report(report)
  result = outcome.overall(report)
  return environment.get_template(_TEMPLATE).render(
    page_style=page_style.css(),
    palette=drawing.PALETTE,
    report=report,
    about=report.get("about", {}),
    overall=result,
    overall_state=OVERALL[result["state"]],
    tally=tally(report),
    confidences=_confidences(report),
    excluded=outcome.excluded(report),
    verdicts=[_verdict(one) for one in report["verdicts"]],
    gates=[_gate(one) for one in report["gates"]],
    against=outcome.against(report),
    sections=_sections(drawn, tables.of_attacks(found)),
    tables=[one for one in found if one.name not in tables.ATTACKS],
    count=formatting.count,
    pretty=_pretty,
    breakable=_breakable,
  )


def tally(report: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Return state and words, as `("fail", "1 FAIL")`, none of which is 0."""
  states = [outcome.state(one) for one in report["verdicts"]]
  return [
    (name, f"{states.count(name)} {words}")
    for name, words in STATES.items()
    if states.count(name)
  ]


def _confidences(report: Mapping[str, Any]) -> str:
  """Return the confidence of all intervals, as `95 %`; "" without any."""
  found = {figure["confidence"] for figure in report["figures"].values()}
  return " or ".join(f"{100 * one:g} %" for one in sorted(found - {None}))


def _verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
  value, interval = formatting.parts(verdict, verdict["unit"])
  state = outcome.state(verdict)
  return {
    **verdict,
    "state": state,
    "badge": STATES[state],
    "found": f"{value}{formatting.suffix(verdict['unit'])}",
    "interval": interval,
    "bound": formatting.bound(verdict),
    "gauge": gauge(verdict),
  }


def gauge(verdict: Mapping[str, Any]) -> dict[str, Any] | None:
  """Return interval, value, bounds and what is allowed, 0 to 100 across.

  None where there is nothing to draw.
  """
  if verdict["value"] is None:
    return None
  limits = [verdict["threshold"]]
  if verdict["direction"] == "within":
    limits = [-verdict["threshold"], verdict["threshold"]]
  ends = [
    verdict["value"] if verdict[end] is None else verdict[end]
    for end in ("low", "high")
  ]
  low, high = min(*ends, *limits), max(*ends, *limits)
  margin = 0.16 * (high - low) or abs(high) or 1.0
  start, width = low - margin, high - low + 2 * margin
  x = [round(100 * (one - start) / width, 2) for one in (*ends, *limits)]
  allowed = {
    "at least": (x[2], 100),
    "at most": (0, x[2]),
    "within": (x[2], x[-1]),
  }[verdict["direction"]]
  return {
    "low": x[0],
    "high": x[1],
    "value": round(100 * (verdict["value"] - start) / width, 2),
    "limits": x[2:],
    "allowed": allowed,
  }


def _gate(gate: Mapping[str, Any]) -> dict[str, Any]:
  state = outcome.gate_state(gate)
  return {
    **gate,
    "state": state,
    "badge": GATE_STATES[state],
    "title": outcome.gate_title(gate),
    "shown_rate": gate_rate(gate),
  }


def gate_rate(gate: Mapping[str, Any]) -> str:
  """Return a gate's rate with its interval, or a dash."""
  if gate["rate"] is None:
    return formatting.NOTHING
  shown = formatting.percent(gate["rate"])
  low, high = gate.get("low"), gate.get("high")
  if low is not None and high is not None:
    _, interval = formatting.parts(
      {"value": gate["rate"], "low": low, "high": high}, "share"
    )
    shown += f" ({interval})"
  if gate.get("threshold") is not None:
    shown += f", at least {100 * gate['threshold']:g} %"
  return shown


def _sections(drawn, attacks) -> list[dict[str, Any]]:
  """Return the sections that have something to show."""
  shown = []
  for name, title, lead, kinds, attack_names in SECTIONS:
    charts = [one for kind in kinds for one in drawn.get(kind, ())]
    found = [attacks[one] for one in attack_names if one in attacks]
    if charts or found:
      shown.append(
        {
          "id": name,
          "title": title,
          "lead": lead,
          "plots": [
            {
              "plot": one,
              # Densities with their labels need more room than the others.
              "three": "distributions" in kinds and len(one.panels) == 3,
              "panels": [
                (head, markupsafe.Markup(svg)) for head, svg in one.panels
              ],
            }
            for one in charts
          ],
          "tables": found,
        }
      )
  return shown


def _pretty(value: Any) -> str:
  return json.dumps(value, indent=2, ensure_ascii=False)


def _breakable(name: str) -> markupsafe.Markup:
  """Return a dotted name that may be broken at its dots, escaped."""
  parts = (markupsafe.escape(part) for part in name.split("."))
  return markupsafe.Markup(".<wbr>").join(parts)
