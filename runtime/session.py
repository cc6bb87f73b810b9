"""`rexit.open(bundle)`: a session that scores and traces slates, over NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Id, Manifest
from rexit.bundle.catalog import FEATURES
from rexit.bundle.context import Value
from rexit.bundle.files import parse_json
from rexit.bundle.manifest import MANIFEST, TOKENIZER
from rexit.bundle.request_text import RequestTexts, Text
from rexit.deadlines import check_deadline
from rexit.devices import Device, Provider
from rexit.errors import InputError
from rexit.runtime import _native
from rexit.runtime._answers import Audit, Draw, ExitInfo, GoldenCheck, Info, Memory, Scores, SegmentStats, Stats, Trace
from rexit.runtime._arguments import (
    Recent,
    StopRule,
    to_context,
    to_integer,
    to_place,
    to_plain_id,
    to_plain_ids,
    to_provider_options,
    to_recent,
    to_rules,
    to_share,
    to_size,
    to_texts,
    to_token_lists,
    to_tokens,
)
from rexit.runtime._library import onnxruntime_library
from rexit.texts import RequestEncoder


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
    audit: float = 0.0,
    audit_seed: int = 0,
) -> Session:
    """Opens a bundle's variant: checks its structure, maps the catalog, loads the segments.

    The library and ONNX Runtime log to the logger `rexit`, from any of their threads: for instance that a policy was calibrated
    under other conditions.

    Args:
        bundle: The bundle's folder, or a tar archive of it (`tar --format=ustar -cf bundle.tar -C bundle .`): its path or its
            bytes.
        variant: Name of the variant; None: the bundle's first.
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
        audit: Share of the slates that are drawn for `Session.audit`, from 0 to 1.
        audit_seed: Of the draws: the same seed draws the same slates of a sequence; 0: one of the system's.

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
    native = _native.Session(
        to_place(bundle),
        variant or "",
        onnxruntime_library() if library is None else os.fspath(library),
        to_integer("threads", threads, 31),
        to_size("cache_bytes", cache_bytes),
        to_size("slate_bytes", slate_bytes),
        name_of_device or "",
        to_integer("device_id", device_id, 31),
        provider.name if provider else "",
        to_provider_options(provider.options if provider else {}),
        bool(own_threads),
        0 if spinning is None else 1 if spinning else 2,
        to_share("audit", audit),
        to_size("audit_seed", audit_seed),
    )
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
        self._encoder: RequestEncoder | None = None
        info = native.info()
        self.info = Info(*info[:-1], dict(info[-1]))
        self.exits = tuple(ExitInfo(*row[:8], tuple(row[8]), tuple(row[9])) for row in native.exits())
        self._depths = np.array([*(exit_.layers for exit_ in self.exits), 0])  # the last one: of exit -1, no answer

    def __repr__(self) -> str:
        depths = ", ".join(str(exit_.layers) for exit_ in self.exits)
        state = "closed" if self._native is None else "calibrated" if self.info.calibrated else "not calibrated"
        return f"<rexit.Session {self._path!r} {self.info.variant}: exits after {depths} layers, {state}>"

    def another(self) -> Session:
        """Returns a second session over the same opened bundle. It shares the weights and the catalog, but neither buffers nor
        cached prefixes. Sessions of one bundle can score at the same time, each in its own thread."""
        session = Session(self._open.another(), self._path)
        session._encoder = self._encoder
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
        user: Id,
        items: Sequence[Id] | NDArray[Any],
        *,
        recent: Recent | None = None,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
        top_k: int = 0,
        deadline_ms: float | None = None,
        force_exit: int | None = None,
        policy: StopRule | None = None,
    ) -> Scores:
        """Scores a slate for one user. Each candidate stops at its first confident exit.

        Args:
            user: The user's id. A user whom the catalog does not have is placed by `recent`.
            items: Ids of the candidates.
            recent: Interactions newer than the catalog's, oldest first: ids of liked items, or pairs (id, liked).
            as_of: A time in the catalog's unit. Only its interactions before that time reach the prompt; None: all.
            context: Values of the template's `{context.NAME}`, by name: `{"device": "tv", "hour": 21}`.
            request: Texts of the template's `{request.NAME}`, by name: `{"query": "red shoes"}`, or their token ids. Texts need a
                bundle with a tokenizer (`rexit export --with-tokenizer`).
            top_k: Return only this many, best first; 0: all, in the order of `items`. Replaces the k of the policy's top-k rule,
                if it has one.
            deadline_ms: No segment starts after this many milliseconds. Candidates then answer from the deepest exit they have
                reached, and are marked `cut_short`.
            force_exit: The exit at which every candidate stops, from 0.
            policy: Replaces the bundle's stopping rules.

        Returns:
            The scores, and what they cost.

        Raises:
            InputError: An item is not in the catalog, the context or a request text is not what the template says, a prompt is
                too long, or an argument is out of range.
            DeadlineError: No candidate reached an exit in time.
            CancelledError: `cancel` was called meanwhile.
            BackendError: The backend failed.
        """
        ids, slate = self._slate(user, items, recent, as_of, context, request)
        rules = self._rules(top_k, deadline_ms, force_exit, policy)
        return self._scores(ids, self._open.score(*slate, *rules))

    def score_tokens(
        self,
        prefix: Sequence[int] | NDArray[Any],
        candidates: Sequence[Sequence[int] | NDArray[Any]],
        *,
        top_k: int = 0,
        deadline_ms: float | None = None,
        force_exit: int | None = None,
        policy: StopRule | None = None,
    ) -> Scores:
        """Scores candidates behind a prefix, all as token ids. Reads no catalog, so every bundle can be asked.

        The prefix is cached as a user's is: the same tokens again cost nothing, and a common start is reused.

        Args:
            prefix: Token ids of what all candidates share; may be empty.
            candidates: Token ids of each candidate, at least one of each.
            top_k: As for `score`.
            deadline_ms: As for `score`.
            force_exit: As for `score`.
            policy: As for `score`.

        Returns:
            The scores; `item` is a candidate's number.

        Raises:
            InputError: A number is not a token id of the model, a candidate has no tokens, a prompt is too long, or another
                argument is out of range.
            DeadlineError: No candidate reached an exit in time.
            CancelledError: `cancel` was called meanwhile.
            BackendError: The backend failed.
        """
        prefix_tokens = to_tokens("prefix", prefix)
        tokens, counts = to_token_lists("candidates", candidates)
        rules = self._rules(top_k, deadline_ms, force_exit, policy)
        return self._scores(np.arange(len(candidates)), self._open.score_tokens(prefix_tokens, tokens, counts, *rules))

    def trace_tokens(
        self, prefix: Sequence[int] | NDArray[Any], candidates: Sequence[Sequence[int] | NDArray[Any]]
    ) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, whatever the policy says: float32 [candidates, exits], or with several objectives
        [candidates, exits, objectives]. Arguments: see `score_tokens`."""
        return self._open.trace_tokens(to_tokens("prefix", prefix), *to_token_lists("candidates", candidates))[0]

    def trace(
        self,
        user: Id,
        items: Sequence[Id] | NDArray[Any],
        *,
        recent: Recent | None = None,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
    ) -> NDArray[np.float32]:
        """Returns every exit's raw log-odds, whatever the policy says: float32 [items, exits], or with several objectives
        [items, exits, objectives]. Arguments: see `score`."""
        return self.trace_with_stats(user, items, recent=recent, as_of=as_of, context=context, request=request).log_odds

    def trace_with_stats(
        self,
        user: Id,
        items: Sequence[Id] | NDArray[Any],
        *,
        recent: Recent | None = None,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
    ) -> Trace:
        """Returns every exit's raw log-odds, and what they cost. Arguments: see `score`."""
        _, slate = self._slate(user, items, recent, as_of, context, request)
        log_odds, stats = self._open.trace(*slate)
        return Trace(log_odds, _stats(stats))

    def prompt(
        self,
        user: Id,
        items: Sequence[Id] | NDArray[Any],
        *,
        recent: Recent | None = None,
        as_of: int | None = None,
        context: Mapping[str, Value] | None = None,
        request: Mapping[str, Text] | None = None,
    ) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        """Returns the token ids that a request is scored from: the prefix's, int32 [P], and each candidate's, int32 [T].

        Ids from the tokenizer's vocabulary size on stand for vectors (`rexit.bundle.VectorIds`). Arguments: see `score`.
        """
        _, slate = self._slate(user, items, recent, as_of, context, request)
        tokens, offsets = self._open.prompt(*slate)
        parts = np.split(np.array(tokens, np.int32), offsets[1:-1])
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
        return GoldenCheck(*self._open.check_golden(to_size("slate", slate)))

    def audit(self) -> Audit | None:
        """Scores a slate that the policy has answered again at full depth: call it when there is time.

        A session opened with `audit` draws a share of its slates, and keeps one until it is audited. The draw of a slate is in
        its `Scores.stats.draw`. `docs/how-to/embed.md` says what to do with the difference.

        Returns:
            The policy's answer and full depth's; None if no slate waits.

        Raises:
            CancelledError: `cancel` was called meanwhile. The slate still waits; after any other error it is skipped.
            BackendError: The backend failed.
            BundleError: A file of the catalog was modified.
        """
        audit = Audit(*self._open.audit())
        return audit if len(audit.exit) else None

    def warm_up(self) -> None:
        """Runs every segment once on an artificial slate, so that the first request does not pay for allocations. Drops the
        cached prefixes. Reads the tokenizer of request texts, which is otherwise read with the first text."""
        self._open.warm_up()
        if self.info.has_catalog:
            self._request_encoder()

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
        return Memory(*self._open.memory())

    def close(self) -> None:
        """Releases everything. A second call does nothing."""
        self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _slate(
        self,
        user: Id,
        items: Sequence[Id] | NDArray[Any],
        recent: Recent | None,
        as_of: int | None,
        context: Mapping[str, Value] | None,
        request: Mapping[str, Text] | None,
    ) -> tuple[NDArray[Any], _native._Slate]:
        """The items as an array, and the request as the native calls take it."""
        ids, plain = to_plain_ids("items", items)
        time = None if as_of is None else to_integer("as_of", as_of)
        texts = to_texts(request, self._encode)
        return ids, (to_plain_id("user", user), plain, *to_recent(recent), time, to_context(context), texts)

    def _encode(self, name: str, text: str) -> NDArray[np.int32]:
        if not self.info.has_catalog:
            raise InputError(f"request text {name!r}: the bundle has no catalog, so no prompt that places it")
        return self._request_encoder().tokens(name, text)

    def _request_encoder(self) -> RequestEncoder:
        if self._encoder is None:
            manifest = Manifest.parse(self._open.read_file(MANIFEST), f"{self._path}/{MANIFEST}")
            catalog = f"{manifest.catalog_folder}/catalog.json"
            texts = RequestTexts.of(parse_json(self._open.read_file(catalog), catalog, FEATURES), catalog)
            tokenizer = self._open.read_file(TOKENIZER) if TOKENIZER in manifest.files else None
            self._encoder = RequestEncoder(texts, self.info.vocabulary, None if tokenizer is None else lambda: tokenizer)
        return self._encoder

    def _rules(
        self,
        top_k: int,
        deadline_ms: float | None,
        force_exit: int | None,
        policy: StopRule | None,
    ) -> tuple[int, int, int | None, _native._Rules | None]:
        """What both kinds of requests end with, as the native calls take it."""
        return (
            to_integer("top_k", top_k, 31),
            _deadline_us(deadline_ms),
            None if force_exit is None else to_integer("force_exit", force_exit, 31),
            None if policy is None else to_rules(policy, self.info.exits),
        )

    def _scores(self, ids: NDArray[Any], answer: _native._Scores) -> Scores:
        index, exits, probability, log_odds, cut_short, probabilities, stats = answer
        objectives = tuple(self.info.utility)
        return Scores(
            items=ids[index],
            index=index,
            probability=probability,
            log_odds=log_odds,
            exit=exits,
            layers=self._depths[exits],
            cut_short=cut_short.astype(np.bool_),
            stats=_stats(stats),
            objectives=objectives,
            probabilities=probabilities if objectives else probability[:, None],
        )

    @property
    def _open(self) -> _native.Session:
        if self._native is None:
            raise InputError("the session is closed")
        return self._native


def _deadline_us(deadline_ms: float | None) -> int:
    """As the compiled module takes it; 0: none. Raises InputError."""
    if deadline_ms is None:
        return 0
    check_deadline(deadline_ms)
    return max(1, round(deadline_ms * 1000))


def _stats(row: _native._Stats) -> Stats:
    return Stats(*row[:-2], Draw(row[-2]), tuple(SegmentStats(*segment) for segment in row[-1]))
