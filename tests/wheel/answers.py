"""Whether an installed rexit answers as the machine did that wrote a golden bundle (builders/bundles/recorded.py), within what
tests/cpp/api/test_golden.cpp allows: `python answers.py FOLDER`. Needs no more than the base install, for any architecture.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import rexit
from rexit import runtime
from rexit.format.bundle import Bundle
from rexit.format.request import Request

TOLERANCE = 1e-3
"""Of log-odds that reach 28, as in test_golden.cpp."""


def compare(folder: Path, variant: str) -> list[str]:
    """What differs; prints by how much log-odds do."""
    bundle = Bundle.open(folder / "bundle", variant)
    recorded = load_file(folder / f"{variant}.recorded.safetensors")
    log_odds, answered, exits = [], [], []
    with runtime.open(folder / "bundle", variant) as session:
        for slate in bundle.golden().slates:
            user, items = bundle.catalog.users.id(slate.user or 0), bundle.catalog.items.take(slate.items.astype(np.int64))
            request = Request(user, items, as_of=slate.as_of)
            session.clear_cache()  # as they were recorded
            log_odds.append(session.trace(request))
            session.clear_cache()
            scores = session.score(request)
            answered.append(scores.log_odds)
            exits.append(scores.exit)
    seen = np.concatenate(exits)
    worst = {
        "at every exit": float(np.abs(np.concatenate(log_odds) - recorded["log_odds"]).max()),
        "as answered": float(np.abs(np.concatenate(answered) - recorded["score_log_odds"]).max()),
    }
    print(f"{variant}: {len(seen)} candidates, largest difference of log-odds", *(f"{k} {v:.2g}" for k, v in worst.items()))
    wrong = [f"{variant}: log-odds {k} differ by {v}, allowed {TOLERANCE}" for k, v in worst.items() if not v <= TOLERANCE]
    moved = int((seen != recorded["exit"]).sum())
    return wrong + ([f"{variant}: {moved} candidates stop at another exit"] if moved else [])


def main(folder: Path) -> int:
    print(f"rexit {rexit.__version__} on {platform.machine()}, Python {platform.python_version()}, {rexit.__file__}")
    wrong = [line for variant in Bundle.open(folder / "bundle").manifest.variants for line in compare(folder, variant)]
    print(*wrong, sep="\n", file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
