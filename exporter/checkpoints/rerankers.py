"""Rerankers as other projects save them: the depths and rows of their answers, and their prompts.

a folder of sentence-transformers   `sentence_modules`   rows of the LM head, or an encoder's modules, after the last layer
BAAI's layerwise reranker           `weights`            a row for each of the later layers
a classifier of one output or two   its config           its own rows, after the last layer
any other decoder, by a name        `reranker_prompts`   rows of the LM head, after the last layer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rexit.bundle import RerankerPrompt
from rexit.bundle.manifest import TOKENIZER
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.reranker_prompts import NamedPrompt, chat_prompt, named_prompt, pair_prompt, positive_label
from rexit.exporter.checkpoints.sentence_modules import MODULES, SCORE, answer_tokens, chat_settings, score_modules, system_prompt
from rexit.exporter.checkpoints.weights import (
    PROMPT,
    classifier_outputs,
    encodes,
    exit_depths,
    granite_config,
    is_layerwise,
    layers,
    layerwise_heads,
)
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import SCORES, Encoder
from rexit.exporter.model.multi_exit import ExitHeads


@dataclass(frozen=True)
class Reranker:
    """A reranker's answers.

    exits: depths with an answer of their own, in layers, ascending.
    head: `own` if each exit has rows of its own, `shared` if they are the LM head's.
    labels: token ids of `yes` and, if the LM head's rows are two, `no`; empty if the rows belong to no tokens.
    prompt: the texts around a query and a document; None if unknown.
    source: the file that says so.
    answers_by_score: whether the rows are those of a classifier's `score`.
    """

    exits: tuple[int, ...]
    head: str
    labels: Mapping[str, int]
    prompt: RerankerPrompt | None
    source: Path
    answers_by_score: bool = False

    def heads_at(self, decoder: Decoder, depths: Sequence[int]) -> ExitHeads:
        """Heads at `depths`, which must be in `exits` if each has rows of its own. decoder: uncut."""
        if self.head == "shared":
            return ExitHeads.shared(decoder, len(depths), self.labels)
        heads = _classifier_head(decoder) if self.answers_by_score else layerwise_heads(decoder)
        return heads.pick([self.exits.index(depth) for depth in depths])


def read_reranker(folder: Path, name: str | None = None) -> Reranker | None:
    """The reranker in a folder.

    Args:
        folder: the checkpoint's folder.
        name: a known prompt or a file with one, instead of the folder's own; None: the folder's.

    Returns:
        The reranker; None without a name if the folder is in no known form.

    Raises:
        CheckpointError: it is in a known form, but not supported.
        InputError: there is no such prompt.
    """
    named = None if name is None else named_prompt(name)
    reranker = _saved(folder, named) if folder.is_dir() else None
    if named is None or reranker is not None:
        return reranker
    if not folder.is_dir() or not named.answers:
        what = "is a file, which has no tokenizer" if not folder.is_dir() else "has no answers of its own"
        raise InputError(f"{folder}: {what}, expected a folder, or `answers` in {name}")
    return Reranker((layers(folder),), "shared", named.tokens(folder), named.prompt, folder / TOKENIZER)


def answer_files(folder: Path) -> set[Path]:
    """The files that determine a reranker's answers, other than weights and `config.json`. Raises CheckpointError."""
    modules = score_modules(folder) if folder.is_dir() and not is_layerwise(folder) else ()
    return {folder / MODULES, *(folder / module.path / "config.json" for module in modules)} if modules else set()


def _classifier_head(decoder: Decoder) -> ExitHeads:
    """One output is the log-odds, two are no and yes. Raises CheckpointError."""
    if isinstance(decoder, Encoder):
        return ExitHeads.own(decoder, 1 if hasattr(decoder.model, SCORES) else positive_label(decoder.model.config))
    score = getattr(decoder.model, "score", None)
    if not isinstance(score, nn.Linear) or score.in_features != decoder.hidden_size:
        raise CheckpointError(f"{decoder.family}: the classifier has no `score` that reads {decoder.hidden_size} numbers")
    return ExitHeads.of_rows(decoder, [score.weight], None if score.bias is None else [score.bias])


def _saved(folder: Path, named: NamedPrompt | None) -> Reranker | None:
    if is_layerwise(folder):
        depths = tuple(exit_depths(granite_config(folder)))
        return Reranker(depths, "own", {}, named.prompt if named else PROMPT, folder / "config.json")
    modules = score_modules(folder)
    if not modules or modules[0].kind != SCORE:
        outputs = classifier_outputs(folder)
        is_pair = (outputs > 0 or len(modules) > 0) and encodes(folder)
        if outputs not in (1, 2) and not is_pair:
            return None
        prompt = named.prompt if named else pair_prompt(folder) if is_pair else None
        return Reranker((layers(folder),), "own", {}, prompt, folder / "config.json", answers_by_score=True)
    prompt = named.prompt if named else chat_prompt(folder, system_prompt(folder), chat_settings(folder))
    score = folder / modules[0].path
    return Reranker((layers(folder),), "shared", answer_tokens(score), prompt, score / "config.json")
