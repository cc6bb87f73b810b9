"""The prompt of a slate."""

from __future__ import annotations

from typing import Any

from rexit.cli.common.output import stdout


def print_prompt(prompt: dict[str, Any]) -> None:
    """Prints the tokens of the prefix and of each candidate, and their text if there is some."""
    parts = [("prefix", prompt["prefix"]), *((f"item {entry['item']}", entry) for entry in prompt["candidates"])]
    for name, part in parts:
        stdout.print(f"{name}: {len(part['tokens'])} tokens")
        stdout.print(" ".join(str(token) for token in part["tokens"]), soft_wrap=True, style="dim")
        if "text" in part:
            stdout.print(part["text"], soft_wrap=True)
