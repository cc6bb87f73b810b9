"""PyTorch with transformers, float32, eager or compiled; logits of the last tokens only.

one_by_one      each candidate's whole prompt alone
padded_batch    all of them in one batch; prompts of equal length need no padding here, so this is its best case
shared_prefix   the prefix once, its cache repeated for a batch of candidates
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from protocol import NoCache, serve
from torch import Tensor
from transformers import AutoModelForCausalLM


def log_odds(logits: Tensor, request: Mapping[str, Any]) -> list[float]:
    last = logits[:, -1]
    return (last[:, request["yes"]] - last[:, request["no"]]).tolist()


class Whole(NoCache):
    """Whole prompts, in batches of at most `batch`."""

    def __init__(self, model: Any, batch: int) -> None:
        self.model, self.batch = model, batch

    @torch.inference_mode()
    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        prompts = torch.tensor([request["prefix"] + candidate for candidate in request["candidates"]])
        parts = [self.model(input_ids=part, use_cache=False, logits_to_keep=1).logits for part in prompts.split(self.batch)]
        return log_odds(torch.cat(parts), request)


class SharedPrefix:
    """Computes the prefix's keys and values once and repeats them."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cached: Sequence[int] | None = None
        self.values: Any = None

    def forget(self) -> None:
        self.cached = self.values = None

    @torch.inference_mode()
    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        if self.cached != request["prefix"]:
            prefix = torch.tensor([request["prefix"]])
            self.values = self.model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
            self.cached = request["prefix"]
        candidates = torch.tensor(request["candidates"])
        repeated = copy.deepcopy(self.values)  # a forward pass appends to it
        repeated.batch_repeat_interleave(len(candidates))
        return log_odds(self.model(input_ids=candidates, past_key_values=repeated, logits_to_keep=1).logits, request)


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    torch.set_num_threads(setup["threads"])
    model = AutoModelForCausalLM.from_pretrained(setup["checkpoint"], dtype=torch.float32).eval()
    compiled = torch.compile(model)
    ways = {
        "one_by_one": Whole(model, 1),
        "padded_batch": Whole(model, setup["batch"]),
        "shared_prefix": SharedPrefix(model),
        "compiled_one_by_one": Whole(compiled, 1),
        "compiled_padded_batch": Whole(compiled, setup["batch"]),
    }
    return ways, {"torch": torch.__version__, "transformers": transformers.__version__}


if __name__ == "__main__":
    serve(load)
