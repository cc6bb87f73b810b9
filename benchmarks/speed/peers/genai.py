"""onnxruntime-genai. It is made to generate; here it stops at the logits of the prompt's last token.

one_by_one      a generator for each candidate's whole prompt
rewound         one generator: the prefix once, then one candidate after another, rewound to the prefix after each. It can only
                rewind a batch of one, so candidates cannot share a pass; nor does its attention take a batch behind a prefix
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime_genai
from protocol import NoCache, serve


class OneByOne(NoCache):
    def __init__(self, model: Any, params: Any) -> None:
        self.model, self.params = model, params

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        answers = []
        for candidate in request["candidates"]:
            generator = onnxruntime_genai.Generator(self.model, self.params)
            generator.append_tokens(np.array(request["prefix"] + candidate, np.int32))
            answers.append(log_odds(generator, request))
        return answers


class Rewound:
    def __init__(self, model: Any, params: Any) -> None:
        self.model, self.params = model, params
        self.cached: Sequence[int] | None = None
        self.generator: Any = None

    def forget(self) -> None:
        self.cached = self.generator = None

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        if self.cached != request["prefix"]:
            self.generator = onnxruntime_genai.Generator(self.model, self.params)
            self.generator.append_tokens(np.array(request["prefix"], np.int32))
            self.cached = request["prefix"]
        answers = []
        for candidate in request["candidates"]:
            self.generator.append_tokens(np.array(candidate, np.int32))
            answers.append(log_odds(self.generator, request))
            self.generator.rewind_to(len(request["prefix"]))
        return answers


def log_odds(generator: Any, request: Mapping[str, Any]) -> float:
    logits = generator.get_logits()
    last = logits.reshape(-1, logits.shape[-1])[-1]
    return float(last[request["yes"]] - last[request["no"]])


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    config = onnxruntime_genai.Config(setup["genai"])
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {setup["threads"]}}}}}}}}}')
    model = onnxruntime_genai.Model(config)
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=setup["max_length"], do_sample=False)
    ways: dict[str, Callable[[], Any]] = {
        "one_by_one": lambda: OneByOne(model, params),
        "rewound": lambda: Rewound(model, params),
    }
    return {name: ways[name]() for name in setup["ways"]}, {"onnxruntime-genai": onnxruntime_genai.__version__}


if __name__ == "__main__":
    serve(load)
