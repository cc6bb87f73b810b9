"""sentence-transformers' CrossEncoder on texts: PyTorch, ONNX Runtime or OpenVINO, pairs sorted by length and padded by batch.

A quantized model is made in `setup["file"]`'s place if it is not there: in ONNX Runtime's dynamic int8, which fastembed and
FlashRank ship, or in OpenVINO's int8 weights with activations quantized at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
from protocol import NoCache, serve
from sentence_transformers import CrossEncoder

BATCHES = (8, 32, 100)


class Batches(NoCache):
    def __init__(self, model: CrossEncoder, size: int) -> None:
        self.model, self.size = model, size

    def score(self, request: Mapping[str, Any]) -> Sequence[float]:
        pairs = [(request["query"], document) for document in request["candidates"]]
        scores: list[float] = self.model.predict(
            pairs, batch_size=self.size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        ).tolist()
        return scores


def loaded(setup: Mapping[str, Any]) -> CrossEncoder:
    folder, backend, threads = Path(setup["model"]), setup["backend"], setup["threads"]
    options: dict[str, Any] = {}
    if backend == "onnx":
        import onnxruntime

        options["session_options"] = onnxruntime.SessionOptions()
        options["session_options"].intra_op_num_threads = threads
        options["provider"] = "CPUExecutionProvider"
    if backend == "openvino":
        options["ov_config"] = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}
    if "file" in setup and not list(folder.rglob(setup["file"])):
        quantize(folder, backend)
    if "file" in setup:
        options["file_name"] = setup["file"]
    return CrossEncoder(str(folder), device="cpu", backend=backend, model_kwargs=options)


def quantize(folder: Path, backend: str) -> None:
    if backend == "onnx":
        model = CrossEncoder(str(folder), device="cpu", backend="onnx")
        sentence_transformers.export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
    else:
        from optimum.intel import OVModelForSequenceClassification, OVWeightQuantizationConfig

        config = OVWeightQuantizationConfig(bits=8)
        model = OVModelForSequenceClassification.from_pretrained(folder, export=True, quantization_config=config)
        model.save_pretrained(folder / "int8")
        for path in (folder / "int8").glob("openvino_model.*"):
            path.rename(folder / f"openvino_model_int8{path.suffix}")


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Batches], dict[str, Any]]:
    torch.set_num_threads(setup["threads"])
    model = loaded(setup)
    return {f"batch {size}": Batches(model, size) for size in BATCHES}, {
        "sentence-transformers": sentence_transformers.__version__
    }


if __name__ == "__main__":
    serve(load)
