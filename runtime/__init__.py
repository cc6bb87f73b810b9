"""Scores slates with an exported bundle: Python bindings of the C++ library. Loads neither torch nor transformers."""

from rexit._native import ExitInfo, GoldenCheck, Info, JsonAnswer, Memory, SegmentStats, Stats, Trace
from rexit.devices import Provider
from rexit.runtime._library import onnxruntime_library, onnxruntime_version
from rexit.runtime._scores import Score, Scores
from rexit.runtime.session import Session, StopRule, open, verify

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
