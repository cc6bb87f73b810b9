"""The retriever: LightGCN (He et al. 2020, arXiv 2002.02126) on likes, trained with BPR.

OptiRAG-Rec (arXiv 2501.02173) retrieves prompt context with a graph network; what reaches the prompt is computed from the
embeddings made here. The embedding of a node is the mean of its layers (alpha = 1 / (L + 1)), as torch-geometric has it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.nn import LightGCN
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from rexit.errors import InputError
from rexit.exporter.catalog.recall import Recall
from rexit.exporter.options import LightGCNOptions
from rexit.progress import Progress, silent

EVALUATE_EVERY = 5  # epochs
BLOCK = 1 << 18  # likes whose losses are in memory at once
K = 20  # recall@K

Rows = NDArray[np.int64]
Edges = tuple[Rows, Rows]  # user rows, item rows
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Likes:
    """What LightGCN is trained on and judged by. Rows are below `users` and `items`; an edge may stand several times.

    graph: what is propagated and learned from. known: what users are folded in from when recall is measured, all they liked
    before validation. seen: what they met until then, liked or not, and is not recommended again. wanted: validation likes.
    """

    graph: Edges
    known: Edges
    seen: Edges
    wanted: Edges
    users: int
    items: int


@dataclass(frozen=True)
class Retriever:
    """Embeddings float32: `users` [U, D] and `items` [I, D] of unit length, `fold_in` [I, D] as docs/format.md defines it.

    A user or an item without a like in the graph has zero rows: nothing is known of them. Recalls are over the users with a
    validation like, None where there is none.
    """

    users: Matrix
    items: Matrix
    fold_in: Matrix
    recall: float | None
    popularity_recall: float | None
    epochs: int


def train(likes: Likes, options: LightGCNOptions, progress: Progress = silent) -> Retriever:
    """Each step propagates the full graph once and takes one BPR batch with uniformly drawn negatives, BLOCK likes of it at a
    time: what a step holds beside the graph and a few tables of embeddings does not grow with the likes.

    The epoch with the best validation recall@20 is kept; without validation likes the last one. Users are folded in for it, as
    they are when prompts are made. Seeded: the same input gives the same result on the same machine.
    """
    options.check()
    if not len(likes.graph[0]):
        raise InputError("no liked interaction in the train split: nothing to train LightGCN on")
    with _threads((likes.users + likes.items) * options.dim):
        return _train(likes, options, progress)


@contextlib.contextmanager
def _threads(size: int) -> Iterator[None]:
    """One thread for small embeddings: measured 5 to 18 times faster than two where other programs want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if size < 1 << 20 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(likes: Likes, options: LightGCNOptions, progress: Progress) -> Retriever:
    (user, item), users, items = (torch.tensor(side) for side in likes.graph), likes.users, likes.items
    graph = _Graph.of(user, item, users, items)
    judge, known = Recall(likes.seen, likes.wanted, items), _matrix(*likes.known, users, items)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        # The adjacency is normalised once, not again in every layer and step.
        model = LightGCN(users + items, options.dim, options.layers, normalize=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    batch = max(8192, len(user) // 6)  # a step costs a pass over the whole graph: few steps on large ones
    best: float | None = None
    best_epoch, best_weight = 0, model.embedding.weight.detach().clone()
    for epoch in range(1, options.epochs + 1):
        for chosen in torch.split(torch.randperm(len(user), generator=generator), batch):
            negative = torch.randint(items, (options.negatives, len(chosen)), generator=generator)
            nodes = torch.stack([user[chosen], users + item[chosen], *(users + negative)])
            optimizer.zero_grad()
            _backward(model, graph.adjacency, nodes, options.weight_decay)
            optimizer.step()
        if epoch % EVALUATE_EVERY == 0 or epoch == options.epochs:
            recall = judge.at(K, _scores(*_embeddings(model, graph)[1:], known))
            if best is None or recall is None or recall > best:
                best, best_epoch, best_weight = recall, epoch, model.embedding.weight.detach().clone()
            elif epoch - best_epoch >= options.patience:
                break
        progress("LightGCN", epoch, options.epochs)
    model.embedding.weight.data = best_weight
    user_embeddings, item_embeddings, fold_in = _embeddings(model, graph)
    if not all(part.isfinite().all() for part in (user_embeddings, item_embeddings, fold_in)):
        raise InputError(f"LightGCN did not converge at learning rate {options.learning_rate}: choose a smaller --learning-rate")
    popularity = torch.bincount(torch.tensor(likes.known[1]), minlength=items)
    return Retriever(
        F.normalize(user_embeddings).numpy(),
        F.normalize(item_embeddings).numpy(),
        fold_in.numpy(),
        recall=best,
        popularity_recall=judge.at(K, lambda rows: popularity.float().expand(len(rows), -1)),
        epochs=best_epoch,
    )


def _backward(model: LightGCN, adjacency: Tensor, nodes: Tensor, weight_decay: float) -> None:
    """Adds the gradient of one batch's loss: `nodes` [2 + negatives, n] are users, liked items and items drawn against them.

    Propagation is linear and the graph symmetric, so the loss's gradient by embeddings, propagated once more, is that by weights.
    autograd would transpose the graph in each layer of each step, at several times the cost of a product with it.
    """
    with torch.no_grad():
        embeddings = _propagated(model, model.embedding.weight, adjacency)
    embeddings.requires_grad_()
    count = nodes.shape[1]
    for block in torch.split(nodes, BLOCK, dim=1):
        # F.embedding, not indexing: its gradient is summed in a fixed order.
        u, i, *j = F.embedding(block, embeddings)
        against = torch.stack([(u * one).sum(1) for one in j])
        loss = model.recommendation_loss((u * i).sum(1), against, lambda_reg=0)
        (loss * (block.shape[1] / count)).backward()
    assert embeddings.grad is not None
    with torch.no_grad():
        model.embedding.weight.grad = _propagated(model, embeddings.grad, adjacency)
        # BPR's lambda, on the weights of the batch's nodes: the gradient of lambda |w|^2 over the likes.
        used = torch.zeros(len(embeddings), 1, dtype=torch.bool)
        used[nodes.flatten()] = True
        model.embedding.weight.grad.addcmul_(model.embedding.weight, used, value=2 * weight_decay / count)


def _propagated(model: LightGCN, layer: Tensor, adjacency: Tensor) -> Tensor:
    """The mean of the layers, of which `layer` is the first: `LightGCN.get_embedding` for any [U + I, D]."""
    total: Tensor = layer * model.alpha[0]
    for alpha in model.alpha[1:]:
        layer = adjacency @ layer
        total.add_(layer, alpha=float(alpha))
    return total


@dataclass(frozen=True)
class _Graph:
    """The likes: `adjacency` sparse [U + I, U + I], degrees [U] and [I]."""

    adjacency: Tensor
    user_degree: Tensor
    item_degree: Tensor

    @classmethod
    def of(cls, user: Tensor, item: Tensor, users: int, items: int) -> _Graph:
        degrees = torch.bincount(user, minlength=users), torch.bincount(item, minlength=items)
        return cls(_adjacency(user, item, users, items), *degrees)


def _matrix(user: Rows, item: Rows, users: int, items: int) -> Tensor:
    """How often each user liked each item, sparse [U, I]."""
    edges = torch.tensor(np.stack([user, item]))
    return _csr(torch.sparse_coo_tensor(edges, torch.ones(edges.shape[1]), (users, items), check_invariants=True))


def _csr(matrix: Tensor) -> Tensor:
    """In CSR, with int32 indices where they fit: a third less memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR is in beta"
        made = matrix.to_sparse_csr()
        if max(made.values().numel(), *made.shape) >= 1 << 31:
            return made
        return torch.sparse_csr_tensor(made.crow_indices().int(), made.col_indices().int(), made.values(), made.shape)


def _adjacency(user: Tensor, item: Tensor, users: int, items: int) -> Tensor:
    """The symmetric, degree-normalised graph over users then items, a sparse CSR matrix [U + I, U + I]. Repeated likes add up."""
    edges = torch.cat([torch.stack([user, users + item]), torch.stack([users + item, user])], 1)
    edges, weight = gcn_norm(edges, None, users + items, add_self_loops=False)
    return _csr(torch.sparse_coo_tensor(edges, weight, (users + items, users + items), check_invariants=True))


@torch.no_grad()
def _scores(items: Tensor, fold_in: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
    users = known @ fold_in
    return lambda rows: users[rows] @ items.T


@torch.no_grad()
def _embeddings(model: LightGCN, graph: _Graph) -> tuple[Tensor, Tensor, Tensor]:
    """`users` and `items` of a Retriever, not yet of unit length, and `fold_in`."""
    users, known = len(graph.user_degree), (graph.item_degree > 0)[:, None]
    layer = model.embedding.weight
    total, carried = layer * model.alpha[0], torch.zeros_like(layer[users:])
    for conv, alpha in zip(model.convs, model.alpha[1:], strict=True):
        carried = carried + layer[users:] * alpha  # a new user's layer l + 1 is made of the items' layer l
        layer = conv(layer, graph.adjacency)
        total = total + layer * alpha
    fold_in = carried / graph.item_degree.clamp(min=1).sqrt()[:, None] * known
    # Over a power of two, so that float16 holds it whatever the weights came to. The length of a sum of them does not matter.
    fold_in = torch.ldexp(fold_in, -torch.frexp(fold_in.abs().max()).exponent)
    return total[:users] * (graph.user_degree > 0)[:, None], total[users:] * known, fold_in
