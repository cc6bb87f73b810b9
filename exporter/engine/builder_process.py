"""Runs `engine_builder.py` in a process: sends its request, reads its events, reports how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexit.errors import InputError

SCRIPT = Path(__file__).with_name("engine_builder.py")


@dataclass(frozen=True)
class Ended:
    """The end of a builder: exit code (-N for signal N), last line of stderr, peak memory according to the kernel."""

    code: int
    last_line: str
    peak_bytes: int

    def __str__(self) -> str:
        names = {s.value: s.name for s in signal.Signals}
        how = f"with exit code {self.code}"
        if self.code < 0:
            how = f"by {names.get(-self.code, f'signal {-self.code}')} at {self.peak_bytes / 1e6:.0f} MB"
        return f"{how}: {self.last_line}" if self.last_line else how

    @property
    def out_of_memory(self) -> bool:
        """Whether it probably ran out of memory: then the kernel kills, C++ aborts, or Python raises MemoryError."""
        return self.code in (-signal.SIGKILL, -signal.SIGABRT) or "MemoryError" in self.last_line


class BuilderProcess:
    """A process of `engine_builder.py` for one request. Leaving the `with` block ends it."""

    def __init__(self, python: str, request: Mapping[str, Any]) -> None:
        """python: the interpreter. Raises InputError if it cannot be run."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._ended: Ended | None = None
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(request).encode())
            stdin.seek(0)
            try:
                # A session of its own: Ctrl-C reaches rexit alone, which kills the builder even inside C++ code.
                self._process = subprocess.Popen(
                    [python, str(SCRIPT)], stdin=stdin, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
                )
            except OSError as exc:
                self._stderr.close()
                raise InputError(f"{python}: cannot be run: {exc.strerror}") from exc

    def __enter__(self) -> BuilderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            # Not Popen.kill, which would reap a process that has ended: wait() would find none.
            os.kill(self._process.pid, signal.SIGKILL)
            self.wait()
        self._stderr.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields events until the builder ends or prints something else."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                return
            if not isinstance(event, dict) or "event" not in event:
                return
            yield event

    def wait(self) -> Ended:
        """Waits for the builder's end."""
        if self._ended is None:
            assert self._process.stdout is not None
            self._process.stdout.close()  # a builder that still writes gets SIGPIPE
            _, status, usage = os.wait4(self._process.pid, 0)  # Popen.wait does not report memory
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").splitlines()
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            self._ended = Ended(self._process.returncode, last, usage.ru_maxrss * 1024)
        return self._ended
