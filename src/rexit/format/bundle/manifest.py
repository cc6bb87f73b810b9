"""`manifest.json`: what a bundle holds; the labels whose logits a head gives; and what a reranker reads around a query and a
document, `reranker` in `manifest.json` and `exits.json`:

    {"prefix": ["<s>", "A: {query}"], "document": ["\\n", "B: {document}", "\\n", "{instruction}"], "instruction": "Given a …"}

An encoder reads a pair as its tokenizer writes it, without a prefix:

    {"pair": {"tokens": 512, "vocabulary": 30522, "truncation": "longest_first"}}

`prefix` is the part of the prompt that all documents of a query share, `document` what follows for each. Both are lists of
texts, each tokenized on its own, without special tokens around it. `{query}` is in `prefix`, `{document}` in `document`,
`{instruction}` may be in both; other braces are text. `rexit.data.texts` tokenizes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rexit.errors import BundleError
from rexit.format.bundle.files import FileEntry, Name, Natural, Positive, check_paths, parse_json, read_typed, typed, write_typed
from rexit.format.bundle.golden import FILE as GOLDEN_FILE
from rexit.format.bundle.vectors import FILE as VECTORS_FILE

ANSWERS = ("no", "yes")


def labels_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Returns the labels of a catalog.json or exits.json; empty without any. Raises ValueError."""
    value = {} if info.get("labels") is None else info["labels"]
    known = isinstance(value, dict) and all(type(value.get(answer, 0)) is int for answer in ANSWERS)
    if not known or (value and "yes" not in value):
        raise ValueError(f"`labels` is {value!r}, expected the token ids of `no` and `yes`")
    return {answer: value[answer] for answer in ANSWERS if answer in value}


def log_odds_of(logits: Any) -> Any:
    """Returns log-odds [...] of an array or tensor of logits [..., 2], no and yes."""
    return logits[..., 1] - logits[..., 0]


PLACEHOLDER = re.compile(r"\{(query|document|instruction)\}")


class Pair(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an encoder's tokenizer writes a query and a document.

    Attributes:
        tokens: Most tokens of a pair; a longer one is cut.
        vocabulary: What is added to tokens of type 1, by which the model tells a document from a query; 0: it has no types.
        truncation: What is cut: `longest_first`, token by token, or `only_second`, the document.
    """

    tokens: Positive
    vocabulary: Natural = 0
    truncation: Literal["longest_first", "only_second"] = "longest_first"


class RerankerPrompt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The texts around a query and a document.

    Attributes:
        prefix: Texts with `{query}`, shared by all documents of a query.
        document: Texts with `{document}`.
        instruction: The text for `{instruction}` unless a request brings another; None: there is no such placeholder.
        pair: What an encoder reads instead; None: the model is a decoder.
    """

    prefix: tuple[Name, ...] = ()
    document: tuple[Name, ...] = ()
    instruction: str | None = None
    pair: Pair | None = None

    def __post_init__(self) -> None:
        if self.pair is not None:
            if self.prefix or self.document or self.instruction is not None:
                raise ValueError("has `pair`, which the model's tokenizer writes, and texts around it")
            return
        parts: Mapping[str, tuple[str, ...]] = {"prefix": self.prefix, "document": self.document}
        places = {name: [match for text in part for match in PLACEHOLDER.findall(text)] for name, part in parts.items()}
        for part, own, other in (("prefix", "query", "document"), ("document", "document", "query")):
            if places[part].count(own) != 1 or other in places[part]:
                raise ValueError(f"{part}: is {list(parts[part])}, expected {{{own}}} once and no {{{other}}}")
        if self.instruction is None and "instruction" in places["prefix"] + places["document"]:
            raise ValueError("has {instruction}, but no `instruction`")


TOKENIZER = "tokenizer.json"
"""The tokenizer's file in checkpoints and bundles."""
WORD_PIECES = "word_pieces.safetensors"
"""An encoder's tokenizer as tables, which let C++ take texts."""
MANIFEST = "manifest.json"
"""The manifest's file in a bundle."""


class Model(msgspec.Struct, frozen=True, omit_defaults=True):
    """The model that was exported.

    Attributes:
        family: `model_type` of its config.
        layers: Number of layers.
        hidden_size: Width of the hidden states.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        vocab_size: Size of the vocabulary.
        max_positions: Most tokens of a prefix and one candidate.
        head: `own`: heads trained for the exits; `shared`: the LM head's.
        checkpoint_sha256: Digest of the checkpoint.
        causal: Whether a token sees earlier tokens alone; an encoder's sees all of its pair, which has no prefix.
    """

    family: str
    layers: Positive
    hidden_size: Positive
    kv_heads: Positive
    head_dim: Positive
    vocab_size: Positive
    max_positions: Positive
    head: str
    checkpoint_sha256: str
    causal: bool = True


class TokenRequests(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a bundle without a catalog knows of its requests.

    Attributes:
        labels: Token ids of the labels `no` and `yes`; a reranker that answers by one row may lack them.
        max_prefix_tokens: Tokens of the longest prefix among the export's slates.
        max_candidate_tokens: Of their longest candidate.
        scores: Names of a request's `scores` that exit zero reads, in the order of its graph's input; empty: there is none.
    """

    labels: Mapping[str, int]
    max_prefix_tokens: Natural
    max_candidate_tokens: Natural
    scores: tuple[Name, ...] = ()


class RefreshedCatalog(msgspec.Struct, frozen=True):
    """A catalog that replaced the exported one.

    Attributes:
        folder: The active catalog's folder in the bundle.
        exported_sha256: Digest of the catalog that the variants were exported with.
    """

    folder: Name
    exported_sha256: str

    def __post_init__(self) -> None:
        if self.folder in (".", "..") or "/" in self.folder:
            raise ValueError(f"folder: is {self.folder!r}, expected a plain name")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`manifest.json`.

    Attributes:
        model: The model.
        exits: Depths of the exits, in layers. The first is 0 if the look-up answers first: exit zero.
        variants: Names of the variants.
        catalog: The active catalog if it is not the exported one.
        reranker: What the model reads around a query and a document; None: it is no reranker.
        tokens: What the bundle knows of its requests if it has no catalog; None: it has one.
        roles: The rule that said which users fit and chose the checkpoint, see `rexit.format.roles`; None: nobody did.
        files: Sizes and digests of the files outside the variants' own lists.
    """

    model: Model
    exits: Annotated[tuple[Natural, ...], msgspec.Meta(min_length=1)]
    variants: tuple[str, ...]
    catalog: RefreshedCatalog | None = None
    reranker: RerankerPrompt | None = None
    tokens: TokenRequests | None = None
    roles: str | None = None
    files: Mapping[str, FileEntry]

    def __post_init__(self) -> None:
        check_paths(self.files)
        if 0 in self.exits[1:] or self.exits == (0,):
            raise ValueError(f"exits: is {list(self.exits)}, expected 0 at most first, and a layer")
        if self.tokens is not None and self.catalog is not None:
            raise ValueError("has `tokens`, for a bundle without a catalog, and `catalog`")
        if self.tokens is not None and bool(self.tokens.scores) != self.has_zero:
            raise ValueError(f"exits: is {list(self.exits)}, but exit zero reads {list(self.tokens.scores)}")

    @property
    def has_zero(self) -> bool:
        """Whether exit zero answers before the first layer."""
        return self.exits[0] == 0

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of the exits that have segments, in layers."""
        return self.exits[1:] if self.has_zero else self.exits

    @property
    def catalog_folder(self) -> str:
        """The active catalog's folder in the bundle."""
        return "catalog" if self.catalog is None else self.catalog.folder

    @property
    def catalog_sha256(self) -> str | None:
        """Digest of the active catalog; None if the bundle has none. Raises BundleError if the manifest does not list it."""
        if self.tokens is not None:
            return None
        if (entry := self.files.get(f"{self.catalog_folder}/catalog.json")) is None:
            raise BundleError(f"manifest.json: does not list `{self.catalog_folder}/catalog.json`")
        return entry.sha256

    @property
    def exported_sha256(self) -> str | None:
        """Digest of the catalog that the variants were exported with; None if the bundle has none."""
        return self.catalog_sha256 if self.catalog is None else self.catalog.exported_sha256

    @property
    def vectors_file(self) -> str:
        """Path of the active catalog's vectors in the bundle, if it has any."""
        return VECTORS_FILE if self.catalog is None else f"{self.catalog.folder}/{VECTORS_FILE}"

    def golden_file(self, variant: str) -> str:
        """Returns the path of a variant's golden samples with the active catalog, in the bundle."""
        if self.catalog is None:
            return f"variants/{variant}/{GOLDEN_FILE}"
        return f"{self.catalog.folder}/golden/{variant}.safetensors"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads manifest.json. Raises BundleError."""
        return read_typed(folder / MANIFEST, cls)

    @classmethod
    def parse(cls, data: bytes, path: str) -> Manifest:
        """Parses the bytes of a manifest.json. path: for messages. Raises BundleError."""
        return typed(parse_json(data, path), cls, path)

    def write(self, folder: Path) -> None:
        """Writes manifest.json. Raises InputError if it cannot be written."""
        write_typed(folder / MANIFEST, self)
