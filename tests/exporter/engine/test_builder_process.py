"""A builder that ends by itself, whenever that is."""

from __future__ import annotations

import os
import time

from rexit.exporter.engine.builder_process import BuilderProcess


def test_one_that_ended_before_it_was_asked_is_left_alone() -> None:
    with BuilderProcess("true", {}) as builder:
        os.waitid(os.P_PID, builder._process.pid, os.WEXITED | os.WNOWAIT)
        begin = time.monotonic()
    ended = builder.wait()
    assert ended.code == 0
    assert time.monotonic() - begin < 10
