"""LightGCN's initial weights on a large graph: the leading singular vectors of the normalised likes.

LightGCN's layers multiply the weights by one matrix repeatedly. That keeps the components along the matrix's leading singular
vectors and shrinks the rest (Peng et al. 2022, SVD-GCN, arXiv 2208.12689). From random weights, training finds these directions
step by step, with several passes over the graph in each step; a randomized subspace iteration (Halko et al. 2011, arXiv
0909.4061) finds them in seven products. This start and the scale of its rows are our choice (docs/notes/scale/indexing.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rexit.exporter.retriever.propagation import Graph

ROUNDS = 3  # passes there and back; more are more exact and recommended no better
EXTRA = 16  # columns more than needed, which speed up convergence
SIZE = 0.2  # root mean square of an entry
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
        float32 [U + I, D], users before items. Entries in rows with a like have a root mean square of SIZE; other rows are zero.
    """
    dim = reference.shape[1]
    basis = torch.randn(len(graph.item_degree), min(dim + EXTRA, *graph.to_users.shape), generator=generator)
    for _ in range(ROUNDS):
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
    return start * (SIZE / start[liked].square().mean().sqrt())
