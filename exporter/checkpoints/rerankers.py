"""Rerankers as other projects save them: the depths and rows of their answers, and their prompts.

a folder of sentence-transformers   `sentence_modules`   rows of the LM head, or an encoder's modules, after the last layer
BAAI's layerwise reranker           `weights`            a row for each of the later layers
a classifier of one output or two   its config           its own rows, after the last layer
any other decoder, by a name        `KNOWN`, a file      rows of the LM head, after the last layer

A chat template is rendered once, with marks in the places of the query, the document and the system message. What it renders is
divided without changing how it is tokenized:

1. The prefix ends at the last line break between query and document, or at the document if there is none.
2. Special tokens are texts of their own. A tokenizer divides there first, so nothing changes, and a query cannot spell one.
3. An example is tokenized whole and in these parts. If the tokens differ, the prompt cannot be divided.

`KNOWN` has prompts of published rerankers whose folders lack them: a plain causal LM does not tell that it is a reranker.
`rexit export MODEL --reranker NAME` takes one of its names, or a file of the same form:

    {"prefix": ["Query: {query}\n"], "document": ["Document: {document}\n", "Relevant:"], "answers": {"no": "no", "yes": "yes"}}

`answers` are texts of one token each. A model that answers by rows of its own needs none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from rexit.data.texts import TextEncoder, read_tokenizer
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.sentence_modules import (
    MODULES,
    SCORE,
    answer_tokens,
    chat_settings,
    longest_text,
    score_modules,
    system_prompt,
)
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
from rexit.exporter.libraries import first_line, quiet, read_config
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.encoder import SCORES, Encoder
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.format.bundle.files import short, typed
from rexit.format.bundle.manifest import PLACEHOLDER, TOKENIZER, Pair, RerankerPrompt

NO_LIMIT = 1 << 62
_EXAMPLE = {
    "query": "What carries a wing?",
    "document": "Lift, 9.81 N per kg.\nSee also: drag (induced)",
    "instruction": "Find the answer.",
}


def chat_prompt(folder: Path, system: str | None, settings: Mapping[str, Any]) -> RerankerPrompt | None:
    """The prompt of a folder's chat template.

    Args:
        folder: a tokenizer's.
        system: the system message; None: there is none.
        settings: arguments of the template.

    Returns:
        The prompt; None if there is no chat template, or it leaves out the query or the document.

    Raises:
        CheckpointError: the tokenizer cannot be read, or the prompt cannot be divided.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as exc:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first_line(exc)}") from exc
    if not tokenizer.chat_template:
        return None
    rendered = _rendered(tokenizer, system is not None, settings)
    if rendered is None:
        return None
    marks = list(PLACEHOLDER.finditer(rendered))
    names = [mark[1] for mark in marks]
    if names.count("query") != 1 or names.count("document") != 1 or names.index("query") > names.index("document"):
        raise CheckpointError(f"{folder}: its chat template has the parts {', '.join(names)}, expected a query, then a document")
    begin = next(mark.start() for mark in marks if mark[1] == "document")
    after_query = next(mark.end() for mark in marks if mark[1] == "query")
    cut = rendered.rfind("\n", after_query, begin) + 1 or begin
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    prefix, document = (_divided(part, special) for part in (rendered[:cut], rendered[cut:]))
    prompt = RerankerPrompt(prefix, document, system if "instruction" in names else None)
    _check(folder, rendered, prompt)
    return prompt


def _rendered(tokenizer: Any, has_system: bool, settings: Mapping[str, Any]) -> str | None:
    """The template around `{query}`, `{document}` and `{instruction}`, with contents as texts or as lists of parts."""
    roles = [("system", "instruction")] * has_system + [("query", "query"), ("document", "document")]
    for structured in (False, True):
        messages = [
            {"role": role, "content": [{"type": "text", "text": f"{{{name}}}"}] if structured else f"{{{name}}}"}
            for role, name in roles
        ]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **settings)
        except Exception:  # a template may refuse a form of content, or these roles
            continue
        if isinstance(text, str) and "'text':" not in text and "{query}" in text and "{document}" in text:
            return text
    return None


def _divided(text: str, special: list[str]) -> tuple[str, ...]:
    """The text in parts: special tokens, with what has no placeholder between them, apart from texts with placeholders."""
    pieces = re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", text) if special else [text]
    parts: list[str] = []
    fixed = False
    for n, piece in enumerate(pieces):
        is_fixed = n % 2 == 1 or not PLACEHOLDER.search(piece)
        if is_fixed and fixed and parts:
            parts[-1] += piece
        elif piece:
            parts.append(piece)
            fixed = is_fixed
    return tuple(parts)


def _check(folder: Path, rendered: str, prompt: RerankerPrompt) -> None:
    """The parts of an example have the tokens of the whole."""
    encoder = TextEncoder(read_tokenizer(folder / TOKENIZER), prompt, NO_LIMIT, NO_LIMIT)
    values = {**_EXAMPLE, "instruction": prompt.instruction or ""}
    (whole,) = encoder.whole([PLACEHOLDER.sub(lambda place: values[place[1]], rendered)])
    prefix, (document,) = encoder.prompt(values["query"], [values["document"]])
    if whole != prefix + document:
        raise CheckpointError(
            f"{folder}: its chat template cannot be divided between query and document without other tokens; expected a "
            f"line break or a special token before the document, the template gives {json.dumps(rendered[:200])}"
        )


KNOWN: Mapping[str, Mapping[str, Any]] = {
    "qwen3-reranker": {
        "prefix": [
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
            'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
            "<Instruct>: {instruction}\n<Query>: {query}\n",
        ],
        "document": ["<Document>: {document}", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"],
        "instruction": "Given a web search query, retrieve relevant passages that answer the query",
        "answers": {"no": "no", "yes": "yes"},
    },
    "mxbai-rerank-v2": {
        "prefix": [
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "query: {query}",
        ],
        "document": [
            "\n",
            "document: {document}",
            "\n",
            "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
            "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for "
            "not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ],
        "answers": {"no": "0", "yes": "1"},
    },
}
"""As Qwen3-Reranker's model card and the package mxbai-rerank 0.1.6 write them, piece by piece."""


@dataclass(frozen=True)
class NamedPrompt:
    """A reranker's prompt, and the texts of its answers `no` and `yes`; empty if it answers by rows of its own."""

    prompt: RerankerPrompt
    answers: Mapping[str, str]
    source: str

    def tokens(self, folder: Path) -> dict[str, int]:
        """The token ids of the answers in a folder's tokenizer. Raises InputError, CheckpointError."""
        if not self.answers:
            return {}
        tokenizer, tokens = read_tokenizer(folder / TOKENIZER), {}
        for name, text in self.answers.items():
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) != 1:
                raise CheckpointError(
                    f"{folder / TOKENIZER}: the answer {text!r} of {self.source} has {len(ids)} tokens, expected one"
                )
            tokens[name] = ids[0]
        return tokens


def named_prompt(name: str) -> NamedPrompt:
    """The prompt of a name in `KNOWN`, or of a JSON file. Raises InputError."""
    if name in KNOWN:
        value, where = dict(KNOWN[name]), name
    elif Path(name).is_file():
        try:
            value, where = read_config(Path(name)), name
        except CheckpointError as exc:
            raise InputError(str(exc)) from exc
    else:
        raise InputError(f"--reranker {name}: expected one of {', '.join(KNOWN)}, or a JSON file")
    prompt = typed(value, RerankerPrompt, where, error=InputError)
    answers = value.get("answers", {})
    texts = isinstance(answers, dict) and all(isinstance(text, str) for text in answers.values())
    if not texts or set(answers) not in (set(), {"yes"}, {"no", "yes"}):
        raise InputError(f"{where}: `answers` is {short(answers)}, expected the texts of `no` and `yes`")
    return NamedPrompt(prompt, answers, where)


POSITIVE = ("label_1", "1", "yes", "true", "positive", "relevant")
"""Names of a positive label, in lower case. `LABEL_1` is transformers' own."""


def pair_prompt(folder: Path) -> RerankerPrompt:
    """How the tokenizer of an encoder's folder writes a pair. Raises CheckpointError."""
    tokenizer = pair_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder)
    types = "token_type_ids" in tokenizer.model_input_names and (getattr(config, "type_vocab_size", 0) or 0) > 1
    longest = longest_text(folder)
    positions = config.max_position_embeddings - first_position(config)
    limits = (tokenizer.model_max_length, positions, *([longest] if longest else []))
    return RerankerPrompt(pair=Pair(min(limits), config.vocab_size if types else 0))


def first_position(config: Any) -> int:
    """The position of a text's first token: RoBERTa's and its like's follow the padding's, so 514 positions take 512 tokens."""
    with torch.device("meta"):
        body = AutoModel.from_config(config)
    padding = getattr(getattr(getattr(body, "embeddings", None), "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def pair_tokenizer(folder: Path) -> Any:
    """The tokenizer, as transformers reads it. Raises CheckpointError, also for one that writes no pairs."""
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            special = tokenizer.backend_tokenizer.num_special_tokens_to_add(True)
    except Exception as exc:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {first_line(exc)}") from exc
    if special == 0:
        raise CheckpointError(f"{folder}: its tokenizer has no template for pairs, so query and document could not be told apart")
    return tokenizer


def positive_label(config: Any) -> int:
    """The positive one of two labels; 1 if there is one label. Raises CheckpointError if the outputs are no log-odds."""
    if config.num_labels not in (1, 2):
        raise CheckpointError(
            f"{config.model_type}: has {config.num_labels} labels, expected one, or two of which one is positive"
        )
    if getattr(config, "problem_type", None) == "regression":
        raise CheckpointError(
            f"{config.model_type}: is a regression head, whose outputs are no log-odds: if its logits are, remove `problem_type` "
            "from config.json"
        )
    names = [str(config.id2label.get(n, "")).lower() for n in range(config.num_labels)]
    if len(names) == 1:
        return 1
    positive = [n for n, name in enumerate(names) if name in POSITIVE]
    if len(positive) != 1:
        raise CheckpointError(f"{config.model_type}: its labels are {' and '.join(names)}, expected one of {', '.join(POSITIVE)}")
    return positive[0]


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
