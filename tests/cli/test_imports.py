"""What the commands load: no torch for anything but index and export, compile included, nothing heavy for --help."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rexit

NEVER = ("torch", "transformers", "torch_geometric")
LATE = (*NEVER, "sklearn", "scipy", "matplotlib", "polars", "onnx")


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_command_line_loads_nothing_heavy() -> None:
    assert not loaded("import rexit.cli") & set(LATE)


@pytest.mark.parametrize("module", ["rexit.calibration", "rexit.bundle", "rexit.exporter.compile", "rexit.exporter.ep_context"])
def test_core_loads_no_torch(module: str) -> None:
    assert not loaded(f"import {module}") & set(NEVER)


@pytest.mark.parametrize(
    ("folder", "never"),
    [
        ("exporter", "cli|calibration|runtime"),
        ("calibration", "cli|exporter"),
        ("runtime", "cli|calibration|exporter"),
        ("bundle", "cli|calibration|exporter|runtime"),
    ],
)
def test_imports_go_one_way(folder: str, never: str) -> None:
    files = list((Path(rexit.__file__).parent / folder).glob("**/*.py"))
    assert files
    for path in files:
        assert not re.search(
            rf"^\s*(from|import) rexit\.({never})\b|^\s*from rexit import ({never})\b", path.read_text(), re.M
        ), path
