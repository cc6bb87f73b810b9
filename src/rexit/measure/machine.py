"""What timings were taken on, and whether two of them may be compared."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexit import __version__
from rexit.bundle import Bundle
from rexit.devices import Device, Provider


def hardware_of(bundle: Bundle, device: Device | None) -> str:
    """Returns the device that `machine` describes, for a bundle that runs on `device`: the CPU for a provider."""
    return "cpu" if isinstance(device, Provider) else device or bundle.variant.target


def machine(device: str = "cpu") -> dict[str, Any]:
    """Returns what timings depend on, as plain JSON values.

    That is processor, architecture, usable cores, the GPU if `device` is not the CPU, and the versions of ONNX Runtime (None if
    there is none) and of rexit, whose kernels run inside it.
    """
    from rexit import runtime

    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **({} if device == "cpu" else {"gpu": _gpu()}),
        "onnxruntime": runtime.onnxruntime_version(),
        "rexit": __version__,
    }


def _gpu() -> str | None:
    """Name of the first GPU according to the CUDA driver; None without one."""
    name = ctypes.create_string_buffer(256)
    device = ctypes.c_int()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetName(name, len(name), device):
        return None
    return name.value.decode()


@dataclass(frozen=True)
class Conditions:
    """What a time is valid for.

    Attributes:
        variant_sha256: The variant's digest.
        device: Where the segments run.
        threads: The backend's threads; the number of cores if the backend chooses.
        machine: The machine as `machine` returns it.
    """

    variant_sha256: str
    device: str
    threads: int
    machine: dict[str, Any]

    @classmethod
    def here(cls, bundle: Bundle, device: Device | None, threads: int) -> Conditions:
        """Returns the conditions of a session that `rexit.open` opens on this machine with the same arguments."""
        details = machine(hardware_of(bundle, device))
        return cls(bundle.variant_sha256, str(device or bundle.variant.target), threads or int(details["cores"]), details)
