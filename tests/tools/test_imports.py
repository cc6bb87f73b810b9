"""tools/imports.py, which tells make what to remake, against what Python really loads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = """
import sys, pathlib
sys.path.insert(0, {folder!r})
__import__({module!r})
root = pathlib.Path({root!r})
files = [pathlib.Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
files = [f.resolve() for f in files if f.is_absolute() and f.suffix == ".py" and "site-packages" not in f.parts]
print(*(f.relative_to(root) for f in files if f.is_relative_to(root)))
"""


def told(*files: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "imports.py", *files], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.medium
@pytest.mark.parametrize(
    ("file", "folder", "module"),
    [
        ("calibration/calibration.py", ".", "rexit.calibration.calibration"),
        pytest.param("examples/movielens/model.py", "examples/movielens", "model", marks=pytest.mark.slow),
    ],
)
def test_tells_all_that_is_loaded(file: str, folder: str, module: str) -> None:
    script = LOADED.format(folder=str(ROOT / folder), module=module, root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert file in loaded
    assert loaded <= told(file)


def test_a_file_that_cannot_be_read_stops_make(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import (")
    done = subprocess.run([sys.executable, ROOT / "tools" / "imports.py", tmp_path / "broken.py"], capture_output=True)
    assert done.returncode != 0


def test_make_names_files_that_exist() -> None:
    """make stops at another one, but only once the target that names it is due."""
    for makefile in (ROOT / "Makefile", ROOT / "examples" / "movielens" / "demo.mk"):
        text = re.sub(r"\$\(MOVIELENS\)", "examples/movielens", makefile.read_text())
        files = [file for words in re.findall(r"^[^#\n]*\$\$\(call imports,([^)]+)\)", text, re.M) for file in words.split()]
        assert files and [file for file in files if not (ROOT / file).is_file()] == []


def test_demos_end_with_verify(tmp_path: Path) -> None:
    """The step before what they show: a fresh bundle must pass its own check."""
    for demo, folder in (("demo", "demo"), ("demo-search", "demo-search")):
        words = ["make", "-n", demo, f"BUILD={tmp_path}", f"VENV={Path(sys.prefix)}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
        commands = [line for line in done.stdout.splitlines() if "rexit " in line or ".py " in line]
        assert commands[-2].endswith(f"rexit verify {tmp_path}/{folder}/bundle") and commands[-1].endswith("--show")
