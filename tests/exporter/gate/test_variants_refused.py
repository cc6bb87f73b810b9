"""Variants that an export leaves out, without a model: who is judged, and what a failure leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rexit.errors import InputError, ParityError
from rexit.exporter import export
from rexit.exporter.assembly import Draft
from rexit.exporter.export import _Base, _DraftMaker, _judged, _Samples
from rexit.exporter.options import ExportOptions
from rexit.exporter.preflight import chosen_targets
from rexit.format.bundle import Catalog
from rexit.progress import Clock


def test_too_few_users_refuse_the_variants_they_would_judge(catalog_folder: Path) -> None:
    catalog, options = Catalog.open(catalog_folder), ExportOptions()
    samples = _Samples.of(catalog, chosen_targets("cpu", ["int8", "fp32"]), options)
    assert samples.prompts is None and list(samples.refused) == ["cpu-int8"] and not samples.sampled
    assert "4 users are too few to judge a variant by, at least 20 are needed" in samples.refused["cpu-int8"]
    with pytest.raises(InputError, match="4 users are too few to judge"):
        _Samples.of(catalog, chosen_targets("cpu", ["int8", "bf16"]), options)
    accepted = _Samples.of(catalog, chosen_targets("cpu", ["int8"]), ExportOptions(accept_loss=True))
    assert accepted.prompts is not None and not accepted.refused


def test_segments_traced_again_that_disagree_say_so_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variants would do without an exit; what is traced for them differs from PyTorch."""

    class Judge:
        def __init__(self, *_: Any) -> None:
            pass

        def assess(self, *_: Any) -> Any:
            return SimpleNamespace(dispensable=lambda: {1: "loses"})

        def doubt(self) -> None:
            return None

    def trace(*_: Any) -> Any:
        raise ParityError("exit after layer 2: log-odds differ")

    shown: list[tuple[int, int]] = []
    targets = chosen_targets("cpu", ["fp32", "int8", "int4"])
    make = _DraftMaker(tmp_path, targets, 6, lambda _, done, total: shown.append((done, total)))
    drafts = [make.draft(target) for target in targets]
    loaded: Any = SimpleNamespace(
        samples=SimpleNamespace(prompts=["some"]), checkpoint=SimpleNamespace(exits=(1, 2)), vectors=None
    )
    exact = SimpleNamespace(slates=list[Any]())
    base: Any = SimpleNamespace(draft=drafts[0], exact=exact)
    monkeypatch.setattr(export, "Judge", Judge)
    monkeypatch.setattr(_Base, "trace", trace)
    monkeypatch.setattr(Draft, "chain", lambda *_, **__: None)
    verdicts = _judged(loaded, base, make, drafts, ExportOptions(), lambda *_: None, Clock())
    assert dict(verdicts.refused) == dict.fromkeys(["cpu-int8", "cpu-int4"], "exit after layer 2: log-odds differ")
    assert names(tmp_path.iterdir()) == ["variants"] and names((tmp_path / "variants").iterdir()) == ["cpu-fp32"]
    assert make.segments == 10, "the one exit left is traced and derived again, for each of two"


def names(paths: Any) -> Sequence[str]:
    return sorted(path.name for path in paths)
