"""The catalog's text: template, tokenizer, text columns. Nothing here depends on the retriever.

An update adds texts to the pieces of an existing catalog: same tokenizer, same program, within its limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rexit.errors import InputError
from rexit.exporter.catalog.catalog_files import Tensors, offsets
from rexit.exporter.catalog.input_columns import with_values
from rexit.exporter.catalog.source_tables import Encoded, column_of, holds_vectors, vector_rows
from rexit.exporter.prompt.pieces import Pieces, fingerprint, load_tokenizer, single_token
from rexit.exporter.prompt.program import Fields, Lengths, Program, bounds, compile_program, vector_count
from rexit.exporter.prompt.template import RESERVED, Template, written
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import first_difference, number_name
from rexit.format.bundle.inputs import Input
from rexit.format.bundle.manifest import ANSWERS
from rexit.progress import Progress, silent


@dataclass(frozen=True)
class Language:
    """A template, its tokenizer, and the token ids of the labels `no` and `yes`."""

    template: Template
    tokenizer: Tokenizer
    labels: Mapping[str, int]

    @classmethod
    def load(cls, tokenizer: str, template: Template) -> Language:
        """Loads the tokenizer, see `load_tokenizer`. Raises InputError if that fails or a label is not one token."""
        encoder, path = load_tokenizer(tokenizer), template.path
        if template.bos is not None:
            single_token(encoder, template.bos, f"{path}: bos")
        labels = {answer: single_token(encoder, template.labels[answer], f"{path}: labels.{answer}") for answer in ANSWERS}
        if labels["no"] == labels["yes"]:
            raise InputError(f"{path}: labels.yes and labels.no are the same token {labels['yes']}, expected two answers")
        return cls(template, encoder, labels)


@dataclass(frozen=True)
class Compiled:
    """A compiled template.

    prompt: of catalog.json. pieces: the tensors of pieces.safetensors. fields: the pieces of the text columns, by `user.NAME` and
    `item.NAME`. encoded: the columns of vectors that the template places. vectors: those that exit zero can read.
    """

    prompt: dict[str, Any]
    pieces: dict[str, NDArray[Any]]
    fields: Fields
    encoded: Encoded
    vectors: Encoded


def compile_template(
    language: Language,
    users: pl.DataFrame,
    items: pl.DataFrame,
    inputs: Sequence[Input] = (),
    progress: Progress = silent,
) -> Compiled:
    """Compiles a template for the data.

    Args:
        language: template and tokenizer.
        users, items: `id` and the files' columns, in the catalog's rows.
        inputs: those of the template, with their values.
        progress: called with "tokens", the texts tokenized and their number.

    Raises:
        InputError: a placeholder or limit that does not fit the columns, or a column of vectors that is not valid.
    """
    pieces, template, entities = Pieces(), language.template, {"user": users, "item": items}
    columns = [(f"{what}.{column.name}", column) for what, frame in entities.items() for column in frame.iter_columns()]
    vectors = [name for name, column in columns if holds_vectors(column) and name not in RESERVED]
    texts = {what: [name for name in frame.columns[1:] if f"{what}.{name}" not in vectors] for what, frame in entities.items()}
    program = compile_program(template, texts["user"], texts["item"], pieces, vectors, inputs)
    read = {op["column"] for op in program.numbers if "column" in op}
    placed = {name for name in program.vectors if f"item.{name}" in vectors}
    columns_of_vectors = {name: vector_rows(items[name], items["id"]) for name in sorted(placed | read)}
    encoded = {name: columns_of_vectors[name] for name in program.vectors if name in placed}
    fields = _fields(program, entities, template, pieces)
    offsets, tokens = pieces.encode(language.tokenizer, progress)
    limits = _limits(program, np.diff(offsets), fields, inputs, template)
    prompt = {"template": template.text, "prefix": program.prefix, "candidate": program.candidate, **limits}
    if program.vectors:
        dims = {name: {"dim": table.shape[1]} for name, table in encoded.items()}
        prompt["vectors"] = [{"name": name, "count": vector_count(name), **dims.get(name, {})} for name in program.vectors]
    if inputs:
        prompt["inputs"] = [entry.to_json() for entry in inputs]
    if program.numbers:
        prompt["numbers"] = program.numbers
    read_vectors = {name: table for name, table in columns_of_vectors.items() if name in read}
    return Compiled(prompt, {"offsets": offsets, "tokens": tokens}, fields, encoded, read_vectors)


def _fields(
    program: Program, entities: Mapping[str, pl.DataFrame], template: Template, pieces: Pieces
) -> dict[str, NDArray[np.int32]]:
    fields = {}
    for what, frame in entities.items():
        for name, (column, spaced) in getattr(program, f"{what}_fields").items():
            texts = " " + frame[column] if spaced else frame[column]
            missing = pieces.literal(written(template.words["missing"], spaced))
            fields[f"{what}.{name}"] = pieces.column(texts, missing, template.limits.get(f"{what}.{column}"))
    return fields


def _limits(program: Program, lengths: Lengths, fields: Fields, inputs: Sequence[Input], template: Template) -> dict[str, int]:
    low, high = bounds(program.candidate, lengths, fields, inputs)
    if low < 1:
        raise InputError(f"{template.path}: the part after the prefix can be without a token: end the prompt with a text")
    return {"max_prefix_tokens": bounds(program.prefix, lengths, fields, inputs)[1], "max_candidate_tokens": high}


Tokens = NDArray[np.int32]


@dataclass
class ExtendedPieces:
    """The pieces of `catalog` and new ones behind them. cut: number of texts cut to the longest of their column."""

    catalog: Catalog
    language: Language
    cut: int = 0
    _new: list[Tokens] = field(default_factory=list)
    _rows: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def of(cls, catalog: Catalog, language: Language) -> ExtendedPieces:
        """Starts from the catalog's pieces. Raises InputError if tokenizer or template are not the catalog's."""
        additions = cls(catalog, language)
        actual, expected = fingerprint(language.tokenizer), catalog.info["tokenizer"]["sha256"]
        if actual != expected:
            raise InputError(
                f"tokenizer {actual[:12]}… ({language.tokenizer.get_vocab_size()} tokens): {catalog.path} was made with "
                f"{expected[:12]}… ({catalog.info['tokenizer']['vocab_size']} tokens)"
            )
        if language.labels != catalog.labels:
            raise InputError(
                f"{language.template.path}: is another template than that of {catalog.path}: its labels are {language.labels}, "
                f"expected {catalog.labels}"
            )
        pieces = Pieces()
        of_users, of_items = (sorted({name.removeprefix(" ") for name in additions._names(what)}) for what in ("user", "item"))
        placed = catalog.vector_ids.dims if catalog.vector_ids else {}
        vectors = [f"item.{name}" for name in {**placed, **dict.fromkeys(catalog.vector_columns)}]
        before = {entry.name: entry.values for entry in catalog.inputs.entries}
        for rule in language.template.inputs:
            if rule.entry is None and not before.get(rule.name):
                problem = f"it places the input {rule.name!r}, whose values the catalog does not have"
                raise InputError(f"{language.template.path}: is another template than that of {catalog.path}: {problem}")
        inputs = [with_values(rule, before.get(rule.name, ())) for rule in language.template.inputs]
        program = compile_program(language.template, of_users, of_items, pieces, vectors, inputs)
        table: Tensors = dict(zip(("offsets", "tokens"), pieces.encode(language.tokenizer), strict=True))
        compiled = {"prefix": program.prefix, "candidate": program.candidate, "inputs": [entry.to_json() for entry in inputs]}
        difference = first_difference(compiled, table, catalog.info["prompt"], catalog.piece_table)
        if missing := next((op for op in catalog.numbers if op not in program.numbers), None):
            difference = f"its [zero] lacks {number_name(missing)}, which exit zero reads"
        if difference:
            raise InputError(f"{language.template.path}: is another template than that of {catalog.path}: {difference}")
        starts, tokens = catalog.piece_table["offsets"].tolist(), catalog.piece_table["tokens"]
        for row in range(len(starts) - 2, -1, -1):  # backwards, so that the first of equal pieces wins
            additions._rows[tokens[starts[row] : starts[row + 1]].tobytes()] = row
        return additions

    def fields(
        self, what: str, texts: pl.DataFrame | None, text_rows: NDArray[np.int64], old_rows: NDArray[np.int64], count: int
    ) -> Tensors:
        """The `field.NAME` tensors of an updated table.

        Args:
            what: `user` or `item`.
            texts: new texts, by column; None: no new texts.
            text_rows: int64, the rows of `texts`.
            old_rows: int64, the row of each of the old catalog's rows.
            count: rows of the table.

        Raises:
            InputError: a column is missing, or holds vectors.
        """
        table = self.catalog.user_table if what == "user" else self.catalog.item_table
        fields = {}
        for name in self._names(what):
            column, pieces = name.removeprefix(" "), np.full(count, -1, np.int32)
            pieces[old_rows] = table[f"field.{name}"]
            if texts is not None:
                pieces[text_rows] = self._column(column_of(texts, column, what), what, column, spaced=name != column)
            fields[f"field.{name}"] = pieces
        return fields

    def tensors(self) -> Tensors:
        """The tensors of pieces.safetensors."""
        before = self.catalog.piece_table
        sizes = np.concatenate([np.diff(before["offsets"]), [len(tokens) for tokens in self._new]]).astype(np.int64)
        return {"offsets": offsets(sizes), "tokens": np.concatenate([before["tokens"], *self._new]).astype(np.int32)}

    def _names(self, what: str) -> list[str]:
        table = self.catalog.user_table if what == "user" else self.catalog.item_table
        return [name.removeprefix("field.") for name in table if name.startswith("field.")]

    def _column(self, texts: pl.Series, what: str, column: str, spaced: bool) -> NDArray[np.int32]:
        template, pieces = self.language.template, Pieces()
        missing = pieces.literal(written(template.words["missing"], spaced))
        name = (" " if spaced else "") + column
        cells = pieces.column(" " + texts if spaced else texts, missing, template.limits.get(f"{what}.{column}"))
        starts, tokens = pieces.encode(self.language.tokenizer)
        most = self._longest(what, name)
        parts = [tokens[a:b] for a, b in itertools.pairwise(starts)]
        self.cut += int((np.diff(starts)[cells] > most).sum())
        rows = np.array([self._row(part if n == missing else part[:most]) for n, part in enumerate(parts)], np.int32)
        return rows[cells]

    def _longest(self, what: str, name: str) -> int:
        table = self.catalog.user_table if what == "user" else self.catalog.item_table
        cells = table[f"field.{name}"]
        return int(np.diff(self.catalog.piece_table["offsets"])[cells].max(initial=0))

    def _row(self, tokens: Tokens) -> int:
        row = self._rows.setdefault(tokens.tobytes(), len(self.catalog.piece_table["offsets"]) - 1 + len(self._new))
        if row == len(self.catalog.piece_table["offsets"]) - 1 + len(self._new):
            self._new.append(tokens)
        return row
