"""The retriever: LightGCN (He et al. 2020, arXiv 2002.02126) on the training split's likes, trained with BPR.

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

EVALUATE_EVERY = 5  # epochs
K = 20  # recall@K

Rows = NDArray[np.int64]
Edges = tuple[Rows, Rows]  # user rows, item rows
Matrix = NDArray[np.float32]
EpochProgress = Callable[[int, int, float | None], None]  # epochs done, epochs at most, best recall@20 so far


@dataclass(frozen=True)
class Settings:
    """How LightGCN is trained. It stops early after `patience` epochs without a better validation recall."""

    dim: int = 64
    layers: int = 3
    epochs: int = 100
    patience: int = 20
    learning_rate: float = 0.02
    weight_decay: float = 1e-4
    seed: int = 0

    def check(self) -> None:
        """Raises InputError for the first setting that is out of range."""
        for name in ("dim", "layers", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class Retriever:
    """Embeddings float32: `users` [U, D] and `items` [I, D] of unit length, `fold_in` [I, D] as docs/format.md defines it.

    Recalls are over the users with a validation like, None where there is none. A user without a training like has a zero
    embedding, an item without one a zero `fold_in`: nothing is known of them.
    """

    users: Matrix
    items: Matrix
    fold_in: Matrix
    recall: float | None
    popularity_recall: float | None
    epochs: int


def train(
    likes: Edges,
    seen: Edges,
    validation: Edges,
    users: int,
    items: int,
    settings: Settings,
    progress: EpochProgress = lambda *_: None,
) -> Retriever:
    """Trains on `likes`. `seen` (all training interactions) are not recommended again; `validation` likes are what to find.

    Each step propagates the full graph and takes one BPR batch with uniformly drawn negatives. The epoch with the best validation
    recall@20 is kept; without validation likes the last one. Seeded: the same input gives the same result on the same machine.
    """
    settings.check()
    if not len(likes[0]):
        raise InputError("no liked interaction in the training split: is --positive-at above every rating?")
    with _threads((users + items) * settings.dim):
        return _train(likes, seen, validation, users, items, settings, progress)


@contextlib.contextmanager
def _threads(size: int) -> Iterator[None]:
    """One thread for small embeddings: measured 5 to 18 times faster than two where other programs want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if size < 1 << 20 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(
    likes: Edges, seen: Edges, validation: Edges, users: int, items: int, settings: Settings, progress: EpochProgress
) -> Retriever:
    user, item = (torch.tensor(side) for side in likes)
    adjacency = _adjacency(user, item, users, items)
    judge = Recall(seen, validation, items)
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        # The adjacency is normalised once, not again in every layer and step.
        model = LightGCN(users + items, settings.dim, settings.layers, normalize=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    batch = max(8192, len(user) // 6)  # a step costs a pass over the whole graph: few steps on large ones
    best: float | None = None
    best_epoch, best_weight = 0, model.embedding.weight.detach().clone()
    for epoch in range(1, settings.epochs + 1):
        for chosen in torch.split(torch.randperm(len(user), generator=generator), batch):
            negative = torch.randint(items, (len(chosen),), generator=generator)
            nodes = torch.stack([user[chosen], users + item[chosen], users + negative])
            # F.embedding, not indexing: its gradient is summed in a fixed order.
            u, i, j = F.embedding(nodes, model.get_embedding(adjacency))
            loss = model.recommendation_loss((u * i).sum(1), (u * j).sum(1), torch.unique(nodes), settings.weight_decay)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % EVALUATE_EVERY == 0 or epoch == settings.epochs:
            recall = judge.at(K, _scores(model, adjacency, users))
            if best is None or recall is None or recall > best:
                best, best_epoch, best_weight = recall, epoch, model.embedding.weight.detach().clone()
            elif epoch - best_epoch >= settings.patience:
                break
        progress(epoch, settings.epochs, best)
    model.embedding.weight.data = best_weight
    popularity = torch.bincount(item, minlength=items)
    return Retriever(
        *_finish(model, adjacency, torch.bincount(user, minlength=users), popularity),
        recall=best,
        popularity_recall=judge.at(K, lambda rows: popularity.float().expand(len(rows), -1)),
        epochs=best_epoch,
    )


def _adjacency(user: Tensor, item: Tensor, users: int, items: int) -> Tensor:
    """The symmetric, degree-normalised graph over users then items, a sparse CSR matrix [U + I, U + I]. Repeated likes add up."""
    edges = torch.cat([torch.stack([user, users + item]), torch.stack([users + item, user])], 1)
    edges, weight = gcn_norm(edges, None, users + items, add_self_loops=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR is in beta"
        return torch.sparse_coo_tensor(edges, weight, (users + items, users + items), check_invariants=True).to_sparse_csr()


@torch.no_grad()
def _scores(model: LightGCN, adjacency: Tensor, users: int) -> Callable[[Tensor], Tensor]:
    embedding: Tensor = model.get_embedding(adjacency)
    return lambda rows: embedding[rows] @ embedding[users:].T


@torch.no_grad()
def _finish(model: LightGCN, adjacency: Tensor, user_degree: Tensor, item_degree: Tensor) -> tuple[Matrix, Matrix, Matrix]:
    users = len(user_degree)
    layer = model.embedding.weight
    total, carried = layer * model.alpha[0], torch.zeros_like(layer[users:])
    for conv, alpha in zip(model.convs, model.alpha[1:], strict=True):
        carried = carried + layer[users:] * alpha  # a new user's layer l + 1 is made of the items' layer l
        layer = conv(layer, adjacency)
        total = total + layer * alpha
    fold_in = carried / item_degree.clamp(min=1).sqrt()[:, None] * (item_degree > 0)[:, None]
    unit = F.normalize(total)
    return (unit[:users] * (user_degree > 0)[:, None]).numpy(), unit[users:].numpy(), fold_in.numpy()
