"""Rounds in which every contender answers the same request: times, their ratios, and how well the answers agree."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from contenders import REFERENCE, Contender
from numpy.typing import NDArray
from processes import Peer


def asked_in_turn(
    running: Mapping[str, Peer],
    contenders: Sequence[Contender],
    sides: tuple[Sequence[str], Sequence[str]],
    draw: Callable[[], Mapping[str, Any]],
    name: str,
    cached: bool,
    rounds: int,
    reference: str = REFERENCE,
) -> dict[str, Any]:
    """Draws a request in every round, and asks every contender once.

    Args:
        running: peers by name.
        contenders: in the order of the odd rounds.
        sides: names of the contenders to compare, and of those that they are compared with.
        draw: returns a new request.
        name: the case's, for progress.
        cached: whether the prefix is cached from the request's `before`.
        rounds: number of rounds, after one that warms up.
        reference: the contender whose log-odds are right.
    """
    best: dict[str, str] = {}
    tried: dict[str, dict[str, float]] = {}
    trials = [draw() for _ in range(4)]
    for contender in contenders:
        asked = [part for part in map(contender.asked, trials) if part["candidates"]]
        if not contender.way and len(asked) > 1:
            best[contender.name], tried[contender.name] = fastest(running[contender.peer], asked, cached)
    times = {contender.name: np.zeros(rounds) for contender in contenders}
    answers: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for n in range(-1, rounds):  # round -1 warms up
        request = draw()
        for contender in contenders if n % 2 else contenders[::-1]:
            time.sleep(0.02)  # the previous contender's thread pools may still spin
            part, peer = contender.asked(request), running[contender.peer]
            if not part["candidates"]:
                continue  # exit zero has answered, which takes the peer no time
            elapsed, log_odds = peer.ask(contender.way or best.get(contender.name, peer.ways[0]), part, cached)
            if n >= 0:
                times[contender.name][n] = elapsed
                answers[contender.name] += log_odds
        elapsed_ms = ", ".join(f"{contender} {of[n]:.0f}" for contender, of in times.items()) if n >= 0 else "warm-up"
        print(f"{name}: round {n + 1} of {rounds}, ms: {elapsed_ms}", file=sys.stderr)
    expected = np.array(answers[reference])
    compared = {
        contender.name: agreement(np.array(answers[contender.name]), expected)
        for contender in contenders
        if contender.tolerance is not None
    }
    return {
        "rounds": rounds,
        "milliseconds": {name: float(np.median(values)) for name, values in times.items()},
        "ratios": ratios(times, *sides),
        "agreement": compared,
        "disagreements": disagreements(compared, contenders, reference),
        "configurations": tried,
    }


def fastest(peer: Peer, requests: Sequence[Mapping[str, Any]], cached: bool) -> tuple[str, dict[str, float]]:
    """The way of a peer with the lowest median, after a warm-up request, and the medians of all its ways."""
    elapsed = {way: [peer.ask(way, request, cached)[0] for request in requests][1:] for way in peer.ways}
    medians = {way: float(np.median(times)) for way, times in elapsed.items()}
    return min(medians, key=lambda way: medians[way]), medians


def ratios(times: Mapping[str, NDArray[np.float64]], ours: Sequence[str], peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How many times faster ours are: `{a}_vs_{b}` -> median and quartiles over rounds of b's time divided by a's.

    times: milliseconds [rounds] of each contender.
    """
    results = {}
    for name in ours:
        for other in peers:
            if name in times and other in times:
                ratio = times[other] / times[name]
                low, middle, high = np.percentile(ratio, [25, 50, 75]).tolist()
                results[f"{name}_vs_{other}"] = {"median": middle, "quartiles": [low, high]}
    return results


def agreement(actual: NDArray[np.float64], expected: NDArray[np.float64]) -> dict[str, float]:
    """How well a contender's log-odds agree with the reference's, over all rounds and candidates."""
    return {"correlation": float(np.corrcoef(actual, expected)[0, 1]), "max_difference": float(np.abs(actual - expected).max())}


def disagreements(
    results: Mapping[str, Mapping[str, float]], contenders: Sequence[Contender], reference: str = REFERENCE
) -> list[str]:
    """One line for each contender that does not compute what it should. NaN does not pass."""
    lines = []
    for contender in contenders:
        if contender.tolerance is None or contender.name not in results:
            continue
        row = results[contender.name]
        if not (row["max_difference"] <= contender.tolerance and row["correlation"] >= contender.correlation):
            lines.append(
                f"{contender.name}: log-odds differ from {reference} by up to {row['max_difference']:.3g}, correlation "
                f"{row['correlation']:.5f}; expected at most {contender.tolerance:g} and at least {contender.correlation:g}"
            )
    return lines
