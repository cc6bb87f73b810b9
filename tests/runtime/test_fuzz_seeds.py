"""What fuzzing starts from reaches all of the interface: what no seed and no target has, mutations hardly find."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fuzz.write_seeds import KERNELS, REQUESTS
from rexit import Request

ROOT = Path(__file__).parents[2]


def test_every_operator_is_in_a_seed() -> None:
    source = (ROOT / "runtime/src/backends/onnxruntime/ort_kernels.cpp").read_text()
    names = {name for line in re.findall(r"\bname = (.*);", source) for name in re.findall(r'"(\w+)"', line)}
    assert len(names) > 15 and names == set(re.findall(r"rexit\.(\w+)", KERNELS))


def test_every_field_of_a_request_is_in_a_seed() -> None:
    fields = {name for text in REQUESTS.values() for name in json.loads(text)}
    assert set(Request.__struct_fields__) <= fields
