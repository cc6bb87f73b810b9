"""`report.html`: a report's content as one page that needs nothing else.

A pure function of `report.json`'s content: `page.html.j2` has the words, this module the figures. The template escapes whatever
comes from data; the page has no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rexit.calibration import certify, metrics, reliability
from rexit.calibration.choose import rivals
from rexit.calibration.choose.maps import ALL, OWN
from rexit.calibration.reporting import plots
from rexit.calibration.reporting.tables import (
    ABSENT,
    INTERVAL,
    Column,
    Table,
    count,
    digits,
    interval,
    places,
    share,
    threshold,
    value_and_drop,
    weights,
    yes,
)
from rexit.calibration.reporting.verdict import Verdict, minus, model_name, signed

FILE = "report.html"

Report = Mapping[str, Any]

PARTS = (
    ("its prefix", "prefixes", "prefix_us"),
    ("each pass", "passes", "pass_us"),
    ("each candidate", "candidates", "candidate_us"),
)
"""Of a slate's cost by exit: what one costs, what the mean slate's cost, and the key of both."""


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
    tables = (
        Table(
            "reliability",
            "Reliability: candidates of the test split in bins by probability",
            [{"layers": e["layers"], "bin": n + 1, **part} for e in exits for n, part in enumerate(e["reliability"])],
            [
                Column("exit after layer", "layers", count),
                Column("bin", "bin", count),
                Column("mean probability", "probability", places(3)),
                Column("share liked", "liked", places(3)),
                Column("candidates", "pairs", count),
            ],
        ),
        Table(
            "probabilities",
            "Probabilities on the test split, with 95 % intervals over users",
            report["probabilities"]["table"],
            [
                Column("candidates of", reliability.title),
                Column("candidates", "pairs", count),
                Column("mean probability", "predicted", digits(4)),
                Column("share liked", "observed", digits(4)),
                Column("ratio", "ratio", _interval_or_absent),
                Column("expected calibration error", "ece", _interval_or_absent),
                Column("by chance", "chance", places(4)),
            ],
        ),
        Table(
            "costs",
            "Costs by exit: of one, then of the mean slate",
            range(len(exits)),
            [
                Column("reaching the exit after layer", lambda k: exits[k]["layers"], count),
                *(Column(f"{single}, ms", _by_exit(report["costs"][key]), places(3)) for single, _, key in PARTS),
                *(
                    Column(f"{name}: {total}, ms", _by_exit(costs[key]), places(3))
                    for name, costs in report["parts"].items()
                    for _, total, key in PARTS
                ),
            ],
        ),
        Table(
            "tested-policies",
            "Policies tested, careful first",
            report["candidates"],
            [
                Column("expected drop at most", "budget", digits(4)),
                Column("stops", lambda tested: "dynamic" if tested["fixed"] is None else f"layer {tested['fixed']}"),
                *(Column(f"expected drop of {name}", _path("expected", name), places(4)) for name in names),
                Column("p-value", "p_value", digits(3)),
                Column("certified", "certified", yes),
                Column("mean layers, test", _path("test", "mean_layers"), places(1)),
                Column("ms per slate, by the cost model, test", lambda tested: tested["test"]["cost_us"] / 1000, places(2)),
                *(Column(f"drop of {name}, test", _path("test", "drops", name), interval, INTERVAL) for name in names),
            ],
        ),
        Table(
            "ways-to-stop",
            "On the test split: value, and drop against full depth with its 95 % interval over users",
            report["table"],
            [
                Column("way to stop", "policy"),
                Column("mean layers", "mean_layers", places(2)),
                Column("ms per slate, by the cost model", lambda way: way["cost_us"] / 1000, places(2)),
                Column("ms per slate, measured", "ms_per_slate", places(2)),
                *(
                    Column(name, partial(_value_and_drop, name), value_and_drop, ("", *(f", drop{part}" for part in INTERVAL)))
                    for name in report["table"][0]["values"]
                ),
            ],
            chosen="policy",
        ),
        Table(
            "thresholds",
            "Thresholds by exit",
            [*exits[:-1], {**exits[-1], "upper": "always", "lower": "always"}],
            [
                Column("exit after layer", "layers", count),
                Column("stops at c of at least", "upper", threshold),
                Column("or at most", lambda e: -e["lower"] if isinstance(e["lower"], float) else e["lower"], threshold),
                Column("a", "a", places(4)),
                Column("b", "b", places(4)),
                *([Column("weights of earlier heads", "earlier", weights)] if report["maps"]["read"] == ALL else ()),
                Column("head ranks", "useful", yes),
                Column("candidates stopped, test", "stopped", share),
            ],
        ),
        Table(
            "top-k-bounds",
            "How far c is taken to move from an exit to the last",
            range(len(exits) - 1) if policy["top_k"] else (),
            [
                Column("exit after layer", lambda k: exits[k]["layers"], count),
                Column("up", lambda k: policy["top_k"]["rise"][k], places(4)),
                Column("down", lambda k: policy["top_k"]["fall"][k], places(4)),
            ],
        ),
        Table(
            "how-it-was-made",
            "Conditions, settings and data",
            list(_conditions(report)),
            [Column("what", lambda fact: fact[0]), Column("value", lambda fact: fact[1])],
        ),
    )
    return {table.name: table for table in tables}


def _interval_or_absent(value: Sequence[float] | None) -> str:
    return ABSENT if value is None else "{:.3f}\n{:.3f} to {:.3f}".format(*value)


def _by_exit(microseconds: Sequence[float]) -> Callable[[int], float]:
    return lambda k: microseconds[k] / 1000


def _path(*keys: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda row: reduce(lambda value, key: value[key], keys, row)


def _value_and_drop(metric: str, way: Mapping[str, Any]) -> tuple[float, ...]:
    return (way["values"][metric], *way["drops"][metric])


def _examples(report: Report) -> list[tuple[str, list[tuple[Mapping[str, Any], float, Table]]]]:
    """By title: slates, the mean layers of the candidates shown, and their table."""

    def view(slate: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], float, Table]:
        columns = [
            Column("item", lambda k: slate["items"][k]),
            Column("stops after layer", lambda k: slate["layers"][k], count),
            Column("liked", lambda k: slate["liked"][k], yes),
        ]
        table = Table(name, "First candidates of the slate", range(len(slate["items"])), columns)
        return slate, sum(slate["layers"]) / len(slate["layers"]), table

    return [
        (f"Slates that exit {kind}", [view(slate, f"{kind}-{n + 1}") for n, slate in enumerate(report["examples"][kind])])
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
