"""A double of NVIDIA's `tensorrt`: it parses nothing and builds nothing. See README.md beside it.

It writes how it was called, one JSON line a call, to the file that TENSORRT_DOUBLE_CALLS names, and takes the graphs' inputs
from TENSORRT_DOUBLE_INPUTS: {file: {name: shape}}.
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import Any

__version__ = "10.3.0"


def _called(name: str, *values: object) -> None:
    with open(os.environ["TENSORRT_DOUBLE_CALLS"], "a") as file:
        file.write(json.dumps([name, *values]) + "\n")


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ProfilingVerbosity(enum.IntEnum):
    DETAILED = 2


class _Tensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class _Network:
    def __init__(self) -> None:
        self._inputs: list[_Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, n: int) -> _Tensor:
        return self._inputs[n]


class _TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"+"


class _Config:
    profiling_verbosity: ProfilingVerbosity

    def add_optimization_profile(self, profile: _Profile) -> None:
        _called("add_optimization_profile", profile.shapes)

    def create_timing_cache(self, data: bytes) -> _TimingCache:
        return _TimingCache(data)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        _called("set_timing_cache", cache.data.decode(), ignore_mismatch)
        self._cache = cache
        return not cache.data.startswith(b"foreign")

    def get_timing_cache(self) -> _TimingCache:
        return self._cache


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, least: tuple[int, ...], usual: tuple[int, ...], most: tuple[int, ...]) -> None:
        self.shapes[name] = [least, usual, most]


class Builder:
    def __init__(self, log: Any) -> None:
        self._log = log

    def create_network(self, flags: int) -> _Network:
        _called("create_network", flags)
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> memoryview:
        _called("build_serialized_network", int(config.profiling_verbosity))
        half = "{ Name: x, Dimensions: [-1,16], Format/Datatype: Half }"
        for name, kind in (("node_linear_myl0_1", "gemm"), ("_gemm_mha_v2_myl0_2", "kgen"), ("__myl_Add_myl0_3", "kgen")):
            self._log.log(ILogger.VERBOSE, f"Name: {name}, LayerType: {kind}, Inputs: [ {half}], Outputs: [ {half}], StreamId: 0")
        return memoryview(b"plan")


class OnnxParser:
    def __init__(self, network: _Network, log: Any) -> None:
        self._network, self._log = network, log

    def parse_from_file(self, path: str) -> bool:
        _called("parse_from_file", Path(path).name)
        inputs = json.loads(os.environ["TENSORRT_DOUBLE_INPUTS"])[Path(path).name]
        self._network._inputs = [_Tensor(name, tuple(shape)) for name, shape in inputs.items()]
        return True
