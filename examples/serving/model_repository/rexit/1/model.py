"""rexit behind Triton's Python backend: a bundle with integer ids, one slate per request."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

import rexit
from rexit.errors import RexitError

MISREAD = f"this Triton misreads the arrays of NumPy {np.__version__}: take Triton 24.11 or newer, or NumPy below 2"


class TritonPythonModel:
    def initialize(self, args):
        given = json.loads(args["model_config"])["parameters"]
        self.session = rexit.open(given["bundle"]["string_value"], threads=int(given["threads"]["string_value"]))
        self.session.warm_up()

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def finalize(self):
        self.session.close()

    def _answer(self, request):
        def given(name):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy()

        def inputs():
            text = given("inputs")
            try:
                return None if text is None else json.loads(text[0])
            except ValueError as exc:
                raise ValueError(f"inputs: not valid JSON: {exc}") from exc

        deadline = given("deadline_ms")
        if given("items").strides != (8,):  # it would repeat the first item
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(MISREAD))
        try:
            scores = self.session.score(
                int(given("user")[0]),
                given("items"),
                inputs=inputs(),
                deadline_ms=None if deadline is None else float(deadline[0]),
            )
        except (RexitError, ValueError) as exc:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(exc)))
        outputs = {"probability": scores.probability, "exit": scores.exit.astype(np.int32), "cut_short": scores.cut_short}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])
