"""Exit zero, `zero.onnx`: a logistic model, or scikit-learn's histogram gradient boosting as one
TreeEnsembleRegressor. Here as in the runtime it runs on ONNX Runtime's CPU with one thread.

1. The pairs are those of short training slates as of each slate's moment, in the last part of the user's training
   (`rexit.exporter.retriever.snapshots`): the slates most like a request's. Fitted on all parts, trees ranked below the product
   that they read. Each user's first slate is among them, for users without a history. Where candidates are drawn, items that
   nobody had met at the moment are left out: they may not have existed, and exit zero would learn that what is new is not liked
   (`examples/scientific/withheld.py`). Of a retrieved slate its likes are read, with four others each, drawn from it: fitted on
   whole ones, trees ranked worse on MovieLens (user AUC .633 in place of .650).
2. A fifth of the training users judge their last part by log loss, after a fit on the part before it of the others.
3. Unless the template says what is read, they choose the numbers. In the order of their cost, dearest first, each is left out for
   good unless its gain, what trees lose without it, is more than TOLERANCE of the least loss so far. All `similar_like_rate`
   share a search: they have to gain TOLERANCE for each of its begun milliseconds, and their gain counts less its standard error
   over users. These prices are our choice.
4. Then they choose the model: the simplest whose loss is within TOLERANCE of the least: a logistic one, or else the fewest
   leaves in all, over trees of up to 16.
5. With fewer than MIN_USERS, or judges of one label, the model is logistic, and reads all numbers that need no search.
6. The chosen model is fitted on all users' pairs.

Of a file of slates, the pairs are those of the training split, all numbers are first stages' scores, and all are read. What
counts there is the order within a slate: half of the groups that judge choose the trees with the highest mean AUC, which are
taken if they beat the logistic model's by more than two standard errors over the other half. By log loss, trees of one score won,
and lost .031 of NDCG@10. Without labels the model is logistic, and each pair counts twice, as liked and as not, weighted by the
model's own probability.

Validation's and test's interactions neither fit nor choose; the same users' earlier ones, in the train split, may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier

from rexit.data.ranking import ByUser
from rexit.data.slates import Slate, TokenSlate, runs, spread
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError
from rexit.exporter.prompt.builder import Numbers, PromptBuilder, Rows, RowSlate
from rexit.format import roles
from rexit.format.bundle.catalog import ZERO, Catalog
from rexit.format.bundle.golden import GoldenSlate
from rexit.progress import Progress, silent, tracked

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
    def fit(
        cls,
        numbers: NDArray[np.float32],
        liked: NDArray[np.bool_],
        counts: NDArray[np.bool_],
        weights: NDArray[np.float32] | None = None,
    ) -> Logistic:
        """Fits standardised numbers. numbers: float32 [N, F], NaN: missing. liked: bool [N], of both kinds.
        weights: of the pairs, float32 [N]; None: all the same."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        missing = np.isnan(numbers)
        some = np.where(missing.all(0), np.float32(0), numbers)
        low, high = np.nanmin(some, 0), np.nanmax(some, 0)
        read = np.where(counts, np.log1p(np.where(counts, some, 0)), some).astype(np.float64)
        fill, scale = np.nanmean(read, 0), np.nanstd(read, 0)
        scale[scale == 0] = 1
        with threadpool_limits(1):
            inputs = np.hstack([np.where(missing, 0, read - fill) / scale, missing])
            model = LogisticRegression(max_iter=1000).fit(inputs, liked, sample_weight=weights)
        slopes = model.coef_[0] / np.concatenate([scale, np.ones(len(scale))])
        return cls(low, high, counts, fill, slopes, float(model.intercept_[0] - slopes[: len(fill)] @ fill))

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


class Graph:
    """A loaded graph. path: it is read once, so weights in other files are refused.

    Raises:
        InputError: It cannot be read or run, or is not from float numbers [N, F] to float log-odds [N] or [N, 1].
    """

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except OSError as exc:
            raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc
        except Exception as exc:  # ONNX Runtime's own classes have no common base
            raise InputError(f"{path}: ONNX Runtime's CPU cannot run it: {str(exc).splitlines()[0]}") from exc
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 2:
            shown = ", ".join(f"`{entry.name}` {entry.type} {entry.shape}" for entry in inputs)
            raise InputError(f"{path}: its inputs are {shown or 'none'}, expected one tensor(float) of [N, {width}]")
        count, columns = inputs[0].shape
        if isinstance(columns, int) and columns != width:
            raise InputError(f"{path}: reads {columns} numbers of a candidate, the template's [zero] has {width}")
        output = self._session.get_outputs()[0]
        rows, *rest = output.shape or [0]
        one_each = len(rest) <= 1 and all(n == 1 or not isinstance(n, int) for n in rest)
        if isinstance(count, int) or isinstance(rows, int) or not one_each:
            shapes = f"`{inputs[0].name}` is {inputs[0].shape} and `{output.name}` is {output.shape}"
            raise InputError(f"{path}: {shapes}, expected [N, {width}] and [N] or [N, 1] for any number N of candidates")
        self._input, self._output = inputs[0].name, output.name

    def log_odds(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns log-odds, float32 [N]. numbers: float32 [N, F], N > 0. Raises InputError."""
        try:
            (values,) = self._session.run([self._output], {self._input: numbers})
        except Exception as exc:
            raise InputError(f"{self._path}: ONNX Runtime's CPU cannot run it: {str(exc).splitlines()[0]}") from exc
        rows = len(numbers)
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape not in ((rows,), (rows, 1)):
            shown = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "no tensor"
            raise InputError(
                f"{self._path}: `{self._output}` is {shown} of {rows} rows, expected float32 [{rows}] or [{rows}, 1]"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values.ravel()))[0])
            raise InputError(
                f"{self._path}: `{self._output}` is {values.ravel()[row]} for {numbers[row].tolist()}, expected finite"
            )
        return values.reshape(rows)


def zero_log_odds(catalog: Catalog, slates: Sequence[Slate]) -> list[NDArray[np.float32]]:
    """Returns exit zero's log-odds of the candidates of every slate, as the runtime computes them, float32 [n] each."""
    graph, builder = Graph(catalog.path / ZERO, len(catalog.numbers)), PromptBuilder(catalog)
    numbers = (builder.numbers(slate.user, slate.items, slate.as_of, scores=slate.scores) for slate in slates)
    return [graph.log_odds(table) for table in numbers]


MAX_PAIRS = 200_000
MAX_ANSWERED = 200
"""Slates of a file without labels, which the model answers."""
MAX_CHOICE_PAIRS = 100_000
"""Of which the numbers are chosen."""
SIZE = 5
"""Pairs of a slate. Of long slates, a short history would have only the first, which knows nothing."""
LEAVES = (4, 8, 16)
"""Of a tree."""
MAX_TREES = 100
TOLERANCE = 0.002
"""Of the least log loss, that a simpler model may lose, and a model without a number."""
MIN_USERS = 50
"""With fewer training users the judges are too few. On MovieLens, trees then ranked below a logistic model."""
MIN_JUDGES = 8
"""Groups with both labels among those that judge a file's; with fewer the model is logistic."""
CHOICE_TREES, CHOICE_LEAVES = 60, 8
"""Of the models that numbers are chosen by, at most."""
ROW_US = 0.1
"""Microseconds of a user's row in a search, some 215 instructions; an estimate, the same on every machine."""
_RATE = 0.2


def write_zero(
    folder: Path, catalog: Catalog, own: Path | None = None, progress: Progress = silent, *, choose: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Writes zero.onnx into a catalog's folder.

    Args:
        folder: The folder.
        catalog: The catalog there, with splits and snapshots.
        own: A graph to copy instead of fitting one.
        progress: Called with "exit zero", the slates read and in all.
        choose: Whether to choose among the catalog's numbers.

    Returns:
        The numbers that it reads, as ops; empty: there is no graph. And how it was made, for catalog.json; `none`: why there is
        no graph: training pairs are of one label.

    Raises:
        InputError: `own` is no such graph.
    """
    choose, numbers = choose and own is None, catalog.numbers
    pairs, whole = _pairs(catalog, progress, MAX_CHOICE_PAIRS if choose else MAX_PAIRS)
    if own is not None:
        graph = Graph(own, pairs.numbers.shape[1])
        for rows in (pairs.numbers[:1], pairs.numbers):
            graph.log_odds(rows)
        (folder / ZERO).write_bytes(own.read_bytes())
        return numbers, {"file": own.name}

    liked = pairs.liked[pairs.fits]
    if liked.all() or not liked.any():
        return [], {"none": f"{len(liked)} training pairs of one label only"}
    about: dict[str, Any] = {}
    if choose:
        read, about["choice"] = _chosen_numbers(pairs, numbers, search_us(catalog))
        numbers = [numbers[column] for column in read]
        if whole:
            pairs = replace(pairs, numbers=pairs.numbers[:, read])
        else:
            prompt = {**catalog.info["prompt"], "numbers": numbers}
            pairs, _ = _pairs(replace(catalog, info={**catalog.info, "prompt": prompt}), progress, MAX_PAIRS)
            liked = pairs.liked[pairs.fits]
    counts = np.array([op["op"].endswith("_count") for op in numbers])
    trees, leaves, loss = _choose(pairs, counts)
    about |= {"pairs": len(liked), "log_loss": loss}
    (folder / ZERO).write_bytes(_fitted(pairs, trees, leaves, counts))
    return numbers, {**about, **({"trees": trees, "leaves": leaves} if trees else {"logistic": True})}


def _fitted(pairs: _Pairs, trees: int, leaves: int, counts: NDArray[np.bool_]) -> bytes:
    """The graph of a model of these trees; 0: logistic. counts: bool [F], the numbers that are counts."""
    inputs, liked, weights = pairs.numbers[pairs.fits], pairs.liked[pairs.fits], pairs.weights_of(pairs.fits)
    if not trees:
        return logistic_graph(Logistic.fit(inputs, liked, counts, weights))
    return tree_graph(_boosted(trees, leaves, inputs, liked, weights))


def stage_numbers(slates: Sequence[TokenSlate | GoldenSlate], names: Sequence[str]) -> Numbers:
    """Returns what exit zero reads of slates of a file, float32 [N, F]. names: the first stages'."""
    return np.column_stack([np.concatenate([slate.scores[name] for slate in slates]) for name in names])


def fitted_zero(
    source: SlatesFile, answers: Callable[[Sequence[TokenSlate]], NDArray[np.float32]], progress: Progress = silent
) -> bytes:
    """Returns exit zero's graph of a file of slates with first stages' scores.

    Args:
        source: The file.
        answers: Returns the model's own log-odds of slates' candidates, float32 [N]; called if there are no labels.
        progress: Called with "exit zero", 0 or 1, and 1.

    Raises:
        InputError: The training split is empty, or its pairs are of one label.
    """
    progress("exit zero", 0, 1)
    slates = source.cut("train")
    slates = spread(slates, max(1, MAX_PAIRS // source.largest) if source.labelled else MAX_ANSWERED)
    numbers, (_, users) = stage_numbers(slates, source.score_names), np.unique([str(s.user) for s in slates], return_inverse=True)
    users = np.repeat(users, [len(slate.items) for slate in slates])
    liked, weights = np.concatenate([slate.liked for slate in slates]), None
    if not source.labelled:
        likely = 1 / (1 + np.exp(-answers(slates).astype(np.float64)))
        weights = np.concatenate([likely, 1 - likely]).astype(np.float32)
        liked, numbers, users = np.arange(2 * len(users)) < len(users), np.tile(numbers, (2, 1)), np.tile(users, 2)
    if liked.all() or not liked.any():
        raise InputError(f"{source.path}: the {len(liked)} training pairs that exit zero is fitted on are of one label only")
    everything, counts = np.ones(len(liked), np.bool_), np.zeros(numbers.shape[1], np.bool_)
    pairs = _Pairs(numbers, users, liked, everything, everything, everything, weights)
    graph = _fitted(pairs, *(_choose_by_ranking(pairs, counts) if source.labelled else (0, 0)), counts)
    progress("exit zero", 1, 1)
    return graph


def search_us(catalog: Catalog) -> int:
    """Microseconds of a search of similar users: an estimate from the rows that it reads, the same on every machine."""
    users = len(catalog.users)
    if catalog.probes is None:
        return round(users * ROW_US)
    lists = len(catalog.user_table["centres"])
    return round((lists + catalog.probes * users / lists) * ROW_US)


@dataclass(frozen=True)
class _Pairs:
    """Training pairs. users: rows. fits: those to fit on. before: those to fit on before the judges' part. judged: that part.
    weights: of likes, whose mean is 1; a dislike's is 1. None: all count the same."""

    numbers: Numbers
    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    fits: NDArray[np.bool_]
    before: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    weights: NDArray[np.float32] | None = None

    def weights_of(self, rows: NDArray[np.bool_]) -> NDArray[np.float32] | None:
        return None if self.weights is None else self.weights[rows]


def _pairs(catalog: Catalog, progress: Progress, limit: int = MAX_PAIRS) -> tuple[_Pairs, bool]:
    """Reads at most about `limit` pairs; also returns whether these are all."""
    retrieved = catalog.candidates.retrieved
    split, parts = runs(catalog, "train", catalog.candidates.count if retrieved else SIZE)
    starts = np.array([part.start for part in parts])
    user, time, begins = split.users[starts], split.times[starts], catalog.snapshots["begins"]
    part = (begins[user] <= time[:, None]).sum(1)
    first = time == split.times[np.searchsorted(split.users, user)]
    last = part == begins.shape[1]
    if not last.any():  # embeddings made after training
        last[:] = True
    before = part == begins.shape[1] - 1 if begins.shape[1] > 1 else last
    places = np.flatnonzero(last | before | first)
    likes = int(split.liked.sum()) // len(parts) if retrieved else 1  # of a slate
    chosen = spread(places.tolist(), max(1, limit // (SIZE * max(1, likes))))
    read = [_likes_and_others(parts[n], split.liked) if retrieved else np.arange(parts[n].start, parts[n].stop) for n in chosen]
    if catalog.candidates.drawn:
        read = [rows[_met(catalog, split.items[rows], int(time[n]))] for n, rows in zip(chosen, read, strict=True)]
    rows = np.concatenate(read)
    row_slates = (
        RowSlate(int(user[n]), split.items[of_slate], int(time[n]))
        for n, of_slate in zip(tracked(chosen, "exit zero", progress), read, strict=True)
    )
    numbers = PromptBuilder.of(catalog, "train").slate_numbers(
        row_slates, {name: scores[rows] for name, scores in split.scores.items()}
    )
    slates = np.repeat(chosen, list(map(len, read)))
    users, liked = split.users[rows], split.liked[rows]
    weights = None
    if split.weights is not None and len(heavy := split.weights[rows][liked]) and np.ptp(heavy) > 0:
        weights = np.where(liked, split.weights[rows] / heavy.mean(), 1).astype(np.float32)
    pairs = _Pairs(numbers, users, liked, (last | first)[slates], (before | first)[slates], last[slates], weights)
    return pairs, len(chosen) == len(places)


def _met(catalog: Catalog, items: Rows, time: int) -> NDArray[np.bool_]:
    """Whether anybody had met the items before a time."""
    begins, ends = catalog.item_table["rating_offsets"][items], catalog.item_table["rating_offsets"][items + 1]
    times = catalog.item_table["rating_times"]
    return np.asarray((begins < ends) & (times[np.minimum(begins, len(times) - 1)] < time))


def _likes_and_others(part: slice, liked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rows of a slate's likes, and of SIZE - 1 others for each, drawn from the slate."""
    rows = np.arange(part.start, part.stop)
    likes, others = rows[liked[part]], rows[~liked[part]]
    count = min(len(others), (SIZE - 1) * len(likes))
    return np.sort(np.concatenate([likes, np.random.default_rng(part.start).choice(others, count, replace=False)]))


@dataclass(frozen=True)
class _Judges:
    """The pairs to fit on and those that judge, masks [N]; of those that judge, users, labels and weights (None: all are 1)."""

    fits: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    users: NDArray[np.int64]
    labels: NDArray[np.bool_]
    weights: NDArray[np.float32] | None

    @classmethod
    def of(cls, pairs: _Pairs) -> _Judges | None:
        """None: there are too few."""
        distinct = np.unique(pairs.users)
        judges = np.isin(pairs.users, distinct[[roles.place(f"zero {user}") < 0.2 for user in distinct.tolist()]])
        fits, judged = pairs.before & ~judges, pairs.judged & judges
        labels = pairs.liked[judged]
        one_label = any(rows.all() or not rows.any() for rows in (pairs.liked[fits], labels))
        if one_label or len(distinct) < MIN_USERS:
            return None
        return cls(fits, judged, pairs.users[judged], labels, pairs.weights_of(judged))

    def loss(self, log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each pair that judges."""
        return np.asarray(np.logaddexp(0, np.where(self.labels, -log_odds, log_odds)), np.float64)

    def losses(
        self, pairs: _Pairs, trees: int, leaves: int, columns: Sequence[int] | slice = slice(None)
    ) -> list[NDArray[np.float64]]:
        """The losses of the first, the first two, … of the trees, which read some of the numbers."""
        numbers = pairs.numbers[:, columns]
        model = _boosted(trees, leaves, numbers[self.fits], pairs.liked[self.fits], pairs.weights_of(self.fits))
        return [self.loss(log_odds) for log_odds in model.staged_decision_function(numbers[self.judged])]

    def mean(self, losses: NDArray[np.float64]) -> float:
        return float(np.average(losses, weights=self.weights))

    def error(self, differences: NDArray[np.float64]) -> float:
        """The standard error of a mean over pairs, whose users are drawn."""
        weights = np.ones(len(differences)) if self.weights is None else self.weights
        _, owner = np.unique(self.users, return_inverse=True)
        sums = np.bincount(owner, weights * (differences - self.mean(differences)))
        return float(np.sqrt((sums**2).sum()) / weights.sum())


_COSTS = ("similar_like_rate", "nearest_like_rate", "max_cosine", "mean_cosine", "gcn")
"""Ops by what they cost, dearest first; all others are nearly free."""


def _chosen_numbers(pairs: _Pairs, numbers: Sequence[dict[str, Any]], search: int) -> tuple[list[int], list[dict[str, Any]]]:
    """The columns that exit zero reads, ascending, and what catalog.json says of each number. search: microseconds of a search
    of similar users."""
    searches = [column for column, op in enumerate(numbers) if op["op"] == _COSTS[0]]
    judges, read = _Judges.of(pairs), list(range(len(numbers)))
    if judges is None:
        return [column for column in read if column not in searches], []
    single = sorted(read, key=lambda column: _cost(numbers[column]), reverse=True)
    groups = [(searches, TOLERANCE * math.ceil(search / 1000))] if searches else []
    groups += [([column], TOLERANCE) for column in single]

    def best(columns: Sequence[int]) -> NDArray[np.float64]:
        return min(judges.losses(pairs, CHOICE_TREES, CHOICE_LEAVES, columns), key=judges.mean)

    least = best(read)
    about: dict[int, dict[str, Any]] = {}
    for columns, price in groups:
        rest = [column for column in read if column not in columns]
        if len(rest) == len(read) or not rest:
            continue
        loss = best(rest)
        gain = judges.mean(loss - least) / judges.mean(least)
        error = judges.error(loss - least) / judges.mean(least) if columns == searches else 0.0
        if gain - error <= price:
            read = rest
        entry = {"gain": round(gain, 5), "price": price}
        entry |= {"error": round(error, 5), "search_us": search} if columns == searches else {}
        about |= {column: {"number": numbers[column], "read": column in read, **entry} for column in columns}
        least = min(least, loss, key=judges.mean)
    return read, [about[column] for column in sorted(about)]


def _cost(op: Mapping[str, Any]) -> tuple[int, int]:
    return len(_COSTS) - _COSTS.index(op["op"]) if op["op"] in _COSTS else 0, op.get("limit", 0)


def _choose(pairs: _Pairs, counts: NDArray[np.bool_]) -> tuple[int, int, float | None]:
    """Trees, leaves of each, both 0 for a logistic model, and the log loss of the users who judge; None if they are too few.
    counts: bool [F], the numbers that are counts."""
    if (judges := _Judges.of(pairs)) is None:
        return 0, 0, None
    fits = judges.fits
    logistic = Logistic.fit(pairs.numbers[fits], pairs.liked[fits], counts, pairs.weights_of(fits))
    losses = {(0, 0): judges.mean(judges.loss(logistic.log_odds(pairs.numbers[judges.judged])))}
    for leaves in LEAVES:
        staged = judges.losses(pairs, MAX_TREES, leaves)
        losses |= {(trees, leaves): judges.mean(loss) for trees, loss in enumerate(staged, 1)}
    most = min(losses.values()) * (1 + TOLERANCE)
    trees, leaves = min((size for size, value in losses.items() if value <= most), key=math.prod)
    return trees, leaves, losses[trees, leaves]


def _choose_by_ranking(pairs: _Pairs, counts: NDArray[np.bool_]) -> tuple[int, int]:
    """As `_choose`, by the order of the judges' candidates."""
    if (judges := _Judges.of(pairs)) is None:
        return 0, 0
    fits, judged, by_user = judges.fits, pairs.numbers[judges.judged], ByUser(judges.users, judges.labels)
    if by_user.both.sum() < MIN_JUDGES:
        return 0, 0

    def values(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        return by_user.auc(log_odds)[by_user.both]

    line = values(Logistic.fit(pairs.numbers[fits], pairs.liked[fits], counts).log_odds(judged))
    gains: dict[tuple[int, int], NDArray[np.float64]] = {}
    for leaves in LEAVES:
        model = _boosted(MAX_TREES, leaves, pairs.numbers[fits], pairs.liked[fits])
        staged = model.staged_decision_function(judged)
        gains |= {(trees, leaves): values(log_odds) - line for trees, log_odds in enumerate(staged, 1)}
    best = max(gains, key=lambda size: gains[size][::2].mean())
    rest = gains[best][1::2]  # the best of many is too good for those who chose it
    return best if rest.mean() > 2 * rest.std(ddof=1) / math.sqrt(len(rest)) else (0, 0)


def _boosted(
    trees: int, leaves: int, numbers: Numbers, liked: NDArray[np.bool_], weights: NDArray[np.float32] | None = None
) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    boosting = HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=leaves, learning_rate=_RATE, early_stopping=False, random_state=0
    )
    missing = np.isnan(numbers).all(0)  # a number that no pair has breaks the binning
    with threadpool_limits(1):  # sums do not depend on the machine, and threads do not wait for each other on a busy one
        return boosting.fit(np.where(missing, np.float32(0), numbers), liked, sample_weight=weights)
