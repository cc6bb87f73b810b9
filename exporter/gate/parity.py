"""Whether the exported segments compute what the unsplit PyTorch model computes, at every exit.

The segments run in ONNX Runtime in the three ways the runtime will use them:

1. `single`: no cache; prefix and candidate together, one group, from position 0;
2. `cached`: the prefix is run through the graphs, then one candidate behind it;
3. `slate`: the prefix is run, then all candidates packed behind it (in chunks of at most `max_tokens`, see `Chain`).

They are compared with `MultiExitModel.reference`: each pair as one ordinary sequence through the model's stock attention.
A variant of lower precision (`rexit.exporter.gate.quality` says how good it is) is compared with its own `slate`: the three ways
must agree there, too, or a candidate's score would depend on the other candidates in its slate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.golden import GoldenSlate
from rexit.errors import ParityError
from rexit.exporter.graph.chain import Chain

MODES = ("single", "cached", "slate")
PAIRS_PER_SLATE = 4
"""How many candidates of each slate are also run one by one, for `single` and `cached`."""


def compare(
    chain: Chain, slates: Sequence[GoldenSlate], each: Callable[[int], None] | None = None
) -> tuple[list[dict[str, float]], int]:
    """Largest |difference of log-odds| per exit and mode, and how many pairs were run one by one.

    The slates hold the log-odds to compare with. `each` is called with the number of slates done.
    """
    worst = {mode: np.zeros(len(chain.segments)) for mode in MODES}
    pairs = 0

    def keep(mode: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        # NaN must not pass: maximum keeps it, and every comparison with it is false.
        worst[mode] = np.maximum(worst[mode], np.abs(got.astype(np.float64) - expected).max(0))

    for done, slate in enumerate(slates, 1):
        behind = len(slate.prefix)
        liked, past = slate.liked, chain.prefix(slate.prefix, slate.liked)
        keep("slate", chain.slate(slate.prefix, slate.candidates, past, liked), slate.log_odds)
        count = len(slate.candidates)
        for n in sorted({int(i) for i in np.linspace(0, count - 1, min(PAIRS_PER_SLATE, count)).round()}):
            candidate, expected = slate.candidates[n], slate.log_odds[n : n + 1]
            keep("single", chain.score([np.concatenate([slate.prefix, candidate])], 0, None, liked), expected)
            keep("cached", chain.score([candidate], behind, past, liked), expected)
            pairs += 1
        if each:
            each(done)
    return [{mode: float(worst[mode][k]) for mode in MODES} for k in range(len(chain.segments))], pairs


def check(
    parity: Sequence[dict[str, float]], exits: Sequence[int], tolerance: float, expected: str = "the PyTorch model's"
) -> None:
    """Raises ParityError for the worst exit and mode above the tolerance or NaN. expected: whose log-odds were compared with."""
    bad = [(k, mode, row[mode]) for k, row in enumerate(parity) for mode in MODES if not row[mode] <= tolerance]
    if bad:
        k, mode, seen = max(bad, key=lambda found: np.inf if np.isnan(found[2]) else found[2])
        raise ParityError(
            f"exit after layer {exits[k]}, {mode}: log-odds differ from {expected} by {seen:.2g}, "
            f"at most {tolerance:.2g} is allowed; not written"
        )
