"""`rexit.open(bundle)`: a session that scores and traces slates, over NumPy arrays."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from rexit import _native
from rexit.bundle import Id
from rexit.devices import Device, Provider
from rexit.errors import InputError
from rexit.request import AnyRequest, Request, RequestFields, TokenRequest
from rexit.runtime._answers import (
    ExitInfo,
    GoldenCheck,
    Info,
    JsonAnswer,
    Memory,
    Scores,
    SegmentStats,
    Stats,
    Trace,
    read,
)
from rexit.runtime._arguments import (
    NativeRequest,
    StopRule,
    to_deadline_us,
    to_exit,
    to_natural,
    to_place,
    to_policy,
    to_provider_options,
    to_request,
    to_size,
)
from rexit.runtime._inputs import InputEncoder
from rexit.runtime._library import onnxruntime_library

_SPINNING = {None: _native.Spinning.DEFAULT, True: _native.Spinning.ON, False: _native.Spinning.OFF}


def verify(bundle: str | os.PathLike[str] | bytes, variant: str | None = None) -> None:
    """Checks what opening leaves for later, as `rexit_bundle_verify` does: every row of the catalog, and all digests. Opens no
    backend.

    Args:
        bundle: The bundle's folder, or a tar archive of it: its path or its bytes.
        variant: The variant to check; None: all.

    Raises:
        BundleError: The first thing that is wrong.
    """
    _native.verify(to_place(bundle), variant or "")


def open(
    bundle: str | os.PathLike[str] | bytes,
    variant: str | None = None,
    *,
    threads: int = 0,
    cache_bytes: int = 0,
    slate_bytes: int = 0,
    library: str | os.PathLike[str] | None = None,
    device: Device | None = None,
    device_id: int = 0,
    own_threads: bool = False,
    spinning: bool | None = None,
) -> Session:
    """Opens a bundle's variant: checks its structure, maps the catalog, loads the segments.

    The library and ONNX Runtime log to the logger `rexit`, from any of their threads: for instance that a policy was calibrated
    under other conditions.

    Args:
        bundle: The bundle's folder, or a tar archive of it (`tar --format=ustar -cf bundle.tar -C bundle .`): its path or its
            bytes.
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
        own_threads: Every segment has a thread pool of its own, of `threads` threads, instead of the process's.
        spinning: Whether a pool's threads wait for work by spinning; None: the process's pool does, those of `own_threads` sleep.

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
    options.variant = variant or ""
    options.onnxruntime_library = onnxruntime_library() if library is None else os.fspath(library)
    options.threads = to_natural("threads", threads)
    options.device = name_of_device or ""
    options.device_id = to_natural("device_id", device_id)
    options.provider = provider.name if provider else ""
    options.provider_options = to_provider_options(provider.options if provider else {})
    options.own_threads = bool(own_threads)
    options.spinning = _SPINNING[spinning]
    session_options = _native.SessionOptions(to_size("cache_bytes", cache_bytes), to_size("slate_bytes", slate_bytes))
    native = _native.Session(to_place(bundle), options, session_options)
    return Session(native, "bundle" if isinstance(bundle, bytes) else os.fspath(bundle))


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
        self._inputs: InputEncoder | None = None
        self.info = read(Info, native.info())
        self.exits = tuple(read(ExitInfo, exit_, earlier=tuple(exit_.earlier)) for exit_ in native.exits())
        self._depths = np.array([*(exit_.layers for exit_ in self.exits), 0])  # the last one is for exit -1, no answer

    def __repr__(self) -> str:
        depths = ", ".join(str(exit_.layers) for exit_ in self.exits)
        state = "closed" if self._native is None else "calibrated" if self.info.calibrated else "not calibrated"
        return f"<rexit.Session {self._path!r} {self.info.variant}: exits after {depths} layers, {state}>"

    def another(self) -> Session:
        """Returns a second session over the same opened bundle. It shares the weights and the catalog, but neither buffers nor
        cached prefixes. Sessions of one bundle can score at the same time, each in its own thread."""
        session = Session(self._open.another(), self._path)
        session._inputs = self._inputs
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
        request_or_user: AnyRequest | Id,
        items: Sequence[Id] | NDArray[Any] | None = None,
        *,
        top_k: int = 0,
        deadline_ms: float | None = None,
        force_exit: int | None = None,
        policy: StopRule | None = None,
        **fields: Unpack[RequestFields],
    ) -> Scores:
        """Scores a slate. Each candidate stops at its first confident exit.

        Args:
            request_or_user: A `Request` or `TokenRequest`; or the user's id, and a `Request`'s other fields as arguments.
            items: As in `Request`.
            top_k: Return only this many, best first; 0: all, in the order of the request. Replaces the k of the policy's top-k
                rule, if it has one and there are more candidates.
            deadline_ms: No segment starts after this many milliseconds, in which texts are tokenized, too. Candidates then answer
                from the deepest exit they have reached, and are marked `cut_short`.
            force_exit: The exit at which every candidate stops, from 0.
            policy: Replaces the bundle's stopping rules.
            **fields: `recent`, `as_of`, `inputs` and `scores`, as in `Request`.

        Returns:
            The scores, and what they cost. With a `TokenRequest`, `item` is a candidate's number.

        Raises:
            InputError: An item is not in the catalog, an input or a token id is not what the prompt takes, a prompt is too long,
                or an argument is out of range.
            DeadlineError: No candidate reached an exit in time.
            CancelledError: `cancel` was called meanwhile.
            BackendError: The backend failed.
        """
        begin = time.monotonic_ns()
        ids, native = self._request(request_or_user, items, fields)
        if deadline_us := to_deadline_us(deadline_ms):
            native.deadline_us(max(1, deadline_us - (time.monotonic_ns() - begin) // 1000))
        native.top_k(to_natural("top_k", top_k))
        if (stop := to_exit(force_exit)) is not None:
            native.force_exit(stop)
        if (rule := to_policy(policy)) is not None:
            native.policy(rule)
        answer = self._open.score(native)
        exits = answer.exit
        return read(
            Scores,
            answer,
            items=ids[answer.index],
            exit=exits,
            layers=self._depths[exits],
            cut_short=answer.cut_short.astype(np.bool_),
            stats=_stats(answer),
        )

    def score_json(
        self,
        body: bytes | str,
        *,
        waited_us: int = 0,
        deadline_us: int = 0,
        force_exit: int | None = None,
        policy: StopRule | None = None,
    ) -> JsonAnswer:
        """Scores a request in JSON, whose fields `rexit.request.FIELDS` describes. The library reads it and writes the answer;
        other Python threads run meanwhile.

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
        data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        begin = time.monotonic_ns()
        texts = self._encoder().encode_json(data)
        tokenized_us = (time.monotonic_ns() - begin) // 1000 if texts else 0
        options = _native.JsonOptions(
            to_size("waited_us", waited_us) + tokenized_us,
            to_size("deadline_us", deadline_us),
            to_policy(policy),
            to_exit(force_exit),
            texts,
        )
        answer = self._open.score_json(data, options)
        return JsonAnswer(answer.text, _stats(answer))

    def trace(
        self,
        request_or_user: AnyRequest | Id,
        items: Sequence[Id] | NDArray[Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, whatever the policy says: float32 [items, exits]. Arguments: see
        `score`."""
        return self.trace_with_stats(request_or_user, items, **fields).log_odds

    def trace_with_stats(
        self,
        request_or_user: AnyRequest | Id,
        items: Sequence[Id] | NDArray[Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> Trace:
        """Returns every exit's raw log-odds, and what they cost. Arguments: see `score`."""
        trace = self._open.trace(self._request(request_or_user, items, fields)[1])
        return Trace(self._by_exit(trace.log_odds), _stats(trace))

    def prompt(
        self,
        request_or_user: AnyRequest | Id,
        items: Sequence[Id] | NDArray[Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        """Returns the token ids that a request is scored from: the prefix's, int32 [P], and each candidate's, int32 [T].

        Ids from the tokenizer's vocabulary size on are vectors (`rexit.bundle.VectorIds`). Arguments: see `score`.
        """
        prompt = self._open.prompt(self._request(request_or_user, items, fields)[1])
        parts = np.split(prompt.tokens, prompt.offsets[1:-1])
        return parts[0], parts[1:]

    def read_file(self, path: str) -> bytes:
        """Returns the contents of a file of the bundle. path: within it, as in `manifest.json`.

        Raises:
            BundleError: There is no such file, or it cannot be read.
            InputError: It is no path within the bundle.
        """
        return self._open.read_file(path)

    def check_golden(self, slate: int) -> GoldenCheck:
        """Compares golden sample number `slate`, from 0, with what is computed here. Drops the cached prefixes. `rexit verify`
        checks all of them.

        Raises:
            InputError: There is no such sample.
            BundleError: The variant has no golden samples, or they are damaged.
            BackendError: The backend failed.
        """
        check = self._open.check_golden(to_size("slate", slate))
        return read(GoldenCheck, check, trace=self._by_exit(check.trace))

    def warm_up(self) -> None:
        """Runs every segment once on an artificial slate, so that the first request does not pay for allocations. Drops the
        cached prefixes. Parses the tokenizer of the prompt's texts, which is otherwise read with the first text."""
        self._open.warm_up()
        self._encoder().warm_up()

    def clear_cache(self) -> None:
        """Drops the cached prefixes."""
        self._open.clear_cache()

    def trim(self) -> None:
        """Gives memory back: the cached prefixes, the session's buffers, and unused working memory of the backend."""
        self._open.trim()

    def cancel(self) -> None:
        """Cancels the running call, from another thread. It soon raises CancelledError, or returns if it is nearly done. Does
        nothing if no call is running. Later calls run, also those that wait for their turn."""
        self._open.cancel()

    @property
    def memory(self) -> Memory:
        """Bytes in use by this session and its backend."""
        return read(Memory, self._open.memory())

    def close(self) -> None:
        """Releases everything. A second call does nothing."""
        self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _request(
        self, request_or_user: AnyRequest | Id, items: Sequence[Id] | NDArray[Any] | None, fields: RequestFields
    ) -> NativeRequest:
        request: AnyRequest
        if isinstance(request_or_user, Request | TokenRequest):
            request = request_or_user
            arguments = {"items": items, **fields}
            if set_too := [name for name, value in arguments.items() if value is not None]:
                raise InputError(f"{set_too[0]} is an argument, expected it in the {type(request).__name__}")
        elif items is None:
            raise InputError("items is missing, expected ids of candidates")
        else:
            request = Request(request_or_user, items, **fields)
        return to_request(request, lambda values: self._encoder().encode(values))

    def _encoder(self) -> InputEncoder:
        if self._inputs is None:
            self._inputs = InputEncoder.of(self._open, self._path)
        return self._inputs

    def _by_exit(self, log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `trace` returns them."""
        return log_odds.reshape(-1, self.info.exits)

    @property
    def _open(self) -> _native.Session:
        if self._native is None:
            raise InputError("the session is closed")
        return self._native


def _stats(answer: _native.Scores | _native.JsonAnswer | _native.Trace) -> Stats:
    segments = tuple(read(SegmentStats, segment) for segment in answer.segments)
    return read(Stats, answer.stats, segments=segments)
