"""The prompts and numbers of slates from a catalog, which the library assembles: those of a session, and of training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import _native
from rexit.exporter.retriever.neighbours import Lists, native
from rexit.format.bundle.catalog import Catalog
from rexit.format.bundle.inputs import Codes, Value
from rexit.format.ids import Id

Tokens = NDArray[np.int32]
Numbers = NDArray[np.float32]
Rows = NDArray[np.int64]

_BATCH = 256  # slates assembled at once


@dataclass(frozen=True)
class Prompt:
    """A slate's token ids. prefix: int32 [P], shared. candidates: int32 [T] each."""

    prefix: Tokens
    candidates: list[Tokens]


@dataclass(frozen=True)
class RowSlate:
    """A slate by rows, for instance those of `Catalog.split`.

    Attributes:
        user: None: not in the catalog.
        items: rows of the candidates.
        as_of: use interactions before this time; None: all.
        recent: fresh interactions (item, liked), oldest first.
        inputs: the codes of the prompt's inputs, once, or for each item if they differ behind the prefix; None: the request has
            none.
    """

    user: int | None
    items: Rows | Sequence[int]
    as_of: int | None = None
    recent: Sequence[tuple[int, bool]] = ()
    inputs: Sequence[Sequence[Codes]] | None = None


class PromptBuilder:
    """Assembles prompts from a catalog. Threads may share it.

    Prompts of the train split retrieve with snapshots (`rexit.exporter.retriever.snapshots`) and need `as_of`. All others
    retrieve with the catalog's own graph, as the runtime does.
    """

    @classmethod
    def of(cls, catalog: Catalog, split: str) -> PromptBuilder:
        """A builder for the slates of a split. Raises BundleError: the train split needs snapshots."""
        return cls(catalog, training=split == "train")

    def __init__(self, catalog: Catalog, training: bool = False) -> None:
        """training: for prompts of the train split. Raises BundleError for a catalog without snapshots, or a damaged one."""
        folder = catalog.path.resolve()
        self._catalog = catalog
        self._native = _native.Catalog(str(folder.parent), folder.name, msgspec.json.encode(catalog.info))
        self._snapshots = catalog.snapshots if training else None
        self._embeddings: dict[int, _native.Embeddings] = {}

    def prompt(
        self,
        user: Id | None,
        items: Sequence[Id],
        as_of: int | None = None,
        recent: Sequence[tuple[Id, bool]] = (),
        inputs: Mapping[str, Value] | None = None,
    ) -> Prompt:
        """Assembles a slate's prompts, by ids.

        Args:
            user: a user's id; None or unknown to the catalog: only `recent` is known of the user.
            items: ids of the candidates.
            as_of, recent: as in `RowSlate`.
            inputs: the request's inputs: values by name, texts as token ids.

        Raises:
            InputError: an item is not in the catalog, or an input is not what the template says.
        """
        slate = self._by_rows(user, items, as_of, recent, [self._catalog.inputs.encode(inputs)])
        return next(self.prompts([slate]))

    def prompts(self, slates: Iterable[RowSlate]) -> Iterator[Prompt]:
        """Yields the prompts of slates by rows, in order, assembled many at once."""
        for some in _batched(slates):
            for tokens, offsets in self._native.prompts([self._native_slate(slate) for slate in some]):
                prefix, *candidates = [tokens[begin:end] for begin, end in itertools.pairwise(offsets.tolist())]
                yield Prompt(prefix, candidates)

    def numbers(
        self,
        user: Id | None,
        items: Sequence[Id],
        as_of: int | None = None,
        recent: Sequence[tuple[Id, bool]] = (),
        scores: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Numbers:
        """What exit zero reads of a slate, float32 [N, F], by ids. scores: the first stages' by name, those that are read. The
        other arguments and errors are those of `prompt`."""
        return self.slate_numbers([self._by_rows(user, items, as_of, recent, None)], scores)

    def slate_numbers(self, slates: Iterable[RowSlate], scores: Mapping[str, NDArray[np.float32]] | None = None) -> Numbers:
        """What exit zero reads of all candidates of slates by rows, float32 [N, F]. scores: the first stages', float32 [N], by
        name. It reads no inputs."""
        names = self._catalog.score_names
        tables, row = [np.zeros((0, len(self._catalog.numbers)), np.float32)], 0
        for some in _batched(slates):
            end = row + sum(len(slate.items) for slate in some)
            own = np.empty((len(names), end - row), np.float32)
            for column, name in zip(own, names, strict=True):
                column[:] = (scores or {})[name][row:end]
            tables.append(self._native.numbers([self._native_slate(slate, with_inputs=False) for slate in some], own))
            row = end
        return np.concatenate(tables)

    def retrieve(self, slates: Iterable[RowSlate], count: int) -> Iterator[Rows]:
        """Yields the rows of the items that a request with `retrieve` would choose for each slate, whose own items do not matter:
        int64 [at most `count`], largest product first. Empty if the user likes nothing that has an embedding at that moment."""
        for some in _batched(slates):
            yield from self._native.retrieve([self._native_slate(slate, with_inputs=False) for slate in some], count)

    def _by_rows(
        self,
        user: Id | None,
        items: Sequence[Id],
        as_of: int | None,
        recent: Sequence[tuple[Id, bool]],
        inputs: Sequence[Sequence[Codes]] | None,
    ) -> RowSlate:
        """Raises InputError: an item is not in the catalog."""
        ids = self._catalog.items
        fresh = ids.rows([item for item, _ in recent]).tolist()
        row = None if user is None else self._catalog.users.row(user)
        pairs = [(item, liked) for item, (_, liked) in zip(fresh, recent, strict=True)]
        return RowSlate(row, ids.rows(items), as_of, pairs, inputs)

    def _native_slate(self, slate: RowSlate, with_inputs: bool = True) -> Any:
        inputs = [self._catalog.inputs.encode(None)] if slate.inputs is None and with_inputs else slate.inputs
        codes = [[part.tolist() for part in each] for each in inputs or [[np.empty(0, np.int32)] * len(self._catalog.inputs)]]
        part = self._part(slate)
        embeddings = True if part is None else self._before(part) if part else None
        recent = [(int(item), bool(liked)) for item, liked in slate.recent]
        return slate.user, np.ascontiguousarray(slate.items, np.int64), slate.as_of, recent, codes, embeddings

    def _part(self, slate: RowSlate) -> int | None:
        """The part of the user's training interactions at the slate's moment, from 0; None: not a training prompt."""
        if self._snapshots is None:
            return None
        if slate.user is None or slate.as_of is None:
            raise ValueError("a training prompt needs a known user and `as_of`")
        return int((self._snapshots["begins"][slate.user] <= slate.as_of).sum())

    def _before(self, part: int) -> _native.Embeddings:
        """The snapshot before a part."""
        assert self._snapshots is not None
        if part not in self._embeddings:
            users, items, fold_in = (self._snapshots[name][part - 1] for name in ("users", "items", "fold_in"))
            self._embeddings[part] = native(users, items, fold_in, Lists.needed(users))
        return self._embeddings[part]


def _batched(slates: Iterable[RowSlate]) -> Iterator[list[RowSlate]]:
    iterator = iter(slates)
    while some := list(itertools.islice(iterator, _BATCH)):
        yield some
