"""How a command's help looks: Markdown, flags without a type, defaults in the text, options in panels."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

REMAINING = "Other options"
"""The panel of the options that name none, where others do."""


class Command(TyperCommand):
    """A command of `rexit`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _arranged(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Says `Required.` behind an option's text: typer would give a `[required]` a line of its own."""
        required: list[Any] = [option for option in self.params if option.param_type_name == "option" and option.required]
        texts = [option.help for option in required]
        for option in required:
            option.required, option.help = False, f"{option.help} Required."
        try:
            super().format_help(ctx, formatter)
        finally:
            for option, text in zip(required, texts, strict=True):
                option.required, option.help = True, text


class Group(TyperGroup):
    """`rexit` itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _arranged(super().get_params(ctx))


def _arranged(parameters: list[Any]) -> list[Any]:
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    has_panels = any(option.rich_help_panel for option in options)
    for option in options:
        if option.is_flag:
            option.metavar = ""  # else typer writes <bool>, as if a value followed
        elif option.multiple:
            option.metavar = "<str>"  # else <list[str]>
        elif getattr(option, "min", None) is not None:
            option.metavar = "<int>"  # else <int range>, beside the range itself
        if not option.is_flag and option.show_default and option.default not in (None, ""):
            values = option.default if isinstance(option.default, list | tuple) else [option.default]
            if option.default != 0 or "0: " not in option.help:
                option.help = f"{option.help} Default: {', '.join(map(str, values))}."
            option.show_default = False  # else it takes a line of its own
        if has_panels and not option.rich_help_panel:
            option.rich_help_panel = REMAINING  # else it comes before the panels
    return sorted(parameters, key=lambda parameter: getattr(parameter, "rich_help_panel", None) == REMAINING)
