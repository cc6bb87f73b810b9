"""examples/serving/model.py on a real bundle, with a double of the module that Triton provides."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rexit
from builders.bundles.held_out import write_ranked
from running.scripts import scripts_of

FOLDER = "examples/serving/model_repository/rexit"
CONFIG = Path(__file__).parents[2] / FOLDER / "config.pbtxt"
scripts = scripts_of(f"{FOLDER}/1")


def double() -> ModuleType:
    """A double of triton_python_backend_utils: what model.py uses of it, as Triton's documentation describes it."""
    module: Any = ModuleType("triton_python_backend_utils")

    class Tensor:
        def __init__(self, name: str, values: Any) -> None:
            self.name, self.values = name, values

        def as_numpy(self) -> Any:
            return self.values

    module.Tensor = Tensor
    module.TritonError = str
    module.InferenceResponse = lambda tensors=(), error=None: SimpleNamespace(tensors=tensors, error=error)
    module.get_input_tensor_by_name = lambda request, name: next((t for t in request if t.name == name), None)
    return module  # type: ignore[no-any-return]


def test_scores_are_the_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utils: Any = double()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    import model as triton

    bundle = write_ranked(tmp_path).bundle
    parameters = {"bundle": {"string_value": str(bundle)}, "threads": {"string_value": "0"}}
    model = triton.TritonPythonModel()
    model.initialize({"model_config": json.dumps({"parameters": parameters})})

    def request(items: list[int], **more: float) -> list[Any]:
        deadline = [utils.Tensor(name, np.array([value], np.float32)) for name, value in more.items()]
        return [utils.Tensor("user", np.array([100])), utils.Tensor("items", np.array(items)), *deadline]

    misread = request([3, 8])
    misread[1].values = np.broadcast_to(np.int64(3), 2)  # what Triton 24.10 makes of NumPy 2's arrays
    good, unknown, late, wrong = model.execute([request([3, 8]), request([4]), request([3], deadline_ms=0.001), misread])
    model.finalize()
    with rexit.open(bundle) as session:
        expected = session.score(100, [3, 8])
    found = {tensor.name: tensor.values for tensor in good.tensors}
    assert found["probability"].tolist() == expected.probability.tolist() and found["exit"].tolist() == expected.exit.tolist()
    assert "item 4 is not in the catalog" in unknown.error and "deadline" in late.error
    assert f"misreads the arrays of NumPy {np.__version__}" in wrong.error
    config = CONFIG.read_text()
    named = dict(re.findall(r'name: "(\w+)" data_type: TYPE_(\w+)', config))
    kinds = {np.dtype(np.float32): "FP32", np.dtype(np.int32): "INT32", np.dtype(bool): "BOOL"}
    assert {name: named[name] for name in found} == {name: kinds[values.dtype] for name, values in found.items()}
    assert {"user", "items", "deadline_ms"} <= named.keys()
