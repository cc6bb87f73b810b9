"""Does a certificate hold? Resamples a calibration's traces: how often is a policy certified that loses more than is allowed?

    python benchmarks/ranking/certificates.py BUNDLE SLATES [--variant cpu-int8] [--max-drop 0.01] [--choosings 20]

The queries of the recorded validation and test slates are the population. Each of --choosings draws of choosing queries, with
replacement and as many as chose, finds its policies; each of 200 draws of as many as certified tests them. A certificate is false
if the policy that is written loses more than --max-drop of NDCG@10, mean over the population.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rexit.calibration import certify, maps
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import parse
from rexit.calibration.policies import explored, find_candidates
from rexit.calibration.traces import TRACES_FILE, Recording, Traces, join, split_users
from rexit.data.slates_file import SlatesFile
from rexit.data.texts import bundle_encoder
from rexit.errors import script
from rexit.format.bundle import Bundle

METRIC, CERTIFYINGS = parse("ndcg@10"), 200


def drawn(population: Traces, count: int, random: np.random.Generator) -> Traces:
    """So many queries, with replacement: every draw is a query of its own."""
    slates = random.integers(0, population.user_count, count)
    sizes = np.diff(population.offsets)[slates]
    pairs = np.concatenate(
        [np.arange(begin, begin + size) for begin, size in zip(population.offsets[slates], sizes, strict=True)]
    )
    offsets = np.cumsum([0, *sizes])
    return Traces(
        population.log_odds[pairs], population.liked[pairs], np.repeat(np.arange(count), sizes), offsets, tuple(range(count))
    )


@script
def main(path: Path, slates: Path, variant: str, max_drop: float, choosings: int) -> None:
    bundle = Bundle.open(path, variant)
    source = SlatesFile.read(slates, partial(bundle_encoder, bundle))
    parts = {name: source.cut(name) for name in ("validation", "test")}
    pairs = {name: sum(len(slate.items) for slate in part) for name, part in parts.items()}
    recording = Recording.read(bundle.folder / TRACES_FILE, len(bundle.exits), {}, pairs)
    costs = recording.profile.costs(recording.prefix_tokens, recording.candidate_tokens, bundle.variant.max_tokens)
    recorded = split_users(join(parts["validation"], recording.log_odds["validation"]))
    everybody = [*parts["validation"], *parts["test"]]
    population = join(everybody, np.concatenate([recording.log_odds[name] for name in parts]))
    goal = Goal((METRIC,), max_drop)
    certified = false = 0
    for seed in range(choosings):
        random = np.random.default_rng(seed)
        choosers = drawn(population, recorded[0].user_count, random)
        choice = maps.choose(maps.AUTO, choosers, goal.metrics)
        choosing = Evaluation(choosers, choice.c, bundle.exits, costs, goal.metrics)
        search, tests = explored(choosing, choice.maps, goal), {METRIC.name: recorded[1].user_count}
        candidates = find_candidates(search, choosing, choice.maps, bundle.variant_sha256, goal, tests)
        whole = Evaluation(population, maps.apply(choice.maps, population.log_odds), bundle.exits, costs, goal.metrics)
        losses: list[NDArray[np.float64]] = []
        for candidate in candidates:
            score = whole.score(candidate.policy.stops(population.log_odds, population.offsets))
            losses.append(whole.judge.per_user(METRIC, whole.full) - whole.judge.per_user(METRIC, score))
        for _ in range(CERTIFYINGS):
            users = random.integers(0, population.user_count, recorded[1].user_count)
            tested = (row[users][np.isfinite(row[users])] for row in losses)
            passed = certify.fixed_sequence(
                [certify.p_value(row, METRIC.bounds or (-1, 1), max_drop, goal.error) for row in tested], goal.error
            )
            if passed:
                written = min(range(passed), key=lambda n: candidates[n].outcome.cost_us)
                certified, false = certified + 1, false + int(np.nanmean(losses[written]) > max_drop)
        print(f"{seed + 1} of {choosings}: {certified} of {(seed + 1) * CERTIFYINGS} certified, {false} false", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("slates", type=Path)
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--choosings", type=int, default=20)
    args = parser.parse_args()
    main(args.bundle, args.slates, args.variant, args.max_drop, args.choosings)
