"""Figures by layer, as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

PANELS = (("auc", "AUC"), ("user_auc", "user AUC"), ("ndcg@10", "NDCG@10"), ("agreement", "agreement with the deepest"))
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rexit",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(rows: Sequence[Mapping[str, Any]], own: Mapping[str, Any] | None, exits: Sequence[int], path: Path) -> None:
    """One panel for each figure: every layer with its 95 % interval, the exits marked, the model's own last answer beside."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 6), layout="constrained")
        for axes, (key, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
            depths = [row["layers"] for row in rows]
            values = [_triple(row[key]) for row in rows]
            axes.fill_between(depths, [v[1] for v in values], [v[2] for v in values], alpha=0.2, linewidth=0)
            axes.plot(depths, [v[0] for v in values], "-", linewidth=1, label="fitted head")
            chosen = [(row["layers"], value[0]) for row, value in zip(rows, values, strict=True) if row["layers"] in exits]
            axes.plot([x for x, _ in chosen], [y for _, y in chosen], "o", label="exit")
            if own is not None:
                axes.plot([own["layers"]], [_triple(own[key])[0]], "s", markerfacecolor="none", label="own last answer")
            axes.set(xlabel="layers", ylabel=label)
            axes.grid(True, linewidth=0.4)
        lines, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside upper center", ncol=len(labels), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _triple(value: Any) -> tuple[float, float, float]:
    if isinstance(value, list):
        return tuple(float("nan") if part is None else float(part) for part in value)  # type: ignore[return-value]
    return float(value), float(value), float(value)
