"""The command line: one file per command, in the order of the flow. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, NoReturn

import typer

from rexit import __version__
from rexit.cli import bench, calibrate, compile, drift, export, index, inspect, refresh, score, serve, verify
from rexit.cli._extras import missing
from rexit.cli._output import stderr, stdout
from rexit.errors import RexitError
from rexit.interrupts import INTERRUPTED, TERMINATED, heeded

_CONTEXT = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="rexit",
    help="Take a trained early-exit LLM recommender to the edge: index, export, compile, calibrate, score.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        stdout.print(f"rexit {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print rexit's version.")
    ] = False,
) -> None:
    pass


for _module in (index, export, compile, calibrate, score, serve, drift, refresh, verify, inspect, bench):
    _module.register(app)


def main() -> NoReturn:
    """Runs a command. A RexitError, a missing extra, a full disk, Ctrl-C or SIGTERM ends in one line and a non-zero exit code."""
    _run(app)


def export_as(name: str, words: Sequence[str]) -> NoReturn:
    """`rexit export WORDS...` for another program's command line, where it is called `name`. Ends as `main` does."""
    command = typer.main.get_group(app).commands["export"]
    _run(partial(command, words, name, **_CONTEXT))


def _run(command: Callable[[], object]) -> NoReturn:
    try:
        with heeded():
            command()
    except SystemExit as exc:
        if exc.code in (INTERRUPTED, TERMINATED):  # typer swallows Ctrl-C without a word
            stderr.print("rexit: interrupted; nothing was left half-written", markup=False, soft_wrap=True)
        raise
    except RexitError as exc:
        stderr.print(f"rexit: error: {exc}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(exc.exit_code)
    except ModuleNotFoundError as exc:
        if (line := missing(exc)) is None:
            raise
        stderr.print(f"rexit: error: {line}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        stderr.print(f"rexit: error: {where}{exc.strerror or exc}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    sys.exit(0)
