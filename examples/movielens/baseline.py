"""The figure to beat: logistic regression on user and item biases, fitted on a catalog's training split.

    python examples/movielens/baseline.py CATALOG

Its one regularisation constant is chosen on the validation split. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rexit.bundle import Catalog, Split

CONSTANTS = (0.1, 0.3, 1.0, 3.0, 10.0)


def one_hot(part: Split, users: int, items: int) -> csr_array:
    rows = np.tile(np.arange(len(part)), 2)
    columns = np.r_[part.users, users + part.items]
    return csr_array((np.ones(len(columns)), (rows, columns)), shape=(len(part), users + items))


def main(path: Path) -> None:
    catalog = Catalog.open(path)
    counts = catalog.info["counts"]
    parts = {name: catalog.split(name) for name in ("train", "validation", "test")}
    inputs = {name: one_hot(part, counts["users"], counts["items"]) for name, part in parts.items()}
    models = [LogisticRegression(C=c, max_iter=1000).fit(inputs["train"], parts["train"].liked) for c in CONSTANTS]
    areas = [
        {name: roc_auc_score(parts[name].liked, model.decision_function(inputs[name])) for name in ("validation", "test")}
        for model in models
    ]
    best = int(np.argmax([area["validation"] for area in areas]))
    print(json.dumps({"C": CONSTANTS[best], **areas[best]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
