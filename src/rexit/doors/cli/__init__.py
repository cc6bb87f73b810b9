"""The command line: one file per command, in the panels of `rexit --help`. Heavy imports stay inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from rexit import __version__
from rexit.doors.cli.check import audit, bench, inspect, verify
from rexit.doors.cli.common.extras import missing
from rexit.doors.cli.common.help import Command, Group
from rexit.doors.cli.common.output import say, stdout
from rexit.doors.cli.make import build, calibrate, compile, embed, export, heads, index, refresh, tokenizer, train
from rexit.doors.cli.use import rerank, score, serve
from rexit.errors import RexitError
from rexit.interrupts import INTERRUPTED, TERMINATED, interruptible

_CONTEXT = {"help_option_names": ["-h", "--help"]}

_COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Make a bundle": {
        "build": build.build,
        "tokenizer": tokenizer.tokenizer,
        "embed": embed.embed,
        "index": index.index,
        "heads": heads.heads,
        "train": train.train,
        "export": export.export,
        "compile": compile.compile_variants,
        "calibrate": calibrate.calibrate,
        "refresh": refresh.refresh,
    },
    "Use it": {"score": score.score, "rerank": rerank.rerank, "serve": serve.serve},
    "Check it": {"verify": verify.verify, "inspect": inspect.inspect, "bench": bench.bench, "audit": audit.audit},
}

app = typer.Typer(
    name="rexit",
    help="Take a trained early-exit LLM recommender to the edge: index, export, compile, calibrate, score.",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=_CONTEXT,
)
for _panel, _commands in _COMMANDS.items():
    for _name, _function in _commands.items():
        app.command(_name, cls=Command, rich_help_panel=_panel)(_function)


def _print_version(wanted: bool) -> None:
    if wanted:
        stdout.print(f"rexit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print rexit's version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Runs a command. A RexitError, a missing extra, a full disk, Ctrl-C or SIGTERM ends in one line and a non-zero exit code."""
    _run(app)


def export_as(name: str, words: Sequence[str]) -> NoReturn:
    """Runs `rexit export WORDS...` for another program's command line, where it is called `name`. Ends as `main` does."""
    command = typer.main.get_group(app).commands["export"]
    _run(partial(command, words, name, **_CONTEXT))


def _run(command: Callable[[], object]) -> NoReturn:
    # How long OpenMP's threads spin before they sleep. With the default, training a small model takes half as long again on busy
    # cores; without spinning it does so on idle ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # NumPy's products here are small, and many. OpenBLAS divides each among all cores and waits for the last: where the cores
    # have other work, fitting heads to 8,000 rows took ten times the processor time and a hundred times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with interruptible():
            command()
    except SystemExit as exc:
        if exc.code in (INTERRUPTED, TERMINATED):  # typer swallows Ctrl-C without a word
            say("rexit: interrupted; nothing was left half-written")
        raise
    except RexitError as exc:
        _fail(str(exc), exc.exit_code)
    except ModuleNotFoundError as exc:
        if (line := missing(exc)) is None:
            raise
        _fail(line, 1)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        _fail(f"{where}{exc.strerror or exc}", 1)
    sys.exit(0)


def _fail(line: str, code: int) -> NoReturn:
    say(f"rexit: error: {line}")
    sys.exit(code)
