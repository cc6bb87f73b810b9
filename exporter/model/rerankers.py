"""Rerankers as other projects save them: at which depths they answer, by which rows, and what they read.

a folder of sentence-transformers   `logit_score`   rows of the LM head, after the last layer
BAAI's layerwise reranker           `layerwise`     a row for each of the later layers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rexit.bundle import RerankerPrompt
from rexit.errors import CheckpointError
from rexit.exporter.model.chat_prompt import chat_prompt
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.model.layerwise import PROMPT, exit_depths, granite_config, is_layerwise, layerwise_heads
from rexit.exporter.model.logit_score import MODULES, answer_tokens, chat_settings, score_folder, system_prompt
from rexit.exporter.model.weights import layers


@dataclass(frozen=True)
class Reranker:
    """A reranker's answers.

    exits: depths with an answer of their own, in layers, ascending.
    head: `own` if each exit has rows of its own, `shared` if they are the LM head's.
    labels: token ids of `yes` and, if the LM head's rows are two, `no`; empty if the rows are no tokens'.
    prompt: what is read around a query and a document; None if that is not known.
    source: the file that says so.
    files: what determines the answers beside weights and `config.json`.
    """

    exits: tuple[int, ...]
    head: str
    labels: Mapping[str, int]
    prompt: RerankerPrompt | None
    source: Path
    files: tuple[Path, ...] = ()

    def heads_at(self, decoder: Decoder, depths: Sequence[int]) -> ExitHeads:
        """Heads at some depths; those of their own only at `exits`. decoder: uncut. Raises CheckpointError."""
        if self.head == "own":
            return layerwise_heads(decoder).pick([self.exits.index(depth) for depth in depths])
        if (token := max(self.labels.values())) >= decoder.vocab_size:
            raise CheckpointError(f"{self.source}: token id {token}, expected one below the model's {decoder.vocab_size} tokens")
        return ExitHeads.shared(decoder, len(depths), self.labels)


def read_reranker(folder: Path) -> Reranker | None:
    """The reranker in a folder; None if it is in no known form. Raises CheckpointError if it is in one, and not supported."""
    if not folder.is_dir():
        return None
    if is_layerwise(folder):
        return Reranker(tuple(exit_depths(granite_config(folder))), "own", {}, PROMPT, folder / "config.json")
    if (score := score_folder(folder)) is None:
        return None
    prompt = chat_prompt(folder, system_prompt(folder), chat_settings(folder))
    path = score / "config.json"
    return Reranker((layers(folder),), "shared", answer_tokens(score), prompt, path, (folder / MODULES, path))
