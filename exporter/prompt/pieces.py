"""Pieces, texts that are tokenized separately and stored once, and the tokenizer of a model that is trained from scratch.

`rexit tokenizer` makes a small byte-level BPE from the users' and items' texts. A vocabulary as small as the data needs keeps the
embedding table from outweighing a model of a few layers. Like rates, counts and the template's words become whole tokens, as
labels must be."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rexit.errors import InputError
from rexit.exporter.catalog.catalog_files import offsets
from rexit.exporter.catalog.source_tables import holds_vectors, read_table
from rexit.exporter.libraries import hub_folder
from rexit.exporter.options import Columns
from rexit.exporter.prompt.template import read_template
from rexit.progress import Progress, silent

BATCH = 1 << 14  # texts tokenized at once
FILES = ("*token*", "*.model", "vocab*", "merges*", "config.json")
"""Patterns of a tokenizer's files on the Hub."""


@dataclass
class Pieces:
    """Collects texts and numbers them. The template's texts may name special tokens, the data's may not.

    A key is a text, whether it is the template's, and its most tokens (None: any number).
    """

    _rows: dict[tuple[str, bool, int | None], int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._rows)

    def literal(self, text: str) -> int:
        """The piece of a text of the template."""
        return self._rows.setdefault((text, True, None), len(self._rows))

    def column(self, texts: pl.Series, missing: int, limit: int | None = None) -> NDArray[np.int32]:
        """The pieces of a column of texts; special tokens in them become ordinary text.

        Args:
            texts: strings.
            missing: the piece of null.
            limit: most tokens of a text; longer ones are cut.

        Returns:
            int32 [n].
        """
        known = texts.drop_nulls().unique(maintain_order=True)
        rows = {text: self._rows.setdefault((text, False, limit), len(self._rows)) for text in known}
        return texts.replace_strict({**rows, None: missing}, return_dtype=pl.Int32).to_numpy().astype(np.int32)

    def encode(self, tokenizer: Tokenizer, progress: Progress = silent) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Tokenizes all texts. Returns CSR: `offsets` int64 [K+1] and `tokens` int32 [offsets[K]]."""
        keys = list(self._rows)  # in the order of their rows
        lengths, tokens = np.zeros(len(keys), np.int64), []
        progress("tokens", 0, len(keys))
        for begin in range(0, len(keys), BATCH):
            ids = _token_ids(tokenizer, keys[begin : begin + BATCH])
            end = begin + len(ids)
            lengths[begin:end] = [len(text) for text in ids]
            tokens.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32))
            progress("tokens", end, len(keys))
        return offsets(lengths), np.concatenate(tokens)


def _token_ids(tokenizer: Tokenizer, keys: Sequence[tuple[str, bool, int | None]]) -> list[list[int]]:
    """The token ids of each of some keys of `Pieces`. The tokenizer's setting for special tokens is reset."""
    ids: list[list[int]] = [[] for _ in keys]
    for trusted in (True, False):
        chosen = [n for n, (_, literal, _) in enumerate(keys) if literal == trusted]
        tokenizer.encode_special_tokens = not trusted
        encoded = tokenizer.encode_batch([keys[n][0] for n in chosen], add_special_tokens=False)
        for n, encoding in zip(chosen, encoded, strict=True):
            ids[n] = encoding.ids[: keys[n][2]]
    tokenizer.encode_special_tokens = False
    return ids


def load_tokenizer(source: str) -> Tokenizer:
    """Loads a tokenizer, without padding and truncation.

    Args:
        source: a `tokenizer.json`, a folder with one, or an id on the Hugging Face Hub. transformers converts older formats.

    Raises:
        InputError: there is no such file, folder or id, or it holds no tokenizer.
    """
    path = Path(source)
    if not path.exists():
        path = hub_folder(source, FILES, InputError, f"tokenizer {source}", "file or folder")
    if path.is_dir() and (path / "tokenizer.json").is_file():
        path = path / "tokenizer.json"
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True).backend_tokenizer
    except Exception as exc:  # tokenizers raises bare Exception
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise InputError(f"tokenizer {source}: neither a tokenizer.json nor a folder with one: {reason}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's serialized form, in hex."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def single_token(tokenizer: Tokenizer, text: str, what: str) -> int:
    """The id of the single token that `text` is. Raises InputError, naming `what`, if it is none or several."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        tokens = [tokenizer.id_to_token(token) for token in ids]
        raise InputError(f"{what}: {text!r} is {len(ids)} tokens of this tokenizer {tokens}, expected exactly one")
    return int(ids[0])


VOCABULARY = 1536
"""Number of tokens: 256 bytes, rates, counts and the words of a template take 512."""
# A word, a number with its sign, or another mark, each with the space before it: " Story", " 35%", " 2^5", ";".
_PIECES = r" ?[\p{L}']+| ?[0-9^%]+| ?[^ ]"
# Rates and the template's words are repeated, so that BPE merges each into one token: 50 times, or once for every 200 of the
# data's texts. BookCrossing's 58,000 texts need between 50 and 100 times. Our choice.
_REPEATS = 50
_TEXTS_PER_REPEAT = 200


def train_tokenizer(tables: Sequence[Path], template: Path, out: Path, columns: Columns | None = None) -> Tokenizer:
    """Trains a tokenizer on every text column of the tables and writes OUT/tokenizer.json.

    Args:
        tables: the items' file, the users' file, or both: CSV, TSV or Parquet.
        template: the prompt template, TOML.
        out: the folder to write. A file there of the same name is replaced.
        columns: names of the id columns, which are left out.

    Returns:
        The tokenizer.

    Raises:
        InputError: a table or template cannot be read, a label is not one token, a table has no
            column of ids, or no table has a column that `columns` names.
    """
    labels = read_template(template).labels
    names, defaults, texts = columns or Columns(), Columns(), []
    missing = {"user": names.user, "item": names.item}
    for path in tables:
        frame = read_table(path)
        if not {names.user, names.item} & set(frame.columns):
            raise InputError(
                f"{path}: no column {names.item!r} (--column item=NAME) or {names.user!r} (--column user=NAME), it has: "
                f"{', '.join(frame.columns)}"
            )
        missing = {role: name for role, name in missing.items() if name not in frame.columns}
        for column in frame.drop(names.user, names.item, strict=False).iter_columns():
            if not holds_vectors(column):
                texts += [f" {text}" for text in column.cast(pl.String).drop_nulls()]
    for role, name in missing.items():
        if name != getattr(defaults, role):
            raise InputError(f"--column {role}={name}: no table has this column")
    tokenizer = train_bpe(texts, template.read_text("utf-8"))
    for name, text in labels.items():
        single_token(tokenizer, text, f"{template}: labels.{name}")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    return tokenizer


def train_bpe(texts: Sequence[str], template: str) -> Tokenizer:
    """Trains a byte-level BPE.

    Args:
        texts: the data's texts, each with a leading space.
        template: the text of the template's file.
    """
    rates = [f" {percent}%" for percent in range(101)] + [f" 2^{power}" for power in range(16)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    repeats = max(_REPEATS, len(texts) // _TEXTS_PER_REPEAT)
    tokenizer.train_from_iterator([*texts, *repeats * [*rates, template]], trainer)
    return tokenizer
