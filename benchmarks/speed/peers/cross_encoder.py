"""sentence-transformers' CrossEncoder on texts: PyTorch, ONNX Runtime or OpenVINO, pairs sorted by length and padded by batch.

A quantized model is made in `setup["file"]`'s place if it is not there, by sentence-transformers' own functions: ONNX Runtime's
dynamic int8, which fastembed and FlashRank ship, and OpenVINO's static int8, whose activations have scales from `setup["pairs"]`,
a folder with pairs of the training split. OpenVINO's 8-bit weights, with activations in floating point, are optimum-intel's.
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
        {"onnx": dynamic_int8, "openvino": static_int8 if "pairs" in setup else int8_weights}[backend](folder, setup)
    if "file" in setup:
        options["file_name"] = setup["file"]
    return CrossEncoder(str(folder), device="cpu", backend=backend, model_kwargs=options)


def dynamic_int8(folder: Path, setup: Mapping[str, Any]) -> None:
    model = CrossEncoder(str(folder), device="cpu", backend="onnx")
    sentence_transformers.export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))


def static_int8(folder: Path, setup: Mapping[str, Any]) -> None:
    """The data set is a folder with `train.jsonl`, whose rows have `pair`: a query and a document."""
    model = CrossEncoder(str(folder), device="cpu", backend="openvino")
    sentence_transformers.export_static_quantized_openvino_model(
        model,
        None,
        str(folder),
        dataset_name=setup["pairs"],
        dataset_config_name="default",
        dataset_split="train",
        column_name="pair",
    )


def int8_weights(folder: Path, setup: Mapping[str, Any]) -> None:
    from optimum.intel import OVModelForSequenceClassification, OVWeightQuantizationConfig

    config = OVWeightQuantizationConfig(bits=8)
    model = OVModelForSequenceClassification.from_pretrained(folder, export=True, quantization_config=config)
    model.save_pretrained(folder / "weights")
    for path in (folder / "weights").glob("openvino_model.*"):
        path.rename(folder / f"openvino_model_int8_weights{path.suffix}")


def load(setup: Mapping[str, Any]) -> tuple[dict[str, Batches], dict[str, Any]]:
    torch.set_num_threads(setup["threads"])
    model = loaded(setup)
    return {f"batch {size}": Batches(model, size) for size in BATCHES}, {
        "sentence-transformers": sentence_transformers.__version__
    }


if __name__ == "__main__":
    serve(load)
