"""The retriever: LightGCN (He et al. 2020, arXiv 2002.02126) on likes, trained with BPR.

OptiRAG-Rec (arXiv 2501.02173) retrieves prompt context with a graph network. A node's embedding is the mean of its layers
(alpha = 1 / (L + 1)). The model, its weights and its loss are torch-geometric's; products with the graph are `propagation`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch_geometric.nn import LightGCN

from rexit.errors import InputError
from rexit.exporter.libraries.threads import threads_for
from rexit.exporter.options import LightGCNOptions
from rexit.exporter.retriever.propagation import Graph, product, propagated, row_offsets
from rexit.exporter.retriever.recall import Recall
from rexit.exporter.retriever.spectral import leading
from rexit.progress import Progress, silent

EVALUATE_EVERY = 5  # epochs
BLOCK = 1 << 14  # likes whose embeddings are in memory at once: small enough for a cache
K = 20  # recall@K
LARGE = 1 << 22  # numbers in the embeddings: with more, training from random weights takes too many steps

Rows = NDArray[np.int64] | NDArray[np.int32]
Edges = tuple[Rows, Rows]  # user rows, item rows
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Likes:
    """What LightGCN is trained on and judged by. Edges may repeat.

    graph: edges to propagate and learn.
    history: all likes before the targets; users are folded in from them when recall is measured.
    excluded: all interactions before the targets, which are not recommended again.
    targets: the likes that recall is measured on.
    users, items: number of rows.
    """

    graph: Edges
    history: Edges
    excluded: Edges
    targets: Edges
    users: int
    items: int


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
                chosen, order_in_batch = chosen.sort()  # by user, so that the users' rows are read in sequence
                rows = torch.cat([item[chosen][None], negative[:, order_in_batch]])
                _backward(model, graph, user[chosen], rows, options.weight_decay)
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


@torch.no_grad()
def _backward(model: LightGCN, graph: Graph, user: Tensor, rows: Tensor, weight_decay: float) -> None:
    """Sets the weights' gradient for one batch.

    Propagation is linear and the graph symmetric. So the gradient by weights is the gradient by embeddings, propagated once.
    autograd would transpose the graph in each layer of each step, which costs several products with it, and would fill tables of
    all users and items for each part of a batch.

    Args:
        model: the model whose weights' `grad` is set.
        graph: the likes.
        user: int32 [n], ascending.
        rows: int32 [1 + negatives, n], the liked items, then the sampled ones.
        weight_decay: BPR's lambda.
    """
    weight, users = model.embedding.weight, len(graph.user_degree)
    embeddings = propagated(model, weight, graph)
    of_users, of_items = embeddings[:users], embeddings[users:]
    scores = _products(of_users, of_items, user, rows)
    # A score is a product of two embeddings, so its gradient by one embedding is the other embedding, times the loss's gradient.
    by_score = csr_array(
        (_gradient_by_scores(model, scores).T.flatten().numpy(), rows.T.flatten().numpy(), row_offsets(user, users) * len(rows)),
        shape=(users, len(of_items)),
    )
    transposed = by_score.T.tocsr()
    gradient = torch.cat([product(by_score, of_items), product(transposed, of_users)])
    weight.grad = propagated(model, gradient, graph)
    # BPR's lambda, on the weights of the batch's nodes: the gradient of lambda |w|^2 over the likes.
    used = torch.from_numpy(np.concatenate([np.diff(matrix.indptr) > 0 for matrix in (by_score, transposed)]))
    weight.grad.addcmul_(weight, used[:, None], value=2 * weight_decay / len(user))


def _products(of_users: Tensor, of_items: Tensor, user: Tensor, rows: Tensor) -> Tensor:
    """The scores of items `rows` [m, n] for `user` [n]: [m, n]."""
    scores = torch.empty(rows.shape)
    for begin in range(0, len(user), BLOCK):
        block = slice(begin, begin + BLOCK)
        user_rows = F.embedding(user[block], of_users)
        for score, item in zip(scores, rows, strict=True):
            torch.sum(user_rows * F.embedding(item[block], of_items), 1, out=score[block])
    return scores


@torch.enable_grad()
def _gradient_by_scores(model: LightGCN, scores: Tensor) -> Tensor:
    """The gradient of the loss by `scores` [1 + negatives, n]."""
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(model.recommendation_loss(scores[0], scores[1:], lambda_reg=0), scores)
    return gradient


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
    users = product(history, fold_in)
    return lambda rows: users[torch.searchsorted(selected, rows)] @ items.T


@torch.no_grad()
def _embeddings(model: LightGCN, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """`users` and `items` of a Retriever before normalisation, and `fold_in`."""
    users, known = len(graph.user_degree), (graph.item_degree > 0)[:, None]
    layer = model.embedding.weight
    total, carried = layer * model.alpha[0], torch.zeros_like(layer[users:])
    for alpha in model.alpha[1:]:
        carried = carried + layer[users:] * alpha  # a new user's layer l + 1 is made of the items' layer l
        layer = product(graph.adjacency, layer)
        total = total + layer * alpha
    fold_in = carried / graph.item_degree.clamp(min=1).sqrt()[:, None] * known
    # Divided by a power of two, so that float16 holds it. The length of a folded-in user does not matter.
    fold_in = torch.ldexp(fold_in, -torch.frexp(fold_in.abs().max()).exponent)
    return total[:users] * (graph.user_degree > 0)[:, None], total[users:] * known, fold_in
