"""`report.html`: a report's content as one page that needs nothing else.

A pure function of `report.json`'s content: `page.html.j2` has the words, this module the figures and tables. The template
escapes whatever comes from data; the page has no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rexit.calibration import certify, metrics, reliability_table
from rexit.calibration.choose import rivals
from rexit.calibration.choose.maps import ALL, OWN
from rexit.calibration.reporting import plots
from rexit.calibration.reporting.verdict import Verdict, minus, model_name, signed

FILE = "report.html"

Report = Mapping[str, Any]

ABSENT = "-"

PARTS = (
    ("its prefix", "prefixes", "prefix_us"),
    ("each pass", "passes", "pass_us"),
    ("each candidate", "candidates", "candidate_us"),
)
"""Of a slate's cost by exit: what one costs, what the mean slate's cost, and the key of both."""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        caption: what it shows.
        heads: of the columns.
        rows: cells, the row's name first; lines of the others after their first are secondary.
        chosen: name of the row to mark.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    chosen: str | None = None


def page(report: Report) -> str:
    """Returns the page as HTML. report: as `rexit.calibration.reporting.content.build` makes it."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["code"] = _code
    summary = " ".join(report["verdict"]["summary"])
    ways = [row["policy"] for row in report["table"]]
    examples = _examples(report)
    return environment.get_template("page.html.j2").render(
        report=report,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        plots=plots,
        tables=_tables(report),
        tiles=list(_tiles(report)),
        summary=summary[:1].upper() + summary[1:],
        testers=certify.count_users(report["tested"]),
        rules=_rules(report["policy"]),
        maps=maps_sentence(report["maps"]),
        rivals=[(name, about) for name, about in rivals.ABOUT.items() if name in ways],
        examples=examples,
        prompts=any(slate["prompt"] is not None for _, slates in examples for slate, _, _ in slates),
    )


def _code(words: str) -> Markup:
    """Text with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(words))))


def _tiles(report: Report) -> Iterator[Sequence[str]]:
    """Name, figure and further lines of each."""
    full, policy, verdict = report["table"][0], report["table"][-1], Verdict(**report["verdict"])
    goal_metrics = [metrics.parse(name) for name in report["settings"]["metrics"]]
    allowed = f"{report['settings']['max_drop']:g}"
    yield "Layers", f"{policy['mean_layers']:.1f} of {report['layers']}", "mean over candidates of the test split"
    timed = policy["ms_per_slate"] is not None
    now, before = (row["ms_per_slate"] if timed else row["cost_us"] / 1000 for row in (policy, full))
    how = "measured" if timed else "by the cost model, not timed"
    yield "Speed", f"{before / now:.1f}x", f"{now:.1f} ms instead of {before:.1f} a slate", how
    if report["policy"]["kind"] == "full depth":
        confidence, users = report["settings"]["confidence"], min(report["tested"].values())
        titles = " and ".join(metric.title for metric in goal_metrics)
        yield "Allowed drop", allowed, f"of {titles}", f"with {100 * confidence:g} % confidence"
        yield "Certifying users", f"{users:,}", *([] if verdict.shortfall is None else [verdict.shortfall])
        return
    first, *others = goal_metrics
    drop, low, high = policy["drops"][first.name]
    yield (
        f"Drop of {first.title}",
        minus(f"{drop:.4f}"),
        f"95 % interval {signed(low)} to {signed(high)}",
        *(_line(metric.title, policy["drops"][metric.name]) for metric in others),
        f"allowed: {allowed}",
    )
    if report["gain"] is not None:
        differences = [(metric, report["gain"]["differences"][metric.name]) for metric in goal_metrics]
        yield (
            f"Compared with {model_name(report['gain']['layers'])}",
            {"better": "Better", "not shown": "No difference shown", "worse in part": "Worse in part"}[verdict.comparison or ""],
            *(_line(metric.title, difference) for metric, difference in differences),
            "the best fixed depth that costs no more; above 0 the policy is better",
        )


def _line(title: str, value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{title}: {signed(middle)} ± {(high - low) / 2:.4f}"


def maps_sentence(maps: Mapping[str, Any]) -> str:
    """What the policy's maps read and why, in a sentence. maps: of the report."""
    reads = "Each exit reads all heads so far" if maps["read"] == ALL else "Each exit reads its own head"
    if maps["gain"] is None:
        return f"{reads}."
    gain, low, high = maps["gain"]
    figures = f"{signed(gain)} (95 % interval {signed(low)} to {signed(high)})"
    if maps["choice"] == OWN:
        return f"{reads}: all heads so far are not shown to be better, log loss lower by {figures}."
    if maps["read"] == OWN:
        return f"{reads}: full depth is the model's own answer."
    return f"{reads}: log loss of users left out is lower by {figures}."


def _rules(policy: Mapping[str, Any]) -> str:
    """The rules beside the thresholds, in sentences."""
    heads, top_k = policy["patience"], policy["top_k"]
    rules = [f"The last {heads} heads must agree on the sign of c." if heads > 1 else "One head decides."]
    if policy["quorum"]:
        rules.append(f"Where at most {100 * policy['quorum']:.3g} % of a slate are left after an exit, they stop too.")
    if top_k:
        known = "its rank among the best" if top_k["ordered"] else "whether it is among the best"
        rules.append(f"A candidate stops once it is known {known} {top_k['k']} of its slate.")
    return " ".join(rules)


def _tables(report: Report) -> dict[str, Table]:
    exits, policy, names = report["exits"], report["policy"], report["settings"]["metrics"]
    all_heads = report["maps"]["read"] == ALL
    layers = [f"{e['layers']:,}" for e in exits]
    return {
        "reliability": Table(
            "Reliability: candidates of the test split in bins by probability",
            ["exit after layer", "bin", "mean probability", "share liked", "candidates"],
            [
                [f"{e['layers']:,}", str(n), f"{part['probability']:.3f}", f"{part['liked']:.3f}", f"{part['pairs']:,}"]
                for e in exits
                for n, part in enumerate(e["reliability"], 1)
            ],
        ),
        "probabilities": Table(
            "Probabilities on the test split, with 95 % intervals over users",
            [
                "candidates of",
                "candidates",
                "mean probability",
                "share liked",
                "ratio",
                "expected calibration error",
                "by chance",
            ],
            [
                [
                    reliability_table.title(row),
                    f"{row['pairs']:,}",
                    f"{row['predicted']:.4g}",
                    f"{row['observed']:.4g}",
                    *(ABSENT if row[key] is None else "{:.3f}\n{:.3f} to {:.3f}".format(*row[key]) for key in ("ratio", "ece")),
                    f"{row['chance']:.4f}",
                ]
                for row in report["probabilities"]["table"]
            ],
        ),
        "costs": Table(
            "Costs by exit: of one, then of the mean slate",
            [
                "reaching the exit after layer",
                *(f"{single}, ms" for single, _, _ in PARTS),
                *(f"{name}: {total}, ms" for name in report["parts"] for _, total, _ in PARTS),
            ],
            [
                [
                    layers[k],
                    *(
                        f"{costs[key][k] / 1000:.3f}"
                        for costs in (report["costs"], *report["parts"].values())
                        for _, _, key in PARTS
                    ),
                ]
                for k in range(len(exits))
            ],
        ),
        "tested": Table(
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
        ),
        "ways": Table(
            "On the test split: value, and drop against full depth with its 95 % interval over users",
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
            ],
            chosen="policy",
        ),
        "thresholds": Table(
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
                    layers[k],
                    *(["always"] * 2 if k == len(exits) - 1 else [_threshold(e["upper"]), _threshold(e["lower"], -1)]),
                    f"{e['a']:.4f}",
                    f"{e['b']:.4f}",
                    *([", ".join(f"{weight:.4f}" for weight in e["earlier"]) or ABSENT] if all_heads else []),
                    "yes" if e["useful"] else "no",
                    f"{100 * e['stopped']:.1f} %",
                ]
                for k, e in enumerate(exits)
            ],
        ),
        "top_k": Table(
            "How far c is taken to move from an exit to the last",
            ["exit after layer", "up", "down"],
            [
                [layers[k], f"{policy['top_k']['rise'][k]:.4f}", f"{policy['top_k']['fall'][k]:.4f}"]
                for k in range(len(exits) - 1 if policy["top_k"] else 0)
            ],
        ),
        "conditions": Table(
            "Conditions, settings and data", ["what", "value"], [[what, str(value)] for what, value in _conditions(report)]
        ),
    }


def _threshold(value: float | None, sign: int = 1) -> str:
    return "never" if value is None else f"{sign * value:.4f}"


def _interval(drop: Sequence[float]) -> str:
    middle, low, high = drop
    return f"{middle:.4f}\n{low:+.4f} to {high:+.4f}"


def _drop(drop: Sequence[float]) -> str:
    return f"drop {_interval(drop)}" if any(drop) else "no drop"


def _examples(report: Report) -> list[tuple[str, list[tuple[Mapping[str, Any], float, Table]]]]:
    """By title: slates, the mean layers of the candidates shown, and their table."""

    def view(slate: Mapping[str, Any]) -> tuple[Mapping[str, Any], float, Table]:
        columns = slate["items"], slate["layers"], slate["liked"]
        rows = [[str(item), f"{layers:,}", "yes" if liked else "no"] for item, layers, liked in zip(*columns, strict=True)]
        table = Table("First candidates of the slate", ["item", "stops after layer", "liked"], rows)
        return slate, sum(slate["layers"]) / len(slate["layers"]), table

    return [
        (f"Slates that exit {kind}", [view(slate) for slate in report["examples"][kind]])
        for kind in ("early", "late")
        if report["examples"][kind]
    ]


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
