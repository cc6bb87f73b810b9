"""Pairs as records: rows of the catalog in place of ids, codes in place of inputs' values.

Every row is checked here, so that a bad one ends the run before the first slate is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.batch.pairs import Batch, PairFiles, user_or_item
from rexit.bundle import Bundle, Id
from rexit.bundle.input_kinds import Value
from rexit.bundle.inputs import Input, Inputs
from rexit.bundle.typed import short
from rexit.errors import InputError
from rexit.ids import first_few, to_id
from rexit.prompts.texts import input_tokenizer

PADDING = -1
"""Fills an input's codes up to its `max_codes`."""


def pair_type(inputs: Inputs) -> np.dtype[Any]:
    """Returns the type of a pair's record.

    row: in the files, from 0. user: the user's row in the catalog, or -1 - n for the n-th unknown user. item: the item's row in
    the catalog. time: 0 without times. score: the first stage's; 0: it is not read. inputs: the codes of each input, padded.
    """
    fields = [(name, "<i8") for name in ("row", "user", "item", "time")]
    return np.dtype([*fields, ("score", "<f4"), ("inputs", "<i4", (inputs.width,))])


def input_values(inputs: Inputs, codes: NDArray[np.int32]) -> dict[str, Value]:
    """Returns a record's inputs as `Session.score` takes them. codes: `inputs` of the record, int32 [width]."""
    parts = np.split(codes, np.cumsum([entry.encoder.max_codes for entry in inputs.entries])[:-1]) if len(inputs) else []
    return inputs.decode([part[part != PADDING] for part in parts])


class PairReader:
    """Turns rows into records.

    Args:
        files: The files of pairs.
        bundle: A bundle with a catalog.
        as_of: The time of every row, if the files have no column of times; None: no time.
        inputs: Values for every row, by input name, for inputs without a column.

    Attributes:
        unknown: Numbers of the users that the catalog does not have.
        early: See `Plan`.
        late: See `Plan`.
        text_times: See `Plan`.
    """

    def __init__(self, files: PairFiles, bundle: Bundle, as_of: int | None, inputs: Mapping[str, Value]) -> None:
        catalog = bundle.catalog
        self.files, self._catalog, self._as_of, self._inputs = files, catalog, as_of, inputs
        self._tokenize = input_tokenizer(bundle)
        kinds = catalog.info["ids"]
        self._parse_user, self._parse_item = user_or_item(kinds["user"], "user"), user_or_item(kinds["item"], "item")
        self._is_used = np.zeros(len(catalog.users), np.bool_)
        self.unknown: dict[Id, int] = {}
        self.early = self.late = 0
        self.text_times = False
        self._unknown_items: dict[Id, str] = {}

    @property
    def users(self) -> int:
        """Number of users so far."""
        return int(self._is_used.sum()) + len(self.unknown)

    @property
    def record_bytes(self) -> int:
        """Size of a record, which grows with the tokens of texts."""
        return pair_type(self._catalog.inputs).itemsize

    def records(self, batch: Batch) -> NDArray[Any]:
        """Returns the rows as records of `pair_type`. Raises InputError that names the row."""
        columns, inputs = self.files.columns, self._catalog.inputs
        users, items = batch.read(columns.user, self._parse_user), batch.read(columns.item, self._parse_item)
        records = np.empty(len(batch), pair_type(inputs))
        records["row"] = np.arange(batch.first, batch.first + len(batch))
        records["user"], records["item"] = self._user_rows(users), self._item_rows(items, batch)
        records["time"] = self._times(batch)
        records["score"] = 0 if columns.score is None else batch.read(columns.score, _score)
        begin = 0
        for entry in inputs.entries:
            records["inputs"][:, begin : begin + entry.encoder.max_codes] = self._codes(entry, batch)
            begin += entry.encoder.max_codes
        return records

    def finish(self) -> None:
        """Raises InputError for items that the catalog does not have."""
        if unknown := self._unknown_items:
            are = "item is" if len(unknown) == 1 else "items are"
            named = first_few(list(unknown), name=lambda item: f"{item!r} ({unknown[item]})")
            raise InputError(f"{self.files.place}: {len(unknown)} {are} not in the catalog: {named}")

    def _codes(self, entry: Input, batch: Batch) -> NDArray[np.int32]:
        """An input's padded codes, int32 [rows or 1, max_codes]."""

        def padded(value: Value | None) -> NDArray[np.int32]:
            codes = entry.encode(value, self._tokenize, self._catalog.inputs.vocabulary)
            return np.pad(codes, (0, entry.encoder.max_codes - len(codes)), constant_values=PADDING)

        column = self.files.inputs.get(entry.name)
        if column is None:
            return padded(self._inputs.get(entry.name))[None]
        return np.array(batch.read(column, lambda cell: padded(_value(entry, cell)), empty=True), np.int32)

    def _times(self, batch: Batch) -> NDArray[np.int64] | int:
        name = self.files.time
        if name is None and self._as_of is None:
            return 0
        timeline = self._catalog.timeline

        def parse(value: Any) -> int:
            self.text_times |= to_id(value, "int64") is None
            return timeline.parse(value, f"`{name}`")

        times = np.full(len(batch), self._as_of) if name is None else np.array(batch.read(name, parse), np.int64)
        self.early += int((times <= timeline.first).sum())
        self.late += int((times > timeline.last).sum())
        return times

    def _user_rows(self, users: Sequence[Id]) -> list[int]:
        distinct = list(dict.fromkeys(users))
        rows = dict(zip(distinct, self._catalog.users.find(distinct).tolist(), strict=True))
        self._is_used[[row for row in rows.values() if row >= 0]] = True
        for user, row in rows.items():
            if row < 0:
                rows[user] = -1 - self.unknown.setdefault(user, len(self.unknown))
        return [rows[user] for user in users]

    def _item_rows(self, items: Sequence[Id], batch: Batch) -> list[int]:
        distinct = list(dict.fromkeys(items))
        rows = dict(zip(distinct, self._catalog.items.find(distinct).tolist(), strict=True))
        place = f" of {batch.path.name}" if len(self.files.files) > 1 else ""
        for item, row in rows.items():
            if row < 0:
                self._unknown_items.setdefault(item, f"row {batch.before + items.index(item) + 1}{place}")
        return [rows[item] for item in items]


def _score(cell: Any) -> np.float32:
    try:
        score = np.float32(cell)
    except (TypeError, ValueError):
        score = np.float32(np.nan)
    if not np.isfinite(score):
        raise InputError(f"score {short(cell)}, expected a finite number")
    return score


def _value(entry: Input, cell: Any) -> Value | None:
    """A cell as an input's value, as `rexit index` reads it: text without outer spaces; None if nothing is left. A list is token
    ids."""
    if cell is None or isinstance(cell, tuple):
        return cell
    if isinstance(cell, bool):
        cell = str(cell).lower()
    if isinstance(cell, int | float) and not entry.max_tokens:
        return cell
    return str(cell).strip() or None
