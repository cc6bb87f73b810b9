"""What the commands load: no torch for anything but index and export, compile included, nothing heavy for --help. A device that
scores has the base install alone: no polars, scikit-learn, SciPy or matplotlib."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rexit
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.held_out import write_ranked
from running.missing_packages import run_without

NEVER = ("torch", "transformers", "torch_geometric")
SERVICES = ("fastapi", "uvicorn", "prometheus_client")
NOT_OF_THE_BASE = ("sklearn", "scipy", "matplotlib", "polars", "pyarrow", "pandas", "onnx", *SERVICES)
LATE = (*NEVER, *NOT_OF_THE_BASE)


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_command_line_loads_nothing_heavy() -> None:
    assert not loaded("import rexit.doors.cli") & {*LATE, "numpy"}


@pytest.mark.medium
@pytest.mark.parametrize("module", ["rexit.calibration.calibration", "rexit.format.bundle", "rexit.exporter.engine.compile"])
def test_core_loads_no_torch(module: str) -> None:
    assert not loaded(f"import {module}") & set(NEVER)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    write_ranked(place)
    return place


@pytest.mark.medium
@pytest.mark.parametrize(
    "words",
    [
        ("score", "--user", USER_IDS[0], "--items", ITEM_IDS[2], "--json"),
        ("verify", "--json"),
        ("inspect", "--json"),
        ("inspect", "--user", USER_IDS[0], "--items", ITEM_IDS[2], "--json"),
        ("bench", "--slate", 5, "--requests", 2, "--json"),
    ],
    ids=["score", "verify", "inspect", "inspect-prompt", "bench"],
)
def test_the_base_install_is_enough(place: Path, words: tuple[object, ...]) -> None:
    command, *options = (place / word if str(word).endswith((".csv", ".json")) else word for word in words)
    done = run_without(LATE, command, place / "bundle", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_the_base_install_ranks_without_a_service(place: Path) -> None:
    """A reranker's texts need tokenizers besides; `rexit` alone loads neither."""
    script = f"import rexit\nrexit.Recommender({str(place / 'bundle')!r}).recommend({USER_IDS[0]}, items=[{ITEM_IDS[2]}])"
    assert not loaded("import rexit") & {*LATE, "numpy"}
    assert not loaded(script) & {*LATE, "tokenizers"}


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        ("exporter", "doors|calibration|runtime|upkeep.(checks|refresh)"),
        ("calibration", "doors|exporter|upkeep.(checks|refresh)"),
        ("runtime", "doors|calibration|data.(baselines|ranking|slates|slates_file)|exporter|upkeep"),
        ("format", "doors|calibration|data|exporter|runtime|upkeep"),
        ("data", "doors|calibration|exporter|upkeep"),
        ("upkeep/audit", "doors|calibration|exporter"),
        ("upkeep/checks", "doors|exporter"),
        ("upkeep/measure", "doors|calibration|exporter"),
        ("upkeep/refresh", "doors"),
        ("doors/batch", "doors|calibration|exporter|upkeep"),
        ("doors/pool", "doors.(batch|cli|rankers|serve)|calibration|exporter|upkeep.(checks|refresh)"),
        ("doors/rankers", "doors.(batch|cli|serve)|calibration|exporter|upkeep"),
        ("doors/serve", "doors.(batch|cli|rankers)|calibration|exporter|upkeep"),
    ],
)
def test_imports_go_one_way(folder: str, never: str) -> None:
    place = Path(rexit.__file__).parent / folder
    files = list(place.glob("**/*.py")) or [place.with_suffix(".py")]
    for path in files:
        assert not re.search(
            rf"^\s*(from|import) rexit\.({never})\b|^\s*from rexit import ({never})\b", path.read_text(), re.M
        ), path


SOURCES = Path(rexit.__file__).parent


def unit(names: tuple[str, ...]) -> str:
    """What must not be imported in a circle: a folder as a whole; where it holds other folders, each file in it."""
    folder = names if SOURCES.joinpath(*names).is_dir() else names[:-1]
    inner = any((place / "__init__.py").is_file() for place in SOURCES.joinpath(*folder).iterdir())
    return "/".join(names if inner else folder)


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Names below `rexit` that a file imports, at once or later; not what only annotations need."""
    tree = ast.parse(path.read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {inside for node in typing for inside in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node in skipped or (node.module or "").split(".")[0] != "rexit":
            continue
        below = tuple((node.module or "").split(".")[1:])
        for name in node.names:
            longer = SOURCES.joinpath(*below, name.name)
            yield (*below, name.name) if longer.is_dir() or longer.with_suffix(".py").is_file() else below


@pytest.mark.medium
def test_no_folders_import_each_other() -> None:
    """Inside the packages, too: who reads one folder needs to know those below it, and no others."""
    uses: dict[str, set[str]] = {}
    for top in SOURCES.iterdir():
        for path in top.rglob("*.py") if top.is_dir() else [top] if top.suffix == ".py" else []:
            names = path.relative_to(SOURCES).with_suffix("").parts
            if mine := unit(names[:-1] if names[-1] == "__init__" else names):  # the facade loads what is asked for
                uses.setdefault(mine, set()).update({unit(other) for other in imported(path) if other} - {mine})
    assert uses["exporter/graph/cpu"] >= {"exporter/graph/passes"}, "it sees inside packages"
    list(TopologicalSorter(uses).static_order())  # raises CycleError, which names the circle


def test_scripts_import_those_beside_them_or_an_example() -> None:
    root = Path(__file__).parents[1]
    scripts = [path for top in ("benchmarks", "examples") for path in (root / top).rglob("*.py")]
    known = {path.stem for path in scripts}
    for path in scripts:
        allowed = {other.stem for other in scripts if other.parent == path.parent or root / "examples" in other.parents}
        trees = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in trees if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in trees if isinstance(node, ast.ImportFrom)}
        assert not (names & known) - allowed, path
