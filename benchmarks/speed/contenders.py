"""What slate.py compares: rexit's variants and their peers, with the weights that each reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workload import SIX_EXITS

FULL, THIRD = len(SIX_EXITS) - 1, SIX_EXITS.index(10)


@dataclass(frozen=True)
class Case:
    """A kind of request: tokens of the prefix, number of candidates, and whether the prefix is cached from another slate."""

    prefix: int
    candidates: int
    cached: bool = False

    @property
    def name(self) -> str:
        return f"prefix {self.prefix}, {self.candidates} candidates, {'cached' if self.cached else 'cold'}"


MAIN = Case(200, 20)
CASES = (MAIN, Case(200, 20, cached=True), Case(200, 1), Case(200, 100), Case(400, 20))


@dataclass(frozen=True)
class Contender:
    """A way of a peer to score.

    Attributes:
        name: its name in tables.
        peer: the process that it is a way of.
        way: the way; empty: the peer's fastest.
        weights: their precision.
        reuses: whether it can keep a user's prefix.
        slow: whether it takes part in the main case alone.
        tolerance: how far its log-odds may be from rexit's float32 ones; None: it computes something else.
        correlation: how well they must correlate.
        cut: whether it is asked only for the candidates that exit zero lets in.
    """

    name: str
    peer: str
    way: str
    weights: str = "fp32"
    reuses: bool = True
    slow: bool = False
    tolerance: float | None = 0.01
    correlation: float = 0.9999
    cut: bool = False

    def asked(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns what it is asked of a request."""
        return {**request, "candidates": request["entering"]} if self.cut else request

    def takes_part(self, case: Case) -> bool:
        return case == MAIN or not (self.slow or (case.cached and not self.reuses))


# Log-odds of 8-bit weights differ from those of 32-bit ones, most of all in a model that was never trained to say yes or no.
# These bounds only tell a wrong computation from a rounded one. The table says how well each precision agrees.
ROUNDED: Any = {"tolerance": 6.0, "correlation": 0.8}
INT8: Any = {"weights": "int8", **ROUNDED}
INT4: Any = {"weights": "int4", "tolerance": 6.0, "correlation": 0.2}
BF16: Any = {"weights": "bf16", **ROUNDED}
SLOW: Any = {"reuses": False, "slow": True}
OURS = (
    Contender("int8_full", "ours-int8", f"exit_{FULL}", **INT8),
    Contender("int8_third", "ours-int8", f"exit_{THIRD}", weights="int8", tolerance=None),
    Contender("int8_policy", "ours-int8", "policy", weights="int8", tolerance=None),
    Contender("bf16_full", "ours-bf16", f"exit_{FULL}", **BF16),
    Contender("bf16_third", "ours-bf16", f"exit_{THIRD}", weights="bf16", tolerance=None),
    Contender("fp32_full", "ours-fp32", f"exit_{FULL}", tolerance=0.0, correlation=0.0),
    Contender("fp32_third", "ours-fp32", f"exit_{THIRD}", tolerance=None),
)
PEERS = (
    Contender("openvino", "openvino-int8", "", **INT8),
    Contender("openvino_bf16", "openvino-bf16", "", **BF16),
    Contender("llama_cpp", "llama-q8_0", "", **INT8),
    Contender("llama_cpp_bf16", "llama-bf16", "", **BF16),
    Contender("llama_cpp_q4_0", "llama-q4_0", "", **INT4),
    Contender("llama_cpp_q4_k", "llama-q4_k", "", **INT4),
    Contender("ctranslate2", "ctranslate2", "static_prompt", **INT8),
    Contender("genai_int4", "genai-int4", "rewound", **INT4),
    Contender("ort_one_by_one", "ort", "one_by_one", **SLOW),
    Contender("ort_padded_batch", "ort", "padded_batch", **SLOW),
    Contender("ort_shared_prefix", "ort", "shared_prefix"),
    Contender("genai_one_by_one", "genai", "one_by_one", **SLOW),
    Contender("genai_rewound", "genai", "rewound"),
    Contender("torch_one_by_one", "torch", "one_by_one", **SLOW),
    Contender("torch_padded_batch", "torch", "padded_batch", **SLOW),
    Contender("torch_shared_prefix", "torch", "shared_prefix"),
    Contender("torch_compiled_one_by_one", "torch", "compiled_one_by_one", **SLOW),
    Contender("torch_compiled_padded_batch", "torch", "compiled_padded_batch", **SLOW),
)
REFERENCE = "fp32_full"
REQUIRED = frozenset(contender.peer for contender in OURS)
"""The processes that must load; every other peer may be missing."""


def fastest_peers(milliseconds: Mapping[str, float]) -> dict[str, str]:
    """Returns `best_{precision}_peer`, the peer with the lowest median among those with such weights, and `best_peer` among
    all."""
    peers = sorted((contender for contender in PEERS if contender.name in milliseconds), key=lambda c: milliseconds[c.name])
    best = {f"best_{contender.weights}_peer": contender.name for contender in reversed(peers)}
    return best | {"best_peer": peers[0].name} if peers else {}
