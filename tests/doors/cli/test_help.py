"""The help of the commands, at the widths of real terminals."""

from __future__ import annotations

import functools
import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from rexit.doors.cli import app

COMMANDS = typer.main.get_group(app).commands


@functools.cache
def help_of(command: str, width: int) -> str:
    return CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": str(width), "TERM": "dumb"}).stdout


def unwrapped(text: str) -> str:
    """The words of a help, with one space between them."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.medium
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_readable(command: str, width: int) -> None:
    text = help_of(command, width)
    assert max(map(len, text.splitlines())) <= width
    assert "`" not in text and "<bool>" not in text and "range>" not in text
    examples = [line for line in text.split("╭")[0].splitlines() if line.strip().startswith(f"rexit {command} ")]
    assert examples and all(line.startswith("  rexit") and not line.startswith("   ") for line in examples)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_in_a_help_are_ones_that_run(command: str) -> None:
    text = (COMMANDS[command].help or "").replace("\\\n", " ")
    for line in re.findall(r"rexit [^`\n&|]+", text):
        _, name, *words = shlex.split(line)
        context = typer.Context(COMMANDS[name], resilient_parsing=True)
        _, extra, _ = COMMANDS[name].make_parser(context).parse_args(words)
        assert not extra, line


@pytest.mark.medium
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen(command: str) -> None:
    assert len(help_of(command, 100).splitlines()) <= 40


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    options = [option for option in COMMANDS[command].params if option.param_type_name == "option"]
    assert options and all(option.help for option in options)
    text = unwrapped(help_of(command, 120))
    for option in options:
        assert f"{option.opts[0]} " in text


def test_defaults_are_in_the_help() -> None:
    assert "or random. Default: time." in unwrapped(help_of("index", 80))
