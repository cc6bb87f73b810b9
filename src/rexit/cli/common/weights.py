"""Weights of several objectives, on the command line: `click=1,like=2`."""

from __future__ import annotations

from rexit.errors import InputError


def parse_weights(name: str, text: str | None) -> dict[str, float] | None:
    """Returns the weights by objective; None if there is no text.

    Args:
        name: The option's name, for messages.
        text: `NAME=NUMBER`, separated by commas.

    Raises:
        InputError: The text is no such list, or names an objective twice.
    """
    if text is None:
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        objective, equals, number = part.partition("=")
        try:
            weight = float(number)
        except ValueError:
            equals = ""
        if not equals or not objective:
            raise InputError(f"{name} {part!r}: expected NAME=NUMBER, for instance click=1,like=2")
        if objective in weights:
            raise InputError(f"{name} {text!r}: has {objective} twice")
        weights[objective] = weight
    return weights
