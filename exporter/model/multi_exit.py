"""A decoder with a head at every exit: the model to train, and the unsplit reference for segments.

A head is a norm and a projection to the two label logits (no, yes).

Training, one batch (as served: a user's prefix with several candidates packed behind it, one forward):

    checkpoint = load_checkpoint("SmolLM2-135M", exits=[10, 20, 30], head="shared", labels=catalog.labels)
    model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).train()
    tokens, positions, groups, rows = batch([pack(prefix, candidates) for prefix, candidates in users])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens, positions, groups, rows)        # float32 [exits, candidates, 2] as (no, yes)
    loss = cross_entropy(logits.flatten(0, 1), liked.repeat(len(logits)))
    …
    save_checkpoint(folder, checkpoint.model, checkpoint.exits, checkpoint.heads, checkpoint.labels, catalog.traits)

If prompts have vectors, `prompt_vectors.Sources` computes a batch's with the model's projectors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from rexit.errors import CheckpointError
from rexit.exporter.model.decoder import Decoder, copy_tensors
from rexit.exporter.model.encoder import Encoder
from rexit.exporter.model.packed import Call
from rexit.exporter.model.prompt_vectors import PassVectors, Projectors
from rexit.format.bundle.manifest import ANSWERS, log_odds_of


class ExitHeads(nn.Module):
    """A head per exit, in float32 also under autocast, independent of the model's own norm and LM head.

    The norms are of the kind of the model's final norm (RMSNorm or LayerNorm), with its epsilon. An encoder's own head has the
    features of its classifier instead (`Encoder.own_head`).
    """

    def __init__(self, norms: Sequence[nn.Module], projections: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.norms, self.projections = nn.ModuleList(norms), nn.ModuleList(projections)

    @classmethod
    def like(cls, decoder: Decoder, exits: int, own_last: bool = False) -> ExitHeads:
        """`exits` heads with the final norm's weights and zero projections: all log-odds are 0.

        own_last: the last one has an encoder's own features instead of a norm.
        """
        projections = [nn.Linear(decoder.hidden_size, 2) for _ in range(exits)]
        for projection in projections:
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
        norms = [_plain_norm(decoder) for _ in range(exits)]
        if own_last and isinstance(decoder, Encoder):
            norms[-1] = copy.deepcopy(decoder.own_head()[0]).eval()
        return cls(norms, projections)

    @classmethod
    def own(cls, encoder: Encoder, yes: int = 1) -> ExitHeads:
        """The head of an encoder's classifier of one label, or of two, of which `yes` is the positive one."""
        features, classifier = encoder.own_head()
        projection = nn.Linear(classifier.in_features, 2)
        order = [1 - yes, yes] if classifier.out_features == 2 else [0]
        with torch.no_grad():
            projection.weight.copy_(_both_labels(classifier.weight[order]))
            projection.bias.copy_(_both_labels(classifier.bias[order]))
        return cls([copy.deepcopy(features).eval()], [projection])

    def write_own(self, encoder: Encoder, yes: int = 1) -> None:
        """Writes the last head to the encoder's classifier: the reverse of `own`."""
        features, classifier = encoder.own_head()
        features.load_state_dict(self.norms[-1].state_dict())
        for name, parameter in classifier.named_parameters():
            rows = self.projections[-1].get_parameter(name)
            with torch.no_grad():
                parameter.copy_(rows[[1 - yes, yes]] if classifier.out_features == 2 else rows[1:] - rows[:1])

    @classmethod
    def of_rows(cls, decoder: Decoder, rows: Sequence[Tensor], biases: Sequence[Tensor] | None = None) -> ExitHeads:
        """A head for each of `rows` behind the model's final norm.

        Args:
            decoder: the model.
            rows: a matrix for each exit: [2, H], no and yes; or [1, H], whose output is the log-odds, half of which each label
                gets.
            biases: [2] or [1] per exit; None: zeros.
        """
        heads = cls.like(decoder, len(rows))
        with torch.no_grad():
            for k, projection in enumerate(heads.projections):
                assert isinstance(projection, nn.Linear)
                projection.weight.copy_(_both_labels(rows[k]))
                if biases is not None:
                    projection.bias.copy_(_both_labels(biases[k]))
        return heads

    @classmethod
    def shared(cls, decoder: Decoder, exits: int, labels: Mapping[str, int]) -> ExitHeads:
        """Copies of the final norm and the label rows of the LM head, as in the logit lens.

        A constant factor on the logits (Cohere, Granite) is folded in. Soft-capping of the final logits (Gemma 2) is left out: it
        preserves their order, and calibration sets the scale.

        Args:
            decoder: the model.
            exits: number of heads.
            labels: token ids of `no` and `yes`; without `no`, the logit of `yes` is the log-odds.

        Raises:
            CheckpointError: the LM head does not fit.
        """
        model = decoder.model
        rows = [labels[name] for name in ANSWERS if name in labels]
        head = model.get_output_embeddings()
        if head is None or head.weight.shape[1] != decoder.hidden_size:
            actual = "none" if head is None else f"width {head.weight.shape[1]}"
            raise CheckpointError(f"{decoder.family}: sharing needs an LM head of width {decoder.hidden_size}, found {actual}")
        if not 0 <= min(rows) <= max(rows) < head.weight.shape[0]:
            raise CheckpointError(f"label tokens {rows} are outside the LM head's {head.weight.shape[0]} rows")
        scale = getattr(model.config, "logit_scale", None) or 1.0 / (getattr(model.config, "logits_scaling", None) or 1.0)
        bias = getattr(head, "bias", None)
        return cls.of_rows(decoder, [head.weight[rows] * scale] * exits, None if bias is None else [bias[rows] * scale] * exits)

    def is_own(self, k: int) -> bool:
        """Whether head k is an encoder's classifier."""
        return isinstance(self.norms[k], nn.Sequential)

    def pick(self, exits: Sequence[int]) -> ExitHeads:
        """The heads of these exits, counted from 0."""
        return ExitHeads([self.norms[k] for k in exits], [self.projections[k] for k in exits])  # type: ignore[misc]

    def forward(self, hidden: Tensor, k: int) -> Tensor:
        """Logits float32 [N, 2] (no, yes) of exit k for hidden states [N, H] before the model's final norm."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.projections[k](self.norms[k](hidden.float()))
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of `exit_heads.safetensors`, float32: `exit.{k}.norm.weight` [H], `exit.{k}.norm.bias` [H] for LayerNorm,
        `exit.{k}.weight` [2, H], `exit.{k}.bias` [2], with k from 0."""
        return {name: value.detach().float().cpu().contiguous() for name, value in self._named().items()}

    def fill(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Copies the parameters from `tensors`; missing projection biases are 0. Raises CheckpointError, naming `where`."""
        own = self._named()
        if unknown := sorted(set(tensors) - set(own)):
            raise CheckpointError(f"{where}: tensor {unknown[0]!r} does not belong to any head, expected e.g. {sorted(own)[0]!r}")
        needed = {name: p for name, p in own.items() if name in tensors or name.count(".") != 2 or not name.endswith(".bias")}
        copy_tensors(tensors, needed, where)

    def _named(self) -> dict[str, nn.Parameter]:
        norms = {f"exit.{k}.norm.{name}": p for k, norm in enumerate(self.norms) for name, p in norm.named_parameters()}
        return norms | {f"exit.{k}.{name}": p for k, row in enumerate(self.projections) for name, p in row.named_parameters()}


def _both_labels(rows: Tensor) -> Tensor:
    """The rows of no and yes; a single row is the log-odds."""
    return torch.cat([-rows, rows]) / 2 if len(rows) == 1 else rows


def _plain_norm(decoder: Decoder) -> nn.Module:
    """A torch norm equal to the model's final norm. Raises CheckpointError if there is none.

    Families differ in details (Gemma scales by 1 + weight), so candidates are compared on noise.
    """
    final, size = decoder.norm, decoder.hidden_size
    weight, bias = getattr(final, "weight", None), getattr(final, "bias", None)
    eps = next((float(getattr(final, a)) for a in ("eps", "variance_epsilon") if getattr(final, a, None) is not None), 1e-5)
    noise = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    if isinstance(weight, Tensor) and weight.shape == (size,):
        with torch.no_grad():
            expected = final(noise)
            for scale in (weight, 1.0 + weight):
                for norm in (nn.RMSNorm(size, eps), nn.LayerNorm(size, eps)):
                    norm.weight.copy_(scale)
                    if isinstance(norm, nn.LayerNorm) and bias is not None:
                        norm.bias.copy_(bias)
                    if torch.allclose(norm(noise), expected, atol=1e-5, rtol=1e-5):
                        return norm
    raise CheckpointError(
        f"{decoder.family}: the final norm {type(final).__name__} is neither RMSNorm nor LayerNorm with a weight"
    )


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
