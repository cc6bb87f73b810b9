"""The tables of a report's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rexit.calibration.choose.maps import ALL
from rexit.calibration.reliability_table import title

Report = Mapping[str, Any]

ABSENT = "-"

PARTS = (
    ("its prefix", "prefixes", "prefix_us"),
    ("each pass", "passes", "pass_us"),
    ("each candidate", "candidates", "candidate_us"),
)
"""The parts of a slate's cost by exit: the name of a single one, the name of the mean slate's, and the key of both."""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: what it shows.
        heads: the columns' heads.
        rows: cells, the row's name first; in the others, lines after the first are secondary.
        chosen: name of the row to mark.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    chosen: str | None = None


def tables(report: Report) -> dict[str, Table]:
    """Returns the tables by the names that the page's template has for them."""
    return {
        "reliability": _reliability(report),
        "probabilities": _probabilities(report),
        "costs": _costs(report),
        "tested": _tested(report),
        "ways": _ways(report),
        "thresholds": _thresholds(report),
        "top_k": _top_k(report),
        "conditions": Table(
            "Conditions, settings and data", ["what", "value"], [[what, str(value)] for what, value in _conditions(report)]
        ),
    }


def _reliability(report: Report) -> Table:
    return Table(
        "Reliability: candidates of the test split in bins by probability",
        ["exit after layer", "bin", "mean probability", "share liked", "candidates"],
        [
            [f"{e['layers']:,}", str(n), f"{part['probability']:.3f}", f"{part['liked']:.3f}", f"{part['pairs']:,}"]
            for e in report["exits"]
            for n, part in enumerate(e["reliability"], 1)
        ],
    )


def _probabilities(report: Report) -> Table:
    return Table(
        "Probabilities on the test split, with 95 % intervals over users",
        ["candidates of", "candidates", "mean probability", "share liked", "ratio", "expected calibration error", "by chance"],
        [
            [
                title(row),
                f"{row['pairs']:,}",
                f"{row['predicted']:.4g}",
                f"{row['observed']:.4g}",
                *(ABSENT if row[key] is None else "{:.3f}\n{:.3f} to {:.3f}".format(*row[key]) for key in ("ratio", "ece")),
                f"{row['chance']:.4f}",
            ]
            for row in report["probabilities"]["table"]
        ],
    )


def _costs(report: Report) -> Table:
    costs = report["costs"], *report["parts"].values()
    return Table(
        "Costs by exit: of one, then of the mean slate",
        [
            "reaching the exit after layer",
            *(f"{single}, ms" for single, _, _ in PARTS),
            *(f"{name}: {total}, ms" for name in report["parts"] for _, total, _ in PARTS),
        ],
        [
            [f"{e['layers']:,}", *(f"{cost[key][k] / 1000:.3f}" for cost in costs for _, _, key in PARTS)]
            for k, e in enumerate(report["exits"])
        ],
    )


def _tested(report: Report) -> Table:
    names = report["settings"]["metrics"]
    return Table(
        "Policies tested, careful first",
        [
            "expected drop at most",
            "stops",
            *(f"expected drop of {name}" for name in names),
            "p-value",
            "certified",
            "mean layers, test",
            "ms per slate, by the cost model, test",
            *(f"drop of {name}, test" for name in names),
        ],
        [
            [
                f"{tested['budget']:.4g}",
                "dynamic" if tested["fixed"] is None else f"layer {tested['fixed']}",
                *(f"{tested['expected'][name]:.4f}" for name in names),
                f"{tested['p_value']:.3g}",
                "yes" if tested["certified"] else "no",
                f"{tested['test']['mean_layers']:.1f}",
                f"{tested['test']['cost_us'] / 1000:.2f}",
                *(_interval(tested["test"]["drops"][name]) for name in names),
            ]
            for tested in report["candidates"]
        ],
    )


def _ways(report: Report) -> Table:
    return Table(
        "On the test split, the baselines last: value, and drop against full depth with its 95 % interval over users",
        [
            "way to stop",
            "mean layers",
            "ms per slate, by the cost model",
            "ms per slate, measured",
            *report["table"][0]["values"],
        ],
        [
            [
                way["policy"],
                f"{way['mean_layers']:.2f}",
                f"{way['cost_us'] / 1000:.2f}",
                ABSENT if way["ms_per_slate"] is None else f"{way['ms_per_slate']:.2f}",
                *(f"{value:.4f}\n{_drop(way['drops'][name])}" for name, value in way["values"].items()),
            ]
            for way in report["table"]
        ]
        + [
            [row["name"], *[ABSENT] * 3, *(_baseline(row, name) for name in report["table"][0]["values"])]
            for row in report["baselines"]
        ],
        chosen="policy",
    )


def _baseline(row: Mapping[str, Any], name: str) -> str:
    return f"{row['values'][name]:.4f}\n{_drop(row['drops'][name])}" if name in row["values"] else ABSENT


def _thresholds(report: Report) -> Table:
    exits, all_heads = report["exits"], report["maps"]["read"] == ALL
    return Table(
        "Thresholds by exit",
        [
            "exit after layer",
            "stops at c of at least",
            "or at most",
            "a",
            "b",
            *(["weights of earlier heads"] if all_heads else []),
            "head ranks",
            "candidates stopped, test",
        ],
        [
            [
                f"{e['layers']:,}",
                *(["always"] * 2 if k == len(exits) - 1 else [_threshold(e["upper"]), _threshold(e["lower"], -1)]),
                f"{e['a']:.4f}",
                f"{e['b']:.4f}",
                *([", ".join(f"{weight:.4f}" for weight in e["earlier"]) or ABSENT] if all_heads else []),
                "yes" if e["useful"] else "no",
                f"{100 * e['stopped']:.1f} %",
            ]
            for k, e in enumerate(exits)
        ],
    )


def _top_k(report: Report) -> Table:
    exits, top_k = report["exits"][:-1], report["policy"]["top_k"]
    moves = zip(exits, top_k["rise"], top_k["fall"], strict=True) if top_k else ()
    return Table(
        "How far c is taken to move from an exit to the last",
        ["exit after layer", "up", "down"],
        [[f"{e['layers']:,}", f"{rise:.4f}", f"{fall:.4f}"] for e, rise, fall in moves],
    )


def _threshold(value: float | None, sign: int = 1) -> str:
    return "never" if value is None else f"{sign * value:.4f}"


def _interval(drop: Sequence[float]) -> str:
    middle, low, high = drop
    return f"{middle:.4f}\n{low:+.4f} to {high:+.4f}"


def _drop(drop: Sequence[float]) -> str:
    return f"drop {_interval(drop)}" if any(drop) else "no drop"


def _conditions(report: Report) -> Iterator[tuple[str, Any]]:
    decisions = report["decisions"]
    for key in ("producer", "variant", "variant_sha256", "catalog_sha256", "device", "threads"):
        yield key.replace("_sha256", " SHA-256"), report[key]
    for name, value in report["machine"].items():
        yield f"machine: {name}", value
    yield "median error of the cost model", report["profile"]["fit_error"]
    for name, value in report["settings"].items():
        yield f"setting: {name.replace('_', ' ')}", _setting(value)
    for split, counts in report["data"].items():
        for unit, number in counts.items():
            yield f"{split}: {unit}", number
    for part, number in report["users"].items():
        yield f"users, {part}", number
    for metric, number in report["tested"].items():
        yield f"certifying users with a value of {metric}", number
    if decisions is not None:
        yield "candidates timed as deployed", decisions["candidates"]
        yield "of these, stopped where their traces say", decisions["as_traced"]


def _setting(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else "not set" if value is None else value
