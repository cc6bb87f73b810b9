"""CTranslate2, int8: the prefix as a static prompt, all candidates as one batch behind it, one generated token's logits.

It keeps every static prompt for good, so a cold request has to bring a prefix that was never asked before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from protocol import KeepsPrefixes, serve


class StaticPrompt(KeepsPrefixes):
    def __init__(self, generator: ctranslate2.Generator, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.generator, self.vocabulary = generator, vocabulary

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        self.refuse_known_prefix(request)
        results = self.generator.generate_batch(
            [self._tokens(candidate) for candidate in request["candidates"]],
            static_prompt=self._tokens(request["prefix"]),
            cache_static_prompt=True,
            max_length=1,
            include_prompt_in_result=False,
            return_logits_vocab=True,
        )
        logits = [np.asarray(result.logits[0][0]) for result in results]
        return [float(row[request["yes"]] - row[request["no"]]) for row in logits]

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        return [self.vocabulary[n] for n in ids]


def load(setup: Mapping[str, Any]) -> tuple[dict[str, StaticPrompt], dict[str, Any]]:
    vocabulary = json.loads((Path(setup["model"]) / "vocabulary.json").read_text())
    generator = ctranslate2.Generator(setup["model"], compute_type="int8", inter_threads=1, intra_threads=setup["threads"])
    return {"static_prompt": StaticPrompt(generator, vocabulary)}, {"ctranslate2": ctranslate2.__version__}


if __name__ == "__main__":
    serve(load)
