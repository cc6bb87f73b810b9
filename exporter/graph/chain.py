"""Runs a variant's segments in sequence in ONNX Runtime, for an export's checks.

`sample` takes the inputs of a float32 graph's linear layers on training prompts, for passes that scale channels or fix a scale.

Whole slates of the training split run through the graphs, prefix and candidates. Validation prompts are reserved for the gate
(`rexit.exporter.gate.quality`), test prompts for final figures. No label is read, so prompts retrieve with the catalog's own
graph, as the runtime does; an updated catalog has no other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from rexit.data import slates
from rexit.errors import BackendError, InputError
from rexit.exporter.graph.accelerators import round_halves
from rexit.exporter.graph.linear_layers import by_input, fold_linear_weights, linears
from rexit.exporter.libraries import first_line
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import Source, has_training_slates, prompt_maker
from rexit.format.bundle import Segment, Vectors
from rexit.format.bundle.manifest import log_odds_of
from rexit.progress import Progress, silent, tracked

Tokens = NDArray[np.int32]
Cache = list[tuple[list[NDArray[Any]], list[NDArray[Any]]]]
Likes = NDArray[np.int64] | None


class Chain:
    """The segments of a folder, opened in ONNX Runtime.

    Each session has its own threads, which sleep when idle, as spinning would slow down the other segments. One global pool would
    be faster still, but ONNX Runtime then refuses other sessions of the process that have their own.

    float16 graphs, which are for accelerators, run with every half rounded
    (`rexit.exporter.graph.accelerators`).
    """

    def __init__(
        self,
        folder: Path,
        segments: Sequence[Segment],
        max_tokens: int,
        vectors: Vectors | None = None,
        kernels: bool = False,
        watch: Sequence[Sequence[str]] | None = None,
        on_value: Callable[[int, str, NDArray[Any]], None] | None = None,
    ) -> None:
        """Opens the graphs.

        Args:
            folder: the folder that holds the graphs.
            segments: the segments' descriptions.
            max_tokens: maximum number of candidate tokens in one pass.
            vectors: the prompts' vectors; None if they have none.
            kernels: whether rexit's operators run by the runtime's kernels, or by the functions that define them, whose answers
                later runs are checked against. float16 graphs have none.
            watch: names of inner values to report, by segment; float32 graphs only.
            on_value: called with (segment, name, numbers) for each watched value after each run.

        Raises:
            BackendError: ONNX Runtime rejects a graph.
        """
        self.folder, self.segments, self.max_tokens, self.vectors = folder, list(segments), max_tokens, vectors
        self._watch, self._on_value = watch or [()] * len(segments), on_value
        try:
            self.sessions = [_open(folder, s, kernels, names) for s, names in zip(segments, self._watch, strict=True)]
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
        liked: Likes = None,
    ) -> tuple[NDArray[np.float32], Cache]:
        """Runs all tokens to full depth.

        Args:
            tokens: token ids [T], including vector ids.
            positions, groups: int64 [T].
            rows: int64 [N], the tokens whose log-odds are read.
            past: the prefix's keys and values, by segment; None if there is no prefix.
            liked: rows of the items that the user liked; read for the user's vector.

        Returns:
            Log-odds float32 [N, E], and the new keys and values by segment.

        Raises:
            BackendError: ONNX Runtime fails.
        """
        x: NDArray[Any]
        x, vectors = self._pass_inputs(tokens.astype(np.int64), liked)
        log_odds, new = [], []
        for k, (segment, session) in enumerate(zip(self.segments, self.sessions, strict=True)):
            keys, values = past[k] if past else (self._empty[k], self._empty[k])
            names = segment.inputs
            feed: dict[str, Any] = {names["tokens" if "tokens" in names else "hidden"]: x}
            feed |= {names["positions"]: positions, names["groups"]: groups, names["rows"]: rows}
            if "vectors" in names:
                feed[names["vectors"]] = vectors
            feed |= dict(zip((*names["past_keys"], *names["past_values"]), (*keys, *values), strict=True))
            try:
                results = dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))
            except Exception as exc:
                raise BackendError(f"{segment.graph}: ONNX Runtime failed: {first_line(exc)}") from exc
            out = segment.outputs
            logits = results[out["logits"]]
            log_odds.append(log_odds_of(logits))
            new.append(([results[name] for name in out["new_keys"]], [results[name] for name in out["new_values"]]))
            for name in self._watch[k]:
                assert self._on_value is not None
                self._on_value(k, name, results[name])
            if "hidden" in out:
                x = results[out["hidden"]]
        return np.stack(log_odds, 1), new

    def _pass_inputs(self, tokens: NDArray[np.int64], liked: Likes) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """A pass's tokens and vectors float32 [R, H]: the r-th of the vector ids in it becomes V + r."""
        if self.vectors is None:
            return tokens, None
        is_vector = tokens >= (vocabulary := self.vectors.ids.vocabulary)
        ids, rows = np.unique(tokens[is_vector], return_inverse=True)
        if not len(ids):
            return tokens, np.zeros((1, self.vectors.width), np.float32)
        passed = tokens.copy()
        passed[is_vector] = vocabulary + rows
        return passed, self.vectors.of(ids, liked)

    def prefix(self, tokens: Tokens, liked: Likes = None) -> Cache | None:
        """Keys and values of a prefix; None for an empty one."""
        size = len(tokens)
        if size == 0:
            return None
        return self.run(tokens, np.arange(size), np.zeros(size, np.int64), np.array([size - 1]), liked=liked)[1]

    def score(self, candidates: Sequence[Tokens], behind: int, past: Cache | None, liked: Likes = None) -> NDArray[np.float32]:
        """Log-odds, as in `run`, of candidates packed behind a prefix of `behind` tokens."""
        sizes = np.array([len(c) for c in candidates], np.int64)
        positions = np.concatenate([np.arange(behind, behind + size) for size in sizes])
        groups = np.repeat(np.arange(len(sizes)), sizes)
        return self.run(np.concatenate(candidates), positions, groups, sizes.cumsum() - 1, past=past, liked=liked)[0]

    def slate(
        self, prefix: Tokens, candidates: Sequence[Tokens], past: Cache | None = None, liked: Likes = None
    ) -> NDArray[np.float32]:
        """Log-odds, as in `run`, of a slate as the runtime scores it: the prefix unless `past` holds it, then the candidates in
        chunks of at most `max_tokens`."""
        past = past or self.prefix(prefix, liked)
        parts = chunks(candidates, self.max_tokens)
        return np.concatenate([self.score(candidates[part], len(prefix), past, liked) for part in parts])


@cache
def _kernels() -> str:
    """The path of the library of kernels, which is beside that of the bindings."""
    spec = importlib.util.find_spec("rexit._native")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).with_name("_kernels.so"))


def _open(folder: Path, segment: Segment, kernels: bool, watch: Sequence[str]) -> ort.InferenceSession:
    providers = ["CPUExecutionProvider"]
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    half = segment.hidden_dtype == "float16"
    if kernels and not half:
        options.register_custom_ops_library(_kernels())
    if not half and not watch:
        return ort.InferenceSession(folder / segment.graph, options, providers)
    model = ir.load(folder / segment.graph)
    model.graph.outputs.extend(value for node in model.graph for value in node.outputs if value.name in watch)
    if half:
        model = round_halves(model)
        # No fusions: every rounding is intended, and the kernels of fused int8 products saturate on some CPUs.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers)


def chunks(candidates: Sequence[Tokens], max_tokens: int) -> Iterator[slice]:
    """Yields runs of consecutive candidates of at most `max_tokens` tokens together; a longer candidate is a run of its own."""
    start = total = 0
    for n, candidate in enumerate(candidates):
        total += len(candidate)
        if n > start and total > max_tokens:
            yield slice(start, n)
            start, total = n, len(candidate)
    yield slice(start, len(candidates))


SLATES = 16
SLATES_FOR_SCALES = 64
ROWS = 1024
"""Maximum number of rows of an input: evenly spaced, the same number from each run (a prefix, candidates). They include a
prompt's first token, where models put outliers."""
MIN_PROMPTS = 100
"""Fewer prompts do not show how large a layer's inputs get."""

Activations = dict[str, NDArray[np.float32]]
"""Rows [R, K], by name of the value in the float32 graph."""


def draw(source: Source, count: int = SLATES) -> list[Prompt]:
    """At most `count` training slates, the same at each call; none if the split is empty."""
    chosen = slates.draw(slates.cut(source, "train"), count, seed=1) if has_training_slates(source) else []
    return list(map(prompt_maker(source), chosen))


def draw_for_scales(source: Source) -> list[Prompt]:
    """More slates, for fixed scales, which other prompts may exceed only a little. Raises InputError: too few prompts."""
    sampled = draw(source, SLATES_FOR_SCALES)
    if (prompts := sum(len(prompt.candidates) for prompt in sampled)) < MIN_PROMPTS:
        raise InputError(
            f"{prompts} prompts of the training split are too few to calibrate on, at least {MIN_PROMPTS} are needed"
        )
    return sampled


def sample(chain: Chain, prompts: Sequence[Prompt], progress: Progress = silent) -> list[Activations]:
    """Runs prompts through a chain's float32 graphs. progress: called with "activations", the prompts done and their number.

    Returns:
        Sampled rows of each linear layer's input, by segment.
    """
    parts: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in chain.segments]
    count = ROWS // (2 * max(SLATES, len(prompts)))

    def on_value(k: int, name: str, numbers: NDArray[Any]) -> None:
        rows = numbers.reshape(-1, numbers.shape[-1])
        spaced = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
        parts[k].setdefault(name, []).append(rows[spaced])

    graphs = [fold_linear_weights(ir.load(chain.folder / segment.graph)) for segment in chain.segments]
    watched = [[str(group[0].input.name) for group in by_input(linears(graph))] for graph in graphs]
    watching = Chain(chain.folder, chain.segments, chain.max_tokens, chain.vectors, watch=watched, on_value=on_value)
    for prompt in tracked(prompts, "activations", progress):
        watching.slate(prompt.prefix, prompt.candidates, liked=prompt.liked)
    return [{name: np.concatenate(rows) for name, rows in segment.items()} for segment in parts]
