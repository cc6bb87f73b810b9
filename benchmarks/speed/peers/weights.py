"""One set of weights in every peer's format: SmolLM2-135M-Instruct, starting from a 4-bit GGUF file.

    weights.py SOURCE.gguf OUT STEP... [--tuned CHECKPOINT]

    OUT/checkpoint/    Hugging Face, float32: the source's weights dequantized. rexit, PyTorch and the two exports start from it
    OUT/q8_0.gguf      the same values turned from float32 into 8-bit blocks, as `llama-quantize` does; OUT/bf16.gguf and
                       OUT/f32.gguf likewise
    OUT/q4_0.gguf      made of OUT/f32.gguf by llama.cpp, the LM head in 6 bits, as is its default; OUT/q4_k.gguf is its Q4_K_M
    OUT/onnx/          exported by optimum without a cache, and OUT/onnx-past/ with one
    OUT/genai/         built by onnxruntime-genai's model builder; OUT/genai-int4/ with 4-bit weights in blocks of 32, 8-bit
                       activations
    OUT/openvino-int8/ exported by optimum-intel with 8-bit weights, one scale per output channel; OUT/openvino-fp32/ without
    OUT/ctranslate2-int8/  converted by CTranslate2

A STEP is one of these names, without the slash. What exists is kept. peers.sh says which environment runs which step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
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


def requantized(source: Path, out: Path, kind: str, tuned: Mapping[str, Any] | None = None) -> None:
    """Every matrix of the source as `kind`, the rest unchanged. tuned: float32 tensors that replace the source's, by name."""
    import gguf

    to = gguf.GGMLQuantizationType[kind]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, str(_value(reader.fields["general.architecture"])))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kinds = field.types
        writer.add_key_value(name, _value(field), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    tensors = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape([int(n) for n in tensor.shape[::-1]])
        for tensor in reader.tensors
    }
    for name, values in (tensors | dict(tuned or {})).items():
        if values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, to), raw_dtype=to)
        else:
            writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fine_tuned(checkpoint: Path) -> dict[str, Any]:
    """The weights of a multi-exit checkpoint under GGUF's names. The last exit's norm and head take the place of the
    model's own: the label rows of an LM head of its own are the head's. A head's bias, one number for all log-odds, is left out.
    """
    import gguf
    from safetensors.numpy import load_file

    config, exits = (json.loads((checkpoint / name).read_text()) for name in ("config.json", "exits.json"))
    layers, last = config["num_hidden_layers"], len(exits["exits"]) - 1
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    weights_by_name = {}
    for name, values in load_file(checkpoint / "model.safetensors").items():
        if name == "lm_head.weight":
            continue
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers halves
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        weights_by_name[str(names.get_name(name, try_suffixes=(".weight",)))] = np.ascontiguousarray(values, np.float32)
    own = load_file(checkpoint / "exit_heads.safetensors")
    weights_by_name["output_norm.weight"] = own[f"exit.{last}.norm.weight"]
    weights_by_name["output.weight"] = weights_by_name["token_embd.weight"].copy()
    weights_by_name["output.weight"][[exits["labels"]["no"], exits["labels"]["yes"]]] = own[f"exit.{last}.weight"]
    return weights_by_name


def _value(field: Any) -> Any:
    return field.contents()


def exported(checkpoint: Path, out: Path, task: str) -> None:
    """Exports with optimum, without its own comparison with PyTorch: slate.py compares everyone's log-odds."""
    from optimum.exporters.onnx import main_export

    main_export(str(checkpoint), output=out, task=task, do_validation=False, monolith=False)


def built(checkpoint: Path, out: Path, precision: str, *options: str) -> None:
    """By onnxruntime-genai. options: `name=value` of its builder."""
    order = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(out), "-p", precision]
    extra = ["--extra_options", *options] if options else []
    subprocess.run([*order, "-e", "cpu", "-c", str(out / "cache"), *extra], check=True)


def requantized_by_llama(source: Path, out: Path, kind: str) -> None:
    """With llama.cpp's own code, which chooses the LM head's precision and falls back where a row is not a multiple of 256."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params)
    assert status == 0, f"llama_model_quantize: {status}"


def for_openvino(checkpoint: Path, out: Path, bits: int | None) -> None:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    weights = {"quantization_config": OVWeightQuantizationConfig(bits=bits, sym=True)} if bits else {"load_in_8bit": False}
    OVModelForCausalLM.from_pretrained(checkpoint, export=True, compile=False, **weights).save_pretrained(out)


def for_ctranslate2(checkpoint: Path, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(checkpoint)).convert(str(out), quantization="int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("steps", nargs="+")
    parser.add_argument("--tuned", type=Path, help="a multi-exit checkpoint of the same shape, whose weights the GGUF files get")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plain, tuned = args.out / "checkpoint", args.tuned and fine_tuned(args.tuned)
    steps: dict[str, Callable[[Path], None]] = {
        "checkpoint": lambda to: checkpoint(args.source, to),
        "q8_0.gguf": lambda to: requantized(args.source, to, "Q8_0", tuned),
        "bf16.gguf": lambda to: requantized(args.source, to, "BF16", tuned),
        "f32.gguf": lambda to: requantized(args.source, to, "F32", tuned),
        "q4_0.gguf": lambda to: requantized_by_llama(args.out / "f32.gguf", to, "Q4_0"),
        "q4_k.gguf": lambda to: requantized_by_llama(args.out / "f32.gguf", to, "Q4_K_M"),
        "onnx": lambda to: exported(plain, to, "text-generation"),
        "onnx-past": lambda to: exported(plain, to, "text-generation-with-past"),
        "genai": lambda to: built(plain, to, "fp32"),
        "genai-int4": lambda to: built(plain, to, "int4", "int4_accuracy_level=4", "int4_block_size=32", "prune_lm_head=true"),
        "openvino-int8": lambda to: for_openvino(plain, to, 8),
        "openvino-fp32": lambda to: for_openvino(plain, to, None),
        "ctranslate2-int8": lambda to: for_ctranslate2(plain, to),
    }
    for name in args.steps:
        if not (args.out / name).exists():
            print(f"making {args.out / name}", file=sys.stderr, flush=True)
            unfinished = args.out / f"unfinished-{name}"
            steps[name](unfinished)
            unfinished.rename(args.out / name)


if __name__ == "__main__":
    main()
