"""LightGCN's graph and propagation: products with the normalised adjacency, summed over layers.

torch-geometric's `LightGCN.get_embedding` computes the same and is what tests compare with. Its sparse product takes two to three
times as long, and its autograd transposes the graph in every layer of every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.nn import LightGCN

ROUNDED = 1 << 24  # numbers in the embeddings: with more, layers are propagated in bfloat16


@dataclass(frozen=True)
class Graph:
    """The likes: `adjacency` [U + I, U + I], symmetric, users before items, and degrees [U] and [I]. Repeated likes add up."""

    adjacency: csr_array
    user_degree: Tensor
    item_degree: Tensor

    @classmethod
    def of(cls, user: Tensor, item: Tensor, users: int, items: int) -> Graph:
        """user, item: int32 [n], rows of the likes, users ascending. users, items: number of rows."""
        degrees = torch.bincount(user, minlength=users), torch.bincount(item, minlength=items)
        of_user, of_item = (degree.float().rsqrt() for degree in degrees)
        weights = (of_user[user] * of_item[item]).numpy()
        liked = csr_array((weights, item.numpy(), row_offsets(user, users)), shape=(users, items))
        transposed = liked.T.tocsr()
        adjacency = csr_array(
            (
                np.concatenate([liked.data, transposed.data]),
                np.concatenate([liked.indices + users, transposed.indices]),
                np.concatenate([liked.indptr, transposed.indptr[1:].astype(np.int64) + liked.nnz]),
            ),
            shape=(users + items, users + items),
        )
        return cls(adjacency, *degrees)

    def halves(self) -> tuple[csr_array, csr_array]:
        """The two blocks of the adjacency: from items to users, [U, I], and from users to items, [I, U]."""
        users, items, whole = len(self.user_degree), len(self.item_degree), self.adjacency
        border = whole.indptr[users]
        to_users = (whole.data[:border], whole.indices[:border] - users, whole.indptr[: users + 1])
        to_items = (whole.data[border:], whole.indices[border:], whole.indptr[users:] - border)
        return csr_array(to_users, shape=(users, items)), csr_array(to_items, shape=(items, users))


def row_offsets(user: Tensor, users: int) -> NDArray[np.int64]:
    """CSR offsets int64 [U + 1] of the likes of each user in `user`, which is ascending."""
    counts = torch.bincount(user, minlength=users).numpy()
    return np.concatenate([[0], np.cumsum(counts)])


def product(matrix: csr_array, rows: Tensor) -> Tensor:
    """`matrix` @ `rows`, float32, summed in a fixed order: two to three times as fast as torch's sparse product."""
    indices, offsets, weights = (torch.from_numpy(part) for part in (matrix.indices, matrix.indptr, matrix.data))
    return F.embedding_bag(indices, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def propagated(model: LightGCN, layer: Tensor, graph: Graph) -> Tensor:
    """The mean of LightGCN's layers, as `LightGCN.get_embedding` computes it.

    A large graph's layers do not fit into a cache. They are read in bfloat16, which halves the traffic.

    Args:
        model: has the weights of the layers, `alpha`.
        layer: float32 [U + I, D], the first layer.
        graph: the likes.

    Returns:
        float32 [U + I, D].
    """
    if layer.numel() > ROUNDED:
        return _propagated_rounded(model, layer, graph)
    total: Tensor = layer * model.alpha[0]
    for alpha in model.alpha[1:]:
        layer = product(graph.adjacency, layer)
        total.add_(layer, alpha=float(alpha))
    return total


def _propagated_rounded(model: LightGCN, layer: Tensor, graph: Graph) -> Tensor:
    """Divides rows by the roots of their degrees, so that sums need no weights. Reuses one table: a new one costs page faults."""
    degree = torch.cat([graph.user_degree, graph.item_degree])[:, None].clamp(min=1).float()
    scale, again = degree.rsqrt(), degree.reciprocal()
    indices, offsets = (torch.from_numpy(part) for part in (graph.adjacency.indices, graph.adjacency.indptr))
    total: Tensor = layer * model.alpha[0]
    table = layer * scale
    for alpha in model.alpha[1:]:
        table.copy_(F.embedding_bag(indices, table.bfloat16(), offsets, mode="sum", include_last_offset=True))
        total.addcmul_(table, scale, value=float(alpha))
        table.mul_(again)
    return total
