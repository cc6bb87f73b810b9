"""The prompt template: a TOML file, read and checked. docs/template.md describes it."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rexit.errors import InputError
from rexit.exporter.catalog.input_columns import InputRule
from rexit.format.bundle.catalog import SCORE
from rexit.format.bundle.files import typed
from rexit.format.bundle.inputs import COLUMN as INPUT
from rexit.format.bundle.inputs import KINDS, SPACED, Input
from rexit.format.bundle.vectors import MAX_VECTORS

ENTRIES = {
    "history.recent": "recent",
    "history.nearest": "nearest",
    "similar_liked": "similar",
}
LISTS = ("history.recent", "history.nearest", "similar_liked", "similar_verdict")
RATES = ("user.like_rate", "user.count", "item.like_rate", "item.count")
SHARES = ("similar_like_rate", "nearest_like_rate")
VERDICTS = ("user.like_rate", "item.like_rate", *SHARES, "verdict")
"""What says the same of all where all are likes."""
EMBEDDINGS = ("user.gcn", "item.gcn")
NUMBERS = ("gcn", *RATES, *SHARES)
"""What exit zero can read, beside columns of item vectors and `score.NAME`, a first stage's score."""
ZERO = ("gcn", "user.count", "user.like_rate", "item.count", "item.like_rate", "nearest_like_rate:10")
"""What it can read of every catalog, if the template does not say."""
RESERVED = (*RATES, *EMBEDDINGS)
"""Placeholders of rexit: columns of these names cannot be placed."""
PROMPT_NAMES = ("user.COLUMN", "item.COLUMN", *RATES, *LISTS, *SHARES, *EMBEDDINGS, f"{INPUT}NAME")
ENTRY_NAMES = ("item.COLUMN", "item.gcn", "verdict")
WORDS = {"liked": " liked", "disliked": " disliked", "unseen": " unseen", "missing": "unknown", "empty": " none"}
BINS = {"like_rate": 20, "count": 12}


@dataclass(frozen=True)
class Placeholder:
    """`{name}` or `{name:limit}`.

    limit: entries of a list; of a column, the number of vectors in place of its text (0: placed as text).
    spaced: the space before it belongs to its text, since tokenizers keep " word" whole.
    """

    name: str
    limit: int = 0
    spaced: bool = False

    def __str__(self) -> str:
        return f"{{{self.name}:{self.limit}}}" if self.limit else f"{{{self.name}}}"


Nodes = tuple[str | Placeholder, ...]


def written(text: str, spaced: bool) -> str:
    """A placeholder's text, with exactly one leading space if it is spaced."""
    return " " + text.lstrip(" ") if spaced else text


@dataclass(frozen=True)
class Template:
    """A parsed template. `program` checks the columns of its placeholders.

    entries: the text of an entry, by kind of list (ENTRIES). limits: most tokens of a cell, by `user.COLUMN` and `item.COLUMN`.
    labels: the texts of `no` and `yes`. inputs: those that the prompt places, in its order.
    zero: what exit zero reads, of NUMBERS or columns of vectors; empty: there is no exit zero; None: the default.
    """

    path: Path
    text: str
    prompt: Nodes
    entries: Mapping[str, Nodes]
    labels: Mapping[str, str]
    words: Mapping[str, str] = field(default_factory=lambda: WORDS)
    bins: Mapping[str, int] = field(default_factory=lambda: BINS)
    limits: Mapping[str, int] = field(default_factory=dict)
    inputs: Sequence[InputRule] = ()
    bos: str | None = None
    zero: Sequence[Placeholder] | None = None

    @property
    def verdicts(self) -> list[str]:
        """The prompt's placeholders that tell likes from dislikes, those of its lists' entries included."""
        placed = [node for node in self.prompt if isinstance(node, Placeholder)]
        nodes = [*placed, *(node for list_ in placed for node in self.entries.get(list_.name, ()))]
        return list(dict.fromkeys(str(node) for node in nodes if isinstance(node, Placeholder) and node.name in VERDICTS))

    @property
    def score_names(self) -> list[str]:
        """The first stages whose scores of each interaction exit zero reads."""
        return [number.name.removeprefix(SCORE) for number in self.zero or () if number.name.startswith(SCORE)]

    def columns(self, what: str) -> dict[str, str]:
        """The columns of the users' or items' file that prompts place or exit zero reads, each with the reason for messages."""
        nodes = list(self.prompt)
        if what == "item":
            lists = [node.name for node in self.prompt if isinstance(node, Placeholder) and node.name in self.entries]
            nodes += [node for name in lists for node in self.entries[name]]
        names = [node for node in nodes if isinstance(node, Placeholder) and node.name not in RESERVED]
        columns = {node.name.partition(".")[2]: f"{self.path}: {node}" for node in names if node.name.startswith(f"{what}.")}
        if what == "item":
            reason = f"{self.path}: zero.inputs, whose numbers are {', '.join(NUMBERS)}, {SCORE}NAME"
            others = [number.name for number in self.zero or () if not number.name.startswith(SCORE)]
            columns |= {name: reason for name in others if name not in (*NUMBERS, *columns)}
        return columns

    def numbers(self, vectors: Iterable[str]) -> list[Placeholder]:
        """What exit zero can read: what the template says, or else ZERO, the numbers that the prompt reads, and all columns of
        item vectors, which are `vectors`."""
        if self.zero is not None:
            return list(self.zero)
        always = [Placeholder(name, int(limit or 0)) for name, _, limit in (text.partition(":") for text in ZERO)]
        shown = [node for node in self.prompt if isinstance(node, Placeholder) and node.name in (*RATES, *SHARES)]
        shown = [Placeholder(node.name, node.limit) for node in shown]
        return list(dict.fromkeys([*always, *shown, *(Placeholder(name) for name in vectors if name not in NUMBERS)]))


def read_template(path: Path) -> Template:
    """Reads a template file. Raises InputError, naming the key or placeholder and what was expected."""
    path = Path(path)
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # not TOML, not UTF-8
        raise InputError(f"{path}: not a TOML file: {exc}") from exc
    _known_keys(path, "", value, ("prompt", "entry", "entries", "bos", "labels", "words", "bins", "limits", "input", "zero"))
    prompt = _text(path, "prompt", value.get("prompt"))
    entry = _text(path, "entry", value.get("entry", " {item.title}{verdict};"))
    words, bins, entries = (_section(path, value, name) for name in ("words", "bins", "entries"))
    _known_keys(path, "entries.", entries, tuple(ENTRIES.values()))
    _known_keys(path, "words.", words, tuple(WORDS))
    _known_keys(path, "bins.", bins, tuple(BINS))
    for name, n in bins.items():
        _whole_number(path, f"bins.{name}", n)
    entry_texts = {
        name: (f"entries.{key}", entries[key]) if key in entries else ("entry", entry) for name, key in ENTRIES.items()
    }
    bos = value.get("bos")
    nodes = parse(path, "prompt", prompt)
    return Template(
        path,
        prompt,
        nodes,
        {name: parse(path, where, _text(path, where, text)) for name, (where, text) in entry_texts.items()},
        _labels(path, _section(path, value, "labels")),
        {name: _text(path, f"words.{name}", words.get(name, text), empty=True) for name, text in WORDS.items()},
        {**BINS, **bins},
        _limits(path, value),
        _inputs(path, value, nodes),
        None if bos is None else _text(path, "bos", bos),
        _zero(path, value),
    )


def parse(path: Path, where: str, text: str) -> Nodes:
    """Splits a text into literals and placeholders; `{{` and `}}` are braces. Raises InputError.

    The space before a placeholder of a single text moves from the literal into the placeholder.
    """
    nodes: list[str | Placeholder] = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(text):
            if name is None:
                nodes.append(literal)
                continue
            if conversion:
                raise InputError(f"{path}: {where}: {{{name}!{conversion}}}: conversions are not supported")
            if not _is_known(name, where):
                names = ", ".join(ENTRY_NAMES if where != "prompt" else PROMPT_NAMES)
                shown = f"{{{name}:{spec}}}" if spec else f"{{{name}}}"
                raise InputError(f"{path}: {where}: unknown placeholder {shown}, known are: {names}")
            vectors = name in EMBEDDINGS or (bool(spec) and name.startswith("item.") and name not in RATES)
            spaced = literal.endswith(" ") and name not in (*LISTS, "verdict") and not vectors
            limit = 0
            if name in (*LISTS, *SHARES):
                if not (spec or "").isascii() or not (spec or "").isdigit() or not 1 <= int(spec or 0) <= 1000:
                    raise InputError(
                        f"{path}: {where}: {{{name}}} needs a limit from 1 to 1000, as in {{{name}:5}}, not {spec!r}"
                    )
                limit = int(spec or 0)
            elif spec and vectors and name not in EMBEDDINGS:
                if not spec.isascii() or not spec.isdigit() or not 1 <= int(spec) <= MAX_VECTORS:
                    raise InputError(
                        f"{path}: {where}: {{{name}}} can be 1 to {MAX_VECTORS} vectors, as in {{{name}:2}}, not {spec!r}"
                    )
                limit = int(spec)
            elif spec:
                known = ", ".join((*LISTS, *SHARES))
                raise InputError(
                    f"{path}: {where}: {{{name}:{spec}}}: only lists and their rates take a limit ({known}), "
                    "and columns of items a number of vectors"
                )
            nodes += [literal[:-1] if spaced else literal, Placeholder(name, limit, spaced)]
    except InputError:
        raise
    except ValueError as exc:  # the formatter's
        raise InputError(f"{path}: {where}: {exc} (write {{{{ and }}}} for braces)") from exc
    return tuple(node for node in nodes if node != "")


def _is_known(name: str, where: str) -> bool:
    """Whether a placeholder may be in the prompt or an entry, whatever columns there are."""
    if where != "prompt":
        return name == "verdict" or (name.startswith("item.") and name not in RATES)
    return name.startswith(("user.", "item.", INPUT)) or name in (*LISTS, *SHARES)


def _labels(path: Path, section: Mapping[str, Any]) -> dict[str, str]:
    """The answers' texts."""
    _known_keys(path, "labels.", section, ("yes", "no"))
    return {name: _text(path, f"labels.{name}", section.get(name)) for name in ("yes", "no")}


def _known_keys(path: Path, prefix: str, section: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in section:
        if key not in known:
            raise InputError(f"{path}: unknown key {prefix}{key}, known are: {', '.join(known)}")


def _section(path: Path, value: Mapping[str, Any], name: str, within: str = "") -> Mapping[str, Any]:
    section = value.get(name, {})
    if not isinstance(section, dict):
        raise InputError(f"{path}: {within}{name} is {section!r}, expected a section [{within}{name}]")
    return section


def _limits(path: Path, value: Mapping[str, Any]) -> dict[str, int]:
    tables = _section(path, value, "limits")
    _known_keys(path, "limits.", tables, ("user", "item"))
    limits = {f"{what}.{column}": n for what in tables for column, n in _section(path, tables, what, "limits.").items()}
    for name, n in limits.items():
        _whole_number(path, f"limits.{name}", n)
    return limits


def _inputs(path: Path, value: Mapping[str, Any], nodes: Nodes) -> tuple[InputRule, ...]:
    """The rules of the inputs that a prompt places; a section may be left out."""
    sections, spaced = _section(path, value, "input"), dict[str, set[bool]]()
    for node in nodes:
        if isinstance(node, Placeholder) and node.name.startswith(INPUT):
            spaced.setdefault(node.name.removeprefix(INPUT), set()).add(node.spaced)
    if "" in spaced:
        raise InputError(f"{path}: prompt: {{{INPUT}}}: expected a name, as in {{{INPUT}device}}")
    for name in sections:
        if name not in spaced:
            raise InputError(f"{path}: {INPUT}{name}: the prompt places no {{{INPUT}{name}}}")
    return tuple(_input(path, name, _section(path, sections, name, INPUT), places) for name, places in spaced.items())


def _zero(path: Path, value: Mapping[str, Any]) -> tuple[Placeholder, ...] | None:
    """What exit zero reads; None: the template does not say."""
    section = _section(path, value, "zero")
    _known_keys(path, "zero.", section, ("inputs",))
    if "inputs" not in section:
        return None
    inputs = section["inputs"]
    if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
        raise InputError(f"{path}: zero.inputs is {inputs!r}, expected a list of texts")
    numbers = []
    for text in inputs:
        name, _, limit = text.partition(":")
        if name in ("", SCORE):
            known = f"{', '.join(NUMBERS)}, {SCORE}NAME"
            raise InputError(f"{path}: zero.inputs: {text!r} is neither {known} nor a column of item vectors")
        if name not in SHARES and limit:
            raise InputError(f"{path}: zero.inputs: {text!r}: only {' and '.join(SHARES)} take a limit")
        if name in SHARES and not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= 1000):
            raise InputError(f"{path}: zero.inputs: {text!r} needs a limit from 1 to 1000, as in '{name}:10'")
        numbers.append(Placeholder(name, int(limit or 0)))
        if numbers.count(numbers[-1]) > 1:
            raise InputError(f"{path}: zero.inputs: {text!r} is there twice")
    return tuple(numbers)


def _input(path: Path, name: str, section: Mapping[str, Any], spaced: set[bool]) -> InputRule:
    """Reads a section. spaced: whether a space precedes the input, of all its places."""
    where = INPUT + name
    _known_keys(path, f"{where}.", section, (*KINDS, "words", "column", "missing"))
    missing, column = (
        None if key not in section else _text(path, f"{where}.{key}", section[key], empty=key == "missing")
        for key in ("missing", "column")
    )
    described = {kind: section[kind] for kind in KINDS if kind in section}
    if isinstance(values := described.get("values"), list):
        described["values"] = [_value(path, f"{where}.values", value) for value in values]
    if any(kind in described for kind in SPACED):
        if len(spaced) > 1:
            raise InputError(f"{path}: prompt: {{{where}}} is behind a space and without one, expected either")
        described["spaced"] = spaced == {True}
    entry = None
    if described:
        entry = typed({"name": name, "optional": missing is not None, **described}, Input, str(path), at=where, error=InputError)
    words = section.get("words", [])
    if not isinstance(words, list):
        raise InputError(f"{path}: {where}.words is {words!r}, expected a list of texts")
    texts = tuple(_text(path, f"{where}.words", word) for word in words)
    expected = () if entry is None else entry.words
    if texts and len(texts) != len(expected):
        raise InputError(f"{path}: {where}.words has {len(texts)} texts, expected one for each of {len(expected)} values or bins")
    return InputRule(name, entry, column, texts, missing)


def _value(path: Path, key: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "" or str(value) != str(value).strip():
        raise InputError(f"{path}: {key} has {value!r}, expected texts without outer spaces, or whole numbers")
    return str(value)


def _whole_number(path: Path, key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise InputError(f"{path}: {key} is {value!r}, expected a whole number from 1 to 1000")


def _text(path: Path, key: str, value: object, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise InputError(f"{path}: {key} is {'missing' if value is None else repr(value)}, expected a text")
    return value
