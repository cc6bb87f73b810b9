"""One set of weights in every peer's format: SmolLM2-135M-Instruct, starting from a 4-bit GGUF file.

    weights.py SOURCE.gguf OUT STEP... [--tuned CHECKPOINT]

    OUT/checkpoint/    Hugging Face, float32: the source's weights dequantized. rexit, PyTorch and the two exports start from it
    OUT/q8_0.gguf      the checkpoint's values turned from float32 into 8-bit blocks, as `llama-quantize` does; OUT/bf16.gguf
                       and OUT/f32.gguf likewise
    OUT/q4_0.gguf      made of OUT/f32.gguf by llama.cpp, the LM head in 6 bits, as is its default; OUT/q4_k.gguf is its Q4_K_M
    OUT/onnx/          exported by optimum without a cache, and OUT/onnx-past/ with one
    OUT/genai/         built by onnxruntime-genai's model builder; OUT/genai-int4/ with 4-bit weights in blocks of 32, 8-bit
                       activations
    OUT/openvino-int8/ exported by optimum-intel with 8-bit weights, one scale per output channel; OUT/openvino-fp32/ without
    OUT/ctranslate2-int8/  converted by CTranslate2

A STEP is one of these names, without the slash; all but the first start from OUT/checkpoint. What exists is kept. peers.sh says
which environment runs which step.
"""

from __future__ import annotations

import argparse
import json
import shutil
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


def with_its_head(tuned: Path, out: Path) -> None:
    """A multi-exit checkpoint as a plain one: the last exit's norm is the model's, its head the label rows of the LM head. A
    head's bias, one number for all log-odds, is left out."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    exits = json.loads((tuned / "exits.json").read_text())
    own, last = load_file(tuned / "exit_heads.safetensors"), len(exits["exits"]) - 1
    config = AutoConfig.from_pretrained(tuned)
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {name: value.float() for name, value in load_file(tuned / "model.safetensors").items()}
    weights["model.norm.weight"] = own[f"exit.{last}.norm.weight"].float()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["lm_head.weight"][[exits["labels"]["no"], exits["labels"]["yes"]]] = own[f"exit.{last}.weight"].float()
    model.load_state_dict(weights)
    model.save_pretrained(out)
    for path in tuned.glob("tokenizer*"):
        shutil.copy(path, out)


def requantized(source: Path, checkpoint: Path, out: Path, kind: str) -> None:
    """Every matrix of the checkpoint as `kind`, the rest in float32; what describes the model is the source's, but for the number
    of layers."""
    import gguf

    to = gguf.GGMLQuantizationType[kind]
    weights, layers = in_gguf(checkpoint)
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", f"{architecture}.block_count"):
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)
    writer.add_block_count(layers)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    for name, values in weights.items():
        if values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, to), raw_dtype=to)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_gguf(checkpoint: Path) -> tuple[dict[str, Any], int]:
    """A checkpoint's weights in float32 under GGUF's names, and its number of layers."""
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text())
    layers = config["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    weights = {}
    for name, values in load_file(checkpoint / "model.safetensors").items():
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates neighbours, transformers halves
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        weights[str(names.get_name(name, try_suffixes=(".weight",)))] = np.ascontiguousarray(values, np.float32)
    return weights, layers


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
    parser.add_argument("--tuned", type=Path, help="a multi-exit checkpoint: OUT/checkpoint is its full depth, not the source")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plain = args.out / "checkpoint"
    steps: dict[str, Callable[[Path], None]] = {
        "checkpoint": lambda to: with_its_head(args.tuned, to) if args.tuned else checkpoint(args.source, to),
        "q8_0.gguf": lambda to: requantized(args.source, plain, to, "Q8_0"),
        "bf16.gguf": lambda to: requantized(args.source, plain, to, "BF16"),
        "f32.gguf": lambda to: requantized(args.source, plain, to, "F32"),
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
