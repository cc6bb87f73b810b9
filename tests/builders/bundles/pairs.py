"""A bundle of an encoder with a BERT tokenizer: it takes texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import drop_catalog, edit_json, refresh
from rexit.exporter.prompt.word_pieces import word_pieces
from rexit.format.bundle.files import to_json
from rexit.format.bundle.manifest import WORD_PIECES, Pair, RerankerPrompt

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(pieces: Sequence[str], **normalizer: bool) -> Tokenizer:
    """A BERT tokenizer with these pieces after SPECIAL. normalizer: arguments of its BertNormalizer."""
    vocabulary = {piece: n for n, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return tokenizer


def write_pairs(folder: Path, tokenizer: Tokenizer, pair: Pair, options: BundleOptions | None = None) -> Path:
    """Writes a bundle that takes texts. Its prompts may have any token, its model knows VOCABULARY."""
    drop_catalog(write_bundle(folder, options))
    tables = word_pieces(tokenizer, pair)
    assert tables is not None
    save_file(tables, folder / WORD_PIECES)
    manifest = folder / "manifest.json"
    files, model = (json.loads(manifest.read_text())[key] for key in ("files", "model"))
    reranker = to_json(RerankerPrompt(pair=pair))
    edit_json(manifest, files=files | {WORD_PIECES: {}}, model=model | {"vocab_size": 10**6}, reranker=reranker)
    refresh(folder)
    return folder
