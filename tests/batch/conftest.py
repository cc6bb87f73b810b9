"""A bundle whose policy can be calibrated."""

from __future__ import annotations

import pytest

from builders.bundles.held_out import HeldOut, write_ranked
from rexit.bundle import Bundle


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    return write_ranked(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def bundle(held_out: HeldOut) -> Bundle:
    return Bundle.open(held_out.bundle)
