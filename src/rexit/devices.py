"""Where segments run: a device, or an execution provider of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime, for variants of targets `cuda` and `tensorrt`. Operators it lacks run on the CPU.

    Attributes:
        name: Its name in ONNX Runtime, such as `OpenVINO`, `XNNPACK`, `QNN` or `CoreML`.
        options: The provider's own options, for instance `{"device_type": "CPU"}`.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


Device = str | Provider
"""`cpu`, `cuda`, `tensorrt`, or a provider."""
