"""Damaged bundles for the C++ tests: `python -m damage bundles|engines FOLDER`, in tests/.

Writes FOLDER/NAME/bundle and FOLDER/NAME/expected for each case. Bundles need only numpy, onnx, onnx_ir and safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1] == "bundles":
        from damage.bundles import write_bundles

        write_bundles(Path(sys.argv[2]))
    else:
        from damage.engines import write_engines

        write_engines(Path(sys.argv[2]))
