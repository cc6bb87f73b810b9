"""The page: what is on it is what the report says, whoever named the data, and it needs nothing else."""

import copy
import csv
import functools
import io
import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from builders.bundles.held_out import write_two_tastes
from builders.traces import even_costs, traces
from doubles.session import FakeSession
from rexit.bundle import Bundle, Catalog, write_file
from rexit.calibration import CalibrationOptions, calibrate
from rexit.calibration.choose import rivals
from rexit.calibration.decide import DecideOptions, Goal, decide
from rexit.calibration.metrics import parse
from rexit.calibration.reporting import content, page, plots
from rexit.calibration.reporting.examples import Example
from rexit.errors import InputError
from rexit.measure.machine import Conditions
from rexit.measure.profile import CostProfile, SegmentCost
from running.fast import fast

CASES = {
    "dynamic": ((2.0, 1.0, 0.0), {"max_drop": 0.03}),
    "two metrics": ((2.0, 1.0, 0.0), {"max_drop": 0.03, "metrics": ("user-auc", "logloss")}),
    "top-k": ((2.0, 1.0, 0.0), {"max_drop": 0.1, "metrics": ("top-k-overlap@3",), "top_k": 3}),
    "fixed": ((0.0, 0.0, 0.0), {"max_drop": 0.03}),
    "not certified": ((2.0, 1.0, 0.0), {"max_drop": 0.0005}),
    "nothing saves": ((50.0, 50.0, 0.0), {"max_drop": 0.0005}),
}
CAPTIONS = [
    "Probabilities on the test split, with 95 % intervals over users",
    "Reliability: candidates of the test split in bins by probability",
    "Costs by exit: of one, then of the mean slate",
    "Policies tested, careful first",
    "On the test split: value, and drop against full depth with its 95 % interval over users",
    "Thresholds by exit",
    "Conditions, settings and data",
]
VOID = {"meta", "br", "path", "use", "rect"}
HOSTILE = "</td></pre><script>alert('&amp;')</script><img src=http://evil.example/x onerror=alert(1)>\"'"


@functools.cache
def _made(case: str) -> dict[str, Any]:
    """A report of synthetic traces, with a bundle of the tests."""
    noise, chosen = CASES[case]
    options = CalibrationOptions(**{"metrics": ("ndcg@10",), **chosen})
    parts = {name: traces(1500, 10, noise, seed=seed) for seed, name in enumerate(("validation", "test"))}
    parts["validation"].liked[:50] = True  # five users who have no value
    goal = Goal(tuple(map(parse, options.metrics)), options.max_drop, options.confidence, options.top_k)
    costs = even_costs(3, 100, 10)
    with tempfile.TemporaryDirectory() as place:
        bundle = Bundle.open(write_two_tastes(Path(place)).bundle)
        decision = decide(
            **parts,
            costs=costs,
            depths=bundle.manifest.exits,
            variant_sha256=bundle.variant_sha256,
            goal=goal,
            options=DecideOptions(rivals=True),
        )
        conditions = Conditions(bundle.variant_sha256, "cpu", 2, {"cpu": "a processor", "cores": 2, "rexit": "0"})
        profile = CostProfile(conditions, 5.0, (SegmentCost(100.0, 0.0, 0.0, 1.0),) * 3, 0.04)
        early = [Example(7, (1, 2), (1, 1), (True, False), "A prompt of early")]
        late = [Example(8, (3, 4), (1, 3), (False, True), None)]
        return content.build(bundle, options, content.Findings(parts, profile, costs, decision, None, False, early, late, None))


def test_it_says_how_right_probabilities_are() -> None:
    report = made()
    rows = report["probabilities"]["table"]
    assert [row["by"] for row in rows] == ["answers", "exit", "exit", "exit"]
    _, *shown = Parsed(html_of()).tables[CAPTIONS[0]]
    assert len(shown) == 4 and shown[1][0] == ["all candidates after layer 1"]
    for row, cells in zip(rows, shown, strict=True):
        assert cells[4] == ["{:.3f}".format(row["ratio"][0]), "{1:.3f} to {2:.3f}".format(*row["ratio"])]
        assert row["ratio"][1] < 1.05 and row["ratio"][2] > 0.95 and row["ece"][0] < 0.03
    assert "Of the world's negatives" not in html_of()
    report["probabilities"] |= {"negative_rate": 0.04, "prior_shift": -3.2189}
    report["probabilities"]["table"][0]["ratio"] = None
    html = page.page(report)
    for text in ("Of the world's negatives, the labels have 4 %.", "c plus -3.219 in log-odds", "stands for\n25."):
        assert text in " ".join(html.split(" "))


def test_it_says_what_the_maps_read() -> None:
    report = made()
    assert report["maps"]["read"] == "own" and report["maps"]["gain"] is not None
    own = page.page(report)
    assert "Each exit reads its own head: all heads so far are not shown to be better, log loss lower by" in own
    assert "weights of earlier heads" not in own
    report["maps"] |= {"read": "all", "choice": "all", "gain": [0.02, 0.01, 0.03]}
    report["exits"][2]["earlier"] = [0.125, -0.5]
    every = page.page(report)
    assert "Each exit reads all heads so far: log loss of users left out is lower by +0.0200 (95 % interval +0.0100" in every
    assert "weights of earlier heads" in every and "0.1250, -0.5000" in every
    report["maps"]["read"] = "own"
    assert "full depth is the model&#39;s own answer" in page.page(report)
    report["maps"]["gain"] = None
    assert "Each exit reads its own head. One head decides." in page.page(report)


def made(case: str = "dynamic") -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(_made(case))


@functools.cache
def html_of(case: str = "dynamic") -> str:
    """The page of a case as it was made: drawing its pictures takes a second."""
    return page.page(made(case))


class Parsed(HTMLParser):
    """Elements with their attributes, and texts by the element they are in. Fails where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self._rows: list[list[list[str]]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append([])
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        self.texts.append((self._open[-1] if self._open else "", data))
        if "caption" in self._open:
            self.tables[data] = self._rows
        elif self._open and {"th", "td"} & set(self._open):
            self._rows[-1][-1].append(data)

    def inside(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]

    @property
    def files(self) -> dict[str, list[list[str]]]:
        """What the CSV links hold, by name."""
        found = {}
        for tag, attributes in self.elements:
            if tag == "a" and "download" in attributes:
                head, content = str(attributes["href"]).split(",", 1)
                assert head == "data:text/csv;charset=utf-8"
                found[str(attributes["download"])] = list(csv.reader(io.StringIO(unquote(content))))
        return found


@pytest.mark.parametrize(
    ("case", "kind", "headline"),
    [
        ("dynamic", "dynamic", r"Use this policy"),
        ("two metrics", "dynamic", r"(Use this policy|Compare this policy with)"),
        pytest.param("top-k", "dynamic", r"Use this policy", marks=pytest.mark.slow),
        ("fixed", "fixed depth", r"Export a one-layer model$"),
        ("not certified", "full depth", r"Keep the full model$"),
        ("nothing saves", "full depth", r"Keep the full model$"),
    ],
)
def test_each_verdict_comes_first_and_has_all_tables(case: str, kind: str, headline: str) -> None:
    found = made(case)
    assert found["policy"]["kind"] == kind
    read = Parsed(html_of(case))
    verdict = found["verdict"]
    assert read.inside("h1") == [verdict["headline"]] and re.match(headline, verdict["headline"])
    texts = " ".join(t for _, t in read.texts)
    assert all(sentence.split("`")[0][1:] in texts for sentence in verdict["summary"])
    assert verdict["guarantee"] is None or verdict["guarantee"] in texts
    expected = [c for c in CAPTIONS if found["candidates"] or not c.startswith("Policies")]
    assert [c for c in read.tables if c in CAPTIONS] == expected
    assert len(read.files) == sum(tag == "table" for tag, _ in read.elements)
    assert read.inside("h2")[:3] == ["Quality and time", "Where candidates stop", "Are the probabilities right?"]


@pytest.mark.parametrize(
    ("comparison", "figure"), [("better", "Better"), ("not shown", "No difference shown"), ("worse in part", "Worse in part")]
)
def test_card_says_how_the_policy_compares_with_a_fixed_depth(comparison: str, figure: str) -> None:
    """A figure below 0 under a headline that says to use the policy would contradict it."""
    found = made()
    found["gain"] = {"layers": 1, "differences": dict.fromkeys(found["table"][0]["values"], (-0.0018, -0.1, 0.2))}
    found["verdict"]["comparison"] = comparison
    read = Parsed(page.page(found))
    assert read.inside("strong")[3] == figure and "Compared with a one-layer model" in read.inside("dt")
    assert "NDCG@10: \N{MINUS SIGN}0.0018 ± 0.1500" in read.inside("small")


@pytest.mark.parametrize("case", fast(CASES, *(case for case in CASES if case != "top-k")))
def test_every_way_to_stop_is_shown_as_reported(case: str) -> None:
    found = made(case)
    read = Parsed(html_of(case))
    head, *shown = read.tables[CAPTIONS[4]]
    first, *file = read.files["ways-to-stop.csv"]
    names = list(found["table"][0]["values"])
    assert [title for [title] in head[4:]] == names
    assert len(shown) == len(file) == len(found["table"])
    for row, cells, raw in zip(found["table"], shown, file, strict=True):
        assert cells[0] == [row["policy"]] == raw[:1]
        assert cells[1:3] == [[f"{row['mean_layers']:.2f}"], [f"{row['cost_us'] / 1000:.2f}"]]
        assert float(raw[first.index("mean layers")]) == row["mean_layers"]
        for name, cell in zip(names, cells[4:], strict=True):
            drop, low, high = row["drops"][name]
            lost = [f"drop {drop:.4f}", f"{low:+.4f} to {high:+.4f}"] if drop or low or high else ["no drop"]
            assert cell == [f"{row['values'][name]:.4f}", *lost]
            at = first.index(name)
            assert list(map(float, raw[at : at + 4])) == [row["values"][name], drop, low, high]


def test_candidates_exits_and_costs_are_shown_as_reported() -> None:
    found = made()
    read = Parsed(html_of())
    for one, cells in zip(found["candidates"], read.tables[CAPTIONS[3]][1:], strict=True):
        assert cells[0] == [f"{one['budget']:.4g}"] and cells[2] == [f"{one['expected']['ndcg@10']:.4f}"]
        assert cells[3:5] == [[f"{one['p_value']:.3g}"], ["yes" if one["certified"] else "no"]]
    for exit, cells in zip(found["exits"], read.tables[CAPTIONS[5]][1:], strict=True):
        assert cells[0] == [str(exit["layers"])] and cells[-1] == [f"{100 * exit['stopped']:.1f} %"]
    assert read.tables[CAPTIONS[5]][-1][1:3] == [["always"], ["always"]]
    rows = read.files["costs.csv"][1:]
    for name, columns in (("full depth", slice(4, 7)), ("policy", slice(7, 10))):
        paid = found["costs"]["base_us"] / 1000 + sum(float(x) for row in rows for x in row[columns])
        row = next(row for row in found["table"] if row["policy"] == name)
        assert paid == pytest.approx(row["cost_us"] / 1000)


def test_key_figures() -> None:
    found = made()
    figures = Parsed(html_of()).inside("strong")
    full, policy = found["table"][0], found["table"][-1]
    assert figures[0] == f"{policy['mean_layers']:.1f} of {found['layers']}"
    assert figures[1] == f"{full['cost_us'] / policy['cost_us']:.1f}x"
    assert figures[2] == f"{policy['drops']['ndcg@10'][0]:.4f}".replace("-", "\N{MINUS SIGN}")
    for row, milliseconds in ((full, 30.0), (policy, 12.0)):
        row["ms_per_slate"] = milliseconds
    read = Parsed(page.page(found))
    assert read.inside("strong")[1] == "2.5x"
    assert {"12.0 ms instead of 30.0 a slate", "measured"} < set(read.inside("small"))


def test_users_who_tested_are_those_with_a_value() -> None:
    found = made()
    tested, certifying = found["tested"]["ndcg@10"], found["users"]["certifying"]
    assert tested < certifying, "all users have both labels: the test shows nothing"
    assert f"tested on {tested:,} users who had no part" in found["verdict"]["guarantee"]
    texts = [text for _, text in Parsed(page.page(found)).texts]
    assert any(text.startswith(f"{tested:,} users tested them") for text in texts)
    found = made("not certified")
    shortfall = found["verdict"]["shortfall"]
    assert shortfall in found["verdict"]["summary"][0] and f"{found['tested']['ndcg@10']:,} users are too few" in shortfall
    assert shortfall in Parsed(page.page(found)).inside("small")


def test_full_depth_promises_nothing() -> None:
    texts = " ".join(text for _, text in Parsed(html_of("not certified")).texts)
    assert "None is needed: the policy is full depth" in texts
    assert "What it presumes" not in texts


def test_names_from_data_are_text() -> None:
    found = made()
    found["variant"] = found["machine"]["cpu"] = found["device"] = HOSTILE
    found["examples"]["early"] = [
        {"user": HOSTILE, "items": [HOSTILE, "=1+1"], "layers": [1, 1], "liked": [True, False], "prompt": HOSTILE}
    ]
    read = Parsed(page.page(found))
    assert not {"script", "img"} & {tag for tag, _ in read.elements}
    assert read.inside("pre") == [HOSTILE]
    assert HOSTILE in read.inside("bdi") and "=1+1" in read.inside("bdi")
    assert read.files["early-1.csv"][1:] == [[HOSTILE, "1", "True"], ["'=1+1", "1", "False"]]
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)


def test_examples_without_prompts_say_how_to_get_them() -> None:
    found = made()
    assert not any("where the bundle has a tokenizer" in text for text in Parsed(html_of()).inside("p"))
    found["examples"]["early"][0]["prompt"] = None
    read = Parsed(page.page(found))
    assert any("where the bundle has a tokenizer" in text for text in read.inside("p")) and not read.inside("pre")
    found["examples"] = {"early": [], "late": []}
    assert "None: under this policy all slates stop alike." in Parsed(page.page(found)).inside("p")


@pytest.mark.parametrize("case", fast(CASES, *(case for case in CASES if case != "top-k")))
def test_loads_nothing_and_runs_nothing(case: str) -> None:
    html = html_of(case)
    for tag, attributes in Parsed(html).elements:
        assert tag not in ("script", "img", "link", "iframe", "object", "embed", "image")
        assert "src" not in attributes
        for name, value in attributes.items():
            if name.endswith("href"):
                assert value and (
                    value.startswith(("#", "data:text/csv")) or (tag == "a" and value.startswith("https://arxiv.org/"))
                )
            elif value and "://" in value:
                assert name.startswith("xmlns")
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_same_report_same_bytes_whatever_matplotlib_is_set_to() -> None:
    found, first = made(), html_of()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}):
        assert page.page(made()) == first
    assert page.page(json.loads(json.dumps(found))) == first


def test_pictures_have_names_text_and_the_page_s_colours() -> None:
    html = html_of("two metrics")
    read = Parsed(html)
    pictures = [attributes for tag, attributes in read.elements if tag == "svg"]
    assert len(pictures) == 2 + 1 + 1 + 3 + 1
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
    found = made("two metrics")
    axes: Any = plots.trade_off(found, metric)
    rows = {row["policy"]: row for row in found["table"]}
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}

    def places(some: list[dict[str, Any]]) -> list[list[float]]:
        return [[row["cost_us"] / 1000, row["values"][metric]] for row in some]

    assert lines["the policy written"] == places([rows["policy"]])
    assert lines["fixed depth, layers"] == places([rows["1 layer"], rows["2 layers"], rows["full depth"]])
    for certified, label in ((True, "tested, certified"), (False, "tested, not certified")):
        assert lines[label] == places([one["test"] for one in found["candidates"] if one["certified"] == certified]) != []
    full = rows["full depth"]["values"][metric]
    assert [y for _, y in lines["allowed drop"]] == pytest.approx([full + worse * 0.03] * 2)
    bars = {bar[0][0]: sorted(bar[:, 1]) for group in axes.collections for bar in group.get_segments()}
    _, low, high = rows["1 layer"]["drops"][metric]
    assert bars[rows["1 layer"]["cost_us"] / 1000] == pytest.approx(sorted((full + worse * low, full + worse * high)))


def test_no_two_elements_of_one_name() -> None:
    ids = [attributes["id"] for tag, attributes in Parsed(html_of("two metrics")).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_each_rival_is_explained() -> None:
    rows = [row["policy"] for row in made()["table"]]
    fixed = {"full depth", "policy", *(row for row in rows if "layer" in row)}
    assert [row for row in rows if row not in fixed] == list(rivals.ABOUT)
    read = Parsed(html_of())
    papers = [attributes["href"] for tag, attributes in read.elements if tag == "a" and "download" not in attributes]
    assert papers == [f"https://arxiv.org/abs/{paper}" for _, paper in rivals.ABOUT.values() if paper]


def run(place: Path, **keywords: Any) -> Bundle:
    bundle = Bundle.open(place / "bundle")
    options = CalibrationOptions(slate=5, timed_slates=4, repeats=1, **keywords)

    def open_session(folder: Path) -> FakeSession:
        costs, noise = even_costs(3, 100, 10), (0.5, 0.2, 0.1)
        return FakeSession(3, costs, lambda user, item: 2.0 if (user + item) % 2 else -2.0, noise, Bundle.open(folder).policy())

    calibrate(bundle, Catalog.open(place / "catalog"), options, open_session=open_session)
    return bundle


def test_written_beside_the_report_it_tells(tmp_path: Path) -> None:
    write_two_tastes(tmp_path)
    bundle = run(tmp_path)
    found = json.loads((bundle.folder / "report.json").read_text())
    assert (bundle.folder / "report.html").read_text(encoding="utf-8") == page.page(found)


@pytest.mark.parametrize("before", [True, False], ids=["recalibration", "first"])
def test_page_that_cannot_be_written_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    write_two_tastes(tmp_path)
    folder = Bundle.open(tmp_path / "bundle").folder
    if before:
        run(tmp_path)
    files = {name: (folder / name).read_bytes() for name in ("policy.json", "report.json", "report.html") if before}

    def full(path: Path, data: str | bytes, flushed: bool) -> None:
        if path.name == page.FILE and data not in files.values():
            raise InputError(f"{path}: cannot be written: No space left on device")
        write_file(path, data, flushed)

    monkeypatch.setattr("rexit.calibration.run.write_file", full)
    with pytest.raises(InputError, match=r"report\.html: cannot be written: No space left"):
        run(tmp_path, max_drop=0.3)
    kept = {p.name: p.read_bytes() for p in folder.iterdir() if p.name in ("policy.json", "report.json", "report.html")}
    assert kept == files
