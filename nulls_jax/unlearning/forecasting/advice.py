"""Which kind of removal fits, and the measurements behind the thresholds.

Owns the rule and its evidence: small models, few sources. It is a guide where
to look, not a promise, and every advice says so.

Invariant: a threshold lies where something was measured.
"""

import dataclasses

from nulls_jax.sinks import assignment

# Mean share of their sinks that survivors have lost.
REPAIR_FROM, RETRAIN_FROM = 0.04, 0.55


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """What retained sources knew before and after an erasure.

  Attributes:
    setting: model and data.
    pool: sinks of a layer.
    sinks: of one source in a layer.
    erased: sources erased for good.
    before: figure of the retained sources before.
    after: the same after the erasure, without repair.
    unit: of the figure.
  """

  setting: str
  pool: int
  sinks: int
  erased: int
  before: float
  after: float
  unit: str

  @property
  def share_lost(self) -> float:
    """Expected share of a retained source's sinks that was lost."""
    return 1 - (1 - self.sinks / self.pool) ** self.erased


def _people(pool: int, erased: int, before: float, after: float) -> Measurement:
  return Measurement(
    setting="600 generated people",
    pool=pool,
    sinks=16,
    erased=erased,
    before=before,
    after=after,
    unit="% of facts known",
  )


MEASURED = (
  _people(8192, 10, 96.9, 96.7),
  _people(512, 1, 93.6, 91.5),
  _people(2048, 5, 96.6, 95.9),
  _people(8192, 20, 96.9, 96.6),
  _people(2048, 10, 96.6, 93.6),
  _people(8192, 50, 96.9, 94.9),
  _people(2048, 20, 96.6, 92.4),
  _people(512, 5, 93.6, 80.6),
  Measurement(
    setting="2,111 articles of the Jargon File",
    pool=8192,
    sinks=32,
    erased=50,
    before=1.67,
    after=2.12,
    unit="nats a token",
  ),
  _people(8192, 100, 96.9, 93.6),
  _people(512, 10, 93.6, 67.1),
  _people(2048, 50, 96.6, 79.7),
  _people(2048, 100, 96.6, 67.6),
)

RULE = (
  "dedicated: erase. Nobody else's sinks are touched.",
  "hashed, survivors have lost on average less than 4 % of their sinks: "
  "erase. Measured at 2 to 4 %: 0.2 to 0.7 points of retained facts lost in "
  "pools of 8,192 and 2,048 sinks, 2.1 in a pool of 512.",
  "hashed, 4 to 55 %: erase, then repair the surviving sinks on retained data. "
  "Measured at 18 %: 3.3 points of retained facts, and 0.45 nats a token on "
  "real text; at 15 to 54 %: 4.2 to 29.0 points in smaller pools. Repair of "
  "three epochs took retained facts from 99.0 to 100 % where 9 % of the sinks "
  "were lost and from 70.5 to 99.9 % where 54 % were; the erased facts stayed "
  "as they were.",
  "hashed, more than 55 %: retrain without the sources (with a larger pool or "
  "a dedicated table if requests will go on). At 79 % lost, 71 points were "
  "gone, and repair of three epochs brought back 27 to 43 of them.",
)
LIMITS = (
  "These figures are of models of width 64, 600 generated people or 2,111 "
  "short articles, one or two seeds, a standard error of about 1 point. Larger "
  "models were not measured: evaluate the erased checkpoint before it is used."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
  """What to do, and why.

  Attributes:
    action: "erase", "erase and repair" or "retrain".
    reason: one or two sentences with the figures of this request.
    rule: the whole rule, a sentence or more for each case.
    limits: what the rule rests on.
  """

  action: str
  reason: str
  rule: tuple[str, ...] = RULE
  limits: str = LIMITS


def advise(
  config: assignment.SinkConfig, before: float, after: float
) -> Advice:
  """Apply the rule.

  Args:
    config: the settings of the sinks.
    before: mean share that survivors had lost before the request.
    after: the same after it.
  """
  if config.kind == "dedicated":
    return Advice(
      action="erase",
      reason="Every source owns its rows: erasing these leaves every other "
      "source's sinks as they are, and no repair is needed.",
    )
  reason = f"Survivors will have lost {after:.1%} of their sinks on average"
  if before:
    reason += (
      f", {before:.1%} of it by earlier erasures. Where those have been "
      f"repaired already, apply the rule to the rest, {after - before:.1%}"
    )
  if after < REPAIR_FROM:
    action, why = "erase", "Losses that small cost little where measured."
  elif after <= RETRAIN_FROM:
    action = "erase and repair"
    why = (
      "Losses of that size cost accuracy where measured, and repair brought it "
      "back where it was tried."
    )
  else:
    action = "retrain"
    why = "Repair brought back a part only of what so large a loss had cost."
  return Advice(action=action, reason=f"{reason}. {why}")


def nobody_left() -> Advice:
  """Return the advice where no source would survive."""
  return Advice(
    action="retrain",
    reason="No source would survive: the model without its sinks is the "
    "backbone, which all of them have taught. Retrain on other data.",
  )
