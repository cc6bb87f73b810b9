"""A decoder with a head at every exit: the model to train, and the unsplit reference for segments.

Training, one batch (as served: a user's prefix with several candidates packed behind it, one forward):

    checkpoint = load_checkpoint("SmolLM2-135M", exits=[10, 20, 30], head="shared", labels=catalog.labels)
    model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).train()
    tokens, positions, groups, rows = batch([pack(prefix, candidates) for prefix, candidates in users])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, positions, groups, rows)        # float32 [exits, candidates, 2] as (no, yes)
    loss = cross_entropy(logits.flatten(0, 1), liked.repeat(len(logits)))
    …
    save_checkpoint(folder, checkpoint.model, checkpoint.exits, checkpoint.heads, checkpoint.labels, catalog.traits)

If prompts have vectors, `vectors.Sources` computes a batch's with the model's projectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from rexit.bundle.manifest import log_odds_of
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.model.packed import Call
from rexit.exporter.model.projectors import Projectors
from rexit.exporter.model.vectors import PassVectors

_REFERENCE_BATCH = 8  # sequences, to bound the memory of eager attention


class MultiExitModel(nn.Module):
    """A decoder with its heads and projectors. `parameters()` includes all three, and the LM head."""

    def __init__(self, decoder: Decoder, heads: ExitHeads, exits: Sequence[int], projectors: Projectors | None = None) -> None:
        super().__init__()
        self.model, self.heads, self.exits, self.projectors = decoder.model, heads, tuple(exits), projectors
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, vectors: PassVectors | None = None
    ) -> Tensor:
        """Computes the logits of a batch at every exit.

        Works in training and under autocast; heads stay float32. Does not work with gradient checkpointing, which recomputes
        layers outside this call, without its mask.

        Args:
            tokens, positions, groups: int64 [B, T], see `packed.batch`.
            rows: int64 [M], indices into the B*T tokens.
            vectors: the batch's vectors; None if prompts have none.

        Returns:
            Logits float32 [E, M, 2] (no, yes).
        """
        hidden = self.hidden_rows(tokens, positions, groups, rows, vectors)
        return torch.stack([self.heads(states, k) for k, states in enumerate(hidden)])

    def hidden_rows(
        self, tokens: Tensor, positions: Tensor, groups: Tensor, rows: Tensor, vectors: PassVectors | None = None
    ) -> list[Tensor]:
        """The inputs of the heads: hidden states [M, H] of `rows` after each exit's layer. Arguments as in `forward`."""
        with Call(*self.decoder.visible(groups, positions), keep=False):
            return self._run(
                tokens, positions, vectors, lambda states, k: self._pooled(states.flatten(0, 1), rows, positions.flatten(), k)
            )

    def _pooled(self, states: Tensor, rows: Tensor, positions: Tensor, k: int) -> Tensor:
        return self.decoder.pooled(states, rows, positions, self.heads.is_own(k))

    @torch.no_grad()
    def reference(
        self, prefix: ArrayLike, candidates: Sequence[ArrayLike], vectors: PassVectors | None = None
    ) -> NDArray[np.float32]:
        """Computes a slate's log-odds with the model's stock attention.

        Each prefix + candidate is an ordinary sequence, without packing or cache. A causal model's batches are padded at the end,
        where its attention never looks. Only the heads are rexit's.

        Args:
            prefix: token ids [P].
            candidates: token ids [T] of each candidate.
            vectors: the slate's vectors; None if prompts have none.

        Returns:
            Log-odds float32 [N, E].
        """
        head = np.asarray(prefix, np.int64)
        sequences = [np.concatenate([head, np.asarray(candidate, np.int64)]) for candidate in candidates]
        out = np.empty((len(sequences), len(self.exits)), np.float32)
        with self.decoder.stock_attention():
            size = _REFERENCE_BATCH if self.decoder.causal else 1
            for start in range(0, len(sequences), size):
                part = sequences[start : start + size]
                tokens = torch.zeros(len(part), max(map(len, part)), dtype=torch.int64)
                for n, sequence in enumerate(part):
                    tokens[n, : len(sequence)] = torch.from_numpy(sequence)
                last = torch.tensor([n * tokens.shape[1] + len(sequence) - 1 for n, sequence in enumerate(part)])
                positions = torch.arange(tokens.shape[1]).expand_as(tokens)
                for k, states in enumerate(self._run(tokens, positions, vectors)):
                    logits = self.heads(self._pooled(states.flatten(0, 1), last, positions.flatten(), k), k)
                    out[start : start + len(part), k] = log_odds_of(logits).numpy()
        return out

    def _run(
        self,
        tokens: Tensor,
        positions: Tensor,
        vectors: PassVectors | None,
        select: Callable[[Tensor, int], Tensor] | None = None,
    ) -> list[Tensor]:
        """Hidden states [B, T, H] after each exit's layer, or the part that `select` returns of them and the exit's number."""
        x = tokens if vectors is None else vectors.embed(self.model.get_input_embeddings(), tokens)
        inputs = self.decoder.arguments(x, positions, embedded=vectors is not None)
        hidden: dict[int, Tensor] = {}

        def store(k: int) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                states = output if isinstance(output, Tensor) else output[0]
                hidden[k] = states if select is None else select(states, k)

            return hook

        layers = self.decoder.layers
        hooks = [layers[depth - 1].register_forward_hook(store(k)) for k, depth in enumerate(self.exits)]
        try:
            self.decoder.body(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return [hidden[k] for k in range(len(self.exits))]
