"""Exit heads: a norm and a projection to the two label logits (no, yes)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rexit.bundle.manifest import ANSWERS
from rexit.errors import CheckpointError
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import Encoder


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


@torch.no_grad()
def copy_tensors(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], where: str) -> None:
    """Fills all parameters. Raises CheckpointError for a tensor that is missing, of another shape or not finite."""
    for name, parameter in parameters.items():
        if name not in tensors:
            raise CheckpointError(f"{where}: tensor {name!r} is missing")
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {list(tensors[name].shape)}, the model needs {list(parameter.shape)}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{where}: {name!r} holds a number that is not finite")
        parameter.copy_(tensors[name])


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
