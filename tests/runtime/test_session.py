"""The Python surface: options, errors, threads, what it imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rexit
from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog
from builders.bundles.variants import QUANTIZED, add_variant
from builders.policies import full_depth
from rexit import runtime
from rexit.errors import CancelledError, InputError
from rexit.format.bundle import Bundle, TopK
from rexit.format.request import Request
from rexit.upkeep.measure import Conditions

_BYTES = attrgetter("prefixes", "buffers", "pinned", "gpu")


@pytest.fixture(scope="module")
def session(folder: Path) -> runtime.Session:
    return runtime.open(folder)


def test_a_policy_made_elsewhere_is_told_of(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "bundle"
    shutil.copytree(folder, place)
    opened = Bundle.open(place)
    here = asdict(Conditions.here(opened, None, 0))
    del here["variant_sha256"]
    full, path = full_depth(3, opened.variant_sha256), opened.folder / "policy.json"
    for made_on in (None, here, {**here, "machine": {"onnxruntime": None}}):
        replace(full, made_on=made_on).write(path)
        runtime.open(place)
    assert caplog.messages == []
    elsewhere = {"device": "cuda", "threads": 77, "machine": {"architecture": "pdp11", "onnxruntime": "0.9.1", "rexit": "0.0.9"}}
    opened_before = runtime.open(place)
    replace(full, made_on=elsewhere).write(path)
    runtime.open(place).another()
    machine = here["machine"]
    differences = (
        f"device cuda, here cpu; threads 77, here {here['threads']}; architecture pdp11, here {machine['architecture']}; "
        f"onnxruntime 0.9.1, here {machine['onnxruntime']}; rexit 0.0.9, here {rexit.__version__}"
    )
    advice = "stopping early may save less than it says; run `rexit calibrate` here"
    assert caplog.messages == [f"{path}: calibrated with {differences}: {advice}"] and caplog.records[0].name == "rexit"
    assert opened_before.reloaded() is not None and caplog.messages[1:] == caplog.messages[:1]


@pytest.mark.parametrize("calibrated", [(), ("second",), ("third", "second"), ("cpu-fp32", "third")])
def test_the_default_variant_is_the_first_with_a_policy(folder: Path, tmp_path: Path, calibrated: tuple[str, ...]) -> None:
    names = ("cpu-fp32", "second", "third")
    place = Path(shutil.copytree(folder, tmp_path / "bundle"))
    for name in names[1:]:
        add_variant(place, QUANTIZED, name)
    for name in calibrated:
        bundle = Bundle.open(place, name)
        full_depth(3, bundle.variant_sha256).write(bundle.folder / "policy.json")
    expected = next((name for name in names if name in calibrated), names[0])
    assert Bundle.open(place).variant.name == expected
    assert runtime.open(place).info.variant == expected


def test_an_answer_says_whether_the_user_is_known(session: runtime.Session) -> None:
    for user, known in ((USER_IDS[0], True), (5, False)):
        assert session.score(user, ITEM_IDS[:2]).stats.known_user is known, "a mistyped id scores as a stranger without a word"
        assert session.trace_with_stats(user, ITEM_IDS[:2]).stats.known_user is known


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top_k": 1.5}, "top_k is 1.5, expected an integer"),
        ({"recent": 7}, r"recent is 7, expected an array of ITEM, \[ITEM, true\] or \[ITEM, false\]"),
        ({"recent": [(3, True, 1)]}, r"recent\[0\] has more than 2 values, expected ITEM"),
        ({"as_of": 1 << 70}, "as_of is 1180591620717411303424, expected a 64-bit integer"),
        ({"policy": runtime.StopRule([0.0], [0.0])}, "policy exits: has 1, the variant has 3"),
        ({"policy": runtime.StopRule([0.0] * 3, [0.0])}, "policy has 3 upper thresholds, 1 lower ones"),
        ({"policy": runtime.StopRule([0.0] * 3, [0.0] * 3, 0)}, "policy patience: is 0, expected 1 to 1024"),
        ({"policy": runtime.StopRule(["x"] * 3, [0.0] * 3)}, "policy: a threshold of exit 0 is 'x', expected a number"),
        ({"policy": runtime.StopRule([float("nan")] * 3, [0.0] * 3)}, "a threshold of exit 0 is NaN"),
        ({"policy": runtime.StopRule([0.0] * 3, [0.0] * 3, quorum=0.1)}, "policy quorum: is 0.1, expected an integer"),
        (
            {"policy": runtime.StopRule([0.0] * 3, [0.0] * 3, top_k=TopK(1, False, (0.0,), (0.0, 0.0)))},
            "policy top_k rise: has 1 numbers, expected one per exit but the last, 2",
        ),
        (
            {"policy": runtime.StopRule([0.0] * 3, [0.0] * 3, top_k=TopK(0, False, (0.0,) * 2, (0.0,) * 2))},
            "policy top_k k: is 0, expected 1",
        ),
    ],
)
def test_options_that_only_python_can_say(options: dict[str, Any], text: str, session: runtime.Session) -> None:
    with pytest.raises(InputError, match=text):
        session.score(USER_IDS[0], ITEM_IDS, **options)


@pytest.mark.parametrize(("text", "message"), [("cpu\ud800", "UTF-8 cannot hold it"), ("cpu-fp32\0x", "has a NUL")])
def test_names_that_c_cannot_hold(folder: Path, session: runtime.Session, text: str, message: str) -> None:
    calls = (
        lambda: runtime.open(folder, text),
        lambda: runtime.open(folder, device=text),
        lambda: runtime.open(folder, device=rexit.Provider(text)),
        lambda: runtime.open(folder, library=text),
        lambda: runtime.verify(folder, text),
        lambda: session.read_file(text),
    )
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()


def test_a_stop_rule_of_arrays() -> None:
    lists = [0.5, float("inf"), 1.0], [1.0, 2.0, 3.0]
    rule = runtime.StopRule(*lists, keep=[1, 2, 0])
    assert runtime.StopRule(*map(np.array, lists), keep=np.array([1, 2, 0])).to_json() == rule.to_json()


@pytest.mark.parametrize(
    ("user", "items", "text"),
    [
        (None, ITEM_IDS, "user is missing, expected an integer"),
        (1, [True], r"items\[0\] is true, expected a 64-bit integer"),
        (1, "ab", "items is 'ab', expected an array of ids"),
        (1, np.array(3), "items is 3, expected an array of ids"),
    ],
)
def test_ids_that_only_python_can_say(user: Any, items: Any, text: str, session: runtime.Session) -> None:
    with pytest.raises(InputError, match=text):
        session.score(user, items)


@pytest.mark.parametrize("value", [np.nan, np.inf, np.float32(np.nan)])
@pytest.mark.parametrize("field", ["deadline_ms", "id", "inputs.price"])
def test_numbers_that_json_has_no_digits_for(field: str, value: float, session: runtime.Session) -> None:
    """They would be null, which is no field."""
    fields: dict[str, Any] = {"inputs": {"price": value}} if field == "inputs.price" else {field: value}
    with pytest.raises(InputError, match=f"{field} is (nan|inf)"):
        session.score(1, ITEM_IDS, **fields)


def test_iterators_are_read_once(session: runtime.Session) -> None:
    once: Any = iter  # no sequence to the type checker
    ids, tokens = ITEM_IDS[:3], [[2], [3, 4]]
    assert session.score(USER_IDS[0], once(ids)) == session.score(USER_IDS[0], ids)
    assert session.score(Request.tokens([1], once(tokens))) == session.score(Request.tokens([1], tokens))


def test_numpy_ids(session: runtime.Session) -> None:
    slate = np.array(ITEM_IDS, np.int32)
    scores = session.score(np.int64(USER_IDS[1]), slate, top_k=2)
    assert scores.items.dtype == np.int64 and scores.items.tolist() == slate[scores.index].tolist()


def test_another_thread_count_is_refused(folder: Path, session: runtime.Session) -> None:
    with pytest.raises(InputError, match="threads is 999"):
        runtime.open(folder, threads=999)
    with pytest.raises(InputError, match="threads is -1"):
        runtime.open(folder, threads=-1)


def test_close(folder: Path) -> None:
    with runtime.open(folder) as session:
        session.score(USER_IDS[0], ITEM_IDS)
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.score(USER_IDS[0], ITEM_IDS)


def test_threads_share_a_session(session: runtime.Session) -> None:
    expected = [session.trace(user, ITEM_IDS) for user in USER_IDS]
    with ThreadPoolExecutor(4) as pool:
        traces = list(pool.map(lambda user: session.trace(user, ITEM_IDS), USER_IDS * 5))
    for n, trace in enumerate(traces):
        np.testing.assert_allclose(trace, expected[n % len(USER_IDS)], rtol=1e-4, atol=1e-3)


def test_cancel(folder: Path) -> None:
    with runtime.open(folder) as session, ThreadPoolExecutor(1) as pool:
        expected = session.trace(USER_IDS[0], ITEM_IDS)
        for work in (session.score, session.trace):
            call = pool.submit(work, USER_IDS[0], ITEM_IDS * (10_000 // len(ITEM_IDS)))
            while not call.done():
                session.cancel()
                time.sleep(0.01)
            with pytest.raises(CancelledError, match="cancelled") as caught:
                call.result()
            assert caught.value.status == "REXIT_CANCELLED"
            np.testing.assert_array_equal(session.trace(USER_IDS[0], ITEM_IDS), expected)
        session.cancel()  # nobody is at work
        np.testing.assert_array_equal(session.trace(USER_IDS[0], ITEM_IDS), expected)
    with pytest.raises(InputError, match="closed"):
        session.cancel()


def test_memory_and_trim(folder: Path) -> None:
    with runtime.open(folder) as session:
        session.trim()
        fresh = session.memory
        assert fresh.prefixes == 0
        expected = session.trace(USER_IDS[0], ITEM_IDS)
        used = session.memory
        assert used.prefixes > 0 and used.buffers > fresh.buffers
        session.clear_cache()
        assert _BYTES(session.memory) == _BYTES(used)  # the memory waits for others
        session.trim()
        assert _BYTES(session.memory) == _BYTES(fresh)
        np.testing.assert_array_equal(session.trace(USER_IDS[0], ITEM_IDS), expected)


def test_import_rexit_loads_no_runtime() -> None:
    program = "import sys, rexit; print([m for m in sys.modules if m.startswith(('rexit.', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "['rexit.errors', 'rexit.devices', 'rexit.format', 'rexit.format.request']"


def test_session_says_what_it_is(folder: Path) -> None:
    with rexit.open(folder) as session, session.another() as other:
        expected = f"<rexit.Session {str(folder)!r} cpu-fp32: exits after 1, 2, 4 layers, not calibrated>"
        assert repr(session) == repr(other) == expected
    assert repr(session).endswith("layers, closed>")


def test_errors_are_also_pythons(folder: Path) -> None:
    with rexit.open(folder) as session:
        with pytest.raises(ValueError, match="is not in the catalog"):
            session.score(USER_IDS[0], [-12345])
        with pytest.raises(TimeoutError, match="deadline") as late:
            session.score(USER_IDS[0], ITEM_IDS, deadline_ms=0.001)
    assert isinstance(late.value, rexit.errors.DeadlineError) and late.value.status == "REXIT_DEADLINE"


class TestScores:
    def test_are_a_sequence(self, folder: Path) -> None:
        with rexit.open(folder) as session:
            scores = session.score(USER_IDS[0], ITEM_IDS)
        each = list(scores)
        assert [score.item for score in each] == ITEM_IDS and len(each) == len(scores)
        first = scores[0]
        assert first == each[0] and first.log_odds == scores.log_odds[0] and first.layers == (1, 2, 4)[scores.exit[0]]
        assert type(first.item) is int and type(first.exit) is int and type(first.cut_short) is bool
        assert scores[-1] == each[-1] and list(scores[1:3]) == each[1:3] and len(scores[1:3].log_odds) == 2
        with pytest.raises(IndexError):
            _ = scores[len(scores)]

    def test_equal_answers_are_equal(self, folder: Path) -> None:
        with rexit.open(folder) as session:
            cold, warm = (session.score(USER_IDS[0], ITEM_IDS, force_exit=2) for _ in range(2))
            other = session.score(USER_IDS[0], ITEM_IDS, force_exit=1)
            top = session.score(USER_IDS[0], ITEM_IDS, force_exit=2, top_k=len(ITEM_IDS))
        assert cold == replace(cold, stats=warm.stats) and cold.stats != warm.stats, "what it cost does not count"
        assert cold != other and cold != top and cold != "scores"
        late = replace(cold, exit=cold.exit * 0 - 1, log_odds=cold.log_odds * np.nan, probability=cold.probability * np.nan)
        assert late == replace(late) and late != cold
        without_answer = late.to_dict()["scores"][0]
        assert [name for name, value in without_answer.items() if value is None] == ["probability", "log_odds", "exit"]


def test_another_session_outlives_the_first(folder: Path) -> None:
    first = runtime.open(folder)
    second = first.another()
    assert repr(second) == repr(first)
    first.close()
    assert len(second.score(USER_IDS[0], ITEM_IDS)) == len(ITEM_IDS)
    with pytest.raises(InputError, match="the session is closed"):
        first.another()


def test_other_threads_run_while_another_session_is_made(folder: Path) -> None:
    """Python interrupts no thread here, so the waiting one runs only while the other is outside the interpreter."""
    interval, turn, ran, sessions = sys.getswitchinterval(), threading.Lock(), threading.Event(), []
    turn.acquire()
    waiting = threading.Thread(target=lambda: turn.acquire() and ran.set())
    waiting.start()
    sys.setswitchinterval(1000)
    try:
        sessions.append(runtime.open(folder))
        turn.release()
        until = time.monotonic() + 30
        while not ran.is_set() and time.monotonic() < until:
            sessions[0].another()
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        waiting.join()


def test_a_closed_session_maps_no_catalog(tmp_path: Path) -> None:
    users = write_bundle(tmp_path / "bundle") / "catalog" / "users.safetensors"
    session = runtime.open(tmp_path / "bundle")
    assert str(users) in Path("/proc/self/maps").read_text()
    session.close()
    assert str(users) not in Path("/proc/self/maps").read_text()
    assert session.info.variant == "cpu-fp32"


@pytest.mark.medium
def test_only_what_requests_read_is_resident(tmp_path: Path) -> None:
    """Of a catalog whose table of users has megabytes, opened and scored for one of them."""
    folder = write_bundle(tmp_path / "bundle", BundleOptions(make_catalog(users=3000, dim=512)))
    table = folder / "catalog" / "users.safetensors"
    with runtime.open(folder) as session:
        session.score(USER_IDS[0], ITEM_IDS)
        smaps = Path("/proc/self/smaps").read_text()
    mapped = smaps[smaps.index(str(table)) :]
    size, resident, own = (int(mapped.split(f"\n{name}:")[1].split()[0]) << 10 for name in ("Size", "Rss", "Anonymous"))
    assert size >= table.stat().st_size > 3e6
    assert 0 < resident < size / 4
    assert own == 0, "what is not shared with other processes"
