"""Scripts of examples/ and benchmarks/, which belong to no package, in the test's process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def scripts_of(*folders: str) -> Callable[[], Iterator[None]]:
    """A fixture for one test module: scripts in these folders of the repository have bare names, and are forgotten after."""
    paths = [ROOT / folder for folder in folders]

    @pytest.fixture(scope="module", autouse=True)
    def scripts() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for path in reversed(paths):
                patch.syspath_prepend(str(path))
            yield
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "").parent in paths:
                del sys.modules[name]

    return scripts
