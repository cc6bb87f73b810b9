"""Models that can be exit zero, as ONNX graphs: scikit-learn's histogram gradient boosting, as one TreeEnsembleRegressor, and a
logistic model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier

_OPSETS = (("", 18), ("ai.onnx.ml", 3))
_IR_VERSION = 9


def tree_graph(model: HistGradientBoostingClassifier) -> bytes:
    """Returns a graph from numbers, float32 [N, F], to log-odds, float32 [N, 1]. NaN goes the way that the model gave it."""
    nodes: list[dict[str, Any]] = []
    leaves: list[dict[str, Any]] = []
    for tree, (predictor,) in enumerate(model._predictors):
        for at, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            nodes.append(
                {
                    "treeids": tree,
                    "nodeids": at,
                    "modes": "LEAF" if leaf else "BRANCH_LEQ",
                    "values": 0.0 if leaf else _at_most(node["num_threshold"]),
                    "featureids": 0 if leaf else int(node["feature_idx"]),
                    "truenodeids": 0 if leaf else int(node["left"]),
                    "falsenodeids": 0 if leaf else int(node["right"]),
                    "missing_value_tracks_true": 0 if leaf else int(node["missing_go_to_left"]),
                }
            )
            if leaf:
                leaves.append({"treeids": tree, "nodeids": at, "ids": 0, "weights": float(node["value"])})
    attributes: dict[str, Any] = {f"nodes_{name}": [row[name] for row in nodes] for name in nodes[0]}
    attributes |= {f"target_{name}": [row[name] for row in leaves] for name in leaves[0]}
    attributes |= {"n_targets": 1, "base_values": [float(np.ravel(model._baseline_prediction)[0])]}
    regressor = helper.make_node("TreeEnsembleRegressor", ["numbers"], ["log_odds"], domain="ai.onnx.ml", **attributes)
    return _graph([regressor], model.n_features_in_)


@dataclass(frozen=True)
class Logistic:
    """A logistic model, which is linear without end: a number beyond those of the training pairs is clipped to their range.

    low, high: that range, float32 [F]. counts: bool [F], where the model reads log(1 + number).
    fill: what it reads for a missing number, their mean, float64 [F].
    weights: of the numbers and of whether each is missing, float64 [2F].
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    counts: NDArray[np.bool_]
    fill: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float

    @classmethod
    def fit(cls, numbers: NDArray[np.float32], liked: NDArray[np.bool_], counts: NDArray[np.bool_]) -> Logistic:
        """Fits standardised numbers. numbers: float32 [N, F], NaN: missing. liked: bool [N], of both kinds."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        missing = np.isnan(numbers)
        some = np.where(missing.all(0), np.float32(0), numbers)
        low, high = np.nanmin(some, 0), np.nanmax(some, 0)
        read = np.where(counts, np.log1p(np.where(counts, some, 0)), some).astype(np.float64)
        fill, scale = np.nanmean(read, 0), np.nanstd(read, 0)
        scale[scale == 0] = 1
        with threadpool_limits(1):
            model = LogisticRegression(max_iter=1000).fit(np.hstack([np.where(missing, 0, read - fill) / scale, missing]), liked)
        weights = model.coef_[0] / np.concatenate([scale, np.ones(len(scale))])
        return cls(low, high, counts, fill, weights, float(model.intercept_[0] - weights[: len(fill)] @ fill))

    def log_odds(self, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns log-odds, float64 [N]. numbers: float32 [N, F]."""
        missing = np.isnan(numbers)
        clipped = np.clip(numbers, self.low, self.high).astype(np.float64)
        read = np.where(missing, self.fill, np.where(self.counts, np.log1p(np.where(self.counts, clipped, 0)), clipped))
        return np.asarray(np.hstack([read, missing]) @ self.weights + self.bias)


def logistic_graph(model: Logistic) -> bytes:
    """Returns a graph from numbers, float32 [N, F], to log-odds, float32 [N, 1]."""
    nodes = [
        helper.make_node(op, inputs.split(), [output], **attributes)
        for op, inputs, output, attributes in (
            ("IsNaN", "numbers", "missing", {}),
            ("Max", "numbers low", "above", {}),
            ("Min", "above high", "clipped", {}),
            ("Add", "clipped one", "more", {}),
            ("Log", "more", "log", {}),
            ("Where", "counts log clipped", "read", {}),
            ("Where", "missing fill read", "filled", {}),
            ("Cast", "missing", "flags", {"to": TensorProto.FLOAT}),
            ("Concat", "filled flags", "inputs", {"axis": 1}),
            ("Gemm", "inputs weights bias", "log_odds", {}),
        )
    ]
    constants: dict[str, NDArray[Any]] = {
        "low": model.low,
        "high": model.high,
        "one": np.ones(1, np.float32),
        "counts": model.counts,
        "fill": model.fill.astype(np.float32),
        "weights": model.weights.astype(np.float32)[:, None],
        "bias": np.array([model.bias], np.float32),
    }
    return _graph(nodes, len(model.low), [numpy_helper.from_array(array, name) for name, array in constants.items()])


def _graph(nodes: Sequence[NodeProto], width: int, constants: Sequence[TensorProto] = ()) -> bytes:
    graph = helper.make_graph(
        nodes,
        "zero",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("log_odds", TensorProto.FLOAT, ["N", 1])],
        constants,
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in _OPSETS], producer_name="rexit")
    whole.ir_version = _IR_VERSION
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


def _at_most(threshold: float) -> float:
    """The largest float32 that is not above a threshold, so that float32 values are on the same side of both."""
    rounded = np.float32(threshold)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if rounded > threshold else rounded)
