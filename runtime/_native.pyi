"""The compiled module; `rexit.runtime.session` is its only user."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

version: str

_Segment = tuple[int, int, int, float, float]
_Stats = tuple[int, int, int, int, int, float, float, float, float, bool, int, list[_Segment]]
_Scores = tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.float32],
    NDArray[np.uint8],
    NDArray[np.float32],
    _Stats,
]
_Info = tuple[
    int, int, int, int, int, int, bool, bool, bool, str, int, bool, float, int, bool, float, str, Sequence[tuple[str, float]]
]
_Points = list[tuple[float, float]]
_Ids = Sequence[int | str]
_Context = Sequence[tuple[str, float | str]]
_Texts = Sequence[tuple[str, Sequence[int]]]
_TopK = tuple[int, bool, Sequence[float], Sequence[float]]
_Rules = tuple[Sequence[float], Sequence[float], int, float, _TopK | None]

_Slate = tuple[int | str, _Ids, _Ids, Sequence[int], int | None, _Context, _Texts]

def verify(place: str | bytes, variant: str) -> None: ...

class Session:
    def __init__(
        self,
        place: str | bytes,
        variant: str,
        library: str,
        threads: int,
        cache_bytes: int,
        slate_bytes: int,
        device: str,
        device_id: int,
        provider: str,
        provider_options: Sequence[tuple[str, str]],
        own_threads: bool,
        spinning: int,
        audit: float,
        audit_seed: int,
    ) -> None: ...
    def another(self) -> Session: ...
    def reloaded(self) -> Session | None: ...
    def read_file(self, path: str) -> bytes: ...
    def info(self) -> _Info: ...
    def exits(
        self,
    ) -> list[tuple[int, float, float, float, float, int, float, float, list[float], _Points, _Points]]: ...
    def score(
        self,
        user: int | str,
        items: _Ids,
        recent: _Ids,
        liked: Sequence[int],
        as_of: int | None,
        context: _Context,
        texts: _Texts,
        top_k: int,
        deadline_us: int,
        force_exit: int | None,
        policy: _Rules | None,
    ) -> _Scores: ...
    def score_tokens(
        self,
        prefix: NDArray[np.int32],
        candidates: NDArray[np.int32],
        counts: NDArray[np.uint64],
        top_k: int,
        deadline_us: int,
        force_exit: int | None,
        policy: _Rules | None,
    ) -> _Scores: ...
    def trace_tokens(
        self, prefix: NDArray[np.int32], candidates: NDArray[np.int32], counts: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], _Stats]: ...
    def trace(
        self,
        user: int | str,
        items: _Ids,
        recent: _Ids,
        liked: Sequence[int],
        as_of: int | None,
        context: _Context,
        texts: _Texts,
    ) -> tuple[NDArray[np.float32], _Stats]: ...
    def prompt(
        self,
        user: int | str,
        items: _Ids,
        recent: _Ids,
        liked: Sequence[int],
        as_of: int | None,
        context: _Context,
        texts: _Texts,
    ) -> tuple[list[int], list[int]]: ...
    def check_golden(self, slate: int) -> tuple[int, float, float, str, str, NDArray[np.float32]]: ...
    def audit(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], int, int, int]: ...
    def warm_up(self) -> None: ...
    def clear_cache(self) -> None: ...
    def trim(self) -> None: ...
    def cancel(self) -> None: ...
    def memory(self) -> tuple[int, int, int, int, int, int]: ...
