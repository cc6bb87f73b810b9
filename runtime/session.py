"""`rexit.open(bundle)`: a session that scores and traces slates, over NumPy arrays."""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import _native
from rexit.data.texts import InputTokenizer, NoTextsError
from rexit.devices import Device, Provider
from rexit.errors import InputError
from rexit.format.bundle import Id, Manifest, TopK
from rexit.format.bundle.files import parse_json, short
from rexit.format.bundle.inputs import Inputs
from rexit.format.bundle.manifest import MANIFEST, TOKENIZER
from rexit.format.request import Request
from rexit.runtime._library import onnxruntime_library
from rexit.runtime._scores import Scores

if TYPE_CHECKING:
    from rexit.format.request import Ids

_MAX_INT = (1 << 31) - 1
_MAX_MICROSECONDS = 10**15  # 31 years: sums do not overflow
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class StopRule:
    """Replaces the bundle's stopping rules for one request. The bundle's Platt maps stay.

    Attributes:
        upper: Thresholds on c, one per exit; inf: never.
        lower: Thresholds on -c, one per exit; inf: never.
        patience: How many heads in a row must agree on the sign of c before a candidate stops.
        quorum: The last so many candidates of a slate stop together; 0: no such rule. As in `rexit.format.bundle.Policy`.
        top_k: The top-k rule; None: no such rule.
        keep: How many candidates of a slate go on at most, one per exit; 0: no limit. Empty: no limits.
    """

    upper: Sequence[float]
    lower: Sequence[float]
    patience: int = 1
    quorum: int = 0
    top_k: TopK | None = None
    keep: Sequence[int] = ()

    def to_json(self) -> str:
        """Returns the rules as in policy.json. Raises InputError for thresholds that are NaN, and for lists of different
        lengths."""
        keep = self.keep if len(self.keep) else [0] * len(self.upper)
        if not len(self.upper) == len(self.lower) == len(keep):
            raise InputError(
                f"policy has {len(self.upper)} upper thresholds, {len(self.lower)} lower ones and {len(keep)} numbers to keep, "
                "expected one of each per exit"
            )
        exits = [
            {"upper": _threshold(upper, k), "lower": _threshold(lower, k), "keep": count or None}
            for k, (upper, lower, count) in enumerate(zip(self.upper, self.lower, keep, strict=True))
        ]
        rules = {"patience": self.patience, "quorum": self.quorum, "top_k": self.top_k, "exits": exits}
        try:
            return msgspec.json.encode(rules, enc_hook=operator.methodcaller("tolist")).decode()
        except (AttributeError, TypeError, OverflowError, UnicodeEncodeError) as exc:
            raise InputError(f"policy is not JSON: {exc}") from None


def _threshold(value: float, exit_: int) -> float:
    """Infinity is null in JSON; what every c exceeds, as it does -infinity, is a number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"policy: a threshold of exit {exit_} is {short(value)}, expected a number") from None
    if math.isnan(number):
        raise InputError(f"policy: a threshold of exit {exit_} is NaN")
    return max(number, _LOWEST)


def verify(bundle: str | os.PathLike[str], variant: str | None = None) -> None:
    """Checks what opening leaves for later, as `rexit_bundle_verify` does: every row of the catalog, and all digests. Opens no
    backend.

    Args:
        bundle: The bundle's folder.
        variant: The variant to check; None: all.

    Raises:
        BundleError: The first thing that is wrong.
    """
    _native.verify(_text("path", os.fspath(bundle)), _text("variant", variant or ""))


def open(
    bundle: str | os.PathLike[str],
    variant: str | None = None,
    *,
    threads: int = 0,
    cache_bytes: int = 0,
    slate_bytes: int = 0,
    library: str | os.PathLike[str] | None = None,
    device: Device | None = None,
    device_id: int = 0,
) -> Session:
    """Opens a bundle's variant: checks its structure, maps the catalog, loads the segments.

    The library and ONNX Runtime log to the logger `rexit`, from any of their threads: for instance that a policy was calibrated
    under other conditions.

    Args:
        bundle: The bundle's folder.
        variant: Name of the variant; None: the first with a policy, or else the first.
        threads: Size of the process's one thread pool, which the first opened bundle creates; 0: one thread per core.
        cache_bytes: Upper bound of the session's cached prefixes; 0: 32 MiB. Evicts first a prefix that a newer one of the same
            user mostly contains, then the least recently used.
        slate_bytes: Upper bound of one slate's hidden states; 0: 256 MiB. A larger slate runs in parts. It is refused where the
            policy has a top-k rule or a quorum, which need the whole slate.
        library: Path of ONNX Runtime's shared library; None: the `onnxruntime` wheel's, else the system's.
        device: `cpu` (any variant), `cuda` (any variant), `tensorrt` (engines of a tensorrt variant), or a `Provider`; None: the
            variant's own target.
        device_id: Number of the GPU.

    Returns:
        A session. Close it, or use it in a `with` statement.

    Raises:
        BundleError: The bundle is missing, damaged, or of another version.
        BackendError: The backend is missing, too old, or failed.
        InputError: There is no such variant, or an argument is out of range.
    """
    provider, name_of_device = (device, None) if isinstance(device, Provider) else (None, device)
    for name, value in (("variant", variant), ("device", name_of_device), ("provider", provider and provider.name)):
        if value == "":
            raise InputError(f"{name} is an empty string, expected a name or None")
    options = _native.BundleOptions()
    options.variant = _text("variant", variant or "")
    options.onnxruntime_library = onnxruntime_library() if library is None else _text("library", os.fspath(library))
    options.threads = _natural("threads", threads, _MAX_INT)
    options.device = _text("device", name_of_device or "")
    options.device_id = _natural("device_id", device_id, _MAX_INT)
    options.provider = _text("provider", provider.name if provider else "")
    options.provider_options = [
        (_text("a key of provider.options", key), _text(f"provider.options[{key!r}]", value))
        for key, value in (provider.options if provider else {}).items()
    ]
    session_options = _native.SessionOptions(_natural("cache_bytes", cache_bytes), _natural("slate_bytes", slate_bytes))
    path = _text("path", os.fspath(bundle))
    return Session(_native.Session(path, options, session_options), path)


class Session:
    """An opened bundle with buffers and the cached prefixes of recent users, from `rexit.open`.

    Threads may share a session; one works at a time. `memory` does not wait for it.

    Attributes:
        info: What the bundle holds.
        exits: Depth and policy of each exit.
    """

    def __init__(self, native: _native.Session, path: str) -> None:
        """Private: call `rexit.open`."""
        self._native: _native.Session | None = native
        self._path = path
        self._texts: _Texts | None = None
        self.info = native.info()
        self.exits = tuple(native.exits())
        self._depths = np.array([*(exit_.layers for exit_ in self.exits), 0])  # the last one is for exit -1, no answer

    def __repr__(self) -> str:
        depths = ", ".join(str(exit_.layers) for exit_ in self.exits)
        state = "closed" if self._native is None else "calibrated" if self.info.calibrated else "not calibrated"
        return f"<rexit.Session {self._path!r} {self.info.variant}: exits after {depths} layers, {state}>"

    def another(self) -> Session:
        """Returns a second session over the same opened bundle. It shares the weights and the catalog, but neither buffers nor
        cached prefixes. Sessions of one bundle can score at the same time, each in its own thread."""
        session = Session(self._open.another(), self._path)
        session._texts = self._texts
        return session

    def reloaded(self) -> Session | None:
        """Opens what the bundle's folder holds now, after `rexit refresh` or `rexit calibrate`.

        This session stays as it is, for running requests. Both may be used at the same time, and share the loaded weights.

        Returns:
            A session without cached prefixes. None if nothing has changed since this session was opened; that
            takes well under a millisecond.

        Raises:
            BundleError: The files are damaged, or have other segments than those loaded (status `REXIT_MISMATCH`; open the bundle
                again). This session stays usable.
        """
        native = self._open.reloaded()
        return None if native is None else Session(native, self._path)

    def score(
        self,
        request_or_user: Request | Id,
        items: Ids | None = None,
        *,
        policy: StopRule | None = None,
        **fields: Any,
    ) -> Scores:
        """Scores a slate. Each candidate stops at its first confident exit.

        Args:
            request_or_user: A `Request`, or the user's id.
            items: Ids of the candidates, as in `Request`.
            policy: Replaces the bundle's stopping rules.
            **fields: A `Request`'s other fields, such as `retrieve`, `top_k` and `deadline_ms`. They take the place of those of
                a request. A deadline counts from here, in which texts are tokenized, too.

        Returns:
            The scores, and what they cost. For a prompt as token ids, `item` is a candidate's number.

        Raises:
            InputError: An item is not in the catalog, an input or a token id is not what the prompt takes, a prompt is too long,
                or a field is out of range.
            DeadlineError: No candidate reached an exit in time.
            CancelledError: `cancel` was called meanwhile.
            BackendError: The backend failed.
        """
        begin = time.monotonic_ns()
        document = self._document(request_or_user, items, fields)
        answer = self._open.score(document, _call_options((time.monotonic_ns() - begin) // 1000, policy=policy))
        return Scores(
            items=answer.items if isinstance(answer.items, np.ndarray) else np.array(answer.items, object),
            index=answer.index,
            probability=answer.probability,
            log_odds=answer.log_odds,
            exit=answer.exit,
            layers=self._depths[answer.exit],
            cut_short=answer.cut_short,
            stats=answer.stats,
        )

    def score_json(
        self,
        body: bytes | str,
        *,
        waited_us: int = 0,
        deadline_us: int = 0,
        force_exit: int | None = None,
        policy: StopRule | None = None,
    ) -> _native.JsonAnswer:
        """Scores a request in JSON, whose fields `rexit.format.request.Request` describes. The library writes the answer; other
        Python threads run meanwhile.

        Args:
            body: The request, UTF-8.
            waited_us: Microseconds since the request arrived. Its deadline counts from then. The time that texts take to be
                tokenized is added.
            deadline_us: Deadline of a request without `deadline_ms`, in microseconds from its arrival; 0: none.
            force_exit: Takes the place of the request's.
            policy: As for `score`.

        Raises:
            InputError: As for `score`, or the JSON is not that of a request. The message begins with the field's path.
            DeadlineError: No candidate reached an exit in time, or the request waited too long.
            CancelledError: `cancel` was called meanwhile.
            BackendError: The backend failed.
        """
        begin = time.monotonic_ns()
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        document = self._tokenized(data)
        waited_us = _natural("waited_us", waited_us, _MAX_MICROSECONDS)
        if document is not data:
            waited_us += (time.monotonic_ns() - begin) // 1000
        options = _call_options(waited_us, _natural("deadline_us", deadline_us, _MAX_MICROSECONDS), force_exit, policy)
        return self._open.score_json(document, options)

    def trace(self, request_or_user: Request | Id, items: Ids | None = None, **fields: Any) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, whatever the policy says: float32 [items, exits]. Arguments: see `score`."""
        return self.trace_with_stats(request_or_user, items, **fields).log_odds

    def trace_json(self, body: bytes) -> NDArray[np.float32]:
        """Returns what `trace` does, of a request in JSON, UTF-8. Raises InputError."""
        return self._open.trace(self._tokenized(body)).log_odds

    def trace_with_stats(self, request_or_user: Request | Id, items: Ids | None = None, **fields: Any) -> _native.Trace:
        """Returns every exit's raw log-odds, and what they cost. Arguments: see `score`."""
        return self._open.trace(self._document(request_or_user, items, fields))

    def prompt(
        self, request_or_user: Request | Id, items: Ids | None = None, **fields: Any
    ) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        """Returns the token ids that a request is scored from: the prefix's, int32 [P], and each candidate's, int32 [T].

        Ids from the tokenizer's vocabulary size on are vectors (`rexit.format.bundle.VectorIds`). Arguments: see `score`.
        """
        prompt = self._open.prompt(self._document(request_or_user, items, fields))
        prefix, *candidates = np.split(prompt.tokens, prompt.ends[:-1])
        return prefix, candidates

    def read_file(self, path: str) -> bytes:
        """Returns the contents of a file of the bundle. path: within it, as in `manifest.json`.

        Raises:
            BundleError: There is no such file, or it cannot be read.
            InputError: It is no path within the bundle.
        """
        return self._open.read_file(_text("path", path))

    def check_golden(self, slate: int) -> _native.GoldenCheck:
        """Compares golden sample number `slate`, from 0, with what is computed here. Drops the cached prefixes. `rexit verify`
        checks all of them.

        Raises:
            InputError: There is no such sample.
            BundleError: The variant has no golden samples, or they are damaged.
            BackendError: The backend failed.
        """
        return self._open.check_golden(_natural("slate", slate))

    def warm_up(self) -> None:
        """Runs every segment once on an artificial slate, so that the first request does not pay for allocations. Drops the
        cached prefixes. Parses the tokenizer of the prompt's texts, which is otherwise read with the first text."""
        self._open.warm_up()
        self._read_texts().warm_up()

    def clear_cache(self) -> None:
        """Drops the cached prefixes."""
        self._open.clear_cache()

    def trim(self) -> None:
        """Gives memory back: the cached prefixes, the session's buffers and, with TensorRT, its passes' GPU memory."""
        self._open.trim()

    def cancel(self) -> None:
        """Cancels the running call, from another thread. It soon raises CancelledError, or returns if it is nearly done. Does
        nothing if no call is running. Later calls run, also those that wait for their turn."""
        self._open.cancel()

    @property
    def memory(self) -> _native.Memory:
        """Bytes in use by this session and its backend."""
        return self._open.memory()

    def close(self) -> None:
        """Releases everything. A second call does nothing."""
        self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _document(self, request_or_user: Request | Id, items: Ids | None, fields: Mapping[str, Any]) -> bytes:
        """The request of arguments, as the library reads it."""
        if isinstance(request_or_user, Request):
            changes = fields if items is None else {"items": items, **fields}
            request = msgspec.structs.replace(request_or_user, **changes) if changes else request_or_user
        else:
            request = Request(request_or_user, items, **fields)
        return self._tokenized(request.to_json())

    def _tokenized(self, document: bytes) -> bytes:
        return self._read_texts().tokenized(document) if b'"inputs"' in document else document

    def _read_texts(self) -> _Texts:
        if self._texts is None:
            self._texts = _Texts.of(self._open, self._path)
        return self._texts

    @property
    def _open(self) -> _native.Session:
        if self._native is None:
            raise InputError("the session is closed")
        return self._native


def _call_options(
    waited_us: int, deadline_us: int = 0, force_exit: int | None = None, policy: StopRule | None = None
) -> _native.CallOptions:
    exit_ = None if force_exit is None else _natural("force_exit", force_exit, _MAX_INT)
    rules = "" if policy is None else policy.to_json()
    return _native.CallOptions(waited_us, deadline_us, rules, exit_)


def _natural(name: str, value: Any, limit: int = (1 << 63) - 1) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number <= limit:
        raise InputError(f"{name} is {short(value)}, expected an integer from 0 to {limit}")
    return number


def _text(name: str, value: Any) -> str:
    """A string that C and UTF-8 can hold."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {short(value)}, expected a string")
    if "\0" in value:
        raise InputError(f"{name} has a NUL, expected text without one")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is {short(value)}: UTF-8 cannot hold it") from None
    return value


def _repeated_keys(document: bytes) -> list[str]:
    """Keys that come twice in one object of a document. msgspec keeps the last value, and the library refuses both."""
    repeated_keys: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        repeated_keys.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)

    json.loads(document, object_pairs_hook=check, parse_int=str)
    return repeated_keys


class _Texts:
    """Tokenizes the texts of requests: the library takes their token ids.

    Args:
        spaced: The inputs that are texts, by name, and whether a text begins with a space.
        tokenizer: None: the bundle has none.
    """

    def __init__(self, spaced: Mapping[str, bool], tokenizer: InputTokenizer | None) -> None:
        self._spaced, self._tokenizer = spaced, tokenizer

    @classmethod
    def of(cls, session: _native.Session, path: str) -> Self:
        """Reads an opened bundle. path: its path, for messages."""
        if not session.info().has_catalog:
            return cls({}, None)
        manifest = Manifest.parse(session.read_file(MANIFEST), f"{path}/{MANIFEST}")
        file = f"{manifest.catalog_folder}/catalog.json"
        inputs = Inputs.of(parse_json(session.read_file(file), file), file)
        spaced = {entry.name: entry.spaced for entry in inputs.entries if entry.kind == "max_tokens"}
        has_tokenizer = spaced and TOKENIZER in manifest.files
        return cls(spaced, InputTokenizer(session.read_file(TOKENIZER)) if has_tokenizer else None)

    def warm_up(self) -> None:
        """Parses the tokenizer. Raises InputError for a damaged one; that the package is missing is left to the first text."""
        if self._tokenizer is not None:
            with contextlib.suppress(NoTextsError):
                self._tokenizer.parse()

    def tokenized(self, document: bytes) -> bytes:
        """Returns a request in JSON with the token ids of its texts. Raises InputError for a text without a tokenizer. Other
        mistakes are left to the library."""
        try:
            fields = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
            inputs = msgspec.json.decode(fields["inputs"], type=dict[str, msgspec.Raw])
            texts = {name: msgspec.json.decode(inputs[name]) for name in self._spaced.keys() & inputs.keys()}
            texts = {name: text for name, text in texts.items() if isinstance(text, str)}
            repeated_keys = _repeated_keys(document) if texts else []
        except (ValueError, RecursionError, KeyError):
            return document
        if repeated_keys:
            raise InputError(f"{short(repeated_keys[0])} appears twice in the request")
        if not texts:
            return document
        if self._tokenizer is None:
            raise InputError(
                f"inputs.{min(texts)} is a text, and the bundle has no tokenizer.json: pass token ids, or "
                "`rexit export --with-tokenizer`"
            )
        tokens = {name: self._tokenizer(text, self._spaced[name]) for name, text in texts.items()}
        return msgspec.json.encode({**fields, "inputs": {**inputs, **tokens}})
