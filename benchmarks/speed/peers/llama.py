"""llama.cpp through its C API: all sequences share the cells of the prefix; logits of each candidate's last token only.

One context for every configuration: n_ubatch, flash attention, and whether prefix and candidates go into one call or two.
slate.py times them all and keeps the fastest. What a prefix begins with as the last one did is not computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray
from protocol import serve


class Context:
    """A context over the shared model; sequence 0 is the prefix."""

    def __init__(self, model: Any, setup: Mapping[str, Any], ubatch: int, flash: bool, one_call: bool) -> None:
        self.one_call = one_call
        self.cached: Sequence[int] | None = None
        params: Any = llama_cpp.llama_context_default_params()
        params.n_ctx = setup["max_tokens"]
        params.n_batch, params.n_ubatch = setup["max_tokens"], ubatch
        params.n_seq_max = setup["max_candidates"] + 1
        params.n_threads = params.n_threads_batch = setup["threads"]
        params.flash_attn_type = 1 if flash else 0
        params.kv_unified = True  # else each sequence has a cache of its own, and copying the prefix copies its cells
        params.no_perf = True
        self.context: Any = llama_cpp.llama_init_from_model(model, params)
        assert self.context, "the library created no context"
        self.memory: Any = llama_cpp.llama_get_memory(self.context)
        self.batch: Any = llama_cpp.llama_batch_init(setup["max_tokens"], 0, setup["max_candidates"] + 1)
        # Views of the batch's C arrays: filling them through ctypes, element by element, would cost milliseconds.
        view, shape = np.ctypeslib.as_array, (setup["max_tokens"],)
        self.token, self.position, self.wanted, self.count = (
            view(array, shape) for array in (self.batch.token, self.batch.pos, self.batch.logits, self.batch.n_seq_id)
        )
        self.sequences = [view(self.batch.seq_id[n], (setup["max_candidates"] + 1,)) for n in range(setup["max_tokens"])]

    def forget(self) -> None:
        self.cached = None
        llama_cpp.llama_memory_clear(self.memory, False)

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        prefix, candidates = request["prefix"], request["candidates"]
        everyone = np.arange(len(candidates) + 1)
        self.batch.n_tokens = 0
        known = common(self.cached or (), prefix)
        if known == 0:
            self.forget()
        else:
            llama_cpp.llama_memory_seq_rm(self.memory, -1, known, -1)
            self._share(everyone)
        if known < len(prefix):
            self._add(prefix[known:], known, everyone if self.one_call else everyone[:1])
            if not self.one_call:
                self._decode()
                self._share(everyone)
        self.cached = prefix
        rows = []
        for sequence, candidate in enumerate(candidates, start=1):
            self._add(candidate, len(prefix), everyone[sequence : sequence + 1])
            rows.append(self.batch.n_tokens - 1)
        self.wanted[rows] = 1
        self._decode()
        logits: list[Any] = [llama_cpp.llama_get_logits_ith(self.context, row) for row in rows]
        return [row[request["yes"]] - row[request["no"]] for row in logits]

    def _share(self, everyone: NDArray[np.int64]) -> None:
        for sequence in everyone[1:].tolist():
            llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def _add(self, tokens: Sequence[int], position: int, sequences: NDArray[np.int64]) -> None:
        begin = self.batch.n_tokens
        part = slice(begin, begin + len(tokens))
        self.token[part], self.position[part] = tokens, np.arange(position, position + len(tokens))
        self.wanted[part], self.count[part] = 0, len(sequences)
        for row in self.sequences[part]:
            row[: len(sequences)] = sequences
        self.batch.n_tokens = part.stop

    def _decode(self) -> None:
        status = llama_cpp.llama_decode(self.context, self.batch)
        assert status == 0, f"llama_decode: {status}"
        self.batch.n_tokens = 0


def common(cached_tokens: Sequence[int], prefix: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (n for n, (a, b) in enumerate(zip(cached_tokens, prefix, strict=False)) if a != b), min(len(cached_tokens), len(prefix))
    )


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Context], dict[str, Any]]:
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_mmap = False  # weights may then be repacked for this CPU
    model = llama_cpp.llama_model_load_from_file(setup["gguf"].encode(), params)
    assert model, f"{setup['gguf']}: llama.cpp cannot load it"
    features = llama_cpp.llama_print_system_info().decode()
    ways = {
        f"ubatch {ubatch}, flash attention {'on' if flash else 'off'}, {calls} call{'s' if calls > 1 else ''}": Context(
            model, setup, ubatch, flash, calls == 1
        )
        for ubatch in setup["ubatch"]
        for flash in (False, True)
        for calls in (1, 2)
    }
    return ways, {"llama-cpp-python": llama_cpp.__version__, "features": features}


if __name__ == "__main__":
    serve(load)
