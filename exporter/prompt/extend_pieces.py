"""Adds texts to the pieces of an existing catalog: same tokenizer, same program, within its limits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.bundle.catalog import first_difference
from rexit.errors import InputError
from rexit.exporter.catalog.chunks import offsets
from rexit.exporter.catalog.entities import column_of
from rexit.exporter.catalog.inputs import with_values
from rexit.exporter.catalog.tables import Tensors
from rexit.exporter.prompt.language import Language
from rexit.exporter.prompt.pieces import Pieces, fingerprint
from rexit.exporter.prompt.program import compile_program
from rexit.exporter.prompt.template import written

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
        vectors = [f"item.{name}" for name in (catalog.vector_ids.dims if catalog.vector_ids else ())]
        before = {entry.name: entry.values for entry in catalog.inputs.entries}
        for rule in language.template.inputs:
            if rule.entry is None and not before.get(rule.name):
                problem = f"it places the input {rule.name!r}, whose values the catalog does not have"
                raise InputError(f"{language.template.path}: is another template than that of {catalog.path}: {problem}")
        inputs = [with_values(rule, before.get(rule.name, ())) for rule in language.template.inputs]
        program = compile_program(language.template, of_users, of_items, pieces, vectors, inputs)
        table: Tensors = dict(zip(("offsets", "tokens"), pieces.encode(language.tokenizer), strict=True))
        compiled = {"prefix": program.prefix, "candidate": program.candidate, "inputs": [entry.to_json() for entry in inputs]}
        compiled["numbers"] = program.numbers if catalog.numbers else []
        if difference := first_difference(compiled, table, catalog.info["prompt"], catalog.piece_table):
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
