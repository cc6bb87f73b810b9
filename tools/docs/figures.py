"""The three pictures of docs/results.md, drawn from figures.toml beside this file.

    python tools/docs/figures.py

Rules
1. A picture's colours are CSS variables, so that it reads in a light and in a dark page, inside it or as an image.
2. The same data gives the same bytes with the same version of Matplotlib.
3. A picture names the SHA-256 of the data it was drawn from; a test compares it with the file.
"""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).with_suffix(".toml")
IMAGES = ROOT / "docs" / "images"

# Drawn in a colour that nothing else has, and replaced by a CSS variable: name, drawn as, in a light page, in a dark one.
COLOURS = {
    "ink": ("#010203", "#24292f", "#e6edf3"),
    "soft": ("#010204", "#6e7781", "#9198a1"),
    "strong": ("#010205", "#00796b", "#4db6ac"),
    "second": ("#010206", "#c2570c", "#ffa657"),
    "third": ("#010207", "#5e4db2", "#b3a4f5"),
}
INK, SOFT, STRONG, SECOND, THIRD = (drawn for drawn, _, _ in COLOURS.values())
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def digest() -> str:
    """SHA-256 of the data file."""
    return hashlib.sha256(DATA.read_bytes()).hexdigest()


def draw_all(folder: Path) -> list[Path]:
    """Draws every picture into `folder` and returns their paths."""
    data = tomllib.loads(DATA.read_text())
    draw: dict[str, Callable[[Axes, dict[str, Any]], None]] = {
        "quality_by_depth": draw_quality,
        "long_slates": draw_long_slates,
        "speed": draw_speed,
    }
    paths = []
    for name, figure in data.items():
        path = folder / f"results-{name.replace('_', '-')}.svg"
        path.write_text(svg(name, figure, draw[name]))
        paths.append(path)
    return paths


def draw_quality(axes: Axes, figure: dict[str, Any]) -> None:
    styles = zip((STRONG, SECOND, THIRD, INK), ("o", "s", "^", "D"), figure["series"], strict=True)
    for number, (colour, marker, series) in enumerate(styles):
        offset = 0.09 * (number - 1.5)
        draw_estimates(axes, [layers + offset for layers in series["layers"]], series, colour, marker, line=True)
    axes.axhline(0, color=SOFT, linewidth=0.8, zorder=0)
    axes.set_xticks([1, 2, 4, 6, 10])
    axes.legend(loc="lower right", handlelength=1.6, labelspacing=0.3)


def draw_long_slates(axes: Axes, figure: dict[str, Any]) -> None:
    fixed, policy = figure["series"]
    draw_estimates(axes, fixed["cost"], fixed, SOFT, "o", line=True)
    draw_estimates(axes, policy["cost"], policy, STRONG, "D", line=True)
    for name, cost, (change, _, _) in zip(fixed["names"], fixed["cost"], fixed["change"], strict=True):
        axes.annotate(name, (cost, change), xytext=(6, -11), textcoords="offset points", color=INK)
    axes.set_xlim(0, 1.12)
    axes.legend(loc="lower right", handlelength=1.6, labelspacing=0.3)


def draw_estimates(axes: Axes, x: list[float], series: dict[str, Any], colour: str, marker: str, *, line: bool) -> None:
    """Points with their intervals. The deepest exit is compared with itself and has none."""
    values, lower, upper = zip(*series["change"], strict=True)
    errors = [
        [value - low for value, low in zip(values, lower, strict=True)],
        [high - value for value, high in zip(values, upper, strict=True)],
    ]
    axes.errorbar(
        x,
        values,
        yerr=errors,
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=1.4 if line else 0,
        elinewidth=0.9,
        label=series["label"],
    )


def draw_speed(axes: Axes, figure: dict[str, Any]) -> None:
    (series,) = figure["series"]
    names = [series["label"], *series["names"]]
    times = [(1.0, 1.0, 1.0), *series["times"]]
    for place, (name, (median, lower, upper)) in enumerate(zip(names, times, strict=True)):
        colour = STRONG if place == 0 else SOFT
        axes.hlines(place, 0.8, 120, color=SOFT, linewidth=0.5, linestyle=":", zorder=0)
        axes.errorbar(
            median, place, xerr=[[median - lower], [upper - median]], color=colour, elinewidth=1.6, marker="o", markersize=6
        )
        axes.text(median, place - 0.18, f"{median:.1f}" if place else "1", va="bottom", ha="center", color=INK)
        far = median > 30
        axes.text(30 if far else 118, place - 0.12, name, va="bottom", ha="right", color=INK)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 120)
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.6, -0.8)


def svg(name: str, figure: dict[str, Any], draw: Callable[[Axes, dict[str, Any]], None]) -> str:
    """One picture as SVG, colours as CSS variables."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        canvas = Figure(figsize=(3.7, 3.4), layout="constrained")
        axes = canvas.subplots()
        draw(axes, figure)
        axes.set_title(figure["title"])
        axes.set_xlabel(figure["x"])
        axes.set_ylabel(figure.get("y", ""))
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Description": digest()})
    text = re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"font-family: '[^;]*;", "font-family: system-ui, sans-serif;", text)
    for variable, (drawn, _, _) in COLOURS.items():
        text = text.replace(drawn, f"var(--{variable})")
    light = " ".join(f"--{variable}: {value};" for variable, (_, value, _) in COLOURS.items())
    dark = " ".join(f"--{variable}: {value};" for variable, (_, _, value) in COLOURS.items())
    style = f"<style>svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    start = text.index(">", text.index("<svg")) + 1
    return "\n".join(line.rstrip() for line in (text[:start] + "\n" + style + text[start:]).splitlines()) + "\n"


if __name__ == "__main__":
    for path in draw_all(IMAGES):
        print(path.relative_to(ROOT))
