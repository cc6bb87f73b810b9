"""Options of the form NAME=VALUE, once for each name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rexit.errors import InputError


def parse_named(entries: Sequence[str] | None, option: str, example: str) -> dict[str, str]:
    """Returns the values of an option by name. Raises InputError for another form than NAME=VALUE, or a name that comes twice."""
    values: dict[str, str] = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise InputError(f"{option} {entry!r}, expected NAME=VALUE, as in {example}")
        if name in values:
            raise InputError(f"{option} {name}: given twice, expected once")
        values[name] = value
    return values


def parse_columns(entries: Sequence[str] | None, roles: Iterable[str]) -> dict[str, str]:
    """Returns the columns of `--column ROLE=NAME` by role. Raises InputError, as `parse_named` does, and for an unknown role."""
    known = list(roles)
    columns = parse_named(entries, "--column", f"{known[0]}=name_in_the_file")
    for role, name in columns.items():
        if role not in known:
            raise InputError(f"--column {role}={name}: no role {role!r}, expected one of {', '.join(known)}")
    return columns
