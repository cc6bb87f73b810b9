"""Parity at every exit: exported segments against the unsplit PyTorch model, on golden samples, which are validation slates with
that model's log-odds. `rexit verify` repeats it on the device.

The segments run in ONNX Runtime in the three ways that the runtime uses:

1. `single`: no cache; prefix and candidate together, one group, from position 0;
2. `cached`: the prefix is run through the graphs, then one candidate behind it;
3. `slate`: the prefix is run, then all candidates packed behind it (in chunks of at most `max_tokens`, see `Chain`).

The reference is `MultiExitModel.reference`: each pair as one sequence through the model's stock attention. A variant of lower
precision (see `rexit.exporter.gate.quality`) is compared with its own `slate`: otherwise a candidate's score could depend on the
other candidates in its slate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rexit.data.slates import AnySlate, TokenSlate
from rexit.errors import ParityError
from rexit.exporter.graph.chain import Chain
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.source import Source, prompt_maker
from rexit.format.bundle import Catalog
from rexit.format.bundle.golden import GoldenSlate
from rexit.format.bundle.inputs import Codes


def golden_slates(
    model: MultiExitModel,
    source: Source,
    slates: Iterable[AnySlate],
) -> list[GoldenSlate]:
    """Assembles slates' prompts as the runtime does and computes the model's log-odds.

    Args:
        model: the model, not rotated.
        source: the source of the slates.
        slates: validation slates; a catalog's each with a time `as_of`.
    """
    prompt_of = prompt_maker(source)
    golden = []
    for slate in slates:
        prompt = prompt_of(slate)
        log_odds = model.reference(prompt.prefix, prompt.candidates)
        user, items, as_of, inputs = _rows(source, slate)
        tokens = prompt.prefix, prompt.candidates
        golden.append(GoldenSlate(user, items, as_of, *tokens, log_odds, inputs, slate.scores))
    return golden


def _rows(source: Source, slate: AnySlate) -> tuple[int | None, NDArray[np.int32], int | None, tuple[Codes, ...]]:
    """User, items, time and inputs as in `GoldenSlate`."""
    if isinstance(slate, TokenSlate):
        return None, np.arange(len(slate.candidates), dtype=np.int32), None, ()
    assert isinstance(source, Catalog) and slate.as_of is not None
    user = source.users.row(slate.user)
    assert user is not None  # cut from the catalog's own splits
    return user, source.items.rows(slate.items).astype(np.int32), slate.as_of, source.inputs.encode(slate.inputs)


MODES = ("single", "cached", "slate")
PAIRS_PER_SLATE = 4
"""Candidates of each slate that are also run one by one, for `single` and `cached`."""


def compare(chain: Chain, slates: Iterable[GoldenSlate]) -> tuple[list[dict[str, float]], int]:
    """Compares a chain's log-odds with those of the slates.

    Args:
        chain: the graphs.
        slates: golden slates with the log-odds to compare with.

    Returns:
        For each exit the largest |difference of log-odds| by mode, and the number of pairs run one by one.
    """
    worst = {mode: np.zeros(len(chain.segments)) for mode in MODES}
    pairs = 0

    def update(mode: str, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        # NaN must not pass: `maximum` propagates it, and comparisons with it are false.
        worst[mode] = np.maximum(worst[mode], np.abs(actual.astype(np.float64) - expected).max(0))

    for slate in slates:
        past = chain.prefix(slate.prefix)
        update("slate", chain.slate(slate.prefix, slate.candidates, past), slate.log_odds)
        count = len(slate.candidates)
        for n in sorted({int(i) for i in np.linspace(0, count - 1, min(PAIRS_PER_SLATE, count)).round()}):
            candidate, expected = slate.candidates[n], slate.log_odds[n : n + 1]
            update("single", chain.score([np.concatenate([slate.prefix, candidate])], 0, None), expected)
            update("cached", chain.score([candidate], len(slate.prefix), past), expected)
            pairs += 1
    return [{mode: float(worst[mode][k]) for mode in MODES} for k in range(len(chain.segments))], pairs


def check(
    parity: Sequence[dict[str, float]], exits: Sequence[int], tolerance: float, expected: str = "the PyTorch model's"
) -> None:
    """Raises ParityError for the largest difference above the tolerance, or NaN.

    Args:
        parity: the result of `compare`.
        exits: depths in layers.
        tolerance: largest difference allowed.
        expected: the reference, for the message.
    """
    failures = [(k, mode, row[mode]) for k, row in enumerate(parity) for mode in MODES if not row[mode] <= tolerance]
    if failures:
        k, mode, difference = max(failures, key=lambda failure: np.inf if np.isnan(failure[2]) else failure[2])
        raise ParityError(
            f"exit after layer {exits[k]}, {mode}: log-odds differ from {expected} by {difference:.2g}, "
            f"at most {tolerance:.2g} is allowed; not written"
        )


_MARGIN = 4
"""The tolerance is this multiple of the largest difference: other machines round differently."""


def tolerance(differences: Iterable[dict[str, float]], least: float) -> float:
    """How far log-odds may be from the golden ones on any machine. differences: what `compare` returned on this one."""
    return max(least, _MARGIN * max(value for row in differences for value in row.values()))
