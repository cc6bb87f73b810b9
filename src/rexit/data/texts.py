"""Texts as token ids: a reranker's query and documents, and texts of inputs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rexit import _native
from rexit.errors import DeadlineError, InputError
from rexit.format.bundle.manifest import MANIFEST, PLACEHOLDER, TOKENIZER, WORD_PIECES, Manifest, Pair, RerankerPrompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from rexit.format.bundle import Bundle
    from rexit.runtime import Session


_NO_TOKENIZER = f"has no {TOKENIZER}, so it takes token ids and no text: `rexit export --with-tokenizer`"
_CHARACTERS = 16
"""Characters that a token seldom exceeds."""
_MARGIN = 16
"""Tokens before a cut text's end that the cut may have changed."""
_BATCH = 64
"""Documents that are tokenized between two looks at the clock."""
_NO_TEMPLATE = "the model has no text template, which says what surrounds a query and a document"


class NoTextsError(InputError):
    """Only token ids can be scored: there is no tokenizer or text template, or the package tokenizers is missing."""


def input_tokens(tokenizer: Tokenizer, texts: Sequence[str], spaced: bool) -> list[list[int]]:
    """Returns the token ids of texts of an input, without special tokens. An empty text has none.

    Special tokens that a text spells out are ordinary text: it cannot end the prompt. Outer spaces are dropped.

    Args:
        tokenizer: Its setting for special tokens is reset.
        texts: The texts.
        spaced: Whether the space before the placeholder belongs to the text.
    """
    stripped = [text.strip() for text in texts]
    tokenizer.encode_special_tokens = True
    try:
        encoded = tokenizer.encode_batch([" " + text if spaced else text for text in stripped], add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = False
    return [encoding.ids if text else [] for text, encoding in zip(stripped, encoded, strict=True)]


class InputTokenizer:
    """A `rexit.format.bundle.inputs.Tokenize`. Threads may share it.

    Args:
        data: A tokenizer.json, which is parsed with the first text unless `parse` came before.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._lock = data, threading.Lock()
        self._parsed: Tokenizer | None = None

    def __call__(self, text: str, spaced: bool) -> list[int]:
        """Returns the token ids of a text of an input. Raises InputError for a damaged file."""
        with self._lock:
            return input_tokens(self._tokenizer(), [text], spaced)[0]

    def parse(self) -> None:
        """Parses the file, so that the first text does not pay for it. Raises InputError for a damaged one."""
        with self._lock:
            self._tokenizer()

    def _tokenizer(self) -> Tokenizer:
        if self._parsed is None:
            self._parsed = parse_tokenizer(self._data, TOKENIZER)
            self._parsed.no_padding()
            self._parsed.no_truncation()
            self._data = b""
        return self._parsed


class TextEncoder:
    """Tokenizes texts. Threads may share an encoder; one tokenizes at a time.

    1. No special token is added; those that a template or a whole prompt spells out (`<s>`) are recognized.
    2. A special token that a query or document spells out is ordinary text: it cannot end the prompt. Such a text is tokenized
       apart from the words around it.
    3. A document that does not fit is cut at its end, so that prefix and candidate fit the model. Only its beginning is
       tokenized.
    4. An encoder's pair is what its own tokenizer makes of query and document, special tokens that they spell out included, as
       transformers and sentence-transformers do. Rules 1 to 3 do not apply.

    Args:
        tokenizer: The model's. Its settings change during a call, so no other encoder may have it.
        prompt: What surrounds a query and a document; None: only whole prompts can be tokenized.
        max_positions: Most tokens of a prefix and one candidate.
        max_tokens: Most tokens of a candidate; None: as many as fit.
        word_pieces: A bundle's word_pieces.safetensors, by which the library makes the same pairs in a thirtieth of the time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: RerankerPrompt | None,
        max_positions: int,
        max_tokens: int | None = None,
        word_pieces: bytes | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._prompt, self._lock = tokenizer, prompt, threading.RLock()
        self._max_positions = max_positions
        self._max_tokens = max_positions if max_tokens is None else max_tokens
        self._word_pieces: _native.WordPieces | None = None
        if word_pieces is not None and prompt is not None and prompt.pair is not None:
            only_second = prompt.pair.truncation == "only_second"
            self._word_pieces = _native.WordPieces(word_pieces, WORD_PIECES, self._most(prompt.pair), only_second)
        specials = [token for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        self._specials = [token.content for token in specials]
        self._normalized_specials = [self._normalized(token.content) for token in specials if token.normalized]

    def whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts that are whole prefixes or candidates."""
        with self._lock:
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def prompt(self, query: str, documents: Sequence[str], instruction: str | None = None) -> tuple[list[int], list[list[int]]]:
        """Returns the token ids of the prefix and of each candidate. Arguments: see `prompt_with_cuts`."""
        return self.prompt_with_cuts(query, documents, instruction)[:2]

    def prompt_with_cuts(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        max_document_tokens: int | None = None,
        deadline: float = math.inf,
    ) -> tuple[list[int], list[list[int]], list[bool]]:
        """Returns the token ids of the prefix and of each candidate, and whether its document was cut, or the query before it.

        Args:
            query: The query.
            documents: The documents.
            instruction: None: the prompt's own.
            max_document_tokens: Documents are cut to this many tokens; None: to as many as fit.
            deadline: By `time.monotonic`. Between two documents, and while another call tokenizes, it ends the call.

        Raises:
            InputError: The model's prompt is not known, has no place for an instruction, or the query leaves no room for a
                document.
            DeadlineError: The deadline passed.
        """
        if self._word_pieces is not None and instruction is None:
            tokens, ends, cuts = self._word_pieces.pairs(query, documents, max_document_tokens)
            return [], [part.tolist() for part in np.split(tokens, ends)[:-1]], cuts
        wait = -1 if deadline == math.inf else min(max(0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if not self._lock.acquire(timeout=wait):
            raise DeadlineError("the deadline passed while another request's texts were tokenized")
        try:
            return self._prompt_with_cuts(query, documents, instruction, max_document_tokens, deadline)
        finally:
            self._lock.release()

    def _prompt_with_cuts(
        self, query: str, documents: Sequence[str], instruction: str | None, max_document_tokens: int | None, deadline: float
    ) -> tuple[list[int], list[list[int]], list[bool]]:
        prompt = self._prompt
        if prompt is None:
            raise InputError(_NO_TEMPLATE)
        if instruction is not None and prompt.instruction is None:
            raise InputError("the model's text template has no place for an instruction")
        if prompt.pair is not None:
            return [], *self._pairs(prompt.pair, query, documents, max_document_tokens, deadline)
        values = {"query": query, "instruction": instruction if instruction is not None else prompt.instruction or ""}
        prefix = [token for text in prompt.prefix for token in self._filled(text, values)]
        at = next(n for n, text in enumerate(prompt.document) if "{document}" in text)
        text, _, end = prompt.document[at].partition("{document}")
        before, after = (
            [token for part in parts for token in self._filled(part, values)]
            for parts in (prompt.document[:at], prompt.document[at + 1 :])
        )
        end_tokens = self._filled(end, values)
        around = len(before) + len(after)
        rest = self._max_positions - len(prefix)
        least = around + len(end_tokens)
        if self._max_tokens <= least:
            raise InputError(
                f"the text template alone has {least} tokens per candidate, which leaves no room for a document in the "
                f"{self._max_tokens} of a pass"
            )
        if rest <= least:
            raise InputError(
                f"the query is too long: with the template it has {len(prefix)} tokens, which leaves no room for a document in "
                f"the {self._max_positions} that the model takes"
            )
        room = min(rest, self._max_tokens) - least
        if max_document_tokens is not None:
            room = min(room, len(self._filled(text, values)) + max_document_tokens)
        candidates, cuts = [], []
        for document in documents:
            _check_deadline(deadline)
            tokens, cut = self._document(prompt.document[at], {**values, "document": document}, room, end_tokens)
            candidates.append([*before, *tokens, *after])
            cuts.append(cut)
        return prefix, candidates, cuts

    def _pairs(
        self, pair: Pair, query: str, documents: Sequence[str], max_document_tokens: int | None, deadline: float
    ) -> tuple[list[list[int]], list[bool]]:
        """The tokens of each pair, and whether its document or its query was cut.

        As the tokenizer's own `post_process`, whose time grows with the product of a query's and a document's parts: it makes a
        pair of each two parts that it cuts off.
        """
        first = self._tokenizer.encode(query, add_special_tokens=False).ids
        start, middle, end, of_second = self._frame(pair.vocabulary)
        around = len(start) + len(middle) + len(end)
        room = max(0, self._most(pair) - around)
        if pair.truncation == "only_second" and len(first) >= room:
            raise InputError(
                f"the query is too long: it has {len(first)} tokens, a pair at most {room + around}, of which {around} are "
                "special"
            )
        candidates, cuts = [], []
        for at in range(0, len(documents), _BATCH):
            _check_deadline(deadline)
            for encoding in self._tokenizer.encode_batch(list(documents[at : at + _BATCH]), add_special_tokens=False):
                second = encoding.ids
                size = len(second)
                if max_document_tokens is not None:
                    second = second[:max_document_tokens]
                of_query, of_document = (
                    (len(first), min(len(second), room - len(first)))
                    if pair.truncation == "only_second"
                    else _longest_first(len(first), len(second), room)
                )
                behind = [token + of_second for token in second[:of_document]] if of_second else second[:of_document]
                candidates.append([*start, *first[:of_query], *middle, *behind, *end])
                cuts.append(of_query + of_document < len(first) + size)
        return candidates, cuts

    def _frame(self, vocabulary: int) -> tuple[list[int], list[int], list[int], int]:
        """A pair's special tokens before, between and behind its texts, and what is added to a document's tokens."""
        for text in ("a", *self._tokenizer.get_vocab()):
            part = self._tokenizer.encode(text, add_special_tokens=False)
            if len(part):
                break
        whole = self._tokenizer.post_process(part, part)
        tokens = [token + vocabulary * number for token, number in zip(whole.ids, whole.type_ids, strict=True)]
        places = [place for place, special in enumerate(whole.special_tokens_mask) if not special]
        first, second, size = places[0], places[len(part)], len(part)
        return tokens[:first], tokens[first + size : second], tokens[second + size :], tokens[second] - tokens[first]

    def _most(self, pair: Pair) -> int:
        """Tokens of a pair at most."""
        return min(pair.tokens, self._max_tokens)

    def _document(self, text: str, values: Mapping[str, str], room: int, end_tokens: list[int]) -> tuple[list[int], bool]:
        """The tokens of a text with a document in it, and whether it was cut to `room` tokens before `end_tokens`."""
        beginning = text.partition("{document}")[0] + "{document}"
        document, size = values["document"], _CHARACTERS * (room + _MARGIN)
        while size < len(document):
            cut = document[:size].rstrip(document[size])  # Unigram's pieces of a run depend on where the run ends
            tokens = self._filled(beginning, {**values, "document": cut})
            if len(tokens) >= room + _MARGIN:
                return [*tokens[:room], *end_tokens], True
            size *= 2
        tokens = self._filled(text, values)
        if len(tokens) <= room + len(end_tokens):
            return tokens, False
        return [*self._filled(beginning, values)[:room], *end_tokens], True

    def _filled(self, text: str, values: Mapping[str, str]) -> list[int]:
        """The tokens of a text of the prompt with values in the places of its placeholders."""
        if not any(self._spells_special(values[name]) for name in PLACEHOLDER.findall(text)):
            return self.whole([PLACEHOLDER.sub(lambda place: values[place[1]], text)])[0]
        tokens: list[int] = []
        for n, part in enumerate(PLACEHOLDER.split(text)):
            is_value = n % 2 == 1
            self._tokenizer.encode_special_tokens = is_value
            try:
                tokens += self._tokenizer.encode(values[part] if is_value else part, add_special_tokens=False).ids
            finally:
                self._tokenizer.encode_special_tokens = False
        return tokens

    def _spells_special(self, value: str) -> bool:
        """Whether a special token is found in a value, also one that the tokenizer's normalizer makes of other letters."""
        if any(special in value for special in self._specials):
            return True
        return bool(self._normalized_specials) and any(
            special in self._normalized(value) for special in self._normalized_specials
        )

    def _normalized(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens of a query and of a document are left in a pair, as the tokenizer's `longest_first` has it."""
    shorter, longer = sorted((first, second))
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room // 2 + room % 2
    return (min(first, longer), min(second, shorter)) if first > second else (min(first, shorter), min(second, longer))


def _check_deadline(deadline: float) -> None:
    """Raises DeadlineError after it."""
    if time.monotonic() > deadline:
        raise DeadlineError("the deadline passed while query and documents were tokenized")


def bundle_encoder(bundle: Bundle) -> TextEncoder:
    """Returns the encoder of a bundle without a catalog. Raises InputError if it has no tokenizer."""
    if TOKENIZER not in bundle.manifest.files:
        raise InputError(f"{bundle.path}: {_NO_TOKENIZER}")
    tokenizer = read_tokenizer(bundle.path / TOKENIZER)
    tables = (bundle.path / WORD_PIECES).read_bytes() if WORD_PIECES in bundle.manifest.files else None
    return TextEncoder(tokenizer, bundle.manifest.reranker, bundle.variant.max_positions, word_pieces=tables)


def session_encoder(session: Session, path: str) -> TextEncoder:
    """Returns the encoder of an opened bundle, from the files that it was opened with. path: The bundle's path, for messages.

    Raises:
        NoTextsError: There is no tokenizer, or no text template.
        InputError: The tokenizer is damaged.
    """
    manifest = Manifest.parse(session.read_file(MANIFEST), f"{path}/{MANIFEST}")
    if TOKENIZER not in manifest.files:
        raise NoTextsError(f"{path}: {_NO_TOKENIZER}")
    if manifest.reranker is None:
        raise NoTextsError(_NO_TEMPLATE)
    tokenizer = parse_tokenizer(session.read_file(TOKENIZER), f"{path}/{TOKENIZER}")
    tables = session.read_file(WORD_PIECES) if session.info.takes_texts else None
    return TextEncoder(tokenizer, manifest.reranker, session.info.max_positions, word_pieces=tables)


def read_tokenizer(file: Path) -> Tokenizer:
    """Reads a tokenizer.json. Raises InputError."""
    if not file.is_file():
        raise InputError(f"{file}: no such file, expected a tokenizer.json")
    return parse_tokenizer(file.read_bytes(), str(file))


def parse_tokenizer(data: bytes, file: str) -> Tokenizer:
    """Parses the bytes of a tokenizer.json. file: for messages. Raises InputError."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as exc:
        raise NoTextsError("texts need the package tokenizers: pip install 'rexit[serve]'; token ids do not") from exc

    try:
        return Tokenizer.from_buffer(data)
    except Exception as exc:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a tokenizer: {str(exc).splitlines()[0]}") from exc
