"""The retriever: LightGCN (He et al. 2020, arXiv 2002.02126) on likes, trained with BPR.

OptiRAG-Rec (arXiv 2501.02173) retrieves prompt context with a graph network; what reaches the prompt is computed from the
embeddings made here. The embedding of a node is the mean of its layers (alpha = 1 / (L + 1)), as torch-geometric has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.nn import LightGCN

from rexit.errors import InputError
from rexit.exporter.catalog.propagation import Graph, product, propagated, row_offsets
from rexit.exporter.catalog.recall import Recall
from rexit.exporter.catalog.spectral import leading
from rexit.exporter.options import LightGCNOptions
from rexit.progress import Progress, silent

EVALUATE_EVERY = 5  # epochs
BLOCK = 1 << 14  # likes whose embeddings are in memory at once: few enough for a cache
K = 20  # recall@K
LARGE = 1 << 22  # numbers in the embeddings: of more, random weights would take too many steps to learn from

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
    """Each step propagates the full graph once and takes one BPR batch with uniformly drawn negatives. It starts from random
    weights, on a large graph from the singular vectors of its likes.

    The epoch with the best validation recall@20 is kept, without validation likes the last one; 0 is a large graph's start.
    Users are folded in for it, as they are when prompts are made. Seeded: the same input gives the same result on the same
    machine.
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
    users, items = likes.users, likes.items
    progress("LightGCN", 0, max(1, options.epochs))  # a large graph's start takes minutes
    order = np.argsort(likes.graph[0], kind="stable")
    user, item = (torch.from_numpy(side[order].astype(np.int32)) for side in likes.graph)
    del order
    graph = Graph.of(user, item, users, items)
    judge = Recall(likes.seen, likes.wanted, items)
    known = _liked(*likes.known, users, items, judge.users)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        # The adjacency is normalised once, not again in every layer and step.
        model = LightGCN(users + items, options.dim, options.layers, normalize=False)
    first = EVALUATE_EVERY  # the first epoch that may be kept: on noise, random weights can have the best recall
    if model.embedding.weight.numel() > LARGE:
        first = 0
        model.embedding.weight.data = leading(graph, model.embedding.weight.detach(), generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)
    batch = max(8192, len(user) // 6)  # a step costs a pass over the whole graph: few steps on large ones
    best: float | None = None
    best_epoch, best_weight = 0, model.embedding.weight.detach().clone()
    for epoch in range(options.epochs + 1):
        if epoch:
            for chosen in torch.split(torch.randperm(len(user), generator=generator), batch):
                negative = torch.randint(items, (options.negatives, len(chosen)), generator=generator).int()
                chosen, drawn = chosen.sort()  # in the order of users, whose rows are then read one after the other
                rows = torch.cat([item[chosen][None], negative[:, drawn]])
                _backward(model, graph, user[chosen], rows, options.weight_decay)
                optimizer.step()
            progress("LightGCN", epoch, options.epochs)
        if (epoch >= first and epoch % EVALUATE_EVERY == 0) or epoch == options.epochs:
            recall = judge.at(K, _scores(*_embeddings(model, graph)[1:], known)) if len(judge.users) else None
            if best is None or recall is None or recall > best:
                best, best_epoch, best_weight = recall, epoch, model.embedding.weight.detach().clone()
            elif epoch - max(best_epoch, EVALUATE_EVERY) >= options.patience:
                break
    if not model.embedding.weight.isfinite().all():
        raise InputError(f"LightGCN did not converge at learning rate {options.learning_rate}: choose a smaller --learning-rate")
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


@torch.no_grad()
def _backward(model: LightGCN, graph: Graph, user: Tensor, rows: Tensor, weight_decay: float) -> None:
    """Sets the gradient of one batch's loss. user int32 [n]: ascending; rows int32 [1 + negatives, n]: the items that they liked,
    then those drawn against them.

    Propagation is linear and the graph symmetric, so the loss's gradient by embeddings, propagated once more, is that by weights.
    autograd would transpose the graph in each layer of each step, at several times the cost of a product with it, and fill
    tables of all users and items for each part of a batch.
    """
    weight, users = model.embedding.weight, len(graph.user_degree)
    embeddings = propagated(model, weight, graph)
    of_users, of_items = embeddings[:users], embeddings[users:]
    scores = _products(of_users, of_items, user, rows)
    # A score is a product of two embeddings: its gradient by one is the other. `pulls` says by how much.
    pulls = csr_array(
        (_by_scores(model, scores).T.flatten().numpy(), rows.T.flatten().numpy(), row_offsets(user, users) * len(rows)),
        shape=(users, len(of_items)),
    )
    transposed = pulls.T.tocsr()
    gradient = torch.cat([product(pulls, of_items), product(transposed, of_users)])
    weight.grad = propagated(model, gradient, graph)
    # BPR's lambda, on the weights of the batch's nodes: the gradient of lambda |w|^2 over the likes.
    used = torch.from_numpy(np.concatenate([np.diff(one.indptr) > 0 for one in (pulls, transposed)]))
    weight.grad.addcmul_(weight, used[:, None], value=2 * weight_decay / len(user))


def _products(of_users: Tensor, of_items: Tensor, user: Tensor, rows: Tensor) -> Tensor:
    """The scores of items `rows` [m, n] for `user` [n]: [m, n]."""
    scores = torch.empty(rows.shape)
    for begin in range(0, len(user), BLOCK):
        block = slice(begin, begin + BLOCK)
        asking = F.embedding(user[block], of_users)
        for score, item in zip(scores, rows, strict=True):
            torch.sum(asking * F.embedding(item[block], of_items), 1, out=score[block])
    return scores


@torch.enable_grad()
def _by_scores(model: LightGCN, scores: Tensor) -> Tensor:
    """The gradient of the loss by `scores` [1 + negatives, n]."""
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(model.recommendation_loss(scores[0], scores[1:], lambda_reg=0), scores)
    return gradient


def recalls(likes: Likes, items: Matrix, fold_in: Matrix) -> tuple[float | None, float | None]:
    """Returns recall@20 on validation, of these tables of a Retriever and of popularity; None without a validation like."""
    judge = Recall(likes.seen, likes.wanted, likes.items)
    known = _liked(*likes.known, likes.users, likes.items, judge.users)
    recall = judge.at(K, _scores(torch.from_numpy(items), torch.from_numpy(fold_in), known)) if len(judge.users) else None
    return recall, _popularity_recall(judge, likes)


def _popularity_recall(judge: Recall, likes: Likes) -> float | None:
    popularity = torch.bincount(torch.tensor(likes.known[1]), minlength=likes.items).float()
    return judge.at(K, lambda rows: popularity.expand(len(rows), -1))


def _liked(user: Rows, item: Rows, users: int, items: int, wanted: Tensor) -> csr_array:
    """How often each of the `wanted` users liked each item: [U, I], no row of another user is filled."""
    here = np.zeros(users, bool)
    here[wanted.numpy()] = True
    mine = here[user]
    user, item = user[mine], item[mine]
    return csr_array((np.ones(len(user), np.float32), (user.astype(np.int32), item.astype(np.int32))), shape=(users, items))


@torch.no_grad()
def _scores(items: Tensor, fold_in: Tensor, known: csr_array) -> Callable[[Tensor], Tensor]:
    users = product(known, fold_in)
    return lambda rows: users[rows] @ items.T


@torch.no_grad()
def _embeddings(model: LightGCN, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """`users` and `items` of a Retriever, not yet of unit length, and `fold_in`."""
    users, known = len(graph.user_degree), (graph.item_degree > 0)[:, None]
    layer = model.embedding.weight
    total, carried = layer * model.alpha[0], torch.zeros_like(layer[users:])
    for alpha in model.alpha[1:]:
        carried = carried + layer[users:] * alpha  # a new user's layer l + 1 is made of the items' layer l
        layer = product(graph.adjacency, layer)
        total = total + layer * alpha
    fold_in = carried / graph.item_degree.clamp(min=1).sqrt()[:, None] * known
    # Over a power of two, so that float16 holds it whatever the weights came to. The length of a sum of them does not matter.
    fold_in = torch.ldexp(fold_in, -torch.frexp(fold_in.abs().max()).exponent)
    return total[:users] * (graph.user_degree > 0)[:, None], total[users:] * known, fold_in
