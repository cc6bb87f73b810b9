"""The page: golden pages of golden reports; text from data is escaped; nothing is loaded.

The golden pages are in pages/, without their style and pictures. After a change of the page, run this and read the difference:

    PYTHONPATH=. python calibration/reporting/test_page.py

in tests/. `--reports` also makes new reports.
"""

import copy
import functools
import json
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from builders.bundles.held_out import write_two_tastes
from builders.decisions import decide_on
from builders.traces import even_costs, traces
from rexit.calibration import CalibrationOptions
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import parse
from rexit.calibration.reporting import content, page, plots
from rexit.format.bundle import Bundle
from rexit.upkeep.measure import Conditions, CostProfile, SegmentCost

CASES = {
    "dynamic": ((2.0, 1.0, 0.0), {"max_drop": 0.03, "metrics": ("user-auc", "logloss")}),
    "fixed": ((0.0, 0.0, 0.0), {"max_drop": 0.03}),
    "not certified": ((2.0, 1.0, 0.0), {"max_drop": 0.0005}),
}
PAGES = Path(__file__).parent / "pages"
GOLDEN = ("dynamic", "fixed", "full-depth")
VOID = {"meta", "br", "path", "use", "rect"}
HOSTILE = "</td></pre><script>alert('&amp;')</script><img src=http://evil.example/x onerror=alert(1)>\"'"


@functools.cache
def _report(case: str) -> dict[str, Any]:
    """A report of synthetic traces, with a bundle of the tests."""
    noise, chosen = CASES[case]
    options = CalibrationOptions(**{"metrics": ("ndcg@10",), **chosen})
    parts = {name: traces(1500, 10, noise, seed=seed) for seed, name in enumerate(("validation", "test"))}
    parts["validation"].liked[:50] = True  # five users who have no value
    goal = Goal(tuple(map(parse, options.metrics)), options.max_drop, options.confidence, options.top_k)
    costs = even_costs(3, 100, 10)
    with tempfile.TemporaryDirectory() as place:
        bundle = Bundle.open(write_two_tastes(Path(place)).bundle)
        decision = decide_on(parts["validation"], goal, parts["test"], costs, bundle.manifest.exits)
        conditions = Conditions(bundle.variant_sha256, "cpu", 2, {"cpu": "a processor", "cores": 2, "rexit": "0"})
        profile = CostProfile(conditions, 5.0, (SegmentCost(100.0, 0.0, 0.0, 1.0),) * 3, 0.04)
        return content.build(bundle, options, content.Findings(parts, profile, costs, decision, None, False, None))


def new_report(case: str = "dynamic") -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(_report(case))


def full_report() -> dict[str, Any]:
    """A timed policy with everything that a report can have."""
    dynamic = new_report("dynamic")
    for row, milliseconds in zip(dynamic["table"], (30.0, 10.0, 20.0), strict=False):
        row |= {"ms_per_slate": milliseconds, "speed": (30 / milliseconds, 1.0, 30 / milliseconds)}
    dynamic["table"][-1] |= {"ms_per_slate": 12.0, "speed": (2.5, 2.4, 2.7)}
    dynamic["decisions"] = {"candidates": 100, "as_traced": 99}
    dynamic["gain"] = {"layers": 1, "differences": {"user-auc": (0.0123, 0.01, 0.015), "logloss": (0.002, -0.001, 0.005)}}
    dynamic["verdict"] |= {"comparison": "worse in part", "layers": "The layers add 0.0028 of NDCG@10 to the look-up."}
    dynamic["maps"] |= {"choice": "all", "gain": [0.02, 0.01, 0.03]}
    dynamic["exits"][2]["earlier"] = [0.125, -0.5]
    dynamic["policy"] |= {"patience": 2, "quorum": 3, "top_k": {"k": 3, "ordered": True, "rise": [0.5, 0.25], "fall": [1, 0]}}
    dynamic["probabilities"] |= {"negative_rate": 0.04, "prior_shift": -3.2189}
    dynamic["probabilities"]["table"][0]["ratio"] = None
    drops = {"user-auc": [-0.02, -0.03, -0.01]}
    dynamic["baselines"] = [{"name": "order of the file", "values": {"user-auc": 0.7}, "drops": drops}]
    return dynamic


@functools.cache
def dynamic_page() -> str:
    return page.page(new_report())


def without_pictures() -> Any:
    """A context in which a page names its pictures instead of drawing them, which takes most of its time."""
    names = ("trade_off", "reliability")
    return mock.patch.multiple(plots, **{name: lambda *_, name=name: f"<svg>{name}</svg>" for name in names})


def outline(report: dict[str, Any]) -> str:
    """The page without its style and pictures."""
    with without_pictures():
        html = page.page(report)
    return html.replace((Path(page.__file__).parent / "page.css").read_text(encoding="utf-8"), "")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_pages(name: str) -> None:
    html = outline(json.loads((PAGES / f"{name}.json").read_text()))
    assert html == (PAGES / f"{name}.html").read_text(encoding="utf-8")
    Parsed(html)


@pytest.mark.medium
@pytest.mark.parametrize("name", GOLDEN)
def test_without_a_catalog_a_page_is_about_queries(name: str) -> None:
    report = json.loads((PAGES / f"{name}.json").read_text())
    sentences = {"guarantee": "G.", "shortfall": "s", "summary": ["S."]}  # test_verdict.py holds these
    report |= {"noun": "queries", "catalog_sha256": None, "verdict": report["verdict"] | sentences}
    prose = re.sub("<style>.*</style>|<[^>]*>|user[ -]AUC", " ", page.page(report), flags=re.I | re.S)
    assert re.findall(r".*\b(?:users?|likes|liked)\b.*", prose, re.I) == []


@pytest.mark.medium
def test_a_golden_report_has_what_reports_have() -> None:
    """Else a page that reads a new key is tested on an old report."""
    report, golden = full_report(), json.loads((PAGES / "dynamic.json").read_text())
    assert golden.keys() == report.keys() and golden["table"][0].keys() == report["table"][0].keys()


@pytest.mark.medium
@pytest.mark.parametrize(("case", "metric"), [("dynamic", "user-auc"), ("not certified", "ndcg@10")])
def test_users_who_tested_are_those_with_a_value(case: str, metric: str) -> None:
    report = new_report(case)
    tested, verdict = report["tested"][metric], report["verdict"]
    assert tested < report["users"]["certifying"], "all users have both labels: the test shows nothing"
    assert f"{tested:,} users" in (verdict["guarantee"] or verdict["shortfall"])


class Parsed(HTMLParser):
    """Elements with their attributes, and texts by the element they are in. Fails where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))

    def inside(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def test_names_from_data_are_text_and_the_page_loads_nothing() -> None:
    report = new_report()
    report["variant"] = report["machine"]["cpu"] = report["device"] = HOSTILE
    report["baselines"] = [{"name": HOSTILE, "values": {}, "drops": {}}]
    html = page.page(report)
    read = Parsed(html)
    assert read.inside("bdi").count(HOSTILE) >= 3
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in read.elements:
        assert tag not in ("script", "img", "link", "iframe", "object", "embed", "image")
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        for name, value in attributes.items():
            if name.endswith("href"):
                assert value and (value.startswith("#") or (tag == "a" and value.startswith("https://arxiv.org/")))
            elif value and "://" in value and value != HOSTILE:
                assert name.startswith("xmlns") or HOSTILE in value
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_same_report_same_bytes_whatever_matplotlib_is_set_to() -> None:
    first = dynamic_page()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}):
        assert page.page(json.loads(json.dumps(new_report()))) == first


def test_pictures_have_names_text_and_the_page_s_colours() -> None:
    html = dynamic_page()
    read = Parsed(html)
    pictures = [attributes for tag, attributes in read.elements if tag == "svg"]
    assert len(pictures) == 2 + 3
    assert all(p["role"] == "img" and p["aria-label"] for p in pictures)
    assert "ms per slate, by the cost model" in read.inside("text") and "allowed drop" in read.inside("text")
    assert not any(stand_in in html for stand_in in plots.COLOURS.values())
    light, dark = (set(re.findall(r"--(\w+): #", part)) for part in html.split("prefers-color-scheme: dark")[:2])
    assert set(re.findall(r"var\(--(\w+)\)", html)) <= light == dark


@pytest.mark.parametrize(("metric", "worse"), [("user-auc", -1), ("logloss", 1)])
def test_curve_has_each_way_at_its_cost_and_value(monkeypatch: pytest.MonkeyPatch, metric: str, worse: int) -> None:
    def drawn(draw: Any, *rest: Any) -> Axes:
        axes = Figure().add_subplot()
        draw(axes)
        return axes

    monkeypatch.setattr(plots, "_svg", drawn)
    report = new_report()
    axes: Any = plots.trade_off(report, metric)
    rows = {row["policy"]: row for row in report["table"]}
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}

    def places(some: list[dict[str, Any]]) -> list[list[float]]:
        return [[row["cost_us"] / 1000, row["values"][metric]] for row in some]

    assert lines["the policy written"] == places([rows["policy"]])
    assert lines["fixed depth, layers"] == places([rows["1 layer"], rows["2 layers"], rows["full depth"]])
    for certified, label in ((True, "tested, certified"), (False, "tested, not certified")):
        assert (
            lines[label]
            == places([candidate["test"] for candidate in report["candidates"] if candidate["certified"] == certified])
            != []
        )
    full = rows["full depth"]["values"][metric]
    assert [y for _, y in lines["allowed drop"]] == pytest.approx([full + worse * 0.03] * 2)
    bars = {bar[0][0]: sorted(bar[:, 1]) for group in axes.collections for bar in group.get_segments()}
    _, low, high = rows["1 layer"]["drops"][metric]
    assert bars[rows["1 layer"]["cost_us"] / 1000] == pytest.approx(sorted((full + worse * low, full + worse * high)))


if __name__ == "__main__":
    if "--reports" in sys.argv:  # also a fixed depth, and full depth, of which little can be said
        reports = {"dynamic": full_report(), "fixed": new_report("fixed"), "full-depth": new_report("not certified")}
        for name, report in reports.items():
            (PAGES / f"{name}.json").write_text(json.dumps(report, separators=(",", ":")) + "\n")
    for name in GOLDEN:
        golden = json.loads((PAGES / f"{name}.json").read_text())
        (PAGES / f"{name}.html").write_text(outline(golden), encoding="utf-8")
