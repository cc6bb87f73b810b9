"""From hidden rows to heads at every layer, and from their losses to exits.

A head is a logistic regression with a ridge:

1. Each of the H numbers is scaled to mean 0 and deviation 1 over the training candidates, so that one ridge suits all.
2. L-BFGS minimizes the mean loss of the candidates (`Target`) plus ridge / 2 times the squared weights, from a strong ridge to
   weak ones, each from the one before.
3. A lower precision rounds rows, and a head with large weights on numbers that vary little would amplify that. So the loss is the
   expected one under noise of deviation ROUNDING on each number, to second order: its variance times at most 1 / 4, half of it
   for each squared weight of the row.
4. The scale becomes the weight of the head's norm, the weights become its projection: the format stores exactly the fit.

Without labels the model's own last answer is what a head learns: its probability of each candidate, and its order within each
slate. No label is drawn. Figures are then losses against that answer: heads hold the model's ranking, not the truth.

Training candidates fit the heads. The validation users who choose (`rexit.format.roles`: those who choose a policy in
calibration, too) choose ridges, targets and exits; the other users, on whom no choice depends, give the figures.

1. For each layer, heads to the labels, to the last answer's probability, and to the mean of both (without labels, to the answer
   alone) are fitted with falling ridges, until the choosing users' loss has risen twice. The head with the lowest loss is the
   layer's.
2. The model's own last answer takes the place of the last layer's head if it ranks the choosing users' items better than chance
   and its loss is not higher than that head's beyond the 95 % interval over users. A caller can decide that instead.
3. A loss is that of a Platt map's answers, as calibration will fit one: mean over users of the mean over their candidates.

`auto:K` makes at most K depths exits:

1. The last exit is the shallowest depth whose loss is within one standard error of the lowest, over users (the one-standard-error
   rule of Breiman et al. 1984), or a deeper one if only that has NDCG@10, too, within one of the best: where likes are rare, log
   loss hardly sees who is first. It may be well before the last layer. Where the model's last answer must stay, it is that layer.
2. The others, at most K - 1, are those with the best curve of loss against cost: layers cost the same, and at a cost between two
   exits the shallower one answers. The area under that curve is least, by dynamic programming over all depths; before the first
   exit it is the loss of one probability for all. An exit whose loss is not below that of every shallower one is never taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from rexit.data.ranking import MIN_USERS, NDCG_AT, ByUser, auc, auc_contributions, bootstrap
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import check_exits
from rexit.exporter.heads.hidden_rows import RowsFile, Slates
from rexit.progress import Progress, silent, tracked
from rexit.upkeep.audit.losses import Loss, SlateLosses

RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
MAX_STEPS = 60
MAX_BYTES = 1 << 32
"""Most memory of the layers that are fitted side by side."""
ROUNDING = 0.02
"""Standard deviation of the noise on each number of a row with root mean square 1. int8 on the CPU moved the log-odds of heads on
SmolLM2-135M as much as noise of 0.012 (layer 1) to 0.028 (layer 19)."""


@dataclass(frozen=True)
class FittedHead:
    """log-odds = (row * scale) @ weight + bias, with float32 [H] weight and scale."""

    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: float

    def log_odds(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 [n] from rows [n, H]."""
        return np.asarray(rows.astype(np.float32) @ (self.scale * self.weight) + np.float32(self.bias), np.float32)


class Order:
    """The order of each slate's candidates, as the model's own answer has it.

    Of log-odds z, the chance that candidate i is the one that is a yes, if just one of its slate is, is softmax(z)_i. The loss
    is the cross-entropy of those chances, so that a slate without any probable candidate has an order, too.

    Args:
        answer: the model's log-odds, float32 [n].
        offsets: where each slate begins, and n: int64 [S + 1].
    """

    def __init__(self, answer: NDArray[np.float32], offsets: NDArray[np.int64]) -> None:
        self._starts, self._sizes = offsets[:-1], np.diff(offsets)
        self._chance = np.exp(self._log_chances(answer))

    def losses(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """Each candidate's part of its slate's loss, float64 [n]. z: log-odds, [n]."""
        return np.asarray(-self._chance * self._log_chances(z))

    def slopes(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """The derivative of the summed losses by z, float64 [n]."""
        return np.asarray(np.exp(self._log_chances(z)) - self._chance)

    def _log_chances(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        below = z.astype(np.float64) - np.repeat(np.maximum.reduceat(z, self._starts), self._sizes)
        return np.asarray(below - np.repeat(np.log(np.add.reduceat(np.exp(below), self._starts)), self._sizes))


@dataclass(frozen=True)
class Target:
    """What a head should answer. probability: of a yes, for each candidate, [n], or labels, bool [n]. order: None: it does not
    count."""

    probability: NDArray[np.floating] | NDArray[np.bool_]
    order: Order | None = None

    def losses(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """The loss of each candidate, float64 [n]: cross-entropy, and its part of the order's. z: log-odds, [n]."""
        losses = np.logaddexp(0, z.astype(np.float64)) - self.probability * z.astype(np.float64)
        return np.asarray(losses if self.order is None else losses + self.order.losses(z))

    def slopes(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """The derivative of the summed losses by z, float64 [n]."""
        slopes = expit(z.astype(np.float64)) - self.probability
        return np.asarray(slopes if self.order is None else slopes + self.order.slopes(z))


class Regression:
    """Training rows [n, H] of one layer, standardized once for all targets and ridges."""

    def __init__(self, rows: NDArray[np.floating]) -> None:
        self._x = rows.astype(np.float32)
        self._mean = self._x.mean(0, dtype=np.float64).astype(np.float32)
        self._x -= self._mean
        deviation = np.sqrt(np.einsum("nh,nh->h", self._x, self._x, dtype=np.float64) / len(self._x))
        self._scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
        self._x *= self._scale

    def fit(self, target: Target, ridge: float, start: FittedHead | None = None) -> FittedHead:
        """target: what the rows' head should answer. start: the initial head; None: zeros."""
        x, n = self._x, len(self._x)
        penalty = ridge + ROUNDING**2 / 4 * self._scale.astype(np.float64) ** 2

        def value(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight = at[:-1]
            z = x @ weight.astype(np.float32) + np.float32(at[-1])
            slopes = target.slopes(z)
            loss = float(target.losses(z).mean()) + float(penalty @ weight**2) / 2
            slope = (slopes.astype(np.float32) @ x).astype(np.float64) / n + penalty * weight
            return loss, np.r_[slope, slopes.mean()]

        share = float(np.clip(target.probability.mean(), 1e-6, 1 - 1e-6))
        begin = np.r_[np.zeros(x.shape[1]), np.log(share / (1 - share))]
        if start is not None:
            begin = np.r_[start.weight, start.bias + float(self._mean @ (self._scale * start.weight))].astype(np.float64)
        optimum = minimize(value, begin, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS, "ftol": 1e-8, "gtol": 1e-6})
        weight = optimum.x[:-1].astype(np.float32)
        return FittedHead(self._scale, weight, float(optimum.x[-1] - self._mean.astype(np.float64) @ (self._scale * weight)))


def platt(z: NDArray[np.float32], target: Target) -> tuple[float, float]:
    """a and b of the log-odds a z + b that fit the target best; a may be negative."""
    head = Regression(z[:, None]).fit(target, 1e-6)
    return float(head.scale[0] * head.weight[0]), head.bias


SHARES = {"labels": 0.0, "mix": 0.5, "last": 1.0}
"""Targets that heads are fitted to, by name: the share of the last answer's probability in the target."""


@dataclass(frozen=True)
class LayerHead:
    """The head after one layer. ridge, target: chosen by validation. head: None for the model's own last answer.

    losses: float64 [choosing users], see the module. misranked: 1 - NDCG@10 by labels, of those with a like and a dislike.
    figures: JSON values, measured on the other users.
    log_odds: float32 [n], of the validation candidates.
    """

    depth: int
    head: FittedHead | None
    ridge: float | None
    target: str | None
    losses: NDArray[np.float64]
    misranked: NDArray[np.float64]
    figures: dict[str, Any]
    log_odds: NDArray[np.float32]

    @property
    def loss(self) -> float:
        """Mean over choosing users."""
        return float(self.losses.mean())

    def to_json(self) -> dict[str, Any]:
        """One row of `heads.json`."""
        return {"layers": self.depth, "own": self.head is None, "ridge": self.ridge, "target": self.target, "loss": self.loss} | (
            self.figures
        )


@dataclass(frozen=True)
class Layers:
    """The heads of all layers.

    heads: shallowest first. own: the model's own last answer, None if it has none; own_is_last: whether it is the last exit's.
    prior_losses: losses of one probability for all candidates, float64 [choosing users].
    choosing: the choosing users' numbers, int64, ascending.
    """

    heads: list[LayerHead]
    own: LayerHead | None
    own_is_last: bool
    prior_losses: NDArray[np.float64]
    choosing: NDArray[np.int64]

    def at(self, depth: int) -> LayerHead:
        """The head that an exit after `depth` layers gets."""
        if self.own_is_last and depth == len(self.heads):
            assert self.own is not None
            return self.own
        return self.heads[depth - 1]


class _Validation:
    """Validation candidates of two groups of users: those that choose, and those that give figures.

    Args:
        slates: the candidates.
        answer: the model's own log-odds of them, float32 [n], which are held where there are no labels.
        labelled: whether there are labels.
    """

    def __init__(self, slates: Slates, answer: NDArray[np.float32], labelled: bool) -> None:
        self.chooses, self.labelled = slates.chooses, labelled
        self._liked, self._users = slates.liked, slates.users
        for part, name in ((self.chooses, "choosing"), (~self.chooses, "other")):
            liked = slates.liked[part]
            if len(liked) == 0 or (labelled and (liked.all() or not liked.any())):
                state = "none" if len(liked) == 0 else f"all {len(liked)} {'liked' if liked[0] else 'not liked'}"
                expected = "likes and others" if labelled else "some"
                raise InputError(
                    f"validation: the candidates of the {name} users are {state}, expected {expected}; take more with "
                    "--validation-slates"
                )
        self.target = Target(slates.liked[self.chooses]) if labelled else answer_target(slates, answer, self.chooses)
        self.ranking = ranking_figures(slates, None if labelled else answer)
        self._choosing = ByUser(slates.users[self.chooses], slates.liked[self.chooses])

    @property
    def choosing_users(self) -> NDArray[np.int64]:
        return np.unique(self._users[self.chooses])

    def losses(self, z: NDArray[np.float32]) -> NDArray[np.float64]:
        """Each choosing user's loss after a Platt map, from all candidates' log-odds."""
        a, b = platt(z[self.chooses], self.target)
        return self._mean_by_user(self.target.losses(a * z[self.chooses] + b))

    def misranked(self, z: NDArray[np.float32]) -> NDArray[np.float64]:
        """1 - NDCG@10 of each choosing user with both labels; empty without labels."""
        return 1 - self._choosing.ndcg(z[self.chooses], NDCG_AT)[self._choosing.both] if self.labelled else np.empty(0)

    def prior_losses(self) -> NDArray[np.float64]:
        share = float(np.mean(self.target.probability))
        return self._mean_by_user(self.target.losses(np.full(int(self.chooses.sum()), np.log(share / (1 - share)))))

    def ranks(self, z: NDArray[np.float32]) -> bool:
        """Whether the choosing users' AUC is above chance, by its 95 % interval."""
        values = self._choosing.auc(z[self.chooses])[self._choosing.both]
        return len(values) >= MIN_USERS and _interval(values)[1] > 0.5

    def figures(self, z: NDArray[np.float32], last: NDArray[np.float32]) -> dict[str, Any]:
        """Figures of the other users. last: log-odds of the deepest head."""
        here, deepest = z[~self.chooses], last[~self.chooses]
        maps = [platt(part[self.chooses], self.target) for part in (z, last)]
        sides = [a * part + b > 0 for (a, b), part in zip(maps, (here, deepest), strict=True)]
        return self.ranking(here) | {"agreement": float((sides[0] == sides[1]).mean())}

    def _mean_by_user(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        numbers = self._choosing.numbers
        return np.asarray(np.bincount(numbers, values) / np.bincount(numbers))


def answer_target(slates: Slates, answer: NDArray[np.float32], part: NDArray[np.bool_] | None = None) -> Target:
    """The model's own answer as a target. answer: log-odds, float32 [n]. part: of these candidates, whole slates; None: all."""
    sizes = slates.sizes
    if part is not None:
        sizes, answer = sizes[part[np.cumsum(sizes) - 1]], answer[part]
    return Target(expit(answer), Order(answer, np.cumsum([0, *sizes])))


def fit_layers(
    file: RowsFile,
    train: Slates,
    validation: Slates,
    keep_last: bool | None,
    progress: Progress = silent,
    *,
    labelled: bool = True,
) -> Layers:
    """Fits a head at every layer.

    Args:
        file: the hidden rows.
        train, validation: the slates whose rows they are.
        keep_last: whether the model's own last answer is the last exit's head; None: see the module.
        progress: called with "heads", the layers done and in all.
        labelled: whether the slates have labels; False: the model's own answer is the target.

    Raises:
        InputError: labels of one class.
    """
    answer = np.asarray(file.answer)
    own, own_log_odds = bool(np.isfinite(answer).all()), answer[validation.rows]
    parts = _Validation(validation, own_log_odds, labelled)
    usable = own and (not labelled or parts.ranks(own_log_odds))
    if labelled:
        names = [name for name, share in SHARES.items() if share == 0 or usable or (keep_last and own)]
        targets = {name: Target(_probability(name, train, validation, answer, parts)) for name in names}
    else:
        targets = {"last": answer_target(train, answer[train.rows])}
    layers = len(file.hidden)
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, MAX_BYTES // (8 * file.hidden[0].size)))) as pool:
        futures = [pool.submit(_fit_layer, k + 1, file.hidden[k], train, validation, targets, parts) for k in range(layers)]
        fits = [future.result() for future in tracked(futures, "heads", progress)]

    last = None
    if own:
        losses, misranked = parts.losses(own_log_odds), parts.misranked(own_log_odds)
        last = LayerHead(layers, None, None, None, losses, misranked, {}, own_log_odds)
    own_is_last = bool(keep_last)
    if keep_last is None and usable:
        assert last is not None
        own_is_last = _interval(last.losses - fits[-1].losses)[1] <= 0
    deepest = own_log_odds if own_is_last else fits[-1].log_odds
    heads = [replace(head, figures=parts.figures(head.log_odds, deepest)) for head in (*fits, *([last] if last else []))]
    return Layers(heads[:layers], heads[-1] if last else None, own_is_last, parts.prior_losses(), parts.choosing_users)


def _probability(
    name: str, train: Slates, validation: Slates, answer: NDArray[np.float32], parts: _Validation
) -> NDArray[np.float32]:
    """The probability of a yes that the training candidates' head should give, float32 [n]."""
    share, liked = SHARES[name], train.liked.astype(np.float32)
    if share == 0:
        return liked
    a, b = platt(answer[validation.rows][parts.chooses], parts.target)
    probability = expit(a * answer[train.rows].astype(np.float64) + b)
    return np.asarray((1 - share) * liked + share * probability, np.float32)


def _fit_layer(
    depth: int,
    hidden: NDArray[np.float16],
    train: Slates,
    validation: Slates,
    targets: dict[str, Target],
    parts: _Validation,
) -> LayerHead:
    """Rule 1. The figures, which need the deepest head, are not measured yet."""
    regression, held_out = Regression(hidden[train.rows]), hidden[validation.rows]
    choosing_rows = held_out[parts.chooses]
    best: tuple[float, FittedHead, float, str] | None = None
    for name, target in targets.items():
        head, lowest, rises = None, np.inf, 0
        for ridge in RIDGES:
            head = regression.fit(target, ridge, head)
            loss = float(parts.target.losses(head.log_odds(choosing_rows)).mean())
            if best is None or loss < best[0]:
                best = loss, head, ridge, name
            rises = rises + 1 if loss > lowest else 0
            lowest = min(lowest, loss)
            if rises == 2:
                break
    assert best is not None
    _, head, ridge, name = best
    log_odds = head.log_odds(held_out)
    return LayerHead(depth, head, ridge, name, parts.losses(log_odds), parts.misranked(log_odds), {}, log_odds)


Figures = Callable[[NDArray[np.floating]], dict[str, list[float]]]
"""Returns figures of a ranking, each with its 95 % interval. Its argument: scores, [n], of the users who do not choose."""


def ranking_figures(slates: Slates, answer: NDArray[np.float32] | None) -> Figures:
    """Returns what figures are computed by: AUC, user AUC and NDCG by labels; without labels expected NDCG, and how many of the
    first ten are the same, against the model's own answer.

    answer: its log-odds, float32 [n]; None: there are labels.
    """
    others = ~slates.chooses
    if answer is None:
        return partial(_by_labels, ByUser(slates.users[others], slates.liked[others]), slates.liked[others])
    whole = others[np.cumsum(slates.sizes) - 1]
    offsets = np.cumsum([0, *slates.sizes[whole]])
    return partial(_by_answer, SlateLosses(answer[others], offsets), slates.users[others][offsets[:-1]])


def _by_labels(by_user: ByUser, liked: NDArray[np.bool_], score: NDArray[np.floating]) -> dict[str, list[float]]:
    area = auc(score, liked)
    changes = np.bincount(by_user.numbers, auc_contributions(score, liked))
    return {
        "auc": [area, *_interval(np.asarray(area + len(changes) * changes, np.float64))[1:]],
        "user_auc": _interval(by_user.auc(score)[by_user.both]),
        f"ndcg@{NDCG_AT}": _interval(by_user.ndcg(score, NDCG_AT)[by_user.both]),
    }


def _by_answer(losses: SlateLosses, users: NDArray[np.int64], score: NDArray[np.floating]) -> dict[str, list[float]]:
    figures = {}
    for loss in (Loss("expected-ndcg", NDCG_AT), Loss("top-k-overlap", NDCG_AT)):
        values = 1 - losses.of(loss, score.astype(np.float32))
        known = np.isfinite(values)
        numbers = np.unique(users[known], return_inverse=True)[1]
        figures[loss.name] = _interval(np.bincount(numbers, values[known]) / np.bincount(numbers))
    return figures


def _interval(values: NDArray[np.float64]) -> list[float]:
    """The mean over users and its 95 % interval; NaN without users."""
    if len(values) == 0:
        return [float("nan")] * 3
    means = bootstrap(values, np.ones(len(values)))
    return [float(values.mean()), *map(float, np.percentile(means, [2.5, 97.5]))]


AUTO = re.compile(r"auto:([1-9]\d*)")


def check_choice(text: str, layers: int, keep_last: bool) -> None:
    """Raises InputError unless `text` is `auto:K`, or a list of depths that the model has. With `keep_last` a list
    has the last one."""
    if AUTO.fullmatch(text):
        return
    depths = _depths(text)
    check_exits(depths, layers)
    if keep_last and depths[-1] != layers:
        raise InputError(
            f"--exits {text} with --keep-last: the model's last answer is after layer {layers}, which is not among them"
        )


def choose_exits(
    text: str, losses: NDArray[np.float64], prior: float, whole: bool, misranked: NDArray[np.float64] | None = None
) -> list[int]:
    """Depths, ascending.

    Args:
        text: see `check_choice`.
        losses: float64 [layers, users], each user's loss at each depth.
        prior: loss of one probability for all candidates.
        whole: whether `auto` always ends at the last layer.
        misranked: 1 - NDCG@10 of some users, float64 [layers, U]; None or U = 0: unknown.
    """
    if not (match := AUTO.fullmatch(text)):
        return _depths(text)
    if whole:
        end = len(losses)
    else:
        end = max(last_exit(values) for values in (losses, misranked) if values is not None and values.shape[1])
    return best_curve(losses[:end].mean(1), prior, int(match[1]))


def last_exit(losses: NDArray[np.float64]) -> int:
    """Rule 1."""
    best = int(losses.mean(1).argmin())
    behind = losses - losses[best]
    errors = behind.std(1) / np.sqrt(max(1, losses.shape[1]))
    return 1 + int(np.argmax(behind.mean(1) <= errors))


def best_curve(losses: Sequence[float] | NDArray[np.float64], prior: float, most: int) -> list[int]:
    """Rule 2: at most `most` depths, the last of which is len(losses). losses: by depth, from 1."""
    end = len(losses)
    loss = [prior, *map(float, losses)]
    # After round k: area[d] is the least area up to depth d whose k-th exit is there, path[d] those exits. Depth 0 is no exit.
    area, path = {0: 0.0}, {0: [0]}
    finals: list[tuple[float, list[int]]] = []
    for _ in range(most):
        next_area, next_path = {}, {}
        for depth in range(1, end + 1):
            ways = [
                (area[d] + loss[d] * (depth - d), d)
                for d in area
                if d < depth and (d == 0 or loss[depth] < loss[d] or depth == end)
            ]
            if ways:
                next_area[depth], before = min(ways)
                next_path[depth] = [*path[before], depth]
        if end in next_area:
            finals.append((next_area.pop(end), next_path.pop(end)))
        area, path = next_area, next_path
    return min(finals)[1][1:]


def _depths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as exc:
        raise InputError(f"--exits {text}: expected auto:K or depths in layers, e.g. auto:5 or 5,10,20") from exc
