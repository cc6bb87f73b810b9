"""`report.html`, a self-contained page without scripts, and what the terminal shows of it: a function of `report.json`'s content.

`page.html.j2` has the words, this module the tables, `plots` the pictures. The template escapes whatever comes from data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rexit.calibration import certify
from rexit.calibration.maps import ALL, OWN
from rexit.calibration.probabilities import title
from rexit.calibration.reporting import plots
from rexit.calibration.reporting.verdict import Verdict, signed
from rexit.upkeep.measure import depth_name, exit_name

FILE = "report.html"

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


def page(report: Report) -> str:
    """Returns the page as HTML. report: as `rexit.calibration.reporting.content.build` makes it."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["code"] = lambda words: Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(words))))
    tables = (probabilities, _costs, _tested, ways, _thresholds, _top_k, _conditions)
    return environment.get_template("page.html.j2").render(
        report=report,
        noun=report["noun"],
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        plots=plots,
        tables={make.__name__.lstrip("_"): make(report) for make in tables},
        lines=Verdict(**report["verdict"]).lines,
        testers=certify.count_users(report["tested"], report["noun"]),
        rules=_rules(report["policy"], report["exits"]),
        maps=maps_sentence(report),
    )


def maps_sentence(report: Report) -> str:
    """Returns what the policy's maps read and why, in a sentence."""
    maps = report["maps"]
    reads = "Each exit reads all heads so far" if maps["choice"] == ALL else "Each exit reads its own head"
    if maps["gain"] is None:
        return f"{reads}."
    gain, low, high = maps["gain"]
    figures = f"{signed(gain)} (95 % interval {signed(low)} to {signed(high)})"
    if maps["choice"] == OWN:
        reads += ": all heads so far are not shown to do better"
        return f"{reads}, log loss of {report['noun']} left out being lower by {figures}."
    return f"{reads}: log loss of {report['noun']} left out is lower by {figures}."


def _rules(policy: Mapping[str, Any], exits: Sequence[Mapping[str, Any]]) -> str:
    """The policy's rules apart from its thresholds, in sentences."""
    heads, top_k = policy["patience"], policy["top_k"]
    rules = [f"The last {heads} heads must agree on the sign of c." if heads > 1 else "One head decides."]
    if policy["quorum"]:
        rules.append(f"Where at most {policy['quorum']} of a slate are left after an exit, they stop too.")
    if limits := ", ".join(f"{exit['keep']} {exit_name(exit['layers'])}" for exit in exits if "keep" in exit):
        rules.append(f"At most so many candidates of a slate go on, those with the largest c: {limits}.")
    if top_k:
        known = "its rank among the best" if top_k["ordered"] else "whether it is among the best"
        rules.append(f"A candidate stops once it is known {known} {top_k['k']} of its slate.")
    return " ".join(rules)


def probabilities(report: Report) -> Table:
    """Returns how right the probabilities are, which the terminal shows too."""
    estimates = {"ratio": "ratio", "expected calibration error": "ece"}
    return Table(
        f"Probabilities on the test split, with 95 % intervals over {report['noun']}",
        [
            {
                "candidates of": title(row),
                "candidates": f"{row['pairs']:,}",
                "mean probability": f"{row['predicted']:.4g}",
                "share positive": f"{row['observed']:.4g}",
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
        "On the test split, baselines last: value, and change against full depth with its 95 % interval over "
        f"{report['noun']}; ~ by the cost model",
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


def _conditions(report: Report) -> Table:
    rows: dict[str, Any] = {
        key.replace("_sha256", " SHA-256"): report[key]
        for key in ("producer", "variant", "variant_sha256", "catalog_sha256", "device", "threads")
    }
    rows |= {f"machine: {name}": value for name, value in report["machine"].items()}
    rows["median error of the cost model"] = report["profile"]["fit_error"]
    rows |= {f"setting: {name.replace('_', ' ')}": _setting(value) for name, value in report["settings"].items()}
    for split, counts in report["data"].items():
        rows |= {f"{split}: {report['noun'] if unit == 'users' else unit}": number for unit, number in counts.items()}
    rows |= {f"{report['noun']}, {part}": number for part, number in report["users"].items()}
    rows |= {f"certifying {report['noun']} with a value of {metric}": number for metric, number in report["tested"].items()}
    if (decisions := report["decisions"]) is not None:
        rows["candidates timed as deployed"] = decisions["candidates"]
        rows["of these, stopped where their traces say"] = decisions["as_traced"]
    return Table("Conditions, settings and data", [{"what": what, "value": str(value)} for what, value in rows.items()])


def _setting(value: Any) -> Any:
    return ", ".join(value) or "not set" if isinstance(value, list) else "not set" if value is None else value
