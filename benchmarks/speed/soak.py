"""Hours of requests of every kind on one bundle: does memory grow, do answers slow down, does anything fail that should not?

    python benchmarks/speed/soak.py build/demo/bundle --minutes 60 --sessions 2 --rate 20 [--json] [--plot soak.png]

Each session has a thread of its own, which sends its requests at random moments, `rate` a second on average.

| of 20 | request | must end in |
|---|---|---|
| 12 | a known user, or an unknown one with interactions, and 1 to 60 items; some with top-k or a forced exit | scores |
| 4 | the same with a deadline of 0.05 to 5 ms | scores, or DeadlineError |
| 2 | the same, cancelled by another thread within 3 ms | scores, or CancelledError |
| 2 | malformed: an item or an exit that is not there, no item, a deadline of nothing | InputError |

Now and then a session drops its cache, is trimmed, saves its prefixes and loads them again, or makes room for a new one. Any
other end of a request stops the run with exit code 1. Reported per minute: requests by how they ended, milliseconds of those that
scored without a deadline (median and 99th percentile), resident memory, and what of it is allocated (by malloc, in all threads):
the rest are pages that it keeps. The slopes of both are Theil's and Sen's over the second half, where caches are full, with 95 %
intervals.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import theilslopes

import rexit
from rexit.bundle import Bundle, Catalog
from rexit.errors import CancelledError, DeadlineError, InputError
from rexit.runtime import Session
from rexit.scripts import script

MINUTE = 60.0
EXPECTED = {"scored": (), "deadline": (DeadlineError,), "cancelled": (CancelledError,), "malformed": (InputError,)}
KINDS = ["scored"] * 12 + ["deadline"] * 4 + ["cancelled"] * 2 + ["malformed"] * 2


@dataclass
class Minute:
    """What happened in one minute. milliseconds: of requests without a deadline that scored."""

    ends: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    resident_mb: float = math.nan
    allocated_mb: float = math.nan

    def to_json(self) -> dict[str, Any]:
        median, p99 = np.percentile(self.milliseconds, (50, 99)) if self.milliseconds else (math.nan, math.nan)
        latencies = {"median_ms": float(median), "p99_ms": float(p99)}
        return {"ends": dict(self.ends), **latencies, "resident_mb": self.resident_mb, "allocated_mb": self.allocated_mb}


class Soak:
    """A run in progress. wrong: what ended as it must not; the first one stops the run."""

    def __init__(self, session: Session, catalog: Catalog, rate: float, seconds: float) -> None:
        self._first, self._catalog, self._rate = session, catalog, rate
        self._begin, self._end = time.monotonic(), time.monotonic() + seconds
        self._lock = threading.Lock()
        self.minutes = [Minute() for _ in range(math.ceil(seconds / MINUTE))]
        self.wrong: list[str] = []

    def run(self, sessions: int, folder: Path) -> None:
        """folder: for saved prefixes."""
        threads = [threading.Thread(target=self._drive, args=(n, folder / f"{n}.cache")) for n in range(sessions)]
        for thread in threads:
            thread.start()
        for n, minute in enumerate(self.minutes):
            while time.monotonic() < min(self._end, self._begin + (n + 1) * MINUTE) and not self.wrong:
                time.sleep(0.2)
            minute.resident_mb, minute.allocated_mb = resident() / 1e6, allocated() / 1e6
            print(f"minute {n + 1} of {len(self.minutes)}: {minute.to_json()}", file=sys.stderr)
            if self.wrong:
                break
        for thread in threads:
            thread.join()

    def _drive(self, number: int, saved: Path) -> None:
        random = np.random.default_rng(number)
        session = self._first.another()
        while time.monotonic() < self._end and not self.wrong:
            kind = KINDS[random.integers(len(KINDS))]
            begin = time.monotonic()
            try:
                self._request(session, kind, random)
                end = "scored"
            except EXPECTED[kind] as exc:
                end = type(exc).__name__
            except Exception as exc:  # what the run is to find
                self.wrong.append(f"session {number}, a request of kind {kind}: {type(exc).__name__}: {exc}")
                return
            took = time.monotonic() - begin
            with self._lock:
                minute = self.minutes[min(len(self.minutes) - 1, int((time.monotonic() - self._begin) / MINUTE))]
                minute.ends[end] += 1
                if kind == end == "scored":
                    minute.milliseconds.append(took * 1e3)
            if kind == "malformed" and end == "scored":
                self.wrong.append(f"session {number}: a malformed request was scored")
                return
            session = self._now_and_then(session, saved, random)
            time.sleep(random.exponential(1 / self._rate))

    def _request(self, session: Session, kind: str, random: np.random.Generator) -> None:
        users, items = self._catalog.users, self._catalog.items
        slate_items = [
            items.id(int(row)) for row in random.choice(len(items), min(len(items), int(random.integers(1, 61))), replace=False)
        ]
        more: dict[str, Any] = {}
        if random.random() < 0.25:  # a stranger
            user = -1 if isinstance(users.id(0), int) else "\x7fnobody"
            more["recent"] = [(items.id(int(row)), bool(random.random() < 0.7)) for row in random.choice(len(items), 8)]
        else:
            user = users.id(int(random.integers(len(users))))
        if random.random() < 0.2:
            more["top_k"] = int(random.integers(1, 11))
        if random.random() < 0.2:
            more["force_exit"] = int(random.integers(session.info.exits))
        if kind == "malformed":
            how = random.integers(4)
            slate_items = (
                [*slate_items, "no such item" if isinstance(slate_items[0], str) else -(1 << 40)]
                if how == 0
                else []
                if how == 1
                else slate_items
            )
            more |= {"deadline_ms": 0.0} if how == 2 else {"force_exit": 1000} if how == 3 else {}
        if kind == "deadline":
            more["deadline_ms"] = float(np.exp(random.uniform(np.log(0.05), np.log(5))))
        timer = threading.Timer(random.uniform(0, 0.003), session.cancel) if kind == "cancelled" else None
        if timer:
            timer.start()
        try:
            scores = session.score(user, slate_items, **more)
        finally:
            if timer:
                timer.join()
        answered = scores.exit >= 0
        if not ((scores.probability[answered] >= 0) & (scores.probability[answered] <= 1)).all():
            raise ValueError(f"probabilities {scores.probability} of user {user}")

    def _now_and_then(self, session: Session, saved: Path, random: np.random.Generator) -> Session:
        match int(random.integers(400)):
            case 0:
                session.clear_cache()
            case 1:
                session.trim()
            case 2:
                session.save_cache(saved)
                session.load_cache(saved)
            case 3:
                return self._first.another()
        return session


def resident() -> int:
    """Bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def allocated() -> int:
    """Bytes that malloc has handed out and not got back."""
    names = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    info = type("mallinfo2", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = info
    reply = ask()
    return int(reply.uordblks + reply.hblkhd)


def summary(minutes: list[Minute]) -> dict[str, Any]:
    half = minutes[len(minutes) // 2 :]
    ends = sum((minute.ends for minute in minutes), Counter[str]())
    return {
        "minutes": [minute.to_json() for minute in minutes],
        "ends": dict(ends),
        "mb_per_hour": {
            "resident": growth([minute.resident_mb for minute in half]),
            "allocated": growth([minute.allocated_mb for minute in half]),
        },
    }


def growth(megabytes: list[float]) -> dict[str, float]:
    """Of one value a minute, by the hour."""
    slope, _, low, high = theilslopes(megabytes, np.arange(len(megabytes)) / 60) if len(megabytes) > 2 else [math.nan] * 4
    return {"slope": float(slope), "low": float(low), "high": float(high)}


def show(report: dict[str, Any]) -> None:
    table = Table(title="Soak, by minute")
    for name in ("minute", "requests", "median ms", "99 % ms", "resident MB", "allocated MB"):
        table.add_column(name, justify="right")
    every = max(1, len(report["minutes"]) // 20)
    for n, row in enumerate(report["minutes"]):
        if n % every == 0 or n + 1 == len(report["minutes"]):
            numbers = (f"{row[name]:.2f}" for name in ("median_ms", "p99_ms", "resident_mb", "allocated_mb"))
            table.add_row(str(n + 1), str(sum(row["ends"].values())), *numbers)
    console = Console()
    console.print(table)
    console.print(f"ends: {', '.join(f'{name} {count}' for name, count in sorted(report['ends'].items()))}")
    for what, slope in report["mb_per_hour"].items():
        console.print(f"{what}: {slope['slope']:+.2f} MB an hour ({slope['low']:+.2f} to {slope['high']:+.2f})")


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    minutes = np.arange(1, len(report["minutes"]) + 1)
    figure, (upper, lower) = plt.subplots(2, sharex=True, figsize=(8, 5), layout="constrained")
    for name, text in (("median_ms", "median"), ("p99_ms", "99th percentile")):
        upper.plot(minutes, [row[name] for row in report["minutes"]], label=text)
    upper.set(ylabel="milliseconds", ylim=(0, None))
    upper.legend()
    for what in ("resident", "allocated"):
        lower.plot(minutes, [row[f"{what}_mb"] for row in report["minutes"]], label=what)
    lower.set(ylabel="MB", xlabel="minute", ylim=(0, None))
    lower.legend()
    figure.savefig(path, dpi=120)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--rate", type=float, default=20, help="requests a second of each session")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    catalog = Bundle.open(args.bundle, args.variant).catalog
    with rexit.open(args.bundle, args.variant, threads=1) as session, tempfile.TemporaryDirectory() as folder:
        session.warm_up()
        soak = Soak(session, catalog, args.rate, args.minutes * MINUTE)
        soak.run(args.sessions, Path(folder))
    if soak.wrong:
        sys.exit("\n".join(soak.wrong))
    report = summary(soak.minutes)
    if args.plot:
        plot(report, args.plot)
    if args.json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
