"""Silences libraries: transformers, torch and onnxscript print progress and warnings."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import transformers

log: Any = transformers.logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings, log lines, progress bars and prints of libraries while the block runs; errors are raised."""
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w") as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        warnings.simplefilter("ignore")
        log.set_verbosity_error()
        log.disable_progress_bar()
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(disabled)
            log.set_verbosity(level)
            if bars:
                log.enable_progress_bar()


def first_line(exc: BaseException) -> str:
    """The first line of another library's exception."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
