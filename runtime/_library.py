"""Which ONNX Runtime is loaded: where its shared library is, and its version."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path


def onnxruntime_library() -> str:
    """Path of the ONNX Runtime library; "" if the C++ side should look for it itself.

    1. `$REXIT_ONNXRUNTIME_LIBRARY`, which the C++ side reads.
    2. The `onnxruntime` wheel's, found without importing it.
    3. The system's.
    """
    if os.environ.get("REXIT_ONNXRUNTIME_LIBRARY"):
        return ""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder, "capi").glob("libonnxruntime.so*")):
            return str(path)
    return ""


class _ApiBase(ctypes.Structure):
    """`OrtApiBase`, the one struct of ONNX Runtime that never changes."""

    _fields_ = [("get_api", ctypes.c_void_p), ("get_version", ctypes.CFUNCTYPE(ctypes.c_char_p))]


def onnxruntime_version() -> str | None:
    """Version of the library that the C++ side loads if none is named, as the library itself reports it; None if it cannot be
    loaded."""
    path = onnxruntime_library() or os.environ.get("REXIT_ONNXRUNTIME_LIBRARY")
    for name in [path] if path else ["libonnxruntime.so.1", "libonnxruntime.so"]:
        try:
            get_base = ctypes.CDLL(name).OrtGetApiBase
        except (OSError, AttributeError):  # no such library; a library, but another one
            continue
        get_base.restype = ctypes.POINTER(_ApiBase)
        version: bytes = get_base().contents.get_version()
        return version.decode()
    return None
