"""`optimum-cli export rexit`: optimum's own command line finds it, here and from the wheels, and it is `rexit export`."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit.format.bundle import Bundle, Catalog

ROOT = Path(__file__).parents[3]
REGISTER = Path("optimum/commands/register/register_rexit.py")
OPTIMUM_CLI = "from optimum.commands.optimum_cli import main; main()"


def run(python: str | Path, code: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-c", code, *map(str, words)], capture_output=True, text=True, env={"COLUMNS": "200"})


def export_rexit(*words: object) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, OPTIMUM_CLI, "export", "rexit", *words)


@pytest.mark.medium
def test_help_is_that_of_rexit_export() -> None:
    own = run(sys.executable, "from rexit.doors.cli import main; main()", "export", "--help").stdout
    for word in ("--help", "-h"):
        done = export_rexit(word)
        assert done.returncode == 0, done.stderr
        assert "Usage: optimum-cli export rexit [OPTIONS]" in done.stdout and "--accept-loss" in done.stdout
        assert done.stdout.split("\n")[2:] == own.split("\n")[2:]  # behind the line with the usage


def test_listed_and_nothing_loaded_until_it_runs() -> None:
    code = f"import sys\ntry:\n    {OPTIMUM_CLI}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = run(sys.executable, code, "export", "--help")
    assert done.returncode == 0 and "\n    rexit " in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "optimum" in loaded and not loaded & {"rexit", "typer", "rich", "numpy", "torch", "transformers"}


@pytest.mark.slow
def test_exports_a_bundle_as_its_options_say(tmp_path: Path) -> None:
    catalog = write_indexed_catalog(tmp_path)
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", catalog=Catalog.open(catalog))
    out = tmp_path / "bundle"
    # An option first, where argparse's rest of the line would not begin.
    options = ("--exits", 4, "--head", "shared", "--max-tokens", 64, "--golden", 3, "--json")
    done = export_rexit("--catalog", catalog, checkpoint, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["bundle"]) == out
    bundle = Bundle.open(out)
    assert bundle.manifest.exits == (4,) and bundle.variant.max_tokens == 64
    assert len(bundle.golden().slates) == 3 and bundle.edited() == []


@pytest.mark.medium
@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("nowhere", "--catalog", "nothing", "--out", "bundle"), 4, "rexit: error: nothing: no such catalog folder"),
        pytest.param(("--golden", "many"), 2, "Try 'optimum-cli export rexit -h' for help.", marks=pytest.mark.slow),
        pytest.param((), 2, "Usage: optimum-cli export rexit [OPTIONS]", marks=pytest.mark.slow),
    ],
    ids=["catalog", "option", "nothing"],
)
def test_ends_as_rexit_export_does(words: Sequence[str], code: int, text: str) -> None:
    done = export_rexit(*words)
    assert done.returncode == code and text in done.stderr and "Traceback" not in done.stderr, done.stderr


def pip(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)], check=True)


def build_wheel(source: Path, place: Path, *settings: str) -> tuple[Path, set[str]]:
    """A wheel and what it installs, without its metadata."""
    pip("wheel", source, "--no-deps", "--no-build-isolation", "--no-index", *settings, "--wheel-dir", place)
    (wheel,) = place.glob("*.whl")
    return wheel, {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_installed_beside_optimum_and_taken_away_again(tmp_path: Path) -> None:
    # The C++ part needs a compiler and minutes, and is none of this wheel's concern here.
    settings = ("-C", "wheel.cmake=false", "-C", "wheel.py-api=py3", "-C", f"build-dir={tmp_path / 'build'}")
    rexit, files = build_wheel(ROOT, tmp_path / "rexit", *settings)
    # A folder `optimum` imports as optimum, so rexit without optimum must not bring one.
    assert {name.partition("/")[0] for name in files} == {"rexit"}
    optimum_rexit, files = build_wheel(ROOT / "src/optimum-rexit", tmp_path / "optimum-rexit")
    # An __init__.py in a folder of the namespace would hide optimum's own modules.
    assert files == {REGISTER.as_posix()}

    # An environment with optimum alone; what all stand on is lent by this one.
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    optimum = importlib.metadata.distribution("optimum")
    own = [file for file in optimum.files or () if ".." not in file.parts and file.suffix != ".pyc"]
    for file in own:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(file.read_binary())
    lent = [path for path in sys.path if path.endswith("site-packages")]
    code = f"import sys; sys.path += {lent}; {OPTIMUM_CLI}"

    pip("--python", python, "install", "--no-deps", "--no-index", rexit, optimum_rexit)
    done = run(python, code, "export", "rexit", "--help")
    assert done.returncode == 0 and "Usage: optimum-cli export rexit" in done.stdout, done.stderr

    pip("--python", python, "uninstall", "--yes", "optimum-rexit")
    assert not (site / REGISTER).exists()
    assert own and all((site / file).read_bytes() == file.read_binary() for file in own)
    done = run(python, code, "export", "--help")
    assert done.returncode == 0 and "rexit" not in done.stdout, done.stderr


def test_extra_names_what_the_distribution_requires() -> None:
    """The extra `optimum` of rexit cannot name optimum-rexit, which is not published, so it repeats its requirements."""
    rexit, own = (tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"] for path in (".", "src/optimum-rexit"))
    assert rexit["optional-dependencies"]["optimum"] == own["dependencies"] and rexit["version"] == own["version"]
