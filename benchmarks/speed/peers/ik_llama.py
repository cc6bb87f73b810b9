"""ik_llama.cpp through its C API (sequences.py), weights repacked at load time as its `-rtr` does."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from ik_llama_cpp import _ctypes_api as api
from protocol import serve
from sequences import Context, configurations

LIBRARY: Any = api._lib
"""The package binds neither of these: it scores one sequence at a time."""
LIBRARY.llama_kv_cache_seq_rm.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 3]
LIBRARY.llama_kv_cache_seq_rm.restype = ctypes.c_bool
LIBRARY.llama_kv_cache_seq_cp.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 4]
LIBRARY.llama_kv_cache_seq_cp.restype = None
LIBRARY.llama_print_system_info.argtypes = []
LIBRARY.llama_print_system_info.restype = ctypes.c_char_p


class IkContext(Context):
    def configure(self, params: Any, flash: bool) -> None:
        params.flash_attn = flash

    def clear(self) -> None:
        self.api.llama_kv_cache_clear(self.context)

    def truncate(self, length: int) -> None:
        LIBRARY.llama_kv_cache_seq_rm(self.context, -1, length, -1)

    def share_prefix(self, sequence: int) -> None:
        LIBRARY.llama_kv_cache_seq_cp(self.context, 0, sequence, -1, -1)


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Context], dict[str, Any]]:
    api.llama_backend_init()
    params = api.llama_model_default_params()
    params.use_mmap = False  # repacking writes to the weights
    params.repack_tensors = True
    model = api.llama_model_load_from_file(setup["gguf"].encode(), params)
    assert model, f"{setup['gguf']}: ik_llama.cpp cannot load it"
    features = LIBRARY.llama_print_system_info().decode()
    ways = configurations(IkContext, api, model, setup)
    return ways, {"ik-llama-cpp-python": version("ik-llama-cpp-python"), "features": features}


if __name__ == "__main__":
    serve(load)
