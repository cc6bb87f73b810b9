"""Where ONNX Runtime's shared library is."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def onnxruntime_library() -> str:
    """Path of the library, "" when the C++ side should look for it itself.

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
