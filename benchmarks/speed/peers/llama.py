"""llama.cpp through its C API (sequences.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import llama_cpp
from protocol import serve
from sequences import Context, configurations


class LlamaContext(Context):
    def configure(self, params: Any, flash: bool) -> None:
        params.flash_attn_type = 1 if flash else 0
        params.kv_unified = True  # else each sequence has a cache of its own, and copying the prefix copies its cells
        params.no_perf = True

    @property
    def memory(self) -> Any:
        return llama_cpp.llama_get_memory(self.context)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, False)

    def truncate(self, length: int) -> None:
        llama_cpp.llama_memory_seq_rm(self.memory, -1, length, -1)

    def share_prefix(self, sequence: int) -> None:
        llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Context], dict[str, Any]]:
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_mmap = False  # weights may then be repacked for this CPU
    model = llama_cpp.llama_model_load_from_file(setup["gguf"].encode(), params)
    assert model, f"{setup['gguf']}: llama.cpp cannot load it"
    features = llama_cpp.llama_print_system_info().decode()
    ways = configurations(LlamaContext, llama_cpp, model, setup)
    return ways, {"llama-cpp-python": llama_cpp.__version__, "features": features}


if __name__ == "__main__":
    serve(load)
