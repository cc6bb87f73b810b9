"""The base install scores; a command that needs more says which extra brings it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rexit import __version__
from rexit.doors.cli.common import extras
from running.missing_packages import run_without

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def modules_of(extra: str) -> set[str]:
    """The import names of what an extra names, as the installed distributions have them."""
    lines = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=!;~ ]", line)[0].lower().replace("_", "-") for line in lines} - {"rexit"}
    owners_by_module = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in owners_by_module.items()
        if names & {o.lower().replace("_", "-") for o in owners} and module.isidentifier()
    }


@pytest.mark.medium
@pytest.mark.parametrize("extra", ["batch", "calibrate", "export", "serve"])
def test_every_module_of_an_extra_is_known(extra: str) -> None:
    public = {
        module for module in modules_of(extra) if not module.startswith(("_", "mpl_toolkits", "pylab", "functorch", "torchgen"))
    }
    assert public, extra
    assert public <= extras._EXTRAS.keys()


def test_index_without_its_extra(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("user_id,item_id,rating,timestamp\n1,2,5,0\n")
    arguments = ("--interactions", table, "--items", table, "--tokenizer", tmp_path, "--template", table, "--out", tmp_path / "c")
    done = run_without(set(extras._EXTRAS), "index", *arguments)
    assert done.returncode == 1
    assert re.fullmatch(
        r"rexit: error: this needs the Python package `\w+`, .*: pip install 'rexit\[(export|calibrate)\]'\n", done.stderr
    )


def test_a_module_of_no_extra_is_no_missing_extra() -> None:
    assert extras.missing(ModuleNotFoundError("No module named 'rexit.nothing'", name="rexit.nothing")) is None


@pytest.mark.parametrize("command", [["-m", "rexit"], ["-c", "from rexit.doors.cli import main; main()"]])
def test_version(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"rexit {__version__}\n"
    assert __version__ == tomllib.loads(PYPROJECT.read_text())["project"]["version"]
