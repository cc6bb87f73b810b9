"""Where LightGCN's weights start on a large graph: the leading singular vectors of the normalised likes.

LightGCN's layers multiply its weights by one matrix again and again, which keeps what lies along that matrix's leading singular
vectors and shrinks the rest (Peng et al. 2022, SVD-GCN, arXiv 2208.12689). From random weights, training has to find these
directions step by step, and a step goes over the whole graph several times; a randomized subspace iteration (Halko et al. 2011,
arXiv 0909.4061) finds them in seven products. To start there, and how long the rows are, is our choice
(docs/notes/scale/indexing.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rexit.exporter.catalog.propagation import Graph, product

ROUNDS = 3  # passes there and back; more find the vectors more exactly and recommended no better
MORE = 16  # columns beside those asked for, which make these exact sooner
SIZE = 0.2  # root mean square of an entry
LEAST = 1e-3  # a singular value below this is rounding


def leading(graph: Graph, reference: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of users, then of items, float32 [U + I, D]: pairs of singular vectors, each times the root of its singular value, D
    of them or as many as the likes have a rank, turned to lie as near to `reference` [U + I, D] as they can (Procrustes).

    Singular vectors have no signs, and of near values no directions. Turned to one reference, those of a graph and of a part of
    it lie alike, as the snapshots of a retriever must: a model that reads their vectors is served with the catalog's own.
    Entries in the rows of nodes with a like have a root mean square of SIZE; rows without one are zero.
    """
    to_users, to_items = graph.halves()
    dim = reference.shape[1]
    basis = torch.randn(len(graph.item_degree), min(dim + MORE, *to_users.shape), generator=generator)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(product(to_items, product(to_users, basis))).Q
    image = product(to_users, basis)
    squares, turn = torch.linalg.eigh(image.T @ image)
    values = squares.flip(0)[:dim].clamp(min=0).sqrt()
    values = values[values > LEAST]
    turn = turn.flip(1)[:, : len(values)]
    rows = torch.cat([image @ turn / values.sqrt(), basis @ turn * values.sqrt()])
    left, _, right = torch.linalg.svd(rows.T @ reference, full_matrices=False)
    liked = torch.cat([graph.user_degree, graph.item_degree]) > 0
    start: Tensor = rows @ (left @ right) * liked[:, None]
    return start * (SIZE / start[liked].square().mean().sqrt())
