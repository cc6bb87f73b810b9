"""`optimum-cli export rexit`: `rexit export` under optimum's command line.

optimum looks for files in this folder of its namespace package and imports each of them, whatever command was called. So
this one imports nothing from rexit until it runs. No folder above it may hold an `__init__.py`: it would hide optimum's own
modules.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser
from typing import NoReturn

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class RexitExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum ships no types
    """Passes all words after its name on to `rexit export`, which knows the options, their help and their errors."""

    COMMAND = CommandInfo("rexit", help="Export an early-exit recommender: one ONNX graph per exit, in a rexit bundle.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        # No word can begin with NUL, so argparse mistakes none for an option of its own, not even --help.
        parser.prefix_chars = "\0"
        parser.add_argument("words", nargs=REMAINDER)

    def run(self) -> NoReturn:
        from rexit.doors.cli import export_as

        export_as("optimum-cli export rexit", self.args.words)


REGISTER_COMMANDS = [(RexitExportCommand, ExportCommand)]
