"""`rexit export` that is interrupted, cut short or not alone: nothing is left half-written, and what was there stays.

tests/crash stops it at every file operation.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from builders.bundles.bundle_files import names
from rexit.errors import InputError
from rexit.format.bundle import digest, sole_writer
from running.command import Run
from running.exporting import Export


def test_nothing_is_exported_into_a_bundle_that_is_being_calibrated(export: Export, bundle: Path) -> None:
    with sole_writer(bundle), pytest.raises(InputError, match="bundle: another process is writing to it"):
        export(bundle)
    assert names(bundle.parent) == ["bundle"]


@pytest.mark.usefixtures("untraced")
def test_a_signal_of_which_a_library_makes_another_error(run_export: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch does when it comes while a symbolic size is read."""
    before = digest(bundle / "manifest.json")

    def as_strided(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as exc:
            raise TypeError("as_strided(): argument 'stride' failed to unpack the object at pos 3") from exc

    monkeypatch.setattr(torch.onnx, "export", as_strided)
    ended = run_export("--out", bundle, "--golden", 1)
    assert ended == (143, "", "rexit: interrupted; nothing was left half-written\n")
    assert digest(bundle / "manifest.json") == before and names(bundle.parent) == ["bundle"]
