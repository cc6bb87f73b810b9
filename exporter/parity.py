"""Whether the exported segments compute what the unsplit PyTorch model computes, at every exit.

The segments run in ONNX Runtime in the three ways the runtime will use them:

1. `single`: no cache; prefix and candidate together, one group, from position 0;
2. `cached`: the prefix is run through the graphs, then one candidate behind it;
3. `slate`: the prefix is run, then all candidates packed behind it (in chunks of at most `max_tokens`).

What they are compared with is `MultiExitModel.reference`: each pair one ordinary sequence through the model's stock attention.
A variant of lower precision (`rexit.exporter.quality` says how good it is) is compared with its own `slate`: the three ways must
agree there too, or a candidate's score would depend on the candidates beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from rexit.bundle import Segment
from rexit.bundle.golden import GoldenSlate
from rexit.errors import BackendError, ParityError
from rexit.exporter.passes.rounded import rounded
from rexit.exporter.quiet import first_line

MODES = ("single", "cached", "slate")
PAIRS_PER_SLATE = 4
"""How many candidates of each slate are also run one by one, for `single` and `cached`."""

Tokens = NDArray[np.int32]
Cache = list[tuple[list[NDArray[Any]], list[NDArray[Any]]]]


class Chain:
    """The segments of one folder, opened in ONNX Runtime. Raises BackendError when it refuses a graph or fails.

    Each session has its own threads, which sleep when idle: spinning, they would slow the other segments' down. One global pool
    would be faster still, but ONNX Runtime then refuses every other session of this process that wants its own.

    Half graphs, which are for accelerators, run with every half rounded (`rexit.exporter.passes.rounded`).

    watch: for each segment of float32 graphs, names of values inside; `see` is given (segment, name, numbers) after each run.
    """

    def __init__(
        self,
        folder: Path,
        segments: Sequence[Segment],
        watch: Sequence[Sequence[str]] | None = None,
        see: Callable[[int, str, NDArray[Any]], None] | None = None,
    ) -> None:
        self.segments = list(segments)
        self._watch, self._see = watch or [()] * len(segments), see
        try:
            self.sessions = [_open(folder, s, names) for s, names in zip(segments, self._watch, strict=True)]
        except Exception as exc:
            raise BackendError(f"{folder.name}: ONNX Runtime cannot open a segment: {first_line(exc)}") from exc
        shapes = [{value.name: value.shape for value in session.get_inputs()} for session in self.sessions]
        self._empty = [
            [np.zeros((shape[name][0], 0, shape[name][2]), np.dtype(s.cache_dtype)) for name in s.inputs["past_keys"]]
            for s, shape in zip(self.segments, shapes, strict=True)
        ]

    def run(
        self,
        tokens: NDArray[Any],
        positions: NDArray[np.int64],
        groups: NDArray[np.int64],
        rows: NDArray[np.int64],
        past: Cache | None = None,
    ) -> tuple[NDArray[np.float32], Cache]:
        """Log-odds float32 [N, E] at the rows, and the new keys and values of each segment; all tokens go to full depth."""
        x: NDArray[Any] = tokens.astype(np.int64)
        log_odds, new = [], []
        for k, (segment, session) in enumerate(zip(self.segments, self.sessions, strict=True)):
            keys, values = past[k] if past else (self._empty[k], self._empty[k])
            names = segment.inputs
            feed = {names["tokens" if "tokens" in names else "hidden"]: x}
            feed |= {names["positions"]: positions, names["groups"]: groups, names["rows"]: rows}
            feed |= dict(zip((*names["past_keys"], *names["past_values"]), (*keys, *values), strict=True))
            try:
                found = dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))
            except Exception as exc:
                raise BackendError(f"{segment.graph}: ONNX Runtime failed: {first_line(exc)}") from exc
            out = segment.outputs
            logits = found[out["logits"]]
            log_odds.append(logits[:, 1] - logits[:, 0])
            new.append(([found[name] for name in out["new_keys"]], [found[name] for name in out["new_values"]]))
            for name in self._watch[k]:
                assert self._see is not None
                self._see(k, name, found[name])
            if "hidden" in out:
                x = found[out["hidden"]]
        return np.stack(log_odds, 1), new

    def prefix(self, tokens: Tokens) -> Cache | None:
        """Keys and values of a prefix; None for an empty one."""
        size = len(tokens)
        if size == 0:
            return None
        return self.run(tokens, np.arange(size), np.zeros(size, np.int64), np.array([size - 1]))[1]

    def score(self, candidates: Sequence[Tokens], behind: int, past: Cache | None) -> NDArray[np.float32]:
        """Log-odds float32 [N, E] of candidates packed behind a prefix of `behind` tokens."""
        sizes = np.array([len(c) for c in candidates], np.int64)
        positions = np.concatenate([np.arange(behind, behind + size) for size in sizes])
        return self.run(np.concatenate(candidates), positions, np.repeat(np.arange(len(sizes)), sizes), sizes.cumsum() - 1, past)[
            0
        ]


def _open(folder: Path, segment: Segment, watch: Sequence[str]) -> ort.InferenceSession:
    providers = ["CPUExecutionProvider"]
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    half = segment.hidden_dtype == "float16"
    if not half and not watch:
        return ort.InferenceSession(folder / segment.graph, options, providers)
    model = ir.load(folder / segment.graph)
    model.graph.outputs.extend(value for node in model.graph for value in node.outputs if value.name in watch)
    if half:
        model = rounded(model)
        # Every rounding is meant: no fusion past one, and none of int8 products, whose kernels saturate on some CPUs.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers)


def answer(chain: Chain, slates: Sequence[GoldenSlate], max_tokens: int) -> list[GoldenSlate]:
    """The slates with the chain's own log-odds, by `slate`."""
    answered = []
    for slate in slates:
        past = chain.prefix(slate.prefix)
        parts = [chain.score(slate.candidates[c], len(slate.prefix), past) for c in chunks(slate.candidates, max_tokens)]
        answered.append(replace(slate, log_odds=np.concatenate(parts)))
    return answered


def measure(
    chain: Chain, slates: Sequence[GoldenSlate], max_tokens: int, each: Callable[[int], None] | None = None
) -> tuple[list[dict[str, float]], int]:
    """Largest |difference of log-odds| per exit and mode, and how many pairs were run one by one. `each` is told the slates done.

    The slates' log-odds are the reference's.
    """
    worst = {mode: np.zeros(len(chain.segments)) for mode in MODES}
    pairs = 0

    def compare(mode: str, got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        # NaN must not pass: maximum keeps it, and no comparison with it is true.
        worst[mode] = np.maximum(worst[mode], np.abs(got.astype(np.float64) - expected).max(0))

    for done, slate in enumerate(slates, 1):
        behind = len(slate.prefix)
        past = chain.prefix(slate.prefix)
        for chunk in chunks(slate.candidates, max_tokens):
            compare("slate", chain.score(slate.candidates[chunk], behind, past), slate.log_odds[chunk])
        count = len(slate.candidates)
        for n in sorted({int(i) for i in np.linspace(0, count - 1, min(PAIRS_PER_SLATE, count)).round()}):
            candidate, expected = slate.candidates[n], slate.log_odds[n : n + 1]
            compare("single", chain.score([np.concatenate([slate.prefix, candidate])], 0, None), expected)
            compare("cached", chain.score([candidate], behind, past), expected)
            pairs += 1
        if each:
            each(done)
    return [{mode: float(worst[mode][k]) for mode in MODES} for k in range(len(chain.segments))], pairs


def check(
    parity: Sequence[dict[str, float]], exits: Sequence[int], tolerance: float, expected: str = "the PyTorch model's"
) -> None:
    """Raises ParityError for the worst exit and mode above the tolerance, or not a number. expected: whose log-odds they are."""
    bad = [(k, mode, row[mode]) for k, row in enumerate(parity) for mode in MODES if not row[mode] <= tolerance]
    if bad:
        k, mode, seen = max(bad, key=lambda found: np.inf if np.isnan(found[2]) else found[2])
        raise ParityError(
            f"exit after layer {exits[k]}, {mode}: log-odds differ from {expected} by {seen:.2g}, "
            f"{tolerance:.2g} is allowed; nothing was written"
        )


def chunks(candidates: Sequence[Tokens], max_tokens: int) -> Iterator[slice]:
    """Consecutive candidates of at most `max_tokens` tokens together; one that is longer stands alone."""
    start = total = 0
    for n, candidate in enumerate(candidates):
        total += len(candidate)
        if n > start and total > max_tokens:
            yield slice(start, n)
            start, total = n, len(candidate)
    yield slice(start, len(candidates))
