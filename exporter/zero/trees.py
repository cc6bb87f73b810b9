"""scikit-learn's histogram gradient boosting as one TreeEnsembleRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier

_OPSETS = (("", 18), ("ai.onnx.ml", 3))
_IR_VERSION = 9


def tree_graph(model: HistGradientBoostingClassifier) -> bytes:
    """Returns a graph from numbers, float32 [N, F], to log-odds, float32 [N, 1]. NaN goes the way that the model gave it."""
    nodes: dict[str, list[Any]] = {name: [] for name in ("modes", "values")}
    nodes |= {name: [] for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")}
    nodes["missing_value_tracks_true"] = []
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(model._predictors):
        for at, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            row = {
                "treeids": tree,
                "nodeids": at,
                "modes": "LEAF" if leaf else "BRANCH_LEQ",
                "values": 0.0 if leaf else _at_most(node["num_threshold"]),
                "featureids": 0 if leaf else int(node["feature_idx"]),
                "truenodeids": 0 if leaf else int(node["left"]),
                "falsenodeids": 0 if leaf else int(node["right"]),
                "missing_value_tracks_true": 0 if leaf else int(node["missing_go_to_left"]),
            }
            for name, value in row.items():
                nodes[name].append(value)
            if leaf:
                for name, value in {"treeids": tree, "nodeids": at, "ids": 0, "weights": float(node["value"])}.items():
                    leaves[name].append(value)
    attributes: dict[str, Any] = {f"nodes_{name}": values for name, values in nodes.items()}
    attributes |= {f"target_{name}": values for name, values in leaves.items()}
    attributes |= {"n_targets": 1, "base_values": [float(np.ravel(model._baseline_prediction)[0])]}
    regressor = helper.make_node("TreeEnsembleRegressor", ["numbers"], ["log_odds"], domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [regressor],
        "zero",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", model.n_features_in_])],
        [helper.make_tensor_value_info("log_odds", TensorProto.FLOAT, ["N", 1])],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in _OPSETS], producer_name="rexit")
    whole.ir_version = _IR_VERSION
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString())


def _at_most(threshold: float) -> float:
    """The largest float32 that is not above a threshold, so that float32 values are on the same side of both."""
    rounded = np.float32(threshold)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if rounded > threshold else rounded)
