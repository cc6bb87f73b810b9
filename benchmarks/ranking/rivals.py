"""What do other ways to prune candidates cost at the same risk? Each is chosen and certified as rexit's policy is.

    rexit calibrate BUNDLE --catalog CATALOG --metric ndcg@10 --top-k 10 --slate 100
    python benchmarks/ranking/rivals.py CATALOG BUNDLE [--variant cpu-fp32] [--divisions 10]

CATALOG may be a file of slates. Reads the traces that `rexit calibrate` left.

Rules
1. Validation users are divided at random into those who choose and those who certify, a few times. Who chose heads may certify
   here, so certificates compare rules and promise nothing. The test split judges.
2. Of a rule's settings those that are expected to lose at most 0.01 of NDCG@10 on the choosing users. The certifying users test
   them as they test rexit's policies: the likeliest to pass first, then ever cheaper ones, by the same betting test, up to the
   first that fails. The cheapest certified one counts, full depth if there is none.
3. A cost is layers times tokens, a prefix once a slate; exit zero's is its measured time in times of a token's layer. Shares of
   full depth's, on test. Retrieval, which every rule pays, is left out.
4. All rank by the same maps' log-odds, and are held against the same full depth. A rival's dropped candidates rank below all
   others and its accepted ones above, or all rank by their log-odds where they stop: the choosing users decide.
5. Rivals that read the first stage's score read exit zero's; in a bundle without it the first exit's, whose cost they pay.

PRISM (arXiv 2510.15620), by its abstract: between layers the scores of a slate are clustered, and clusters whose place is known
    are pruned. Our choice: scores are the exits'; they are clustered once their probabilities' coefficient of variation is large
    enough, by k-means of log-odds or of probabilities, in 2 to 8 clusters; clusters inside the first k are accepted or go on,
    clusters outside are dropped, the one between goes on.
SEE (doi 10.1145/3726302.3729962), as its code (veneres/SEE-SIGIR25) does before the first layer: candidates whose similarity,
    scaled to 0 to 1 in the slate, is at most t below the k-th best go on, the others rank below them. Traces lack the similarity
    of token embeddings: the first stage's score takes its place.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from frontier import METRIC, recorded
from judgement import TOP
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from rexit.calibration import certify, metrics
from rexit.calibration.decision import decide
from rexit.calibration.evaluation import Evaluation, Expectation
from rexit.calibration.goal import Goal
from rexit.calibration.maps import apply
from rexit.calibration.policies import in_order, margin, score_of
from rexit.calibration.traces import TRACES_FILE, Recording, Traces, split_users
from rexit.data.ranking import bootstrap, probabilities
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.errors import script
from rexit.format.bundle import Bundle, Catalog
from rexit.upkeep.measure import Costs

CUTS = (10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90)
SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CLUSTERS = (2, 3, 5, 8)
STEPS = 10  # of k-means

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Stops = tuple[Integers, Integers]
"""Of each candidate, the exit, and -1, 0 or 1: dropped, answered, accepted. int64 [n]."""
Rule = Callable[[Evaluation], Stops]


@dataclass(frozen=True)
class Result:
    """What a rule's cheapest certified setting does on test. cost: of full depth's; losses: float64 [users with a value]."""

    certified: bool
    cost: float
    losses: Floats


def unit_costs(record: Recording, depths: Sequence[int]) -> Costs:
    """Returns costs in layers times tokens."""
    layers, segments = np.diff(depths, prepend=0).astype(np.float64), record.profile.segments
    candidate = layers * record.candidate_tokens
    if depths[0] == 0:
        candidate[0] = segments[0].candidate_us * depths[-1] / sum(segment.candidate_token_us for segment in segments)
    return Costs(0.0, layers * record.prefix_tokens, np.zeros(len(depths)), candidate, 10**9)


def matrix(values: NDArray[np.floating], offsets: Integers) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns values by slate, filled up with minus infinity, float64 [S, most candidates], and where values are."""
    sizes = np.diff(offsets)
    inside = np.arange(sizes.max()) < sizes[:, None]
    rows = np.full(inside.shape, -np.inf)
    rows[inside] = values
    return rows, inside


def places(values: NDArray[np.floating], offsets: Integers) -> Integers:
    """Returns each candidate's place in its slate, from 0, the highest value first: int64 [n]."""
    slates = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = np.empty(len(values), np.int64)
    place[np.lexsort((-values, slates))] = np.arange(len(values)) - np.repeat(offsets[:-1], np.diff(offsets))
    return place


def fixed(k: int, of: Evaluation) -> Stops:
    return np.full(len(of.c), k), np.zeros(len(of.c), np.int64)


def cut(goes_on: Callable[[Evaluation], NDArray[np.bool_]], last: int, of: Evaluation) -> Stops:
    """Those who go on after the first exit are answered at the exit `last`, the others dropped."""
    on = goes_on(of)
    return np.where(on, last, 0), np.where(on, 0, -1)


def best(count: int, of: Evaluation) -> NDArray[np.bool_]:
    return places(of.c[:, 0], of.traces.offsets) < count


def above(threshold: float, of: Evaluation) -> NDArray[np.bool_]:
    return of.c[:, 0] >= threshold


def near(t: float, k: int, of: Evaluation) -> NDArray[np.bool_]:
    """SEE's filter."""
    rows, inside = matrix(of.c[:, 0], of.traces.offsets)
    high, low = rows.max(1, keepdims=True), np.where(inside, rows, np.inf).min(1, keepdims=True)
    scaled = (rows - low) / (high - low + 1e-8)
    width = rows.shape[1]
    kth = np.sort(scaled, 1)[:, [max(0, width - k)]]  # minus infinity in a slate of fewer
    return np.asarray((scaled >= np.maximum(0, kth - t))[inside] | (kth == -np.inf).repeat(width, 1)[inside])


def clusters(values: Floats, count: int) -> Integers:
    """Returns each value's cluster by k-means of one dimension from evenly spaced quantiles, the highest cluster first.

    values: float64 [rows, m], minus infinity where there is none, which is in no cluster: `count`. Returns int64 [rows, m].
    """
    known = values > -np.inf
    ordered, sizes = -np.sort(-values, 1), known.sum(1, keepdims=True)
    at = ((np.arange(count) + 0.5) / count * sizes).astype(np.int64)
    centres = np.take_along_axis(ordered, np.minimum(at, values.shape[1] - 1), 1)
    rows = np.arange(len(values))[:, None] * (count + 1)
    for _ in range(STEPS):
        edges = (centres[:, :-1] + centres[:, 1:]) / 2
        nearest = np.where(known, (values[..., None] < edges[:, None]).sum(2), count)
        members = np.bincount((rows + nearest).ravel(), minlength=len(values) * (count + 1)).reshape(-1, count + 1)[:, :-1]
        sums = np.bincount((rows + nearest)[known], values[known], len(values) * (count + 1)).reshape(-1, count + 1)[:, :-1]
        moved = np.where(members > 0, sums / np.maximum(members, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return nearest


def variation(p: Floats, going: NDArray[np.bool_]) -> Floats:
    """Returns the coefficient of variation of the going candidates' probabilities, float64 [S]; 0 without any."""
    count = np.maximum(going.sum(1), 1)
    mean = np.where(going, p, 0).sum(1) / count
    square = np.where(going, (p - mean[:, None]) ** 2, 0).sum(1) / count
    return np.asarray(np.sqrt(square) / np.maximum(mean, 1e-12), np.float64)


def prism(k: int, threshold: float, count: int, of_probabilities: bool, accepts: bool, of: Evaluation) -> Stops:
    """PRISM's pruning at every exit but the last. accepts: whether clusters inside the first k stop."""
    last = of.c.shape[1] - 1
    inside = matrix(of.c[:, 0], of.traces.offsets)[1]
    stops, tiers = np.full(inside.shape, last), np.zeros(inside.shape, np.int64)
    for e in range(last):
        c, known = matrix(of.c[:, e], of.traces.offsets)
        p = np.where(known, probabilities(c.astype(np.float32)), 0)
        going = known & (stops > e)
        left = k - (tiers == 1).sum(1)
        ready = (variation(p, going) >= threshold) & going.any(1)
        rows = np.flatnonzero(ready)
        values = np.where(going[rows], (p if of_probabilities else c)[rows], -np.inf)
        cluster = clusters(values, count)
        members = (values[:, :, None] > -np.inf) & (cluster[:, :, None] == np.arange(count))
        ends = members.sum(1).cumsum(1)
        begins = ends - members.sum(1)
        there = np.minimum(cluster, count - 1)
        accepted = going[rows] & (np.take_along_axis(ends, there, 1) <= left[rows, None])
        dropped = going[rows] & (np.take_along_axis(begins, there, 1) >= left[rows, None])
        tiers[rows] = np.where(dropped, -1, np.where(accepted & accepts, 1, tiers[rows]))
        # Clusters that end at the k-th place leave nothing to decide: the slate stops.
        done = (accepted | dropped | ~going[rows]).all(1, keepdims=True)
        stops[rows] = np.where(dropped | (accepted & (accepts | done)), e, stops[rows])
    return stops[inside], tiers[inside]


def settings(depths: Sequence[int], k: int, choosing: Evaluation) -> dict[str, list[Rule]]:
    """Returns each rival's rules to choose from."""
    exits = range(len(depths))
    deeper = exits[1:]
    thresholds = np.quantile(choosing.c[:, 0], [1 - share for share in SHARES]).tolist()
    p = matrix(probabilities(choosing.c[:, 0]), choosing.traces.offsets)
    spreads = [0.0, *np.quantile(variation(np.where(p[1], p[0], 0), p[1]), (0.25, 0.5, 0.75)).tolist()]
    return {
        "fixed depth": [partial(fixed, e) for e in exits],
        "cut at m candidates": [partial(cut, partial(best, m), e) for m, e in itertools.product(CUTS, deeper)],
        "cut at a threshold": [partial(cut, partial(above, t), e) for t, e in itertools.product(thresholds, deeper)],
        "SEE": [partial(cut, partial(near, t, k), e) for t, e in itertools.product((0.0, *SHARES), deeper)],
        "PRISM": [partial(prism, k, *s) for s in itertools.product(spreads, CLUSTERS, (False, True), (False, True))],
    }


def cost_of(stops: Integers, of: Evaluation) -> float:
    """Returns the share of full depth's cost."""
    return of.cost_us(stops) / of.cost_us(fixed(of.c.shape[1] - 1, of)[0])


def scores(stops: Stops, of: Evaluation) -> Iterable[NDArray[np.floating]]:
    """Returns the two rankings of rule 4: by tiers first, and by log-odds alone."""
    score = of.score(stops[0]).astype(np.float64)
    return score + stops[1] * (1 + np.ptp(score)), score


def rival(rules: Sequence[Rule], choosing: Evaluation, certifying: Evaluation, test: Evaluation, goal: Goal) -> Result:
    """Chooses, certifies and measures."""
    expectation, metric = Expectation(choosing.traces, choosing.full, choosing.judge), goal.metrics[0]
    users = {metric.name: certifying.judge.user_count(metric)}
    trials: list[tuple[Rule, int]] = []
    costs, margins = [], []
    for rule in rules:
        stops = rule(choosing)
        cost = cost_of(stops[0], choosing)
        for order, score in enumerate(scores(stops, choosing)):
            drops = expectation.drops([metric], score)
            if drops[0] <= goal.max_drop and cost < 1:
                trials.append((rule, order))
                costs.append(cost)
                margins.append(margin(choosing, score, drops, goal, users))

    def losses(n: int, of: Evaluation) -> Floats:
        rule, order = trials[n]
        return of.judge.losses(metric, tuple(scores(rule(of), of))[order])

    assert metric.bounds is not None
    tested = in_order(costs, margins)
    p_values = [certify.p_value(losses(n, certifying), metric.bounds, goal.max_drop, goal.error) for n in tested]
    passed = certify.fixed_sequence(p_values, goal.error)
    if not passed:
        return Result(False, 1.0, 0 * test.judge.losses(metric, test.full))
    cheapest = tested[passed - 1]
    return Result(True, cost_of(trials[cheapest][0](test)[0], test), losses(cheapest, test))


def division(number: int, validation: Traces, test: Traces, costs: Costs, bundle: Bundle, goal: Goal) -> dict[str, Result]:
    """Returns every rule's result for one division of the users."""
    renamed = replace(validation, ids=tuple(f"{number} {user}" for user in validation.ids))  # a role follows from the id
    depths = bundle.exits
    decision = decide(validation=renamed, test=test, costs=costs, depths=depths, variant_sha256=bundle.variant_sha256, goal=goal)
    choosers, certifiers = split_users(renamed)
    maps = decision.choice.maps
    choosing = Evaluation(choosers, decision.choice.c, depths, costs, goal.metrics)
    certifying, judged = (
        Evaluation(part, apply(maps, part.log_odds), depths, costs, goal.metrics) for part in (certifiers, test)
    )
    rules = settings(depths, goal.metrics[0].k, choosing)
    results = {name: rival(entries, choosing, certifying, judged, goal) for name, entries in rules.items()}
    stops = decision.policy.stops(test.log_odds, test.offsets)
    losses = judged.judge.losses(goal.metrics[0], score_of(judged, decision.policy))
    return results | {"rexit": Result(decision.chosen is not None, cost_of(stops, judged), losses)}


def table(divisions: Sequence[dict[str, Result]]) -> Table:
    """Returns a row for each rule."""
    rows = Table("", "certified", "cost: mean", "median (least to most)", "loss on test", box=MARKDOWN)
    for name in divisions[0]:
        results = [results[name] for results in divisions]
        costs = [result.cost for result in results]
        losses = np.mean([result.losses for result in results], 0)
        low, high = np.percentile(bootstrap(losses, np.ones(len(losses))), [2.5, 97.5])
        rows.add_row(
            name,
            f"{sum(result.certified for result in results)} of {len(results)}",
            f"{np.mean(costs):.3f}",
            f"{np.median(costs):.3f} ({min(costs):.3f} to {max(costs):.3f})",
            f"{losses.mean():+.4f} ({low:+.4f} to {high:+.4f})",
        )
    return rows


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="CATALOG")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--divisions", type=int, default=10, help="of the validation users (10)")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle, args.variant)
    source = Catalog.open(args.source) if args.source.is_dir() else SlatesFile.read(args.source, partial(bundle_encoder, bundle))
    with safe_open(bundle.folder / TRACES_FILE, "np") as file:
        made_of = json.loads(file.metadata()["rexit"])["made_of"]
    record, traces = recorded(source, bundle, made_of["slate"], made_of["max_slates"])
    goal, costs = Goal((metrics.parse(METRIC),), top_k=TOP), unit_costs(record, bundle.exits)
    results = [division(n, traces["validation"], traces["test"], costs, bundle, goal) for n in range(args.divisions)]
    Console(width=160).print(table(results))


if __name__ == "__main__":
    main()
