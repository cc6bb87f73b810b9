"""Which depths become exits, from the loss of a head at every layer.

`auto:K`, at most K exits:

1. The last exit is the shallowest depth whose loss is within one standard error of the lowest, over users (the one-standard-error
   rule of Breiman et al. 1984). It may be well before the last layer. Where the model's last answer must stay, it is that layer.
2. The others, at most K - 1, are those with the best curve of loss against cost: layers cost the same, and at a cost between two
   exits the shallower one answers. The area under that curve is least, by dynamic programming over all depths; before the first
   exit it is the loss of one probability for all. An exit whose loss is not below that of every shallower one is never taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import check_exits

AUTO = re.compile(r"auto:([1-9]\d*)")


def check_choice(text: str, layers: int, keep_last: bool) -> None:
    """Raises InputError unless `text` is `auto:K`, or a list of depths that the model has. With `keep_last` a list
    has the last one."""
    if AUTO.fullmatch(text):
        return
    depths = _depths(text)
    check_exits(depths, layers)
    if keep_last and depths[-1] != layers:
        raise InputError(
            f"--exits {text} with --keep-last: the model's last answer is after layer {layers}, which is not among them"
        )


def choose_exits(text: str, losses: NDArray[np.float64], prior: float, whole: bool) -> list[int]:
    """Depths, ascending.

    Args:
        text: see `check_choice`.
        losses: float64 [layers, users], each user's loss at each depth.
        prior: loss of one probability for all candidates.
        whole: whether `auto` always ends at the last layer.
    """
    if not (match := AUTO.fullmatch(text)):
        return _depths(text)
    end = len(losses) if whole else last_exit(losses)
    return best_curve(losses[:end].mean(1), prior, int(match[1]))


def last_exit(losses: NDArray[np.float64]) -> int:
    """Rule 1."""
    best = int(losses.mean(1).argmin())
    behind = losses - losses[best]
    errors = behind.std(1) / np.sqrt(max(1, losses.shape[1]))
    return 1 + int(np.argmax(behind.mean(1) <= errors))


def best_curve(losses: Sequence[float] | NDArray[np.float64], prior: float, most: int) -> list[int]:
    """Rule 2: at most `most` depths, the last of which is len(losses). losses: by depth, from 1."""
    end = len(losses)
    loss = [prior, *map(float, losses)]
    # After round k: area[d] is the least area up to depth d whose k-th exit is there, path[d] those exits. Depth 0 is no exit.
    area, path = {0: 0.0}, {0: [0]}
    finals: list[tuple[float, list[int]]] = []
    for _ in range(most):
        next_area, next_path = {}, {}
        for depth in range(1, end + 1):
            ways = [
                (area[d] + loss[d] * (depth - d), d)
                for d in area
                if d < depth and (d == 0 or loss[depth] < loss[d] or depth == end)
            ]
            if ways:
                next_area[depth], before = min(ways)
                next_path[depth] = [*path[before], depth]
        if end in next_area:
            finals.append((next_area.pop(end), next_path.pop(end)))
        area, path = next_area, next_path
    return min(finals)[1][1:]


def _depths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as exc:
        raise InputError(f"--exits {text}: expected auto:K or depths in layers, e.g. auto:5 or 5,10,20") from exc
