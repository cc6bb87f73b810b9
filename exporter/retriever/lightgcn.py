"""The retriever: LightGCN (He et al. 2020, arXiv 2002.02126) on likes, trained with BPR.

OptiRAG-Rec (arXiv 2501.02173) retrieves prompt context with a graph network. A node's embedding is the mean of its layers
(alpha = 1 / (L + 1)). The model, its weights and its loss are torch-geometric's; products with the normalised adjacency are ours
(`propagated`), and tests compare them with `LightGCN.get_embedding`.

On a large graph training starts from the leading singular vectors of the normalised likes (`leading`). LightGCN's layers multiply
the weights by one matrix repeatedly. That keeps the components along the matrix's leading singular vectors and shrinks the rest
(Peng et al. 2022, SVD-GCN, arXiv 2208.12689). From random weights, training finds these directions step by step, with several
passes over the graph in each step; a randomized subspace iteration (Halko et al. 2011, arXiv 0909.4061) finds them in seven
products. This start and the scale of its rows are our choice (docs/notes/scale/indexing.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.nn import LightGCN

from rexit.errors import InputError
from rexit.exporter.libraries import threads_for
from rexit.exporter.options import LightGCNOptions
from rexit.progress import Progress, silent

Rows: TypeAlias = NDArray[np.int64] | NDArray[np.int32]
Edges: TypeAlias = tuple[Rows, Rows]
"""User rows and item rows."""

CHUNK, SCORES = 1024, 1 << 23  # maximum numbers of users and scores computed at once, so that memory is reused
SAMPLE = 20_000  # maximum number of users that a recall is measured on
ALL_SCORES = 1 << 32  # maximum number of scores in all: with many items, fewer users are measured
WIDTH = 128  # size of a group of scores whose maximum is compared first


class Recall:
    """Recall@k: the mean over users of (targets among the k best items) / (targets).

    With more than SAMPLE users, or where their scores are more than ALL_SCORES, a fixed sample is used. The standard error of
    SAMPLE users' recall is below 0.0036.
    """

    def __init__(self, excluded: Edges, targets: Edges, items: int) -> None:
        """excluded: edges that are never recommended. targets: edges to find, unless excluded. items: number of items."""
        self._items = items
        users = np.unique(targets[0]).astype(np.int64)
        excluded_keys, target_keys = (_keys(edges, users, items) for edges in (excluded, targets))
        target_keys = target_keys[~_among(target_keys, excluded_keys)]
        users = np.unique(target_keys // items)
        sample = min(SAMPLE, max(1, ALL_SCORES // items))
        if len(users) > sample:
            users = np.sort(np.random.default_rng(0).choice(users, sample, replace=False))
            target_keys = target_keys[np.isin(target_keys // items, users, kind="table")]
        excluded_keys = excluded_keys[np.isin(excluded_keys // items, users, kind="table")]
        self._excluded, self._targets = torch.from_numpy(excluded_keys), torch.from_numpy(target_keys)
        self.users, self._counts = torch.unique_consecutive(self._targets // items, return_counts=True)
        """Rows of the users with a target, int64, ascending; and their numbers of targets."""

    def at(self, k: int, scores: Callable[[Tensor], Tensor]) -> float | None:
        """Measures recall@k.

        Args:
            k: recommended items per user.
            scores: maps user rows [n] to scores [n, items].

        Returns:
            The recall; None without targets.
        """
        if not len(self.users):
            return None
        recalls, chunk = [], max(1, min(CHUNK, SCORES // self._items))
        for users, counts in zip(self.users.split(chunk), self._counts.split(chunk), strict=True):
            table = scores(users).clone()
            bounds = torch.stack([users[0], users[-1] + 1]) * self._items
            excluded = self._excluded[slice(*torch.searchsorted(self._excluded, bounds).tolist())]
            table[torch.searchsorted(users, excluded // self._items), excluded % self._items] = -torch.inf
            best = largest(table, min(k, self._items))[1]
            hits = torch.isin(users[:, None] * self._items + best, self._targets).sum(1)
            recalls.append(hits / counts)
        return float(torch.cat(recalls).mean())


def _keys(edges: Edges, users: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """A number for each distinct edge of `users`, ascending."""
    selected = np.isin(edges[0], users, kind="table")
    keys = edges[0][selected].astype(np.int64) * items + edges[1][selected]
    keys.sort()
    return keys[np.diff(keys, prepend=-1) > 0]


def _among(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `values` are in `known`; both ascend."""
    if not len(known):
        return np.zeros(len(values), bool)
    place = np.searchsorted(known, values)
    present: NDArray[np.bool_] = known[np.minimum(place, len(known) - 1)] == values
    return present


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row [n, m], or all m: values and places. First the maxima of groups of WIDTH scores are compared."""
    groups = scores.shape[1] // WIDTH
    if groups < 2 * k:
        return scores.topk(min(k, scores.shape[1]))
    in_groups = scores[:, : groups * WIDTH].view(len(scores), WIDTH, groups)
    group = in_groups.amax(1).topk(k, sorted=False).indices
    place = (group[:, None, :] + torch.arange(WIDTH)[:, None] * groups).flatten(1)
    rest = torch.arange(groups * WIDTH, scores.shape[1]).expand(len(scores), -1)
    place = torch.cat([place, rest], 1)
    values, chosen = scores.gather(1, place).topk(k)
    return values, place.gather(1, chosen)


Nodes = tuple[Tensor, Tensor]
"""Rows of users [U, D] and of items [I, D]."""


@dataclass(frozen=True)
class Graph:
    """The likes: the two blocks of the normalised adjacency, sparse CSR, from items to users [U, I] and from users to items
    [I, U]; degrees [U] and [I]. Repeated likes add up."""

    to_users: Tensor
    to_items: Tensor
    user_degree: Tensor
    item_degree: Tensor

    @classmethod
    def of(cls, user: Tensor, item: Tensor, users: int, items: int) -> Graph:
        """user, item: int32 [n], rows of the likes, users ascending. users, items: number of rows."""
        degrees = torch.bincount(user, minlength=users), torch.bincount(item, minlength=items)
        of_user, of_item = (degree.float().rsqrt() for degree in degrees)
        offsets = np.concatenate([[0], np.cumsum(degrees[0].numpy())])
        liked = csr_array(((of_user[user] * of_item[item]).numpy(), item.numpy(), offsets), shape=(users, items))
        return cls(_tensor(liked), _tensor(liked.T.tocsr()), *degrees)

    def next(self, nodes: Nodes) -> Nodes:
        """The next layer."""
        users, items = nodes
        return self.to_users @ items, self.to_items @ users


def _tensor(matrix: csr_array) -> Tensor:
    begins = torch.from_numpy(matrix.indptr.astype(matrix.indices.dtype))
    columns, values = torch.from_numpy(matrix.indices), torch.from_numpy(matrix.data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(begins, columns, values, size=matrix.shape, check_invariants=False)


def propagated(alpha: Sequence[float], nodes: Nodes, graph: Graph) -> Nodes:
    """The sum of LightGCN's layers, the first being `nodes`, weighted by `alpha`."""
    users, items = (layer * alpha[0] for layer in nodes)
    for weight in alpha[1:]:
        nodes = graph.next(nodes)
        users.add_(nodes[0], alpha=weight)
        items.add_(nodes[1], alpha=weight)
    return users, items


PASSES = 3  # passes there and back; more are more exact and recommended no better
EXTRA = 16  # columns more than needed, which speed up convergence
ENTRY_SIZE = 0.2  # root mean square of an entry
MIN_SINGULAR_VALUE = 1e-3  # smaller ones are rounding errors


def leading(graph: Graph, reference: Tensor, generator: torch.Generator) -> Tensor:
    """Initial weights from pairs of singular vectors, each times the root of its singular value.

    Singular vectors have no fixed signs, and those of close values no fixed directions. So they are rotated to lie as near to
    `reference` as possible (Procrustes). Then the vectors of a graph and of a part of it are alike, as a retriever's snapshots
    must be: a model trained with them is served with the catalog's own.

    Args:
        graph: the likes.
        reference: float32 [U + I, D].
        generator: draws the random subspace.

    Returns:
        float32 [U + I, D], users before items. Entries in rows with a like have a root mean square of ENTRY_SIZE; other rows
        are zero.
    """
    dim = reference.shape[1]
    basis = torch.randn(len(graph.item_degree), min(dim + EXTRA, *graph.to_users.shape), generator=generator)
    for _ in range(PASSES):
        basis = torch.linalg.qr(graph.to_items @ (graph.to_users @ basis)).Q
    image = graph.to_users @ basis
    squares, turn = torch.linalg.eigh(image.T @ image)
    values = squares.flip(0)[:dim].clamp(min=0).sqrt()
    values = values[values > MIN_SINGULAR_VALUE]
    turn = turn.flip(1)[:, : len(values)]
    rows = torch.cat([image @ turn / values.sqrt(), basis @ turn * values.sqrt()])
    left, _, right = torch.linalg.svd(rows.T @ reference, full_matrices=False)
    liked = torch.cat([graph.user_degree, graph.item_degree]) > 0
    start: Tensor = rows @ (left @ right) * liked[:, None]
    return start * (ENTRY_SIZE / start[liked].square().mean().sqrt())


EVALUATE_EVERY = 5  # epochs
BLOCK = 1 << 11  # likes whose embeddings are in memory at once: small enough for a cache
K = 20  # recall@K
LARGE = 1 << 22  # numbers in the embeddings: with more, training from random weights takes too many steps

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Likes:
    """What LightGCN is trained on and judged by. Edges may repeat.

    graph: edges to propagate and learn.
    history: all likes before the targets; users are folded in from them when recall is measured.
    excluded: all interactions before the targets, which are not recommended again.
    targets: the likes that recall is measured on.
    users, items: number of rows.
    weights: of the graph's edges in the loss, float32; None: all the same. The graph itself has none, as a user who is folded in.
    """

    graph: Edges
    history: Edges
    excluded: Edges
    targets: Edges
    users: int
    items: int
    weights: Matrix | None = None


@dataclass(frozen=True)
class Retriever:
    """Embeddings: `users` [U, D] and `items` [I, D], `fold_in` [I, D] as docs/format.md defines it. LightGCN's are float32 and
    those of users and items of unit length; those from elsewhere are float16, as a catalog stores them.

    Users and items without a like in the graph have zero rows. Recalls are means over the users with a target; None if there is
    none.
    """

    users: Matrix | NDArray[np.float16]
    items: Matrix | NDArray[np.float16]
    fold_in: Matrix | NDArray[np.float16]
    recall: float | None
    popularity_recall: float | None
    epochs: int


def train(likes: Likes, options: LightGCNOptions, progress: Progress = silent, epochs: int | None = None) -> Retriever:
    """Trains LightGCN.

    A step propagates the full graph once and takes one BPR batch with uniformly sampled negatives. Training starts from random
    weights; on a large graph, from the singular vectors of the likes.

    Args:
        likes: edges to learn, and edges to measure recall on.
        options: LightGCN's hyperparameters.
        progress: called with "LightGCN", the epochs done and the most epochs.
        epochs: how many are run; None: those with the best recall@20, measured with users folded in as prompts fold them in, or
            all of `options.epochs` without targets.

    Returns:
        The retriever. The same input gives the same result on the same machine.

    Raises:
        InputError: an option is out of range, the graph has no edge, or training diverges.
    """
    options.check()
    if not len(likes.graph[0]):
        raise InputError("no liked interaction in the train split: nothing to train LightGCN on")
    with threads_for((likes.users + likes.items) * options.dim):
        return _train(likes, options, progress, epochs)


def _train(likes: Likes, options: LightGCNOptions, progress: Progress, epochs: int | None) -> Retriever:
    users, items = likes.users, likes.items
    last = options.epochs if epochs is None else epochs
    progress("LightGCN", 0, max(1, last))  # a large graph's start takes minutes
    order = np.argsort(likes.graph[0], kind="stable")
    user, item = (torch.from_numpy(side[order].astype(np.int32)) for side in likes.graph)
    weights = torch.ones(len(user)) if likes.weights is None else torch.from_numpy(likes.weights[order])
    weights /= weights.mean().where(weights.any(), 1)
    del order
    graph = Graph.of(user, item, users, items)
    judge = Recall(likes.excluded, likes.targets, items)
    history = _like_counts(*likes.history, users, items, judge.users)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        # The adjacency is normalised once, not in every layer and step.
        model = LightGCN(users + items, options.dim, options.layers, normalize=False)
    first = EVALUATE_EVERY  # first epoch that may win: on noise, random weights can have the best recall
    if model.embedding.weight.numel() > LARGE:
        first = 0
        model.embedding.weight.data = leading(graph, model.embedding.weight.detach(), generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    batch = max(8192, len(user) // 6)  # a step costs a pass over the whole graph: few steps on large ones
    best: float | None = None
    best_epoch, best_weight = 0, model.embedding.weight.detach().clone()
    for epoch in range(last + 1):
        if epoch:
            for chosen in torch.split(torch.randperm(len(user), generator=generator), batch):
                negative = torch.randint(items, (options.negatives, len(chosen)), generator=generator).int()
                rows = torch.cat([item[chosen][None], negative])
                _backward(model, graph, user[chosen], rows, weights[chosen], options.weight_decay)
                optimizer.step()
            progress("LightGCN", epoch, last)
        if (epochs is None and epoch >= first and epoch % EVALUATE_EVERY == 0) or epoch == last:
            recall = judge.at(K, _scores(*_embeddings(model, graph)[1:], history, judge.users)) if len(judge.users) else None
            if best is None or recall is None or recall > best:
                best, best_epoch, best_weight = recall, epoch, model.embedding.weight.detach().clone()
            elif epoch - max(best_epoch, EVALUATE_EVERY) >= options.patience:
                break
    if not model.embedding.weight.isfinite().all():
        raise InputError(f"LightGCN did not converge at learning rate {options.learning_rate}: choose a smaller `learning_rate`")
    model.embedding.weight.data = best_weight
    user_embeddings, item_embeddings, fold_in = _embeddings(model, graph)
    return Retriever(
        F.normalize(user_embeddings).numpy(),
        F.normalize(item_embeddings).numpy(),
        fold_in.numpy(),
        recall=best,
        popularity_recall=_popularity_recall(judge, likes),
        epochs=best_epoch,
    )


def _backward(model: LightGCN, graph: Graph, user: Tensor, rows: Tensor, weights: Tensor, weight_decay: float) -> None:
    """Sets the weights' gradient for one batch.

    The loss is differentiated by the embeddings alone. Propagation is linear and the graph symmetric, so the gradient by weights
    is that gradient, propagated once; autograd would transpose the graph in each layer of each step.

    Args:
        model: the model whose weights' `grad` is set.
        graph: the likes.
        user: int32 [n].
        rows: int32 [1 + negatives, n], the liked items, then the sampled ones.
        weights: float32 [n], of the likes, mean 1 over the graph.
        weight_decay: BPR's lambda.
    """
    weight, borders = model.embedding.weight, (len(graph.user_degree), len(graph.item_degree))
    alpha = model.alpha.tolist()
    with torch.no_grad():
        users, items = propagated(alpha, weight.split(borders), graph)
    users.requires_grad_()
    items.requires_grad_()
    block = max(BLOCK, len(weight) // 4)  # each block fills a table of all users and one of all items
    for part, in_part, weight_of in zip(user.split(block), rows.split(block, 1), weights.split(block), strict=True):
        scores = (F.embedding(part, users) * F.embedding(in_part, items)).sum(-1)
        loss = -(F.logsigmoid(scores[0] - scores[1:]) * weight_of).mean()
        (loss * (len(part) / len(user))).backward()
    assert users.grad is not None and items.grad is not None
    weight.grad = torch.cat(propagated(alpha, (users.grad, items.grad), graph))
    # BPR's lambda, on the weights of the batch's nodes: the gradient of lambda |w|^2 over the likes.
    used = torch.zeros(len(weight))
    used[user], used[rows.flatten() + borders[0]] = 1, 1
    weight.grad.addcmul_(weight.detach(), used[:, None], value=2 * weight_decay / len(user))


def recalls(likes: Likes, items: Matrix, fold_in: Matrix) -> tuple[float | None, float | None]:
    """Recall@20 of a retriever's tables, and of popularity; None without a target."""
    judge = Recall(likes.excluded, likes.targets, likes.items)
    if not len(judge.users):
        return None, None
    history = _like_counts(*likes.history, likes.users, likes.items, judge.users)
    scores = _scores(torch.from_numpy(items), torch.from_numpy(fold_in), history, judge.users)
    return judge.at(K, scores), _popularity_recall(judge, likes)


def _popularity_recall(judge: Recall, likes: Likes) -> float | None:
    popularity = torch.bincount(torch.tensor(likes.history[1]), minlength=likes.items).float()
    return judge.at(K, lambda rows: popularity.expand(len(rows), -1))


def _like_counts(user: Rows, item: Rows, users: int, items: int, selected: Tensor) -> csr_array:
    """How often each selected user liked each item: float32 [selected users, I]."""
    place = np.full(users, -1, np.int32)
    place[selected.numpy()] = np.arange(len(selected))
    edges = place[user] >= 0
    at = place[user[edges]], item[edges].astype(np.int32)
    return csr_array((np.ones(len(at[0]), np.float32), at), shape=(len(selected), items))


@torch.no_grad()
def _scores(items: Tensor, fold_in: Tensor, history: csr_array, selected: Tensor) -> Callable[[Tensor], Tensor]:
    """Maps rows of `selected` users, ascending, to scores [n, I]. history: the result of `_like_counts`."""
    users = torch.from_numpy(history @ fold_in.numpy())
    return lambda rows: users[torch.searchsorted(selected, rows)] @ items.T


@torch.no_grad()
def _embeddings(model: LightGCN, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """`users` and `items` of a Retriever before normalisation, and `fold_in`."""
    known = (graph.item_degree > 0)[:, None]
    layer = model.embedding.weight.detach().split((len(graph.user_degree), len(known)))
    users, items = propagated(model.alpha.tolist(), layer, graph)
    carried = torch.zeros_like(items)
    for alpha in model.alpha[1:]:
        carried += layer[1] * alpha  # a new user's layer l + 1 is made of the items' layer l
        layer = graph.next(layer)
    fold_in = carried / graph.item_degree.clamp(min=1).sqrt()[:, None] * known
    # Divided by a power of two, so that float16 holds it. The length of a folded-in user does not matter.
    fold_in = torch.ldexp(fold_in, -torch.frexp(fold_in.abs().max()).exponent)
    return users * (graph.user_degree > 0)[:, None], items * known, fold_in
