"""The trade-off between depth and ranking, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rexit.calibration.evaluate import Metrics


@dataclass(frozen=True)
class Point:
    """One policy on both splits."""

    validation: Metrics
    test: Metrics


def trade_off_png(
    title: str, curve: Sequence[Point], fixed: Mapping[int, Point], chosen: Point, layers: int, max_auc_drop: float
) -> bytes:
    """AUC against mean layers, on validation and test: the curve of budgets, each fixed depth as a cross, the chosen policy as
    a ring.

    `fixed` maps a depth in layers to its point; `layers` is the full depth. The dashed lines mark full depth minus the allowed
    drop. Returns the bytes of the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for split, colour in (("validation", "#9a9a9a"), ("test", "#1f5fa8")):
        points = sorted((getattr(p, split) for p in curve), key=lambda q: q.mean_layers)
        axes.plot(
            [q.mean_layers for q in points],
            [q.auc for q in points],
            "-o",
            color=colour,
            markersize=4,
            label=f"early exit, {split}",
        )
        axes.plot(
            list(fixed),
            [getattr(p, split).auc for p in fixed.values()],
            "x",
            color=colour,
            markersize=8,
            label=f"fixed depth, {split}",
        )
        axes.axhline(getattr(fixed[layers], split).auc - max_auc_drop, color=colour, linestyle="--", linewidth=0.8)
    at = chosen.test
    axes.plot(
        [at.mean_layers], [at.auc], "o", color="#c8401e", markersize=13, fillstyle="none", markeredgewidth=2, label="chosen, test"
    )
    axes.set_xlabel(f"mean layers run per candidate (of {layers})")
    axes.set_ylabel("AUC")
    axes.set_xlim(0, layers * 1.03)
    axes.set_title(f"{title}\ndashed: full depth minus the allowed drop of {max_auc_drop:g}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
