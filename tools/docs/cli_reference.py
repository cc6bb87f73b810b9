"""The command line's reference, as Markdown: typer's text of the commands, and the exit codes."""

from __future__ import annotations

import html
import subprocess
import sys

from rexit import errors
from rexit.doors.cli.check.verify import EXIT_CODE as NOT_VERIFIED
from rexit.interrupts import INTERRUPTED, TERMINATED


def cli_reference() -> str:
    """Returns the page, made from the commands themselves."""
    write = [sys.executable, "-m", "typer", "rexit.doors.cli", "utils", "docs", "--name", "rexit", "--title", "Command line"]
    text = subprocess.run(write, check=True, capture_output=True, text=True).stdout
    head, _, commands = text.partition("**Commands**")  # a list of first lines, cut off in the middle
    text = head + commands[commands.index("## ") :]
    # typer escapes for HTML, inside code too, where Markdown escapes once more.
    return f"{html.unescape(text)}\n{_exit_codes()}"


def _exit_codes() -> str:
    kinds = [getattr(errors, name) for name in errors.__all__]
    failures = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, errors.RexitError)]
    rows = [(0, "done")]
    rows += [(kind.exit_code, f"`{kind.__name__}`: {(kind.__doc__ or '').splitlines()[0]}") for kind in failures]
    rows += [
        (2, "a wrong option"),
        (NOT_VERIFIED, "`rexit verify` found a fault"),
        (INTERRUPTED, "ended by Ctrl-C"),
        (TERMINATED, "ended by SIGTERM or SIGHUP"),
    ]
    lines = [f"| {code} | {text} |" for code, text in sorted(rows, key=lambda row: row[0])]
    return "\n".join(["## Exit codes", "", "| code | meaning |", "|---|---|", *lines]) + "\n"
