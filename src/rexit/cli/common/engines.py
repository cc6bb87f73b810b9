"""`--engine` and `--workers` of the commands that can run on Ray."""

from __future__ import annotations

from rexit.errors import InputError

ENGINES = ("local", "ray")


def check_engine(engine: str, workers: int | None, local: str) -> None:
    """Raises InputError for an unknown engine, or for workers of the local one. local: what the local engine has instead."""
    if engine not in ENGINES:
        raise InputError(f"--engine {engine!r}, expected one of {', '.join(ENGINES)}")
    if workers is not None and engine != "ray":
        raise InputError(f"--workers is for --engine ray; the local engine {local}")
