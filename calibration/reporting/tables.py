"""The tables of a report's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rexit.calibration.maps import ALL
from rexit.calibration.probabilities import title
from rexit.measure import depth_name
from rexit.words import in_words

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
        rows: cells by the heads of their columns, the row's name first; in the others, lines after the first are secondary.
        chosen: name of the row to mark.
    """

    caption: str
    rows: Sequence[Mapping[str, str]]
    chosen: str | None = None


def tables(report: Report) -> dict[str, Table]:
    """Returns the tables by the names that the page's template has for them."""
    return {
        "probabilities": probabilities(report),
        "costs": _costs(report),
        "tested": _tested(report),
        "ways": ways(report),
        "thresholds": _thresholds(report),
        "top_k": _top_k(report),
        "conditions": Table(
            "Conditions, settings and data",
            [
                {"what": in_words(what, report["catalog_sha256"] is not None), "value": str(value)}
                for what, value in _conditions(report)
            ],
        ),
    }


def probabilities(report: Report) -> Table:
    """Returns how right the probabilities are, which the terminal shows too."""
    estimates = {"ratio": "ratio", "expected calibration error": "ece"}
    return Table(
        "Probabilities on the test split, with 95 % intervals over users",
        [
            {
                "candidates of": title(row),
                "candidates": f"{row['pairs']:,}",
                "mean probability": f"{row['predicted']:.4g}",
                "share liked": f"{row['observed']:.4g}",
                **{
                    name: ABSENT if row[key] is None else "{:.3g}\n{:.3g} to {:.3g}".format(*row[key])
                    for name, key in estimates.items()
                },
                "by chance": f"{row['chance']:.3g}",
            }
            for row in report["probabilities"]["table"]
        ],
    )


def _costs(report: Report) -> Table:
    return Table(
        "Costs by exit: of one, then of the mean slate",
        [
            {
                "reaching the exit after layer": f"{e['layers']:,}",
                **{f"{single}, ms": f"{report['costs'][key][k] / 1000:.3f}" for single, _, key in PARTS},
                **{
                    f"{name}: {total}, ms": f"{cost[key][k] / 1000:.3f}"
                    for name, cost in report["parts"].items()
                    for _, total, key in PARTS
                },
            }
            for k, e in enumerate(report["exits"])
        ],
    )


def _tested(report: Report) -> Table:
    names = report["settings"]["metrics"]
    return Table(
        "Policies tested, in this order",
        [
            {
                "expected drop at most": f"{tested['budget']:.4g}",
                "stops": "dynamic" if tested["fixed"] is None else depth_name(tested["fixed"]),
                **{f"expected drop of {name}": f"{tested['expected'][name]:.4f}" for name in names},
                "p-value": f"{tested['p_value']:.3g}",
                "certified": "yes" if tested["certified"] else "no",
                "mean layers, test": f"{tested['test']['mean_layers']:.1f}",
                "ms per slate, by the cost model, test": f"{tested['test']['cost_us'] / 1000:.2f}",
                **{f"drop of {name}, test": _interval(tested["test"]["drops"][name]) for name in names},
            }
            for tested in report["candidates"]
        ],
    )


def ways(report: Report, names: Sequence[str] | None = None) -> Table:
    """Returns the ways to stop, which the terminal shows too. names: of the metrics; None: all."""
    full = report["table"][0]
    names = list(full["values"]) if names is None else names
    rows = [
        {
            "way to stop": way["policy"],
            "layers": f"{way['mean_layers']:.1f}",
            **_times(way, full),
            **{name: _value(way, name) for name in names},
        }
        for way in report["table"]
    ]
    absent = dict.fromkeys(("layers", "ms", "speed"), ABSENT)
    rows += [{"way to stop": row["name"], **absent, **{n: _value(row, n) for n in names}} for row in report["baselines"]]
    return Table(
        "On the test split, baselines last: value, and change against full depth with its 95 % interval over users; "
        "~ by the cost model",
        rows,
        chosen="policy",
    )


def _times(way: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, str]:
    """Milliseconds per slate and the speed against full depth: as timed, or by the cost model."""
    if way["ms_per_slate"] is None:
        return {"ms": f"~{way['cost_us'] / 1000:.2f}", "speed": f"~{full['cost_us'] / way['cost_us']:.2f}x"}
    speed, low, high = way["speed"]
    interval = "" if low == high else f"\n{low:.2f} to {high:.2f}"
    return {"ms": f"{way['ms_per_slate']:.2f}", "speed": f"{speed:.2f}x{interval}"}


def _value(row: Mapping[str, Any], name: str) -> str:
    if name not in row["values"]:
        return ABSENT
    value, (drop, low, high) = f"{row['values'][name]:.4f}", row["drops"][name]
    return value if drop == low == high == 0 else f"{value}\n{0 - drop:+.4f}, {0 - high:+.4f} to {0 - low:+.4f}"


def _thresholds(report: Report) -> Table:
    exits, all_heads = report["exits"], report["maps"]["choice"] == ALL
    rows = []
    for k, e in enumerate(exits):
        last, earlier = k == len(exits) - 1, ", ".join(f"{weight:.4f}" for weight in e["earlier"]) or ABSENT
        rows.append(
            {
                "exit after layer": f"{e['layers']:,}",
                "stops at c of at least": "always" if last else _threshold(e["upper"]),
                "or at most": "always" if last else _threshold(e["lower"], -1),
                "a": f"{e['a']:.4f}",
                "b": f"{e['b']:.4f}",
                **({"weights of earlier heads": earlier} if all_heads else {}),
                "head ranks": "yes" if e["useful"] else "no",
                "candidates stopped, test": f"{100 * e['stopped']:.1f} %",
            }
        )
    return Table("Thresholds by exit", rows)


def _top_k(report: Report) -> Table:
    exits, top_k = report["exits"][:-1], report["policy"]["top_k"]
    moves = zip(exits, top_k["rise"], top_k["fall"], strict=True) if top_k else ()
    return Table(
        "How far c is taken to move from an exit to the last",
        [{"exit after layer": f"{e['layers']:,}", "up": f"{rise:.4f}", "down": f"{fall:.4f}"} for e, rise, fall in moves],
    )


def _threshold(value: float | None, sign: int = 1) -> str:
    return "never" if value is None else f"{sign * value:.4f}"


def _interval(drop: Sequence[float]) -> str:
    middle, low, high = drop
    return f"{middle:.4f}\n{low:+.4f} to {high:+.4f}"


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
    return ", ".join(value) or "not set" if isinstance(value, list) else "not set" if value is None else value
