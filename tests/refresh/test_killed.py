"""A refresh that is killed leaves the old bundle or the new one, wherever it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.bundle_files import contents
from rexit.bundle import Bundle, Catalog, Golden, Manifest
from rexit.bundle.writer import sole_writer
from rexit.refresh import swap as swapping
from rexit.refresh.swap import staged

STEPS = ("mkdir", "rename", "replace", "fsync", "link", "unlink", "rmdir", "open")


def swap(place: Path) -> None:
    bundle = place / "bundle"
    with sole_writer(bundle), staged(bundle, Manifest.read(bundle), Catalog.open(place / "newer"), None) as work:
        work.add_golden("cpu-fp32", Golden(Bundle.open(bundle).golden().slates))
        work.commit()


def killed(place: Path, at: int) -> bool:
    """Swaps in a process of its own, killed before its call number `at` that changes files. False: it got through."""
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > at:
                    os._exit(9)
                return real(*words, **more)

            return call

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        swapping.shutil.copyfile = counted(shutil.copyfile)  # type: ignore[attr-defined]
        try:
            swap(place)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the swap itself failed"
    return code == 9


@pytest.mark.slow
def test_killed_at_any_point(original: Path, tmp_path: Path) -> None:
    old, new = Catalog.open(original / "catalog").sha256, Catalog.open(original / "newer").sha256
    digests, at = [], 0
    while True:
        place = Path(shutil.copytree(original, tmp_path / str(at)))
        ended = killed(place, at)
        opened = Bundle.open(place / "bundle")
        digests.append(opened.catalog.sha256)
        assert digests[-1] in (old, new) and opened.edited() == [] and opened.catalog.edited() == [] and opened.golden().slates
        if not ended:
            break
        swap(place)  # cleans up after it
        left = {path.name for path in (place / "bundle").iterdir()}
        assert left >= {"manifest.json", "variants", f"catalog-{new[:16]}"} and not [name for name in left if name[0] == "."]
        assert Bundle.open(place / "bundle").catalog.sha256 == new
        shutil.rmtree(place)
        at += 1
    assert digests == sorted(digests, key=[old, new].index), "once it is new it stays new"
    assert at > 20 and {old, new} == set(digests)


def test_a_failure_leaves_nothing(original: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import pytest

    from rexit.errors import InputError

    place = Path(shutil.copytree(original, tmp_path / "place"))
    before = contents(place / "bundle")

    def full(*words: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(swapping.shutil, "copyfile", full)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="No space left on device"):
        swap(place)
    assert contents(place / "bundle") == before
