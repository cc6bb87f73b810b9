"""ONNX Runtime with the unsplit model as optimum exports it: float32, logits of every token over the whole vocabulary.

one_by_one      each candidate's whole prompt alone, as a first port would do it
padded_batch    all of them in one batch; prompts of equal length need no padding here, so this is its best case
shared_prefix   the model exported with a cache: the prefix once, its keys and values repeated for a batch of candidates
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from protocol import NoCache, serve


def log_odds(logits: NDArray[np.float32], request: Mapping[str, Any]) -> list[float]:
    """The log-odds of the last tokens, from logits [B, T, V] of prompts of equal length."""
    last = logits[:, -1]
    answers: list[float] = (last[:, request["yes"]] - last[:, request["no"]]).tolist()
    return answers


class Whole(NoCache):
    """Whole prompts, in batches of at most `batch`."""

    def __init__(self, session: onnxruntime.InferenceSession, batch: int) -> None:
        self.session, self.batch = session, batch

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        prompts = np.array([request["prefix"] + candidate for candidate in request["candidates"]], np.int64)
        answers: list[float] = []
        for begin in range(0, len(prompts), self.batch):
            tokens = prompts[begin : begin + self.batch]
            (logits,) = self.session.run(["logits"], inputs(self.session, tokens, 0))
            answers += log_odds(logits, request)
        return answers


class SharedPrefix:
    """Computes the prefix's keys and values once and repeats them."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.past = [tensor for tensor in session.get_inputs() if tensor.name.startswith("past_key_values.")]
        self.present = [tensor.name.replace("past_key_values", "present") for tensor in self.past]
        self.cached: Sequence[int] | None = None
        self.values: list[NDArray[np.float32]] = []

    def forget(self) -> None:
        self.cached = None

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        prefix, candidates = request["prefix"], np.array(request["candidates"], np.int64)
        if self.cached != prefix:
            tokens = np.array([prefix], np.int64)
            empty = [np.zeros((1, tensor.shape[1], 0, tensor.shape[3]), np.float32) for tensor in self.past]
            self.values = self.session.run(self.present, inputs(self.session, tokens, 0) | self._named(empty))
            self.cached = prefix
        repeated = [np.repeat(tensor, len(candidates), 0) for tensor in self.values]
        (logits,) = self.session.run(["logits"], inputs(self.session, candidates, len(prefix)) | self._named(repeated))
        return log_odds(logits, request)

    def _named(self, values: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return {tensor.name: value for tensor, value in zip(self.past, values, strict=True)}


def inputs(session: onnxruntime.InferenceSession, tokens: NDArray[np.int64], past: int) -> dict[str, NDArray[np.int64]]:
    """The usual inputs, as far as the export has them, for tokens [B, T] behind `past` others."""
    count, length = tokens.shape
    usual = {
        "input_ids": tokens,
        "attention_mask": np.ones((count, past + length), np.int64),
        "position_ids": np.broadcast_to(np.arange(past, past + length), tokens.shape).copy(),
    }
    names = {tensor.name for tensor in session.get_inputs()}
    return {name: value for name, value in usual.items() if name in names}


def session(path: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    threads = setup["threads"]
    whole = session(f"{setup['onnx']}/model.onnx", threads)
    ways = {
        "one_by_one": Whole(whole, 1),
        "padded_batch": Whole(whole, setup["batch"]),
        "shared_prefix": SharedPrefix(session(f"{setup['onnx_past']}/model.onnx", threads)),
    }
    return ways, {"onnxruntime": onnxruntime.__version__}


if __name__ == "__main__":
    serve(load)
