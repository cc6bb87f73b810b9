"""The reference pages that are made from the sources, and the paths that texts name."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("exporter", "calibration", "runtime", "src/rexit", "tests", "examples", "benchmarks", "tools")
sys.path.insert(0, str(ROOT / "tools" / "docs"))

from c_reference import read_header  # noqa: E402
from request_table import PAGE, with_table  # noqa: E402

# The notes hold every experiment, the formats every rule, and the glossary every word.
GUIDE = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "how-to").glob("*.md")]
TWO_SCREENS = 700  # words outside of code and tables, which at 1280 x 900 take two screens
HEADER = (ROOT / "runtime" / "include" / "rexit" / "rexit.h").read_text()
EXPORTED = re.findall(r"^REXIT_API .*?\b(rexit_\w+)\(", HEADER, re.MULTILINE)


def test_every_function_of_the_header_has_its_comment_and_its_code() -> None:
    declarations = {declaration.name: declaration for declaration in read_header(HEADER)[1]}
    assert EXPORTED and set(EXPORTED) <= set(declarations)
    score = declarations["rexit_session_score"]
    assert score.comment.startswith("Scores a slate: ") and score.code.endswith("rexit_stats* stats_out);")
    assert declarations["rexit_bundle_get_info"].comment == "", "the comment beside rexit_bundle_close is not its own"
    assert "const char* policy" in declarations["rexit_call_options"].code


def test_the_page_of_requests_has_every_field() -> None:
    page = PAGE.read_text()
    assert with_table(page) == page, "run tools/docs/request_table.py"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_the_pages_outside_the_site_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), f"{name}: {link}"


def test_figures_stand_in_the_notes_that_they_name() -> None:
    figures = tomllib.loads((ROOT / "tools" / "docs" / "figures.toml").read_text())
    for name, figure in figures.items():
        for series in figure["series"]:
            note = (ROOT / series["note"]).read_text()
            for value, lower, upper in series.get("change", []):
                interval = f"{value:+.4f} ({lower:+.4f} to {upper:+.4f})"
                assert value == 0 or interval in note, f"{name}, {series['label']}: {interval}"
            for value, lower, upper in series.get("times", []):
                assert f"{value:.2f} ({lower:.2f}-{upper:.2f})" in note, f"{name}: {value}"
            assert all(f"| {cost:.3f} |" in note for cost in series.get("cost", [])), f"{name}, {series['label']}"


def test_pictures_are_those_of_the_data() -> None:
    digest = hashlib.sha256((ROOT / "tools" / "docs" / "figures.toml").read_bytes()).hexdigest()
    pictures = sorted((ROOT / "docs" / "images").glob("results-*.svg"))
    assert len(pictures) == 3
    assert [path.name for path in pictures if digest not in path.read_text()] == [], "run tools/docs/figures.py"


def test_guide_pages_take_two_screens_at_most() -> None:
    for page in GUIDE:
        text = re.sub(r"^```.*?^```|^\|.*?$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert len(text.split()) <= TWO_SCREENS, page.relative_to(ROOT)


def test_pages_named_in_sources_exist() -> None:
    files = [
        path
        for folder in (*SOURCES, "src")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cpp", ".hpp", ".h")
    ]
    named = {page for path in files for page in re.findall(r"\bdocs/[a-z0-9/_-]+\.md", path.read_text())}
    assert "docs/format.md" in named
    others = {"docs/operators.md"}  # onnx-tensorrt's
    assert [page for page in sorted(named - others) if not (ROOT / page).exists()] == []


def test_paths_named_in_the_pages_exist() -> None:
    folders = "|".join((*SOURCES, "src", "docs"))
    for page in (ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        # In backquotes, or a file in a command.
        for path in re.findall(
            rf"(?:`|^|\s)((?:{folders})/[\w./-]+?\.\w+|(?:{folders})/[\w./-]+(?=`))(?=[`\s]|$)", page.read_text(), re.M
        ):
            assert "NAME" in path or (ROOT / path).exists(), f"{page.relative_to(ROOT)}: {path}"


def test_sources_named_by_the_end_of_their_path_exist() -> None:
    """Outside the index of notes, which names scripts of the commits that it cites."""
    sources = [f"/{path.relative_to(ROOT)}" for folder in (*SOURCES, "src") for path in (ROOT / folder).rglob("*.[chp]*")]
    for page in (ROOT / "docs").rglob("*.md"):
        for text in page.read_text().split("\n\n"):
            if re.search(r"`[0-9a-f]{8}`", text) or page == ROOT / "docs/notes/index.md":
                continue
            for name in re.findall(r"`([\w/-]+\.(?:py|cpp|hpp|h))`", text):
                assert "NAME" in name or any(path.endswith(f"/{name}") for path in sources), f"{page.relative_to(ROOT)}: {name}"
