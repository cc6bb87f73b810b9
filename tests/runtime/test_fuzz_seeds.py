"""What fuzzing starts from reaches all of the interface: what no seed and no target has, mutations hardly find."""

from __future__ import annotations

import re
from pathlib import Path

from fuzz.write_seeds import KERNELS

ROOT = Path(__file__).parents[2]


def fields(struct: str) -> set[str]:
    header = re.sub(r"/\*.*?\*/", "", (ROOT / "runtime/include/rexit/rexit.h").read_text(), flags=re.DOTALL)
    match = re.search(rf"typedef struct {struct} {{(.*?)}} {struct};", header, re.DOTALL)
    assert match, struct
    return set(re.findall(r"(\w+)(?:\[\w+\])?;", match[1])) - {"struct_size", "reserved"}


def test_every_operator_is_in_a_seed() -> None:
    source = (ROOT / "runtime/src/backends/onnxruntime/ort_kernels.cpp").read_text()
    names = {name for line in re.findall(r"\bname = (.*);", source) for name in re.findall(r'"(\w+)"', line)}
    assert len(names) > 15 and names == set(re.findall(r"rexit\.(\w+)", KERNELS))


def test_every_field_of_a_request_is_set_by_a_target() -> None:
    target = (ROOT / "tests/fuzz/targets/request.cpp").read_text()
    for struct, name in (("rexit_request", "request"), ("rexit_policy", "policy"), ("rexit_top_k", "rule")):
        missing = {field for field in fields(struct) if not re.search(rf"\b{name}\.{field}\b", target)}
        assert not missing, struct
