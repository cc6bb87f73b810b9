"""LightGCN's graph and propagation: products with the normalised adjacency, summed over layers.

torch-geometric's `LightGCN.get_embedding` computes the same and is what tests compare with.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

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
    parts = (torch.from_numpy(part) for part in (matrix.indptr.astype(matrix.indices.dtype), matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return torch.sparse_csr_tensor(*parts, size=matrix.shape, check_invariants=False)


def propagated(alpha: Sequence[float], nodes: Nodes, graph: Graph) -> Nodes:
    """The sum of LightGCN's layers, the first being `nodes`, weighted by `alpha`."""
    users, items = (layer * alpha[0] for layer in nodes)
    for weight in alpha[1:]:
        nodes = graph.next(nodes)
        users.add_(nodes[0], alpha=weight)
        items.add_(nodes[1], alpha=weight)
    return users, items
