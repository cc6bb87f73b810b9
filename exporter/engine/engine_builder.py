"""Builds one TensorRT engine in its own process: `PYTHON engine_builder.py`, a JSON request on stdin, JSON lines on stdout.

`rexit.exporter.engine.compile` runs it. It needs only Python 3.8 and the vendor's bindings, so that it also runs in a Python that
rexit does not support (JetPack 6 has the bindings in the system's 3.10). Each segment is built in its own process: memory is
returned between segments, and a crash or an out-of-memory kill does not end the caller.

Requests and their events, one JSON object per line:

    {"do": "probe", "builders": ["tensorrt", "tensorrt_rtx"]}
        {"event": "probe", "python": "3.10.12", "gpu": {"name", "compute_capability"} or null, "builders": [
            {"name", "version", "compute_capabilities": ["8.6", ...]},   tensorrt_rtx: what it compiles for; tensorrt: null
            {"name", "error"}]}                                          cannot be imported
    {"do": "build", "builder", "graph": path, "plan": path, "profiles": [{input: [min, opt, max]}, ...],
     "compute_capability": "8.6", "timing_cache": path or null}
        {"event": "stage", "stage": "parse" | "build" | "write"}
        {"event": "warning", "text"}
        {"event": "done", "seconds", "layers", "summary": {kind: count}, "peak_bytes": int or null}
        {"event": "failed", "kind": "graph" | "disk", "text"}

An input has at most one dynamic dimension, which ranges from `min` to `max`.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import platform
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 (subscripting collections.abc's needs 3.9)

DIGEST_BYTES = 32
Tell = Callable[..., None]
_TYPES = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16"}


def main() -> None:
    _forget_own_folder()
    # TensorRT's libraries print to stdout, too; only events go to the real one.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _die_with_parent()

    def tell(event: str, **fields: Any) -> None:
        events.write(json.dumps(dict(event=event, **fields)) + "\n")
        events.flush()

    request = json.loads(sys.stdin.read())
    if request["do"] == "probe":
        tell("probe", python=platform.python_version(), gpu=local_gpu(), builders=[_probe(n) for n in request["builders"]])
        return
    try:
        _build(request, tell)
    except _GraphError as exc:
        tell("failed", kind="graph", text=str(exc))
    except OSError as exc:
        tell("failed", kind="disk", text=f"{exc.filename or request['plan']}: {exc.strerror or exc}")


def _forget_own_folder() -> None:
    """Python searches a script's folder first for modules, and this folder may hold modules with common names."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG


def local_gpu() -> dict[str, str] | None:
    """Name and compute capability of the first GPU, according to the driver alone; None without a driver or a GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name, values = ctypes.c_int(), ctypes.create_string_buffer(256), (ctypes.c_int(), ctypes.c_int())
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    if cuda.cuDeviceGetName(name, len(name), device) != 0:
        return None
    for n, value in enumerate(values):
        attribute = 75 + n  # COMPUTE_CAPABILITY_MAJOR, _MINOR
        if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
    return {"name": name.value.decode(errors="replace"), "compute_capability": ".".join(str(v.value) for v in values)}


def _probe(name: str) -> dict[str, Any]:
    try:
        trt = importlib.import_module(name)
        version = trt.__version__
    except Exception as exc:  # whatever a broken installation raises
        return {"name": name, "error": f"{type(exc).__name__}: {exc}"}
    return {"name": name, "version": version, "compute_capabilities": sorted(_capabilities(trt), key=_order) or None}


def _capabilities(trt: Any) -> dict[str, Any]:
    """{"8.6": enum member} of what TensorRT-RTX compiles for; empty for TensorRT, which builds for this machine's GPU."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    matches = {name: re.match(r"SM(\d+)(\d)$", name) for name in members}
    return {".".join(match.groups()): members[name] for name, match in matches.items() if match}


def _order(capability: str) -> list[int]:
    return [int(part) for part in capability.split(".")]


class _GraphError(Exception):
    """The compiler rejects the graph; the message is its own."""


def _build(request: dict[str, Any], tell: Tell) -> None:
    trt = importlib.import_module(request["builder"])
    began = time.perf_counter()
    log = _make_log(trt)
    builder = trt.Builder(log)
    tell("stage", stage="parse")
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise _GraphError(f"{request['builder']} {trt.__version__} has no strongly typed networks, expected TensorRT 10 or newer")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["graph"]):
        raise _GraphError(log.first_error or "the graph cannot be parsed; the compiler gave no reason")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers with their types, in the log and in the plan
    for ranges in request["profiles"]:
        config.add_optimization_profile(_profile(builder, network, ranges))
    capabilities = _capabilities(trt)
    if capabilities:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capabilities[request["compute_capability"]], 0)
    if request["timing_cache"] is not None:
        _use_timing_cache(config, request["timing_cache"], log, tell)
    tell("stage", stage="build")
    plan = builder.build_serialized_network(network, config)
    if plan is None:  # it does not raise
        raise _GraphError(log.first_error or "no engine was built; the compiler gave no reason")
    tell("stage", stage="write")
    with open(request["plan"], "wb") as file:
        file.write(plan)
    if request["timing_cache"] is not None:
        _store_timing_cache(config, request["timing_cache"], tell)
    seconds = time.perf_counter() - began
    tell("done", seconds=seconds, layers=log.layers, summary=log.summary, peak_bytes=_peak_bytes())


def _profile(builder: Any, network: Any, ranges: dict[str, list[int]]) -> Any:
    profile = builder.create_optimization_profile()
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    if set(inputs) != set(ranges):
        raise _GraphError(f"the graph's inputs are {sorted(inputs)}, expected {sorted(ranges)}")
    for name, tensor in inputs.items():
        shape = tuple(tensor.shape)
        profile.set_shape(name, *(tuple(size if size >= 0 else dynamic for size in shape) for dynamic in ranges[name]))
    return profile


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Extracts from thousands of lines the first error, as later errors follow from it, and the layers."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.first_error: str | None = None
            self.layers = 0
            self.summary: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                # Without a driver TensorRT-RTX adds this line to every error.
                if "CUDA driver version is insufficient" not in message:
                    self.first_error = self.first_error or " ".join(message.split())
            elif "LayerType: " in message:
                for line in message.splitlines():
                    self._count(line)

        def _count(self, line: str) -> None:
            if not line.startswith("Name: ") or ", LayerType: " not in line:
                return
            self.layers += 1
            kind = layer_kind(line)
            if kind:
                self.summary[kind] = self.summary.get(kind, 0) + 1

    return Log()


def layer_kind(line: str) -> str | None:
    """The kind of a layer in the compiler's log: a fused attention's kernel (gemm_mha_v2), a matrix product's type (int8 gemm), a
    kernel that unpacks int4 weights (int4 dequantize); None for any other layer.

    1. A name with `mha` in it is attention.
    2. LayerType `gemm`, or a run-time fusion with Fc in its name, is a matrix product. Its type is int4 if it reads int4 weights
       itself, else that of its first input.
    3. Any other layer that reads int4 weights unpacks them for a product of another type.
    """
    name, rest = line[len("Name: ") :].split(", LayerType: ", 1)
    attention = re.match(r"_*(\w*mha\w*?)(_myl\w*)?$", name)
    if attention:
        return attention.group(1)
    layer_type = rest.split(",", 1)[0]
    types = re.findall(r"Datatype: (\w+)", rest.split("Outputs: ", 1)[0])
    if layer_type == "gemm" or (layer_type == "runtime_fusion" and "Fc" in name):
        kind = "Int4" if "Int4" in types else types[0] if types else "untyped"
        return f"{_TYPES.get(kind, kind.lower())} gemm"
    return "int4 dequantize" if "Int4" in types else None


def _use_timing_cache(config: Any, path: str, log: Any, tell: Tell) -> None:
    """Loads the timings in `path`: a SHA-256, then TensorRT's own bytes. Any other content is ignored."""
    timings = b""
    if Path(path).exists():
        content = Path(path).read_bytes()
        digest, timings = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(timings).digest() != digest:
            timings = b""
            tell("warning", text=f"{path}: damaged timing cache, ignored")
    cache = config.create_timing_cache(timings)
    if timings and (cache is None or not config.set_timing_cache(cache, False)):
        tell("warning", text=f"{path}: timing cache of another TensorRT or GPU, ignored")
        log.first_error = None
        timings, cache = b"", config.create_timing_cache(b"")
    if not timings:
        config.set_timing_cache(cache, False)


def _store_timing_cache(config: Any, path: str, tell: Tell) -> None:
    """Only warns if the disk cannot store the cache, as losing it costs no more than time."""
    data = bytes(config.get_timing_cache().serialize())
    temporary = Path(f"{path}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
    except OSError as exc:
        tell("warning", text=f"{path}: timing cache not stored: {exc.strerror}")
        if temporary.exists():
            temporary.unlink()


def _peak_bytes() -> int | None:
    """Peak memory of this process; what wait4 reports includes the parent's pages at the fork."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


if __name__ == "__main__":
    main()
