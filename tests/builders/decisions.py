"""Decisions on synthetic traces: no model is involved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builders.traces import even_costs
from rexit.calibration.decision import Decision, Row, decide
from rexit.calibration.goal import Goal
from rexit.calibration.traces import Traces
from rexit.upkeep.measure import Costs


def decide_on(
    validation: Traces,
    goal: Goal,
    test: Traces | None = None,
    costs: Costs | None = None,
    depths: Sequence[int] = (2, 4, 6),
    **options: Any,
) -> Decision:
    """Decides with even costs. test: None: the validation traces. options: more arguments of `decide`."""
    return decide(
        validation=validation,
        test=test or validation,
        costs=costs or even_costs(validation.exits),
        depths=depths[: validation.exits],
        variant_sha256="digest",
        goal=goal,
        **options,
    )


def row(decision: Decision, name: str) -> Row:
    """Returns a row of the decision's table."""
    return next(entry for entry in decision.rows if entry.name == name)
