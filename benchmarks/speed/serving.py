"""`rexit serve` under load, compared with the same slates through as many sessions without HTTP.

    python benchmarks/speed/serving.py BUNDLE [--variant NAME] [--slate 50] [--requests 200] [--sessions 1] [--json]

The service is a process of its own on 127.0.0.1; the clients share the machine with it, and its cores. Slates are those of
`rexit bench`: random users and items, the same ones every time.

1. Closed loop: as many clients as sessions, each with a connection of its own, ask again as soon as they have an answer.
   `direct`: as many threads call `Session.score`. The two alternate, for ROUNDS rounds; medians over rounds of throughput, p50
   and p99. Every round asks for the same slates, so all but the first find cached prefixes, as long as these fit; the first round
   is thrown away.
2. Open loop: Poisson arrivals at shares of the closed loop's throughput. Latency counts from the moment a request was due, so it
   includes waiting, also for a client.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rexit
from rexit.bundle import Bundle
from rexit.cli.use.serve import threads_for
from rexit.measure import load
from rexit.measure.bench import SEED, BenchOptions, draw
from rexit.measure.machine import machine
from rexit.process.scripts import script
from rexit.runtime import Session
from rexit.slates import Slate

ROUNDS = 5
CLIENTS = 32
"""Connections of the open loop, and so the most requests in flight."""


@contextlib.contextmanager
def service(bundle: Path, variant: str, sessions: int, threads: int) -> Iterator[int]:
    """The port of a `rexit serve`."""
    options = f"--variant {variant} --port 0 --sessions {sessions} --threads {threads} --queue 1000".split()
    command = [sys.executable, "-m", "rexit", "serve", str(bundle), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next((line for line in process.stderr if "http://" in line), "")  # warnings come first
        try:
            yield int(line.rsplit(":", 1)[1])
        finally:
            process.terminate()


def client(port: int, requests: Sequence[Slate]) -> load.Worker:
    """Asks for slate i over a connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(i: int) -> None:
        body = json.dumps({"user": requests[i].user, "items": list(requests[i].items)})
        connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{answer.status}: {text.decode()}")

    return ask


def direct(session: Session, requests: Sequence[Slate]) -> load.Worker:
    def ask(i: int) -> None:
        session.score(requests[i].request)

    return ask


def timed(worker: load.Worker, latencies_ms: list[float]) -> load.Worker:
    """Records the milliseconds of each call."""

    def work(i: int) -> None:
        begin = time.perf_counter()
        worker(i)
        latencies_ms.append((time.perf_counter() - begin) * 1000)

    return work


def closed(workers: Sequence[load.Worker], count: int) -> tuple[float, float, float]:
    """Requests a second, p50 and p99 in milliseconds."""
    latencies_ms: list[float] = []
    rate = load.closed_loop([timed(worker, latencies_ms) for worker in workers], count)
    return rate, *np.percentile(latencies_ms, [50, 99]).tolist()


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", help="the bundle's first, if not given")
    parser.add_argument("--slate", type=int, default=50)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rates", default="0.5,0.8")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    slates = draw(bundle, BenchOptions(slate=options.slate, requests=options.requests))
    requests = [slate for slate in slates if isinstance(slate, Slate)]
    variant = options.variant or bundle.variant.name
    threads = options.threads or threads_for(options.sessions)
    served_here = rexit.open(options.bundle, variant, threads=threads)
    with service(options.bundle, variant, options.sessions, threads) as port, served_here as session:
        sessions = [session, *(session.another() for _ in range(options.sessions - 1))]
        ways: dict[str, Sequence[load.Worker]] = {
            "direct": [direct(direct_session, requests) for direct_session in sessions],
            "http": [client(port, requests) for _ in sessions],
        }
        results: dict[str, list[Any]] = {name: [] for name in ways}
        for n in range(ROUNDS + 1):
            print(f"round {n} of {ROUNDS}", file=sys.stderr)
            for name, workers in ways.items():
                result = closed(workers, options.requests)
                if n:
                    results[name].append(result)
        rows = [(f"closed loop, {name}", *np.median(rounds, axis=0).tolist()) for name, rounds in results.items()]
        capacity, random = rows[1][1], np.random.default_rng(SEED)
        clients = [client(port, requests) for _ in range(CLIENTS)]
        for share in map(float, options.rates.split(",")):
            served = load.open_loop(clients, load.poisson(share * capacity, options.requests, random))
            p50, p99 = np.percentile(served.latency * 1000, [50, 99]).tolist()
            rows.append((f"open loop, http, {share:.0%}", share * capacity, p50, p99))
    if options.json:
        print(json.dumps({"rows": rows, "machine": machine("cpu")}, indent=1))
        return
    print(f"{'':28} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for name, rate, p50, p99 in rows:
        print(f"{name:28} {rate:10.1f} {p50:8.2f} {p99:8.2f}")


if __name__ == "__main__":
    main()
