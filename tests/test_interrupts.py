"""What signals do in the block of `interruptible`, and outside of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from rexit import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """As in a process of a command's own, whatever started this one."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_the_block_once(number: signal.Signals, code: int) -> None:
    before, continued = [signal.getsignal(name) for name in SIGNALS], False
    with pytest.raises(SystemExit) as end, interrupts.interruptible():
        signal.raise_signal(number)
        continued = True
    assert end.value.code == code and not continued
    assert [signal.getsignal(name) for name in SIGNALS] == before
    interrupts.check()  # forgotten
    with interrupts.interruptible():
        interrupts.check()


def test_a_signal_that_was_caught_is_raised_again_and_ends_the_block() -> None:
    with pytest.raises(SystemExit) as end, interrupts.interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert end.value.code == 143


def test_errors_of_the_block_pass() -> None:
    with pytest.raises(ValueError), interrupts.interruptible():
        raise ValueError


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_the_callers_handlers_stay(handler: signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)
    with interrupts.interruptible():
        for number in SIGNALS:
            signal.raise_signal(number)
            assert signal.getsignal(number) == handler
        interrupts.check()


def test_deferred_blocks_end_first() -> None:
    """Also nested; a block that another thread is in does not count."""
    inside, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with interrupts.deferred():
            inside.set()
            done.wait()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    inside.wait()
    reached = []
    with pytest.raises(SystemExit) as end, interrupts.interruptible():
        with interrupts.deferred():
            with interrupts.deferred():
                signal.raise_signal(signal.SIGTERM)
            reached.append("inside")
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        signal.raise_signal(signal.SIGTERM)
        reached.append("behind")
    done.set()
    thread.join()
    assert end.value.code == 143 and reached == ["inside"]
