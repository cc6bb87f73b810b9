"""What other libraries download, print and write: the Hub's files, progress and warnings, JSON configs; torch's threads."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rexit.errors import CheckpointError, RexitError


def hub_folder(name: str, patterns: Sequence[str], error: type[RexitError], subject: str, kind: str) -> Path:
    """Downloads a repository's files into the Hub's local cache, or finds them there.

    Args:
        name: OWNER/NAME.
        patterns: the files, as globs.
        error: the class to raise.
        subject, kind: begin a message: "SUBJECT: no such KIND, and …".

    Returns:
        The folder in the cache.

    Raises:
        error: `name` is no id, or the Hub does not provide it. Fails at once without a network.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise error(f"{subject}: no such {kind}, and not the id of a model on the Hub, OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        with quiet():
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError as exc:
        reason = (
            ", and the model of this id on the Hub asks you to accept its conditions there, then to log in with `hf auth login`"
        )
        raise error(f"{subject}: no such {kind}{reason}") from exc
    except RepositoryNotFoundError as exc:
        reason = ", and no model of this id on the Hub, or a private one: log in with `hf auth login`"
        raise error(f"{subject}: no such {kind}{reason}") from exc
    except LocalEntryNotFoundError as exc:
        reason = "the Hub cannot be reached, and no earlier download of the model is in the local cache"
        raise error(f"{subject}: no such {kind}; {reason}") from exc
    except Exception as exc:
        raise error(f"{subject}: no such {kind}, and the Hub did not provide it: {first_line(exc)}") from exc


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


SMALL = 1 << 20
"""Numbers in a table or a layer's weights: with fewer, one thread."""


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Uses one thread for work on tables of fewer than SMALL numbers while the block runs.

    Two threads on two cores that other programs want too were 5 to 18 times slower on such tables: each thread waits, spinning,
    for the other after every operation. The choice depends on the size alone, so that results stay reproducible.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if size < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


FAST_ON = {
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm"),
    "bf16": ("amx_bf16", "avx512_bf16", "bf16"),
    "PyTorch's bf16": ("amx_bf16", "avx512_bf16"),
}
"""CPU instructions, of `torch.cpu.get_capabilities`, any of which makes a variant of a precision, or PyTorch's own passes, faster
than float32. With AVX-512's bfloat16 (torch 2.13, two cores of an AMD EPYC) `make demo` trains on 2,700 tokens per second, and on
1,500 in float32; `make demo-search` on 2,900 and 1,400."""


def fast_on_cpu(what: str) -> bool:
    """Returns whether this CPU has instructions for a row of FAST_ON."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10
    return any(capabilities.get(flag) for flag in FAST_ON[what])


def uses_bfloat16(precision: str) -> bool:
    """Returns whether PyTorch computes in bfloat16; `auto`: if it is faster than float32."""
    if precision != "auto":
        return precision == "bfloat16"
    return torch.cuda.is_available() or fast_on_cpu("PyTorch's bf16")


def read_config(path: Path) -> Any:
    """The value of a JSON file. Raises CheckpointError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise CheckpointError(f"{path}: not valid JSON: {first_line(exc)}") from exc


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty if there is no file, or it holds something else. Raises CheckpointError."""
    value = read_config(path) if path.is_file() else None
    return value if isinstance(value, dict) else {}
