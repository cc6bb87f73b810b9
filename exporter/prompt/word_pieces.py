"""`word_pieces.safetensors`: a BERT tokenizer as tables, so that a C++ program needs no tokenizer to take texts.

BERT's normalizer and its division into words look at one code point at a time. So what they do is a table, and the tokenizer
itself fills it: `characters[pages[c // 256], c % 256]` is what becomes of code point c:

    0  itself    1  itself, a word of its own    2  a word ends    3  nothing
    4 + n  the code points texts[n], in which 0 ends a word

`pieces` are the vocabulary by id, `slots` ids by the FNV-1a of their piece, open addressing. `added` are texts that are a token
wherever they stand; `before`, `between` and `after` what stands around a query and a document. docs/format/bundle.md lists all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from rexit.format.bundle.manifest import WORD_PIECES, Pair

_INSIDE = "##"
_MARK = "\ua000"
"""A letter that no normalizer changes: it parts code points that are asked for together."""
_ASSIGNED = (*range(0x33480), *range(0xE0000, 0xE1000))
"""Where Unicode has characters. The others are private or unassigned, page by page."""
_ITSELF, _OWN_WORD, _END, _NOTHING, _TEXT = range(5)
_MAX_ADDED, _MAX_PIECE, _MAX_PROBES = 16, 256, 64
"""As the runtime has them."""


def write_word_pieces(tokenizer: Tokenizer, pair: Pair, folder: Path) -> None:
    """Writes a tokenizer's tables, if there are any. tokenizer: one that writes pairs."""
    if (tables := word_pieces(tokenizer, pair)) is not None:
        save_file(tables, folder / WORD_PIECES)


def word_pieces(tokenizer: Tokenizer, pair: Pair) -> dict[str, NDArray[np.generic]] | None:
    """Returns the tables; None: the tokenizer is no BERT tokenizer, or more than tables can say."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    spec = json.loads(tokenizer.to_str())
    model, added = spec["model"], spec["added_tokens"]
    parts = [(spec[name] or {}).get("type") for name in ("model", "normalizer", "pre_tokenizer")]
    plain = not any(token["normalized"] or token["single_word"] or token["lstrip"] or token["rstrip"] for token in added)
    if parts != ["WordPiece", "BertNormalizer", "BertPreTokenizer"] or model["continuing_subword_prefix"] != _INSIDE:
        return None
    pieces = [""] * (1 + max(model["vocab"].values()))
    for piece, number in model["vocab"].items():
        pieces[number] = piece
    most = model["max_input_chars_per_word"]
    longest = max(len(text.encode()) for text in (piece.removeprefix(_INSIDE) for piece in pieces) if len(text) <= most)
    slots = _slots(pieces)
    if not plain or len(added) > _MAX_ADDED or longest > _MAX_PIECE or slots is None:
        return None
    pages, characters, texts = _characters(tokenizer)
    around, shifts = _around(tokenizer, pair, pieces)
    unknown = model["vocab"][model["unk_token"]]
    return {
        "pages": pages,
        "characters": characters,
        **_joined("texts", [np.array(list(map(ord, text)), np.int32) for text in texts], np.int32),
        **_joined("pieces", [np.frombuffer(piece.encode(), np.uint8) for piece in pieces], np.uint8),
        "slots": slots,
        **_joined("added", [np.frombuffer(token["content"].encode(), np.uint8) for token in added], np.uint8),
        "added.ids": np.array([token["id"] for token in added], np.int32),
        **around,
        "numbers": np.array([unknown, most, longest, *shifts], np.int32),
    }


def _characters(tokenizer: Tokenizer) -> tuple[NDArray[np.int32], NDArray[np.int32], list[str]]:
    """The tables `pages` and `characters`, and the texts."""
    becomes, texts = np.zeros(0x110000, np.int32), dict[str, int]()

    def ask(codes: Sequence[int]) -> None:
        codes = [code for code in codes if not 0xD800 <= code < 0xE000 and chr(code) != _MARK]
        for code, text in zip(codes, _divided(tokenizer, codes), strict=True):
            kinds = {chr(code): _ITSELF, f"\0{chr(code)}\0": _OWN_WORD, "\0": _END, "": _NOTHING}
            becomes[code] = kinds[text] if text in kinds else _TEXT + texts.setdefault(text, len(texts))

    ask(_ASSIGNED)
    others = np.setdiff1d(np.arange(0x1100), np.array(_ASSIGNED) // 256)
    ask([*(256 * others), *(256 * others + 255)])
    for page, (first, last) in zip(others, becomes.reshape(-1, 256)[others][:, [0, -1]], strict=True):
        becomes[256 * page : 256 * page + 256] = first
        if first != last:
            ask(range(256 * page, 256 * page + 256))
    characters, pages = np.unique(becomes.reshape(-1, 256), axis=0, return_inverse=True)
    return pages.reshape(-1).astype(np.int32), characters, list(texts)


def _divided(tokenizer: Tokenizer, codes: list[int]) -> list[str]:
    """What becomes of each code point, with a zero where a word ends."""
    text = tokenizer.normalizer.normalize_str(_MARK + _MARK.join(map(chr, codes)) + _MARK)
    words = "\0".join(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    return words.split(_MARK)[1:-1]


def _around(tokenizer: Tokenizer, pair: Pair, pieces: list[str]) -> tuple[dict[str, NDArray[np.int32]], tuple[int, int]]:
    """The special tokens around a query and a document, and what is added to the ids of each."""
    word = next(piece for piece in pieces if piece and len(tokenizer.encode(piece, add_special_tokens=False)) == 1)
    whole = tokenizer.encode(word, word)
    ids = np.array(whole.ids, np.int32) + pair.vocabulary * np.array(whole.type_ids, np.int32)
    first, second = whole.sequence_ids.index(0), whole.sequence_ids.index(1)
    shifts = pair.vocabulary * whole.type_ids[first], pair.vocabulary * whole.type_ids[second]
    return {"before": ids[:first], "between": ids[first + 1 : second], "after": ids[second + 1 :]}, shifts


def _slots(pieces: list[str]) -> NDArray[np.int32] | None:
    """Ids by hash; None: a piece would be looked for in too many places."""
    slots = np.full(1 << (2 * len(pieces)).bit_length(), -1, np.int32)
    for number, piece in enumerate(pieces):
        if not piece:
            continue
        at, probes = _fnv(piece) % len(slots), 0
        while slots[(at + probes) % len(slots)] >= 0:
            probes += 1
        if probes >= _MAX_PROBES:
            return None
        slots[(at + probes) % len(slots)] = number
    return slots


def _fnv(piece: str) -> int:
    """The 64-bit FNV-1a hash of a text."""
    value = 0xCBF29CE484222325
    for byte in piece.encode():
        value = ((value ^ byte) * 0x100000001B3) % (1 << 64)
    return value


def _joined(name: str, rows: list[NDArray[np.generic]], dtype: type[np.generic]) -> dict[str, NDArray[np.generic]]:
    """Rows one after the other, and where each ends."""
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64).astype(np.int32)
    return {name: np.concatenate([*rows, np.empty(0, dtype)]).astype(dtype), f"{name}.ends": ends}
