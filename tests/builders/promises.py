"""Calibrations from hidden rows to certificate, of users drawn from a population that says whether a certificate is true.

    python tests/builders/promises.py RUNS FILE

appends a line to FILE for each run that it does not have yet, and prints how many certificates were false.

1. A candidate's label depends on a level, -1 or 1, and on a detail. Hidden rows, layer by layer, and the first stage's score know
   the level ever better. The model's last answer alone knows the detail, which decides the order of equal levels but hardly shows
   in probabilities. So the search expects to lose little by stopping early, and by labels an exit loses the detail's part.
2. A run draws users and their roles, fits heads as `rexit heads` does (targets, ridges, exits), puts the score before them as
   exit zero, and decides on the traces: maps, policy, certificate. A user's slates lie apart.
3. Each kind of goal is at the border: what the search proposes loses about as much as is allowed, or slightly more.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders.decisions import decide_on
from rexit.calibration import certify
from rexit.calibration.evaluation import at_exit
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Judge, parse
from rexit.calibration.traces import Traces
from rexit.exporter.heads.hidden_rows import Slates
from rexit.exporter.heads.layers import choose_exits, fit_layers
from rexit.format import roles
from rexit.format.bundle import Policy
from rexit.upkeep.audit.betting import Tail, exceeds

GOALS = {
    "labels": Goal((parse("user-auc"),), 0.09),
    "no labels": Goal((parse("expected-ndcg@3"),), 0.045),
    "labels, a tail": Goal((parse("user-auc"),), 0.2, tail=Tail(0.205, 0.25)),
    "no labels, a tail": Goal((parse("expected-ndcg@3"),), 0.2, tail=Tail(0.17, 0.1)),
}

TRAINING, USERS, SLATES, SIZE, EVERYBODY = 300, 240, 2, 4, 6000
NOISE = (1.2, 0.8, 0.4)
"""Of the level, in the rows after each layer."""
ZERO_NOISE, DETAIL, JUNK = 1.5, 1.0, 4


@dataclass(frozen=True)
class Users:
    """Users whose candidates are in slates: user by user, slate by slate. n candidates.

    liked: bool [n]. score: the first stage's, float32 [n]. hidden: float16 [layers, n, H]. answer: float32 [n].
    """

    liked: np.ndarray
    score: np.ndarray
    hidden: np.ndarray
    answer: np.ndarray

    @classmethod
    def draw(cls, random: np.random.Generator, users: int) -> Users:
        n = users * SLATES * SIZE
        level, detail = random.choice([-1.0, 1.0], n), random.normal(size=n)
        liked = random.random(n) < 1 / (1 + np.exp(-level - DETAIL * detail))
        rows = [np.column_stack([level + noise * random.normal(size=n), random.normal(size=(n, JUNK))]) for noise in NOISE]
        score = level + ZERO_NOISE * random.normal(size=n)
        return cls(liked, score.astype(np.float32), np.array(rows, np.float16), (level + 1e-3 * detail).astype(np.float32))

    def of(self, users: np.ndarray) -> Users:
        """Some users. users: int64."""
        at = (users[:, None] * SLATES * SIZE + np.arange(SLATES * SIZE)).ravel()
        return Users(self.liked[at], self.score[at], self.hidden[:, at], self.answer[at])

    @property
    def numbers(self) -> np.ndarray:
        """Each candidate's user, int64 [n]."""
        return np.arange(len(self.liked)) // (SLATES * SIZE)

    def slates(self, first: int, chooses: np.ndarray) -> Slates:
        """What heads are fitted on. first: the first row in the file of hidden rows; chooses: bool [users]."""
        return Slates(cast(Any, None), self.liked, self.numbers, chooses[self.numbers], first)

    def traces(self, heads: list[Any], ids: tuple[int, ...]) -> Traces:
        """The first slates of all users, then the second ones."""
        columns = [head.log_odds(rows) for head, rows in zip(heads, self.hidden, strict=True) if head is not None]
        n = len(self.liked)
        order = np.arange(n).reshape(-1, SLATES, SIZE).transpose(1, 0, 2).ravel()
        log_odds = np.stack([self.score, *columns, self.answer], 1)[order]
        return Traces(log_odds, self.liked[order], self.numbers[order], np.arange(0, n + 1, SIZE), ids)


POPULATION = Users.draw(np.random.default_rng(10**6), EVERYBODY)


@dataclass(frozen=True)
class Run:
    """What a calibration certified. kind: of the goal; false: whether the policy breaks its promise in the population."""

    number: int
    kind: str
    certified: bool
    false: bool


def run(number: int) -> Run:
    """Draws users, fits heads, decides, and looks whether the population confirms what is certified."""
    kind = list(GOALS)[number % len(GOALS)]
    goal, random = GOALS[kind], np.random.default_rng(number)
    training = Users.draw(random, TRAINING)
    drawn = POPULATION.of(random.choice(EVERYBODY, USERS, replace=False))
    ids = tuple(range(number * USERS, (number + 1) * USERS))
    chooses = np.array(list(map(roles.chooses, ids)))
    file: Any = SimpleNamespace(
        hidden=np.concatenate([training.hidden, drawn.hidden], 1), answer=np.concatenate([training.answer, drawn.answer])
    )
    train, validation = training.slates(0, np.zeros(TRAINING, np.bool_)), drawn.slates(len(training.liked), chooses)
    layers = fit_layers(file, train, validation, keep_last=True)
    losses = np.stack([layers.at(depth).losses for depth in range(1, len(NOISE) + 1)])
    exits = choose_exits("auto:2", losses, float(layers.prior_losses.mean()), whole=True)
    heads = [layers.at(depth).head if depth in exits else None for depth in range(1, len(NOISE) + 1)]
    traces = drawn.traces(heads, ids)
    if kind.startswith("no"):
        traces = replace(traces, liked=traces.liked & False, known=np.zeros(len(traces), np.bool_))
    few = traces.of_users(np.arange(USERS) < 20)  # the test split has no say, and its intervals take time
    decision = decide_on(traces, goal, few, depths=(0, *exits))
    if decision.chosen is None:
        return Run(number, kind, False, False)
    return Run(number, kind, True, is_broken(decision.policy, goal, POPULATION.traces(heads, tuple(range(EVERYBODY)))))


def is_broken(policy: Policy, goal: Goal, population: Traces) -> bool:
    """Whether the policy loses more in the population than the goal allows."""
    c = policy.calibrated(population.log_odds)
    stops = policy.stops(population.log_odds, population.offsets)
    judge = Judge(population.users, population.liked, population.offsets, np.ascontiguousarray(c[:, -1]))
    losses = judge.losses(goal.metrics[0], at_exit(c, stops))
    if losses.mean() > goal.max_drop:
        return True
    return goal.tail is not None and float(exceeds(losses, goal.tail.loss).mean()) > goal.tail.share


def main(runs: int, path: Path) -> None:
    """Appends the runs that the file lacks, and prints how many certificates were false, with the exact 95 % interval."""
    results = [Run(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    numbers = {result.number for result in results}
    for number in (n for n in range(runs) if n not in numbers):
        results.append(run(number))
        with path.open("a") as file:
            file.write(json.dumps(asdict(results[-1])) + "\n")
    for kind in (*GOALS, ""):
        part = [result for result in results if kind in ("", result.kind)]
        false = sum(result.false for result in part)
        low, high = certify.share_interval(false, len(part), 0.05)
        certified = sum(result.certified for result in part)
        share = f"{100 * false / len(part):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        print(f"{kind or 'all'}: {len(part)} runs, {certified} certified, {false} of them false: {share} of all runs")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
