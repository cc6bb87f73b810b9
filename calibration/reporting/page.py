"""`report.html`: a report's content as one self-contained page, without scripts.

A pure function of `report.json`'s content: `page.html.j2` has the words, `tables` and `plots` the figures, and this module joins
them. The template escapes whatever comes from data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rexit.calibration import certify, metrics
from rexit.calibration.maps import ALL, OWN
from rexit.calibration.reporting import plots, tables
from rexit.calibration.reporting.verdict import Verdict, minus, model_name, signed
from rexit.measure import exit_name
from rexit.words import page_in_words

FILE = "report.html"

Report = Mapping[str, Any]


def page(report: Report) -> str:
    """Returns the page as HTML. report: as `rexit.calibration.reporting.content.build` makes it."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["code"] = _code
    summary = " ".join(report["verdict"]["summary"])
    html = environment.get_template("page.html.j2").render(
        report=report,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        plots=plots,
        tables=tables.tables(report),
        tiles=list(_tiles(report)),
        summary=summary[:1].upper() + summary[1:],
        testers=certify.count_users(report["tested"]),
        rules=_rules(report["policy"], report["exits"]),
        maps=maps_sentence(report["maps"]),
    )
    return page_in_words(html, report["catalog_sha256"] is not None)


def _code(words: str) -> Markup:
    """Text, with what is between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(words))))


def _tiles(report: Report) -> Iterator[Sequence[str]]:
    """Yields each tile's name, figure and further lines."""
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
    """Returns what the policy's maps read and why, in a sentence. maps: the report's."""
    reads = "Each exit reads all heads so far" if maps["choice"] == ALL else "Each exit reads its own head"
    if maps["gain"] is None:
        return f"{reads}."
    gain, low, high = maps["gain"]
    figures = f"{signed(gain)} (95 % interval {signed(low)} to {signed(high)})"
    if maps["choice"] == OWN:
        return f"{reads}: all heads so far are not shown to lower the log loss, a gain of {figures}."
    return f"{reads}: log loss of users left out is lower by {figures}."


def _rules(policy: Mapping[str, Any], exits: Sequence[Mapping[str, Any]]) -> str:
    """The policy's rules apart from its thresholds, in sentences."""
    heads, top_k = policy["patience"], policy["top_k"]
    rules = [f"The last {heads} heads must agree on the sign of c." if heads > 1 else "One head decides."]
    if policy["quorum"]:
        rules.append(f"Where at most {policy['quorum']} of a slate are left after an exit, they stop too.")
    if kept := ", ".join(f"{exit['keep']} {exit_name(exit['layers'])}" for exit in exits if "keep" in exit):
        rules.append(f"At most so many candidates of a slate go on, those with the largest c: {kept}.")
    if top_k:
        known = "its rank among the best" if top_k["ordered"] else "whether it is among the best"
        rules.append(f"A candidate stops once it is known {known} {top_k['k']} of its slate.")
    return " ".join(rules)
