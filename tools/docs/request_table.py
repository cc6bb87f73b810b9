"""Writes the table of a request's fields into docs/format/request.md: python tools/docs/request_table.py"""

from __future__ import annotations

from pathlib import Path

from rexit.format.request import json_schema

PAGE = Path(__file__).parents[2] / "docs" / "format" / "request.md"
HEADER = "| field | type | meaning |\n|---|---|---|\n"


def with_table(page: str) -> str:
    """Returns the page with the table of today's fields."""
    before, _, rest = page.partition(HEADER)
    fields = json_schema()["properties"]
    rows = [f"| `{name}` | {field['title']} | {field['description']} |\n" for name, field in fields.items()]
    return before + HEADER + "".join(rows) + "\n" + rest.partition("\n\n")[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
