"""Where LightGCN's weights start: the leading singular vectors of the normalised likes.

LightGCN's layers multiply its weights by one matrix again and again, which keeps what lies along that matrix's leading singular
vectors and shrinks the rest (Peng et al. 2022, SVD-GCN, arXiv 2208.12689). From random weights, training has to find these
directions step by step, and a step goes over the whole graph several times; a randomized subspace iteration (Halko et al. 2011,
arXiv 0909.4061) finds them in seven products. To start there, and how long the rows are, is our choice: docs/scale.md has the
recalls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rexit.exporter.catalog.propagation import Graph, product

ROUNDS = 3  # passes there and back; more find the vectors more exactly and recommended no better
MORE = 16  # columns beside those asked for, which make these exact sooner
SIZE = 0.2  # root mean square of an entry; of 0.05 to 1 best by validation on MovieLens and BookCrossing together
LEAST = 1e-3  # a singular value below this is rounding


def leading(graph: Graph, dim: int, generator: torch.Generator) -> Tensor:
    """Rows of users, then of items, float32 [U + I, k]: at most `dim` pairs of singular vectors, each times the root of its
    singular value; k is the rank of the likes, where that is below `dim`.

    Entries in the rows of nodes with a like have a root mean square of SIZE; rows without one are zero.
    """
    to_users, to_items = graph.halves()
    basis = torch.randn(len(graph.item_degree), min(dim + MORE, *to_users.shape), generator=generator)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(product(to_items, product(to_users, basis))).Q
    image = product(to_users, basis)
    squares, turn = torch.linalg.eigh(image.T @ image)
    values = squares.flip(0)[:dim].clamp(min=0).sqrt()
    values = values[values > LEAST]
    turn = turn.flip(1)[:, : len(values)]
    rows = torch.cat([image @ turn / values.sqrt(), basis @ turn * values.sqrt()])
    liked = torch.cat([graph.user_degree, graph.item_degree]) > 0
    return rows * liked[:, None] * (SIZE / rows[liked].square().mean().sqrt())
