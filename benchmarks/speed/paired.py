"""Is one bundle, or one set of kernels, faster than another? Two processes answer the same requests in turn.

    python benchmarks/speed/paired.py BUNDLE OTHER [--rounds 15] [--threads 1]
    python benchmarks/speed/paired.py BUNDLE BUNDLE --kernels avx512,avx2

A request is random token ids at full depth: a cold prefix and candidates behind it, or an encoder's pairs. Each process has its
bundle open and waits while the other works; every second round asks them in reverse order. Ratios are OTHER / BUNDLE within a
round, of the processor's time (which other work on the machine changes little) and of the time that passes. --kernels sets
$REXIT_KERNELS of each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import rexit
from rexit.errors import script
from rexit.format.bundle import Bundle
from rexit.format.request import Request

CASES = ((200, 20, 12), (200, 1, 12), (200, 100, 12), (400, 20, 12), (30, 5, 12))
"""Tokens of the prefix, candidates, and tokens of each."""
ENCODER_CASES = ((0, 20, 200), (0, 100, 200), (0, 100, 40))


def started(*words: Any) -> Connection:
    """A process that scores."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    processes.Process(target=serve, args=(theirs, *words), daemon=True).start()
    theirs.close()
    return ours


@script
def serve(requests: Connection, bundle: Path, variant: str, threads: int, kernels: str) -> None:
    """Answers each request with milliseconds of processor and of passing time, and the log-odds."""
    os.environ |= {"REXIT_KERNELS": kernels} if kernels else {}
    with rexit.open(bundle, variant, threads=threads) as session:
        while True:
            tokens = Request.tokens(*requests.recv())
            session.clear_cache()
            processor, begin = time.process_time(), time.perf_counter()
            scores = session.score(tokens, force_exit=session.info.exits - 1)
            passed, processor = time.perf_counter() - begin, time.process_time() - processor
            requests.send({"processor": 1e3 * processor, "passing": 1e3 * passed, "log_odds": scores.log_odds})


def measure(sides: Sequence[Connection], vocabulary: int, case: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """One case: medians of both sides, ratios with quartiles, and the largest difference in log-odds."""
    random = np.random.default_rng(0)
    prefix, candidates, length = case
    times: dict[str, list[list[float]]] = {"processor": [], "passing": []}
    difference = 0.0
    for n in range(-1, rounds):  # round -1 warms up
        request = random.integers(vocabulary, size=prefix), random.integers(vocabulary, size=(candidates, length))
        answers = {}
        for k in (0, 1) if n % 2 else (1, 0):
            sides[k].send(request)
            try:
                answers[k] = sides[k].recv()
            except EOFError:
                sys.exit("paired.py: a process ended; its message is above")
        if n < 0:
            continue
        for clock, values in times.items():
            values.append([answers[0][clock], answers[1][clock]])
        difference = max(difference, float(np.abs(np.subtract(answers[0]["log_odds"], answers[1]["log_odds"])).max()))
    result: dict[str, Any] = {"prefix": prefix, "candidates": candidates, "tokens": length, "difference": difference}
    for clock, values in times.items():
        pairs = np.array(values)
        low, middle, high = np.percentile(pairs[:, 1] / pairs[:, 0], [25, 50, 75]).tolist()
        result[clock] = {"ms": np.median(pairs, 0).tolist(), "ratio": middle, "quartiles": [low, high]}
    return result


def show(results: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="other / bundle: median and quartiles", title_justify="left")
    for column in ("request", "processor ms", "ratio", "passing ms", "ratio", "largest difference"):
        table.add_column(column)
    for row in results:
        cells = []
        for clock in ("processor", "passing"):
            entry = row[clock]
            cells.append(" and ".join(f"{ms:.1f}" for ms in entry["ms"]))
            cells.append("{:.3f} ({:.3f} to {:.3f})".format(entry["ratio"], *entry["quartiles"]))
        request = f"{row['candidates']} of {row['tokens']} behind {row['prefix']}"
        table.add_row(request, *cells, f"{row['difference']:.2g}")
    Console(highlight=False, width=130).print(table)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs=2)
    parser.add_argument("--variant", default="cpu-int8")
    parser.add_argument("--kernels", default=",", help="$REXIT_KERNELS of both, separated by a comma; nothing leaves it as it is")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    kernels = args.kernels.split(",")
    if len(kernels) != 2:
        sys.exit(f"paired.py: --kernels {args.kernels}, expected two")
    model = Bundle.open(args.bundles[0], args.variant).manifest.model
    sides = [started(bundle, args.variant, args.threads, name) for bundle, name in zip(args.bundles, kernels, strict=True)]
    show([measure(sides, model.vocab_size, case, args.rounds) for case in (CASES if model.causal else ENCODER_CASES)])


if __name__ == "__main__":
    main()
