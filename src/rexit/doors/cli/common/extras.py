"""Which of rexit's extras brings a module that the base install lacks."""

from __future__ import annotations

_EXTRAS = {
    "jinja2": "calibrate",
    "matplotlib": "calibrate",
    "polars": "calibrate",
    "pyarrow": "batch",
    "scipy": "calibrate",
    "faiss": "export",
    "sklearn": "export",
    "ml_dtypes": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "tokenizers": "export",
    "accelerate": "train",
    "gguf": "train",
    "peft": "train",
    "torch": "export",
    "torch_geometric": "export",
    "transformers": "export",
    "fastapi": "serve",
    "prometheus_client": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "onnx": "tensorrt",  # all that `rexit compile` lacks on a device; the extra `export` has it too
}


def missing(exc: ModuleNotFoundError) -> str | None:
    """The line for a module that an extra would bring; None for any other, whose absence is a broken installation."""
    module = (exc.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        return None
    return f"this needs the Python package `{module}`, which the base install leaves out: pip install 'rexit[{extra}]'"
