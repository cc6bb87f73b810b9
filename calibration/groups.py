"""Users known to be apart, such as new ones: what each group loses under the policy, on the certifying users.

1. A group's p-value is the certificate's (`certify`), of its slates alone: the largest over metrics and their tails.
2. The policy was chosen among those tested, so p-values are multiplied by their number. Then Holm's correction (1979): with the
   goal's confidence, no group that loses more than allowed is said to keep the goal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Policy
from rexit.calibration.candidates import p_values, score_of
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import parse
from rexit.calibration.probabilities.reliability_table import by_value
from rexit.calibration.record.traces import Traces
from rexit.errors import InputError


@dataclass(frozen=True)
class Group:
    """A group of the certifying users.

    Attributes:
        by, group: what divides the users, and the group's name.
        users: with a value of each metric, by its name.
        losses: what they lose on average, by metric's name; empty without users.
        p_value: for the hypothesis that they lose more than allowed.
        corrected: the same by rule 2.
        kept: whether it is small enough.
    """

    by: str
    group: str
    users: Mapping[str, int]
    losses: Mapping[str, float]
    p_value: float
    corrected: float = 1.0
    kept: bool = False


def test_groups(
    fields: Mapping[str, NDArray[np.str_]],
    certifiers: Traces,
    evaluate: Callable[[Traces], Evaluation],
    policy: Policy,
    goal: Goal,
    tried: int,
) -> tuple[Group, ...]:
    """Returns each group's test.

    Args:
        fields: values of the validation slates, by what divides them: so a group without certifying users has a line, too.
        certifiers: the certifying users.
        evaluate: prepares some of them.
        policy: what is tested.
        goal: what it must keep.
        tried: how many policies were tested for the certificate.
    """
    names = [(by, name) for by, values in fields.items() for name, _ in by_value(values.tolist())]
    groups = [_group(by, name, certifiers, evaluate, policy, goal) for by, name in names]
    corrected = holm([min(1.0, tried * group.p_value) for group in groups])
    return tuple(
        Group(group.by, group.group, group.users, group.losses, group.p_value, p, p <= goal.error)
        for group, p in zip(groups, corrected, strict=True)
    )


def holm(p: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, in their order."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.minimum(1.0, np.array(p)[order] * np.arange(len(p), 0, -1)))
    corrected = np.empty(len(p))
    corrected[order] = steps
    return corrected.tolist()


def sentence(groups: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns for which groups the goal is shown, in a sentence; None without groups. groups: as in report.json."""
    if not groups:
        return None
    kept = [_name(row) for row in groups if row["kept"]]
    others = [f"{_name(row)} ({_losses(row)})" for row in groups if not row["kept"]]
    shown = f"Of single groups the same is shown for {', '.join(kept)}" if kept else "The same is shown of no single group"
    return f"{shown}; not for {', '.join(others)}." if others else f"{shown}."


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['by']} {row['group']}"


def _losses(row: Mapping[str, Any]) -> str:
    parts = [f"{row['users'][name]:,} users lose {loss:.4f} of {parse(name).title}" for name, loss in row["losses"].items()]
    return ", ".join(parts) or "no users"


def _group(by: str, name: str, certifiers: Traces, evaluate: Callable[[Traces], Evaluation], policy: Policy, goal: Goal) -> Group:
    slates = certifiers.fields[by] == name
    if slates.any():
        evaluation = evaluate(certifiers.of_slates(slates))
        judge, score = evaluation.judge, score_of(evaluation, policy)
        try:
            users = {metric.name: judge.user_count(metric) for metric in goal.metrics}
            losses = {metric.name: judge.drop(metric, score) for metric in goal.metrics}
            return Group(by, name, users, losses, max(p_values(evaluation, policy, goal).values()))
        except InputError:  # nobody has a value of a metric
            pass
    return Group(by, name, {metric.name: 0 for metric in goal.metrics}, {}, 1.0)
