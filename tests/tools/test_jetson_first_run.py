"""tools/jetson-first-run.sh, in the mode that needs no Jetson."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT_HALF

SCRIPT = Path(__file__).parents[2] / "tools" / "jetson-first-run.sh"


def first_run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script with a stand-in for cmake, which records its words: what it builds is tested elsewhere."""
    tools = place / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "cmake").write_text('#!/bin/sh\necho "cmake $@"\n[ ! -e "$CMAKE_FAILS" ]\n')
    (tools / "cmake").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "CMAKE_FAILS": str(place / "cmake-fails")}
    command = ["bash", str(SCRIPT), str(place / "bundle"), "--python", sys.executable, "--requests", "2", *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def steps(folder: Path) -> dict[str, str]:
    return {line.split("\t")[0]: line.split("\t")[1] for line in (folder / "steps.tsv").read_text().splitlines()[1:]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    write_ranked(place, variants=(TENSORRT_HALF,))
    return place


@pytest.mark.medium
def test_every_step_on_the_cpu(place: Path) -> None:
    ended = first_run(place, "--cpu", "--out", "good")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kinds = steps(place / "good")
    assert kinds["machine"] == kinds["build"] == "ok"
    for name in ("cpu-fp32", TENSORRT_HALF):
        assert kinds[f"compile-{name}"].startswith("skipped") and kinds[f"verify-{name}"] == kinds[f"bench-{name}"] == "ok"
        assert json.loads((place / "good" / f"verify-{name}.json").read_text())["ok"]
        assert json.loads((place / "good" / f"bench-{name}.json").read_text())["variant"] == name
        parity = json.loads((place / "good" / f"parity-{name}.json").read_text())
        assert kinds[f"parity-{name}"] == "ok" and kinds[f"profile-{name}"].startswith("skipped")
        assert parity["passed"] and [row["cold"] for row in parity["exits"]] == [0.0] * 3  # the same device twice
        assert parity["memory"]["used"]["prefixes"] > 0 == parity["memory"]["trimmed"]["prefixes"]
    assert "REXIT_TENSORRT" not in (place / "good" / "logs" / "build.txt").read_text()
    assert "== /etc/nv_tegra_release\nnot found" in (place / "good" / "logs" / "machine.txt").read_text()
    with tarfile.open(place / "good.tar.gz") as packed:
        assert {"good/steps.tsv", "good/logs/build.txt", f"good/bench-{TENSORRT_HALF}.json"} <= set(packed.getnames())


@pytest.mark.slow
def test_failures_stop_nothing_and_are_named(place: Path) -> None:
    (place / "cmake-fails").touch()
    ended = first_run(place, "--out", "bad")  # as on a Jetson: here is neither TensorRT nor a GPU
    (place / "cmake-fails").unlink()
    kinds = steps(place / "bad")
    assert ended.returncode == 1 and "failed: " in ended.stdout
    for name in ("build", f"compile-{TENSORRT_HALF}", *(f"{step}-{TENSORRT_HALF}" for step in ("verify", "parity", "bench"))):
        assert kinds[name].startswith("FAILED"), name
    assert kinds["machine"] == kinds["verify-cpu-fp32"] == kinds["bench-cpu-fp32"] == "ok"
    assert "-DREXIT_TENSORRT=ON" in (place / "bad" / "logs" / "build.txt").read_text()
    assert "device `tensorrt`" in (place / "bad" / "logs" / f"verify-{TENSORRT_HALF}.txt").read_text()
    assert (place / "bad.tar.gz").is_file()


@pytest.mark.parametrize("words", [("--out", "."), ("--nonsense",), ("second-bundle",)])
def test_wrong_words(place: Path, words: tuple[str, ...]) -> None:
    ended = first_run(place, *words)
    assert ended.returncode == 2 and ended.stderr and not (place / "rexit-first-run").exists()
