"""The baselines that know only the numbers of users and items: biases, and logistic matrix factorization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from rexit.format.bundle import Split

CONSTANTS = (0.1, 0.3, 1.0, 3.0, 10.0)
PENALTIES = (2.0, 3.0, 4.0, 6.0)
FACTORS, STEPS, EVERY, RATE = 16, 120, 10, 0.1

Scores = NDArray[np.float64]
Fitted = tuple[Scores, Scores, float]
"""Log-odds of validation and test pairs, and the regularization chosen by the log loss on validation."""


def biases(train: Split, validation: Split, test: Split, users: int, items: int) -> Fitted:
    """Logistic regression on one-hot users and items; chosen: the constant C."""

    def one_hot(part: Split) -> csr_array:
        rows = np.tile(np.arange(len(part)), 2)
        return csr_array(
            (np.ones(2 * len(part)), (rows, np.r_[part.users, users + part.items])), shape=(len(part), users + items)
        )

    def candidates() -> Iterator[Fitted]:
        inputs = one_hot(train)
        for c in CONSTANTS:
            model = LogisticRegression(C=c, max_iter=1000).fit(inputs, train.liked)
            yield model.decision_function(one_hot(validation)), model.decision_function(one_hot(test)), c

    return _least_loss(candidates(), validation)


def matrix_factorization(
    train: Split, validation: Split, test: Split, users: int, items: int, constant: float, seed: int = 0
) -> Fitted:
    """Biases and FACTORS factors, P(like) = sigmoid(b + b_u + b_i + p_u q_i), by Adam on all rows at once.

    Chosen: the penalty on squared factors, and the step to stop at. `constant` is what the model of biases alone chose.
    """
    others = validation, test
    return _least_loss(
        (fitted for penalty in PENALTIES for fitted in _descent(train, others, users, items, penalty, 0.5 / constant, seed)),
        validation,
    )


def _descent(
    train: Split, others: tuple[Split, Split], users: int, items: int, penalty: float, bias_penalty: float, seed: int
) -> Iterator[Fitted]:
    random = torch.Generator().manual_seed(seed)
    factors = (0.1 * torch.randn(users + items, FACTORS, generator=random)).requires_grad_()
    bias, base = torch.zeros(users + items, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([factors, bias, base], lr=RATE)

    def log_odds(pairs: torch.Tensor) -> torch.Tensor:
        # F.embedding, not indexing: its gradient is summed in a fixed order.
        p, q = F.embedding(pairs, factors)
        known: torch.Tensor = base + F.embedding(pairs, bias).sum((0, 2)) + (p * q).sum(1)
        return known

    rows, *held_out = (torch.tensor(np.stack([part.users, users + part.items])) for part in (train, *others))
    liked = torch.tensor(train.liked).float()
    for step in range(1, STEPS + 1):
        loss = F.binary_cross_entropy_with_logits(log_odds(rows), liked, reduction="sum")
        loss = loss + penalty * factors.square().sum() + bias_penalty * bias.square().sum()
        optimizer.zero_grad()
        (loss / len(liked)).backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                validation, test = (log_odds(pairs).double().numpy() for pairs in held_out)
            yield validation, test, penalty


def _least_loss(candidates: Iterator[Fitted], validation: Split) -> Fitted:
    return min(candidates, key=lambda fitted: log_loss(validation.liked, 1 / (1 + np.exp(-fitted[0]))))
