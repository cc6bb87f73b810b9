"""`report.html`: a report's content as one page that needs nothing else.

A pure function of `report.json`'s content. Whatever comes from data is escaped; the page has no script and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rexit.calibration import certify, plots, rivals
from rexit.calibration.tables import (
    THREE,
    Column,
    count,
    digits,
    interval,
    places,
    share,
    table,
    text,
    threshold,
    value_and_drop,
    yes,
)

FILE = "report.html"

Report = Mapping[str, Any]


def page(report: Report) -> str:
    """The page, as HTML. report: as `rexit.calibration.report.build` makes it."""
    headline = _headline(report)
    sections = (
        _verdict(report, headline),
        _trade_off(report),
        _stops(report),
        _reliability(report),
        _costs(report),
        _guarantee(report),
        _ways(report),
        _thresholds(report),
        *_heads(report),
        _examples(report),
        _made(report),
    )
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report['variant'])}: {escape(headline)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(report: Report) -> str:
    if report["doubt"] is not None:
        return "The model may rank nothing"
    kind, gain = report["policy"]["kind"], report["gain"]
    if kind == "fixed depth":
        return f"Cut the model at layer {_fixed_layers(report)}"
    if kind == "full depth":
        tested = report["candidates"]
        return "No policy is certified" if tested and not any(one["certified"] for one in tested) else "No exit pays"
    if gain is None or gain["verdict"] == "better":
        return "Early exit pays"
    if gain["verdict"] == "worse in part":
        return "Early exit saves time, but a fixed depth ranks better in part"
    return "Early exit pays; a fixed depth may do as well"


def _verdict(report: Report, headline: str) -> str:
    of = f"Calibration of {report['variant']} on {report['device']}"
    conclusion = escape(report["conclusion"])
    if report["guarantee"]:
        conclusion = conclusion.replace(escape(report["guarantee"]), f"</p>\n<p>{escape(report['guarantee'])}")
    conclusion = re.sub(r"`([^`]*)`", r"<code>\1</code>", conclusion)
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd><strong>{escape(figure)}</strong>"
        + "".join(f"<small>{escape(line)}</small>" for line in lines)
        + "</dd></div>"
        for name, figure, *lines in _tiles(report)
    )
    return (
        f'<header>\n<p class="of">{escape(of)}</p>\n<h1>{escape(headline)}</h1>\n<p>{conclusion}</p>\n'
        f'<dl class="tiles">{tiles}</dl>\n</header>'
    )


def _tiles(report: Report) -> Iterable[Sequence[str]]:
    """Name, figure and further lines of each."""
    full, policy = report["table"][0], report["table"][-1]
    yield "Layers", f"{policy['mean_layers']:.1f} of {report['layers']}", "mean over candidates of the test split"
    timed = policy["ms_per_slate"] is not None
    now, before = (row["ms_per_slate"] if timed else row["cost_us"] / 1000 for row in (policy, full))
    how = "measured" if timed else "by the cost model, not timed"
    yield "Speed", f"{before / now:.2f}x", f"{now:.1f} instead of {before:.1f} ms per slate", how
    asked, allowed = report["settings"]["metrics"], report["settings"]["max_drop"]
    if report["policy"]["kind"] == "full depth":
        confidence, users = report["settings"]["confidence"], min(report["tested"].values())
        yield "Allowed drop", f"{allowed:g}", f"of {' and '.join(asked)}", f"with {100 * confidence:g} % confidence"
        yield "Certifying users", f"{users:,}", *_shortfall(report)
        return
    first, *others = [(name, *policy["drops"][name]) for name in asked]
    ends = "95 % interval {:+.4f} to {:+.4f}"
    yield (
        f"Drop of {first[0]}",
        f"{first[1]:.4f}",
        ends.format(*first[2:]),
        *(f"{name}: {drop:.4f} ({low:+.4f} to {high:+.4f})" for name, drop, low, high in others),
        f"allowed: {allowed:g}",
    )
    if report["gain"] is not None:
        layers = report["gain"]["layers"]
        first, *others = [(name, *report["gain"]["differences"][name]) for name in asked]
        yield (
            f"Gain of {first[0]} over layer {layers}",
            f"{first[1]:+.4f}",
            ends.format(*first[2:]),
            *(f"{name}: {more:+.4f} ({low:+.4f} to {high:+.4f})" for name, more, low, high in others),
            "over the best fixed depth that costs no more",
        )


def _shortfall(report: Report) -> list[str]:
    """Why a policy was not certified, if one was not."""
    return [] if report["shortfall"] is None else [report["shortfall"]]


def _fixed_layers(report: Report) -> int:
    return int(max(report["exits"], key=lambda one: one["stopped"])["layers"])


def _trade_off(report: Report) -> str:
    names = report["settings"]["metrics"]
    figures = "".join(_figure(f"{name} and time", plots.trade_off(report, name)) for name in names)
    error = report["profile"]["fit_error"]
    return _section(
        "Quality and time",
        "<p>Each point is a way to stop, on the test split. Time is by the cost model. On the slates that it was fitted to, "
        f"whole and in part, its median error at full depth was {100 * error:.0f} %; a large one says that something else was "
        "running, or that costs are not as the model has them. What was timed is in the table of all ways to stop. A thin bar is "
        "the 95 % interval, over users, of the <em>drop against full depth</em>, counted from full depth's value: full depth is "
        "the reference and has none. The dashed line is full depth minus the allowed drop.</p>"
        f'<div class="plots">{figures}</div>',
    )


def _stops(report: Report) -> str:
    return _section("Where candidates stop", _figure("Candidates of the test split, by exit", plots.exit_shares(report)))


def _reliability(report: Report) -> str:
    figures = "".join(_figure(f"After layer {one['layers']}", plots.reliability(one)) for one in report["exits"])
    rows = [
        (one["layers"], n + 1, *(b[k] for k in ("probability", "liked", "pairs")))
        for one in report["exits"]
        for n, b in enumerate(one["reliability"])
    ]
    made = table(
        "reliability",
        "Reliability: candidates of the test split in bins by probability",
        [
            Column("exit after layer", count),
            Column("bin", count),
            Column("mean probability", places(3)),
            Column("share liked", places(3)),
            Column("candidates", count),
        ],
        rows,
    )
    return _section(
        "Are the probabilities right?",
        "<p>All candidates of the test split at each exit, whether they stop there or not, in bins of equal count. On the "
        "diagonal, as many are liked as the probability says; below it the exit promises too much.</p>"
        f'<div class="plots small">{figures}</div><details><summary>Figures</summary>{made}</details>',
    )


def _costs(report: Report) -> str:
    parts, costs = report["parts"], report["costs"]
    rows = [
        (
            one["layers"],
            *(by[kind][k] / 1000 for by in (costs, *parts.values()) for kind in ("prefix_us", "pass_us", "candidate_us")),
        )
        for k, one in enumerate(report["exits"])
    ]
    columns = [
        Column("reaching the exit after layer", count),
        *(Column(f"{kind}, ms", places(3)) for kind in ("its prefix", "each pass", "each candidate")),
    ]
    columns += [Column(f"{name}: {kind}, ms", places(3)) for name in parts for kind in ("prefixes", "passes", "candidates")]
    base = costs["base_us"] / 1000
    return _section(
        "What a slate costs",
        _figure("The mean slate of the test split", plots.costs(report))
        + f"<p>By the cost model. The base, {base:.3f} ms for retrieval and the prompt, is paid by every slate. The prefix of an "
        "exit is paid once by a slate with a candidate that reaches it; a pass, by each group of up to "
        f"{costs['pass_candidates']} candidates; the rest, by each candidate. Within a colour, exits are divided by thin lines, "
        "the first one on the left.</p>" + table("costs", "Costs by exit: of one, then of the mean slate", columns, rows),
    )


def _guarantee(report: Report) -> str:
    said = report["guarantee"]
    confidence = 100 * report["settings"]["confidence"]
    presumed = (
        "Users to come are like those who certified: of the same population, at a time like that. Drift ends it.",
        "It is about users who have a value: for ndcg@K and user-auc, those with likes and dislikes; for top-k-overlap@K, those "
        "with a slate of more than K.",
        "It is about the mean. Single users may lose more.",
        "It holds for this variant, this policy, and slates cut as here.",
        "Calibrating again on the same users until it passes voids it.",
        f"{confidence:g} % is over calibrations: of all guarantees given so, at most {100 - confidence:g} in 100 are wrong.",
    )
    if said is None:
        words = "<p>None is needed: the policy is full depth, which loses nothing against itself.</p>"
    else:
        words = f"<p><strong>{escape(said)}</strong></p>\n<h3>What it presumes</h3>\n<ul>"
        words += "".join(f"<li>{escape(line)}</li>" for line in presumed) + "</ul>"
    asked = report["settings"]["metrics"]
    columns = [
        Column("expected drop at most", digits(4)),
        Column("stops", text),
        *(Column(f"expected drop of {name}", places(4)) for name in asked),
        Column("p-value", digits(3)),
        Column("certified", yes),
        Column("mean layers, test", places(1)),
        Column("ms per slate, by the cost model, test", places(2)),
        *(Column(f"drop of {name}, test", interval, THREE) for name in asked),
    ]
    rows = [
        (
            one["budget"],
            "dynamic" if one["fixed"] is None else f"layer {one['fixed']}",
            *(one["expected"][name] for name in asked),
            one["p_value"],
            one["certified"],
            one["test"]["mean_layers"],
            one["test"]["cost_us"] / 1000,
            *(one["test"]["drops"][name] for name in asked),
        )
        for one in report["candidates"]
    ]
    users = f"{certify.counted(report['tested'])} tested them"
    needed = f"<p>{users}{''.join(f'; {escape(line)}' for line in _shortfall(report))}.</p>" if rows else ""
    tested = (
        table("tested-policies", "Policies tested, careful first", columns, rows)
        if rows
        else "<p>No policy was found that saves time within the allowed drop, so none was tested.</p>"
    )
    return _section(
        "The guarantee",
        f"{words}\n<h3>What was tested</h3>\n<p>One part of the validation users chose a policy for each of a few drops, by what "
        "is expected to be lost on them; the others tested these policies in this order, up to the first whose p-value is "
        f"above {1 - report['settings']['confidence']:.3g}. The cheapest that passed is written, if it saves enough to be "
        f"worth having.</p>{tested}{needed}",
    )


def _ways(report: Report) -> str:
    names = list(report["table"][0]["values"])
    columns = [
        Column("way to stop", text),
        Column("mean layers", places(2)),
        Column("ms per slate, by the cost model", places(2)),
        Column("ms per slate, measured", places(2)),
        *(Column(name, value_and_drop, ("", *(f", drop{part}" for part in THREE))) for name in names),
    ]
    rows = [
        (
            row["policy"],
            row["mean_layers"],
            row["cost_us"] / 1000,
            row["ms_per_slate"],
            *((row["values"][name], *row["drops"][name]) for name in names),
        )
        for row in report["table"]
    ]
    told = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(how)}"
        + (f' <a href="https://arxiv.org/abs/{paper}">arXiv {paper}</a>' if paper else "")
        + "</li>"
        for name, (how, paper) in rivals.ABOUT.items()
        if any(row["policy"] == name for row in report["table"])
    )
    return _section(
        "All ways to stop",
        table(
            "ways-to-stop",
            "On the test split: value, and drop against full depth with its 95 % interval over users",
            columns,
            rows,
            chosen="policy",
        )
        + '<p class="note">A drop above 0 is a loss, for log loss too. A way that was not timed has no measured time.</p>'
        + (f"<h3>Other ways, tuned on the same users as the policy</h3><ul>{told}</ul>" if told else ""),
    )


def _thresholds(report: Report) -> str:
    policy = report["policy"]
    columns = [
        Column("exit after layer", count),
        Column("stops at c of at least", threshold),
        Column("or at most", threshold),
        Column("a", places(4)),
        Column("b", places(4)),
        Column("head ranks", yes),
        Column("candidates stopped, test", share),
    ]
    rows: list[list[Any]] = [
        [one["layers"], one["upper"], one["lower"] and -one["lower"], *(one[n] for n in ("a", "b", "useful", "stopped"))]
        for one in report["exits"]
    ]
    rows[-1][1:3] = "always", "always"
    heads = policy["patience"]
    rules = [f"The last {heads} heads must agree on the sign of c." if heads > 1 else "One head decides."]
    if policy["quorum"]:
        rules.append(f"Where at most {100 * policy['quorum']:.3g} % of a slate are left after an exit, they stop too.")
    top = policy["top_k"]
    if top:
        known = "its rank among the best" if top["ordered"] else "whether it is among the best"
        rules.append(f"A candidate stops once it is known {known} {top['k']} of its slate.")
    bounds = (
        table(
            "top-k-bounds",
            "How far c is taken to move from an exit to the last",
            [Column("exit after layer", count), Column("up", places(4)), Column("down", places(4))],
            [(one["layers"], up, down) for one, up, down in zip(report["exits"], top["rise"], top["fall"], strict=False)],
        )
        if top
        else ""
    )
    return _section(
        "The policy",
        f"<p>c = a·z + b, where z is the log-odds of an exit's head. {escape(' '.join(rules))}</p>"
        + table("thresholds", "Thresholds by exit", columns, rows)
        + bounds,
    )


def _heads(report: Report) -> Iterable[str]:
    """Nothing unless it was asked for."""
    kept = report["suggested_exits"]
    if kept is None:
        return
    columns = [Column("heads after layers", text), Column("ms per slate, by the cost model", places(2))]
    rows = [(", ".join(map(str, one["exits"])), one["cost_us"] / 1000) for one in report["heads"]]
    yield _section(
        "Which heads to keep",
        f"<p>Worth keeping: <code>rexit export --exits {','.join(map(str, kept))}</code>. With fewer heads the cheapest policy "
        "costs over 1 % more, on the users who choose. What a missing head saves by itself is not counted.</p>"
        + table("heads", "The cheapest policy with fewer heads", columns, rows),
    )


def _examples(report: Report) -> str:
    examples = report["examples"]
    if not examples["early"] and not examples["late"]:
        return _section("Examples", "<p>None: under this policy all slates stop alike.</p>")
    shown = "".join(
        f"<h3>{title}</h3>" + "".join(_example(one, f"{kind}-{n + 1}") for n, one in enumerate(examples[kind]))
        for kind, title in (("early", "Slates that exit early"), ("late", "Slates that exit late"))
    )
    prompts = any(one["prompt"] is not None for one in (*examples["early"], *examples["late"]))
    note = "" if prompts else '<p class="note">Prompts are shown by a calibration with --tokenizer that runs the model.</p>'
    return _section("Examples", shown + note)


def _example(one: Mapping[str, Any], name: str) -> str:
    mean = sum(one["layers"]) / len(one["layers"])
    made = table(
        name,
        "First candidates of the slate",
        [Column("item", text), Column("stops after layer", count), Column("liked", yes)],
        list(zip(one["items"], one["layers"], one["liked"], strict=True)),
    )
    prompt = "" if one["prompt"] is None else f"<p>Prompt of the first candidate:</p><pre>{escape(one['prompt'])}</pre>"
    shown = f"User <bdi>{escape(str(one['user']))}</bdi>, {mean:.1f} layers on average of those shown"
    return f"<details><summary>{shown}</summary>{made}{prompt}</details>"


def _made(report: Report) -> str:
    profile, settings = report["profile"], report["settings"]
    decided = report["decisions"]
    facts: list[tuple[str, Any]] = [
        ("producer", report["producer"]),
        ("variant", report["variant"]),
        ("variant SHA-256", report["variant_sha256"]),
        ("catalog SHA-256", report["catalog_sha256"]),
        ("device", report["device"]),
        ("threads", report["threads"]),
        *((f"machine: {name}", value) for name, value in report["machine"].items()),
        ("median error of the cost model", profile["fit_error"]),
        *(
            (
                f"setting: {name.replace('_', ' ')}",
                ", ".join(value) if isinstance(value, list) else "not set" if value is None else value,
            )
            for name, value in settings.items()
        ),
        *((f"{split}: {what}", count) for split, counts in report["data"].items() for what, count in counts.items()),
        *((f"users, {part}", count) for part, count in report["users"].items()),
        *((f"certifying users with a value of {metric}", count) for metric, count in report["tested"].items()),
    ]
    if decided is not None:
        facts.append(("candidates timed as deployed", decided["candidates"]))
        facts.append(("of these, stopped where their traces say", decided["as_traced"]))
    made = table("how-it-was-made", "Conditions, settings and data", [Column("what", text), Column("value", text)], facts)
    return _section("How it was made", made)


def _section(title: str, inside: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>"


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"
