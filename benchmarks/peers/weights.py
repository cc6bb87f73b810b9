"""One set of weights in every peer's format: SmolLM2-135M-Instruct, starting from a 4-bit GGUF file.

    weights.py SOURCE.gguf OUT STEP...

    OUT/checkpoint/    Hugging Face, float32: the source's weights dequantized. rexit, PyTorch and the two exports start from it
    OUT/q8_0.gguf      the same values turned from float32 into 8-bit blocks, as `llama-quantize` does; OUT/bf16.gguf likewise
    OUT/onnx/          exported by optimum without a cache, and OUT/onnx-past/ with one
    OUT/genai/         built by onnxruntime-genai's model builder

A STEP is one of these names, without the slash. What exists is kept. peers.sh says which environment runs which step.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def checkpoint(source: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(out)


def requantized(source: Path, out: Path, kind: str) -> None:
    """Every matrix of the source as `kind`, the rest unchanged."""
    import gguf

    to = gguf.GGMLQuantizationType[kind]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, str(_value(reader.fields["general.architecture"])))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kinds = field.types
        writer.add_key_value(name, _value(field), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in tensor.shape[::-1]])
        if values.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, to), raw_dtype=to)
        else:
            writer.add_tensor(tensor.name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _value(field: Any) -> Any:
    return field.contents()


def exported(checkpoint: Path, out: Path, task: str) -> None:
    """Exports with optimum, without its own comparison with PyTorch: slate.py compares everyone's log-odds."""
    from optimum.exporters.onnx import main_export

    main_export(str(checkpoint), output=out, task=task, do_validation=False, monolith=False)


def built(checkpoint: Path, out: Path) -> None:
    order = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-o", str(out)]
    subprocess.run([*order, "-p", "fp32", "-e", "cpu", "-c", str(out / "cache")], check=True)


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    steps: dict[str, Callable[[Path], None]] = {
        "checkpoint": lambda to: checkpoint(source, to),
        "q8_0.gguf": lambda to: requantized(source, to, "Q8_0"),
        "bf16.gguf": lambda to: requantized(source, to, "BF16"),
        "onnx": lambda to: exported(out / "checkpoint", to, "text-generation"),
        "onnx-past": lambda to: exported(out / "checkpoint", to, "text-generation-with-past"),
        "genai": lambda to: built(out / "checkpoint", to),
    }
    for name in sys.argv[3:]:
        if not (out / name).exists():
            print(f"making {out / name}", file=sys.stderr, flush=True)
            unfinished = out / f"unfinished-{name}"
            steps[name](unfinished)
            unfinished.rename(out / name)


if __name__ == "__main__":
    main()
