"""The compiled module. Structs of answers have the fields of the classes in `_answers.py`."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

version: str

_Ids = Sequence[int | str]

def verify(place: str | bytes, variant: str) -> None: ...

class TopK:
    def __init__(self, k: int, ordered: bool, rise: Sequence[float], fall: Sequence[float]) -> None: ...

class Policy:
    def __init__(
        self,
        upper: Sequence[float],
        lower: Sequence[float],
        patience: int,
        quorum: int,
        top_k: TopK | None,
        keep: Sequence[int],
    ) -> None: ...

class Tokens:
    def __init__(self, prefix: NDArray[np.int32], candidates: NDArray[np.int32], counts: NDArray[np.uint64]) -> None: ...

class Request:
    def __init__(self, user: int | str | Tokens) -> None: ...
    def items(self, ids: _Ids) -> Self: ...
    def recent(self, ids: _Ids, liked: Sequence[int]) -> Self: ...
    def as_of(self, time: int) -> Self: ...
    def input(self, name: str, value: float | str | Sequence[int]) -> Self: ...
    def scores(self, numbers: Sequence[float]) -> Self: ...
    def policy(self, policy: Policy) -> Self: ...
    def force_exit(self, exit: int) -> Self: ...
    def deadline_us(self, microseconds: int) -> Self: ...
    def top_k(self, k: int) -> Self: ...

class JsonOptions:
    def __init__(
        self,
        waited_us: int,
        deadline_us: int,
        policy: Policy | None,
        force_exit: int | None,
        texts: Sequence[tuple[str, Sequence[int]]],
    ) -> None: ...

class Spinning:
    DEFAULT: Spinning
    ON: Spinning
    OFF: Spinning

class BundleOptions:
    variant: str
    onnxruntime_library: str
    threads: int
    device: str
    device_id: int
    provider: str
    provider_options: Sequence[tuple[str, str]]
    own_threads: bool
    spinning: Spinning

class SessionOptions:
    def __init__(self, cache_bytes: int, slate_bytes: int) -> None: ...

class Info:
    has_catalog: bool

class ExitInfo:
    earlier: list[float]

class SegmentStats: ...
class Stats: ...

class Scores:
    index: NDArray[np.int64]
    exit: NDArray[np.int64]
    probability: NDArray[np.float32]
    cut_short: NDArray[np.uint8]
    stats: Stats
    segments: list[SegmentStats]

class JsonAnswer:
    text: bytes
    stats: Stats
    segments: list[SegmentStats]

class Trace:
    log_odds: NDArray[np.float32]  # [candidates * exits]
    stats: Stats
    segments: list[SegmentStats]

class Prompt:
    tokens: NDArray[np.int32]
    offsets: list[int]

class GoldenCheck:
    trace: NDArray[np.float32]  # as of Trace

class Memory: ...

class Session:
    def __init__(self, place: str | bytes, options: BundleOptions, session_options: SessionOptions) -> None: ...
    def another(self) -> Session: ...
    def reloaded(self) -> Session | None: ...
    def read_file(self, path: str) -> bytes: ...
    def info(self) -> Info: ...
    def exits(self) -> list[ExitInfo]: ...
    def score(self, request: Request) -> Scores: ...
    def score_json(self, request: bytes, options: JsonOptions) -> JsonAnswer: ...
    def trace(self, request: Request) -> Trace: ...
    def prompt(self, request: Request) -> Prompt: ...
    def check_golden(self, slate: int) -> GoldenCheck: ...
    def warm_up(self) -> None: ...
    def clear_cache(self) -> None: ...
    def trim(self) -> None: ...
    def cancel(self) -> None: ...
    def memory(self) -> Memory: ...

class Rules:
    def __init__(
        self,
        maps: Sequence[tuple[float, float]],
        earlier: Sequence[float],
        thresholds: Sequence[tuple[float, float]],
        patience: int,
        keep: Sequence[int],
        quorum: int,
        top_k: tuple[int, bool, Sequence[float], Sequence[float]] | None,
    ) -> None: ...
    def calibrated(self, log_odds: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def stops(self, log_odds: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def exit_range(
        self, log_odds: NDArray[np.float32], margin: float, offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
