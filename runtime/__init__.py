"""Scores slates with an exported bundle: Python bindings of the C++ library. Loads neither torch nor transformers."""

from rexit.devices import Provider
from rexit.runtime._answers import (
    ExitInfo,
    GoldenCheck,
    Info,
    JsonAnswer,
    Memory,
    Score,
    Scores,
    SegmentStats,
    Stats,
    Trace,
)
from rexit.runtime._arguments import StopRule
from rexit.runtime._library import onnxruntime_library, onnxruntime_version
from rexit.runtime.session import Session, open, verify

__all__ = [
    "ExitInfo",
    "GoldenCheck",
    "Info",
    "JsonAnswer",
    "Memory",
    "Provider",
    "Score",
    "Scores",
    "SegmentStats",
    "Session",
    "Stats",
    "StopRule",
    "Trace",
    "onnxruntime_library",
    "onnxruntime_version",
    "open",
    "verify",
]
