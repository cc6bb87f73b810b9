"""Peers as processes: how each is started, and what it is asked (peers/protocol.py)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OPENVINO = {"KV_CACHE_PRECISION": "f32"}
OPENVINO_INT8 = {
    f"groups of {group}{note}": {**OPENVINO, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group), **properties}
    for group in (32, 64, 128)
    for note, properties in (("", {"INFERENCE_PRECISION_HINT": "f32"}), (", bfloat16", {"INFERENCE_PRECISION_HINT": "bf16"}))
} | {"defaults": {}}
OPENVINO_BF16 = {
    "keys and values in float32": {**OPENVINO, "INFERENCE_PRECISION_HINT": "bf16"},
    "keys and values in bfloat16": {"KV_CACHE_PRECISION": "bf16", "INFERENCE_PRECISION_HINT": "bf16"},
}
"""Configurations of OpenVINO: the groups of activations that share a scale, and the precision of keys, values and all else."""

Plan = tuple[Path, str, dict[str, Any]]
"""A peer's Python, its script, and what it needs to load its model."""


class PeerEnded(SystemExit):
    """A peer's process ended. The message names the script and its last words."""


class Peer:
    """A child process that scores (peers/protocol.py)."""

    def __init__(self, python: Path, script: str, setup: Mapping[str, Any], log: Path) -> None:
        self.script = script
        with open(log, "w") as errors:
            command = [str(python), str(HERE / "peers" / script)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.log = log
        ready = self._tell(setup)
        self.ways: list[str] = ready["ways"]
        self.about: dict[str, Any] = ready["about"]

    def _tell(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            last = (self.log.read_text().strip().splitlines() or ["no message"])[-1]
            raise PeerEnded(f"slate.py: {self.script} ended: {last} (see {self.log})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, way: str, request: Mapping[str, Any], cached: bool) -> tuple[float, list[float]]:
        """Milliseconds and log-odds."""
        answer = self._tell({"way": way, "requests": [request], "cached": cached})
        return answer["milliseconds"][0], answer["log_odds"][0]

    def close(self) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def peer_plans(peers: Path, model: Path, max_candidates: int, max_tokens: int, batches: Sequence[int] = (1,)) -> dict[str, Plan]:
    """Returns how every peer is started.

    Args:
        peers: the folder of peers.sh.
        model: the folder of its models.
        max_candidates, max_tokens: the most of a slate.
        batches: into how many batches a peer that pads candidates to one length may divide a slate.
    """
    python = {name: peers / name / "bin/python" for name in ("optimum", "openvino", "llama", "ctranslate2", "genai")}
    in_llama = {"max_candidates": max_candidates, "max_tokens": -(-max_tokens // 256) * 256, "ubatch": [256, 512]}
    genai = {"max_length": 512}
    plans: dict[str, Plan] = {
        "openvino-int8": (
            python["openvino"],
            "ov.py",
            {"model": str(model / "openvino-int8"), "ways": OPENVINO_INT8, "batches": batches},
        ),
        "openvino-bf16": (
            python["openvino"],
            "ov.py",
            {"model": str(model / "openvino-fp32"), "ways": OPENVINO_BF16, "batches": batches},
        ),
    }
    for kind in ("q8_0", "bf16", "q4_0", "q4_k"):
        plans[f"llama-{kind}"] = (python["llama"], "llama.py", {"gguf": str(model / f"{kind}.gguf"), **in_llama})
    return plans | {
        "ctranslate2": (python["ctranslate2"], "ct2.py", {"model": str(model / "ctranslate2-int8")}),
        "genai-int4": (python["genai"], "genai.py", {"genai": str(model / "genai-int4"), "ways": ["rewound"], **genai}),
        "ort": (python["optimum"], "ort.py", {"onnx": str(model / "onnx"), "onnx_past": str(model / "onnx-past"), "batch": 20}),
        "genai": (python["genai"], "genai.py", {"genai": str(model / "genai"), "ways": ["one_by_one", "rewound"], **genai}),
        "torch": (Path(sys.executable), "pytorch.py", {"checkpoint": str(model / "checkpoint"), "batch": 20}),
    }


@contextlib.contextmanager
def loaded(
    plans: Mapping[str, Plan], threads: int, work: Path, required: Set[str]
) -> Iterator[tuple[dict[str, Peer], dict[str, str]]]:
    """Yields the peers that run, and why each of the others does not. A required peer that does not load ends the program."""
    running: dict[str, Peer] = {}
    left_out: dict[str, str] = {}
    try:
        for name, (python, script, setup) in plans.items():
            print(f"loading {name}", file=sys.stderr)
            try:
                running[name] = started(name, python, script, {"threads": threads, **setup}, work)
            except PeerEnded as problem:
                if name in required:
                    raise
                left_out[name] = str(problem)
                print(f"{name} is left out: {problem}", file=sys.stderr)
        yield running, left_out
    finally:
        for peer in running.values():
            peer.close()


@contextlib.contextmanager
def left_out_if_it_ends(left_out: dict[str, str]) -> Iterator[None]:
    """If a peer ends during the block, for instance without memory, the block ends, and earlier measurements are kept."""
    try:
        yield
    except PeerEnded as problem:
        left_out["the rest"] = str(problem)
        print(f"the rest is left out: {problem}", file=sys.stderr)


def started(name: str, python: Path, script: str, setup: Mapping[str, Any], work: Path) -> Peer:
    if not python.exists():
        raise PeerEnded(f"slate.py: {name} is not built: no {python}; make bench-peers builds it")
    return Peer(python, script, setup, work / f"{name}.log")
