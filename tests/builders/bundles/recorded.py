"""A bundle in float32 and int8, with policies under which every exit is taken, and what this machine's runtime answers: the C++
tests on another architecture are held against it.

From the shell, in tests/: `python -m builders.bundles.recorded FOLDER` writes FOLDER/bundle and
FOLDER/NAME.recorded.safetensors for each variant.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from builders.bundles.bundle_files import write_policy
from builders.bundles.held_out import write_ranked
from builders.bundles.variants import QUANTIZED
from rexit import runtime
from rexit.format.bundle import Bundle
from rexit.format.request import Request


def threshold(log_odds: NDArray[np.float32]) -> float:
    """Far from every |log-odds|, with about half of them on either side: rounding must not decide where a candidate stops."""
    values = np.sort(np.abs(log_odds))
    middle = values[len(values) // 4 : -(len(values) // 4)]
    gap = int(np.diff(middle).argmax())
    return float((middle[gap] + middle[gap + 1]) / 2)


def cold(session: runtime.Session) -> runtime.Session:
    """Without prefixes of earlier requests: behind their keys and values, rounded to halves, int8 rounds otherwise."""
    session.clear_cache()
    return session


def write_recorded(place: Path) -> None:
    folder = write_ranked(place, variants=(QUANTIZED,)).bundle
    for name in Bundle.open(folder).manifest.variants:
        bundle = Bundle.open(folder, name)
        users, items = bundle.catalog.users, bundle.catalog.items
        requests = [
            Request(users.id(slate.user or 0), items.take(slate.items.astype(np.int64)), as_of=slate.as_of)
            for slate in bundle.golden().slates
        ]
        with runtime.open(folder, name) as session:
            trace = np.concatenate([cold(session).trace(request) for request in requests])
        limits = [threshold(column) for column in trace.T[:-1]]
        exits = [{"a": 1.0, "b": 0.0, "upper": limit, "lower": limit} for limit in limits]
        write_policy(folder, [*exits, {"a": 1.0, "b": 0.0, "upper": None, "lower": None}], variant=name)
        with runtime.open(folder, name) as session:
            scores = [cold(session).score(request) for request in requests]
        recorded = {
            "log_odds": trace,
            "score_log_odds": np.concatenate([s.log_odds for s in scores]),
            "exit": np.concatenate([s.exit for s in scores]).astype(np.int32),
        }
        assert set(recorded["exit"]) == set(range(trace.shape[1])), "some exit is never taken"
        save_file(recorded, place / f"{name}.recorded.safetensors")


if __name__ == "__main__":
    write_recorded(Path(sys.argv[1]))
