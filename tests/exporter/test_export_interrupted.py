"""`rexit export` that is interrupted, cut short or not alone: nothing is left half-written, and what was there stays.

tests/crash stops it at every file operation.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.bundles.bundle_files import names
from rexit.bundle import Bundle, digest, sole_writer
from rexit.cli import main
from rexit.errors import InputError
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from running.full_disk import largest_file

COMMAND = [sys.executable, "-c", "from rexit.cli import main; main()", "export"]


def test_write_that_the_system_cuts_short(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> None:
    too_large = pytest.raises(InputError, match="cannot be written: File too large")
    with largest_file(50_000), too_large:  # the first segment's weights are larger
        export_bundle(checkpoint_folder, catalog_folder, tmp_path / "bundle", ExportOptions(golden_slates=1))
    assert names(tmp_path) == []


def test_ctrl_c_leaves_the_old_bundle(checkpoint_folder: Path, catalog_folder: Path, bundle: Path) -> None:
    before = digest(bundle / "manifest.json")

    def interrupt(stage: str, done: int, _total: int) -> None:
        if (stage, done) == ("segments", 1):
            assert len(names(bundle.parent)) == 2  # it was being written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(golden_slates=1), progress=interrupt)
    assert digest(bundle / "manifest.json") == before and names(bundle.parent) == ["bundle"]


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(checkpoint_folder: Path, catalog_folder: Path) -> Iterator[Start]:
    """Starts `rexit export --out OUT …` and waits until it has graphs to write."""
    started = []

    def run(out: Path, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, str(checkpoint_folder), "--catalog", str(catalog_folder), "--out", str(out), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        deadline = time.monotonic() + 120
        while not list(out.parent.glob(f".{out.name}.tmp/new/variants/*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True], ids=["new", "there already"])
def test_two_exports_into_one_bundle(
    start: Start, checkpoint_folder: Path, catalog_folder: Path, bundle: Path, there: bool
) -> None:
    """The second is refused while the first one works, and adds its variant afterwards: none is lost."""
    if not there:
        shutil.rmtree(bundle)
    first = start(bundle, "--precision", "fp32", "--golden", "1")
    arguments: dict[str, Any] = {"precisions": ["int8"], "golden_slates": 1, "accept_loss": True}
    with pytest.raises(InputError, match="bundle: another process is writing to it; try again when it has finished"):
        export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(**arguments))
    assert first.wait(timeout=120) == 0, first.communicate()
    export_bundle(checkpoint_folder, catalog_folder, bundle, ExportOptions(**arguments))
    assert Bundle.open(bundle).manifest.variants == ("cpu-fp32", "cpu-int8")
    assert names(bundle.parent) == ["bundle"]


def test_nothing_is_exported_into_a_bundle_that_is_being_calibrated(
    checkpoint_folder: Path, catalog_folder: Path, bundle: Path
) -> None:
    with sole_writer(bundle), pytest.raises(InputError, match="bundle: another process is writing to it"):
        export_bundle(checkpoint_folder, catalog_folder, bundle)
    assert names(bundle.parent) == ["bundle"]


@pytest.mark.usefixtures("untraced")
def test_a_signal_of_which_a_library_makes_another_error(
    checkpoint_folder: Path,
    catalog_folder: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As PyTorch does when it comes while a symbolic size is read."""
    before = digest(bundle / "manifest.json")

    def as_strided(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as exc:
            raise TypeError("as_strided(): argument 'stride' failed to unpack the object at pos 3") from exc

    monkeypatch.setattr(torch.onnx, "export", as_strided)
    words = [str(checkpoint_folder), "--catalog", str(catalog_folder), "--out", str(bundle), "--golden", "1"]
    monkeypatch.setattr(sys, "argv", ["rexit", "export", *words])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err) == (143, "", "rexit: interrupted; nothing was left half-written\n")
    assert digest(bundle / "manifest.json") == before and names(bundle.parent) == ["bundle"]
