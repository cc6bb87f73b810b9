"""A report's pictures, as inline SVG.

Text stays text, and colours are the page's CSS variables, so that one picture serves light and dark. The same report gives the
same bytes with the same Matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.style
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rexit.calibration import metrics
from rexit.upkeep.measure import depth_name, exit_name

UNIT = 72
"""Pixels to the inch, as in SVG: sizes below are in pixels."""

COLOURS = {"page": "#000001", "ink": "#000002", "muted": "#000003", "rule": "#000004"} | {
    "policy": "#000005",
    "fixed": "#000006",
    "limit": "#000007",
}
"""Stand-ins for the page's variables while Matplotlib draws."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": COLOURS["rule"],
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.color": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["ink"],
}


def trade_off(report: Mapping[str, Any], metric: str) -> str:
    """Returns cost and quality of each way to stop on the test split."""
    rows = {row["policy"]: row for row in report["table"]}
    full, policy, tested = rows["full depth"], rows["policy"], report["candidates"]
    fixed = [rows[name] for name in [*map(depth_name, (e["layers"] for e in report["exits"][:-1])), "full depth"]]
    worse = -1 if metrics.parse(metric).higher_is_better else 1

    def draw(axes: Axes) -> None:
        def bars(some: Sequence[Mapping[str, Any]], colour: str) -> None:
            low, high = ([full["values"][metric] + worse * row["drops"][metric][n] for row in some] for n in (1, 2))
            axes.vlines(_ms(some), low, high, color=COLOURS[colour], linewidth=1, alpha=0.6)

        def values(some: Sequence[Mapping[str, Any]]) -> list[float]:
            return [row["values"][metric] for row in some]

        bars(fixed[:-1], "fixed")
        axes.plot(
            _ms(fixed), values(fixed), "s--", color=COLOURS["fixed"], linewidth=1, markersize=6, label="fixed depth, layers"
        )
        for exit, row in zip(report["exits"], fixed, strict=True):
            place = (row["cost_us"] / 1000, row["values"][metric])
            axes.annotate(str(exit["layers"]), place, (-3, 6), textcoords="offset points", ha="right", color=COLOURS["fixed"])
        line = [candidate["test"] for candidate in tested]
        bars(line, "policy")
        axes.plot(_ms(line), values(line), "-", color=COLOURS["policy"], linewidth=1.5, zorder=3)
        for certified, face, label in ((True, "policy", "tested, certified"), (False, "page", "tested, not certified")):
            some = [candidate["test"] for candidate in tested if candidate["certified"] == certified]
            if some:
                look: dict[str, Any] = {"color": COLOURS["policy"], "markerfacecolor": COLOURS[face], "label": label, "zorder": 4}
                axes.plot(_ms(some), values(some), "o", markersize=7, **look)
        axes.plot(
            *(_ms([policy]), values([policy])),
            "o",
            color=COLOURS["ink"],
            markersize=14,
            markerfacecolor="none",
            label="the policy written",
            zorder=5,
        )
        limit = full["values"][metric] + worse * report["settings"]["max_drop"]
        axes.axhline(limit, color=COLOURS["limit"], linestyle=(0, (5, 3)), linewidth=1, label="allowed drop")
        axes.set(xlabel="ms per slate, by the cost model", ylabel=metric)
        axes.set_xlim(left=0)
        axes.grid(True, linewidth=0.6)
        axes.figure.legend(loc="outside lower center", ncols=2, columnspacing=1.5, handletextpad=0.5)

    description = (
        f"Milliseconds per slate by the cost model, and {metric} on the test split, for fixed depths and the policies tested for "
        "a certificate. The table of all ways to stop has the figures."
    )
    return _svg(draw, (380, 420), f"Trade-off of {metric} and time", description)


def reliability(report_exit: Mapping[str, Any]) -> str:
    """Returns the share of positives by the probability that an exit gives."""
    bins = report_exit["reliability"]

    def draw(axes: Axes) -> None:
        axes.axline((0, 0), slope=1, linestyle=(0, (4, 3)), color=COLOURS["muted"], linewidth=1)
        axes.plot([b["probability"] for b in bins], [b["liked"] for b in bins], "o-", color=COLOURS["policy"], markersize=5)
        top = max(value for b in bins for value in (b["probability"], b["liked"]))
        end = 1 if top > 0.5 else float(f"{1.2 * top:.1g}") or 1
        ticks, span = (0, end / 2, end), (0, end)
        axes.set(xlabel="probability", ylabel="share positive", xlim=span, ylim=span, xticks=ticks, yticks=ticks, aspect="equal")
        axes.grid(True, linewidth=0.6)

    title = f"Reliability of the exit {exit_name(report_exit['layers'])}" if report_exit["layers"] else "Reliability of exit zero"
    description = f"Probability and share of positives in {len(bins)} bins; on the diagonal both are the same."
    return _svg(draw, (180, 180), title, description)


def _ms(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["cost_us"] / 1000 for row in rows]


def _svg(draw: Any, size: tuple[float, float], title: str, description: str) -> str:
    """An <svg> element of a size in pixels, with a description for screen readers."""
    with matplotlib.style.context("default"), rc_context({**STYLE, "svg.hashsalt": title}):  # no two pictures share names
        figure = Figure(figsize=(size[0] / UNIT, size[1] / UNIT), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    inside = text[text.index("<g ") : text.rindex("</svg>")]
    inside = re.sub(r' id="[\w.]+_\d+"', "", inside)  # unreferenced, and the same in every picture
    for name, placeholder in COLOURS.items():
        inside = inside.replace(placeholder, f"var(--{name})")
    return (
        f'<svg viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" aria-label="{escape(title)}. {escape(description)}">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )
