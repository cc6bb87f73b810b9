"""The C reference: `rexit.h`'s own comments and declarations, as Markdown.

Rules
1. The header's first comment opens the page.
2. A declaration is a `#define`, or what ends at a `;` outside of braces. It gets a heading of its own name, and the comment
   directly above it as its text; comments inside it stay. Include guards, `extern "C"`, REXIT_API and REXIT_NODISCARD are left
   out.
3. A name of the header, wherever a comment has one, is a link to its declaration; an enumerator's to that of its enumeration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HIDDEN = ("REXIT_API", "REXIT_NODISCARD", "REXIT_REXIT_H")
_FUNCTION = ("REXIT_NODISCARD REXIT_API ", "REXIT_API ")
_NAME = re.compile(r"\b(?:rexit|REXIT)_\w+(?:\(\))?")


@dataclass(frozen=True)
class Declaration:
    name: str
    comment: str
    code: str

    @property
    def is_function(self) -> bool:
        return self.code.startswith(_FUNCTION)


def read_header(text: str) -> tuple[str, list[Declaration]]:
    """Returns the first comment, and the declarations in order."""
    first, _, rest = text.partition("*/")
    declarations: list[Declaration] = []
    comment, code, inside = "", "", False
    for line in rest.splitlines():
        starts = not code and not inside
        if inside or (starts and line.startswith("/*")):
            comment = f"{comment}{line}\n" if inside else f"{line}\n"
            inside = "*/" not in line
        elif starts and not line.strip():
            comment = ""
        elif code or line.startswith(("typedef", "#define", *_FUNCTION)):
            code += f"{line}\n"
            bare = re.sub(r"/\*.*?(\*/|$)", "", code, flags=re.DOTALL)
            if code.startswith("#define") or (bare.rstrip().endswith(";") and bare.count("{") == bare.count("}")):
                declarations.append(Declaration(_name_of(bare), _plain(comment), code.rstrip()))
                comment = code = ""
    return _plain(first), [declaration for declaration in declarations if declaration.name not in _HIDDEN]


def c_reference(header: str, wrapper: str) -> str:
    """Returns the page. header, wrapper: the texts of `rexit.h` and `rexit.hpp`."""
    opening, declarations = read_header(header)
    homes = {
        name: declaration.name for declaration in declarations for name in (declaration.name, *_enumerators(declaration.code))
    }
    parts = ["# C and C++\n\n`rexit/rexit.h`: its declarations, and its own comments.\n"]
    parts += [_markdown(opening, homes), "## Types and constants\n"]
    in_functions = False
    for declaration in declarations:
        if declaration.is_function and not in_functions:
            in_functions = True
            parts.append("## Functions\n")
        name, comment = declaration.name, _markdown(declaration.comment, homes)
        code = declaration.code.removeprefix("REXIT_NODISCARD ").removeprefix("REXIT_API ")
        parts.append(f"### `{name}` {{ #{name} }}\n\n{comment}\n```c\n{code}\n```\n")
    parts.append(
        "## C++17\n\n`rexit/rexit.hpp` is header-only and adds no behaviour of its own: each call is the C function of that "
        f"name, a failing one throws `rexit::Error`.\n\n```cpp\n{wrapper.rstrip()}\n```\n"
    )
    return "\n".join(parts)


def _name_of(code: str) -> str:
    if code.startswith("#define"):
        return code.split()[1]
    pattern = r"(\w+)\s*\(" if code.startswith(_FUNCTION) else r"(\w+)\s*;\s*$"
    match = re.search(pattern, code)
    assert match, f"rexit.h: cannot tell what this declares: {code}"
    return match[1]


def _enumerators(code: str) -> list[str]:
    return re.findall(r"^\s+(REXIT_\w+) = ", code, re.MULTILINE) if code.startswith("typedef enum") else []


def _plain(comment: str) -> str:
    """A comment's text, without its markers."""
    lines = re.sub(r"^\s*/\*\s?|\s*\*/\s*$", "", comment.strip()).splitlines()
    return "\n".join(re.sub(r"^\s*\*\s?", "", line) if n else line for n, line in enumerate(lines))


def _markdown(text: str, homes: dict[str, str]) -> str:
    """Text with lists and links. Indented lines outside lists are code."""
    out: list[str] = []
    in_list = in_code = False
    for line in text.splitlines():
        item, indented = line.startswith("- "), line.startswith("  ")
        if item and not in_list:
            out.append("")
        in_list = item or (in_list and indented)
        if indented and not in_list:
            out += [""] * (not in_code) + [f"    {line.strip()}"]
            in_code = True
            continue
        in_code = False
        out.append(_linked(line, homes))
    return "\n".join(out) + "\n"


def _linked(line: str, homes: dict[str, str]) -> str:
    """The line with its names as links, except between backticks."""
    parts = line.split("`")
    parts[::2] = [_NAME.sub(lambda name: _link(name[0], homes), part.replace("<", "&lt;")) for part in parts[::2]]
    return "`".join(parts)


def _link(name: str, homes: dict[str, str]) -> str:
    home = homes.get(name.removesuffix("()"))
    return f"[`{name}`](#{home})" if home else f"`{name}`"
