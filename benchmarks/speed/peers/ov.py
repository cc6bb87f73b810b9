"""OpenVINO: the prefix once, its state fanned out to all candidates by `beam_idx`, logits of each candidate's last token only.

One compiled model for every configuration that `setup` names; slate.py times them all and keeps the fastest. Candidates of
different lengths are filled up to the longest of their batch: in one batch, or in several, those of like length together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset15
from protocol import serve


class Stateful:
    """A stateful decoder: its keys and values are variables of the infer request. batches: the most batches of a slate."""

    def __init__(self, compiled: openvino.CompiledModel, batches: int) -> None:
        self.request, self.batches = compiled.create_infer_request(), batches
        self.cached: Sequence[int] | None = None
        self.states: list[NDArray[np.float32]] = []

    def forget(self) -> None:
        self.cached = None

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        prefix, candidates = request["prefix"], request["candidates"]
        groups = batches(candidates, self.batches)
        if self.cached == prefix:
            self._return_to_prefix()
        else:
            self.request.reset_state()
            self._infer(np.array([prefix], np.int64), np.zeros(1, np.int64), 0)
            if request["cached"] or len(groups) > 1:  # a batch widens the state, so returning to the prefix takes a copy
                self.states = [np.array(variable.state.data) for variable in self.request.query_state()]
                self.cached = prefix
        log_odds = np.zeros(len(candidates))
        for n, group in enumerate(groups):
            if n > 0:
                self._return_to_prefix()
            last = self._infer(*padded([candidates[i] for i in group]), len(prefix))[:, -1]
            log_odds[group] = last[:, request["yes"]] - last[:, request["no"]]
        return log_odds.tolist()

    def _return_to_prefix(self) -> None:
        for variable, value in zip(self.request.query_state(), self.states, strict=True):
            variable.state = openvino.Tensor(value)

    def _infer(self, tokens: NDArray[np.int64], padding: NDArray[np.int64], past: int) -> NDArray[np.float32]:
        """Logits [B, 1, V] of the last of tokens [B, T] behind `past` others; each row continues the state's row 0.

        padding: how many tokens at the start of each row are padding, [B].
        """
        count, length = tokens.shape
        place = np.arange(length) - padding[:, None]
        self.request.infer(
            {
                "input_ids": tokens,
                "attention_mask": np.concatenate([np.ones((count, past), np.int64), (place >= 0).astype(np.int64)], axis=1),
                "position_ids": past + np.maximum(place, 0),
                "beam_idx": np.zeros(count, np.int32),
            },
            share_inputs=True,
        )
        logits: NDArray[np.float32] = self.request.get_tensor("logits").data
        return logits


def batches(candidates: Sequence[Sequence[int]], limit: int) -> list[NDArray[np.int64]]:
    """Returns at most `limit` batches of about equal size, candidates of similar length together; one if all are as long."""
    lengths = np.array([len(tokens) for tokens in candidates])
    return np.array_split(np.argsort(lengths, kind="stable"), min(limit, len(set(lengths.tolist()))))


def padded(candidates: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens [B, T], shorter candidates padded in front, so that all end with their last token; and the padding of each, [B]."""
    longest = max(map(len, candidates))
    padding = np.array([longest - len(tokens) for tokens in candidates])
    return np.array([[0] * n + list(tokens) for n, tokens in zip(padding.tolist(), candidates, strict=True)]), padding


def keep_last_token(model: openvino.Model) -> None:
    """Slices the hidden state to its last token before the LM head, which otherwise computes logits of every token."""
    head = model.output("logits").node.input_value(0).node
    assert head.get_type_name() == "MatMul", f"the logits come from {head.get_type_name()}; expected MatMul"
    begin, end, step, axis = (opset15.constant(np.array([value], np.int64)) for value in (-1, np.iinfo(np.int64).max, 1, 1))
    last = opset15.slice(head.input_value(0), begin, end, step, axis)
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Stateful], dict[str, Any]]:
    core = openvino.Core()
    model = core.read_model(f"{setup['model']}/openvino_model.xml")
    keep_last_token(model)
    usual = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(setup["threads"])}
    compiled = {name: core.compile_model(model, "CPU", usual | properties) for name, properties in setup["ways"].items()}
    ways = {f"{name}, at most {n} batches": Stateful(each, n) for name, each in compiled.items() for n in setup["batches"]}
    return ways, {"openvino": openvino.__version__}


if __name__ == "__main__":
    serve(load)
