"""A process of the gateway's own that answers one message after the other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

READY = b"ready"
LENGTH_BYTES = 8
# A machine so busy that a second of computing takes ten is no fault of the process.
_SILENCE_S = 20.0
_START = """\
import sys
sys.path[:] = sys.argv.pop().splitlines()
from {} import main
main()
"""


class ChildGone(Exception):
    """The process has ended; ``was_silent`` if only because nothing came of it for too long."""

    def __init__(self, *, was_silent: bool = False) -> None:
        super().__init__()
        self.was_silent = was_silent


class ChildProcess:
    """The process and the two pipes to it; for one thread at a time.

    Messages are bytes behind their length in 8 bytes; the first one from it is ``READY``.

    Args:
        module: Its ``main`` is run.
        arguments: Of the command line.
        max_answer_bytes: None of ours would say more.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, module: str, arguments: Sequence[str], max_answer_bytes: int) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._process = subprocess.Popen(  # noqa: S603 - nothing of it comes from outside
            [sys.executable, "-I", "-c", _START.format(module), *arguments, "\n".join(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """It has not ended yet."""
        return self._process.poll() is None

    def expect_ready(self) -> None:
        """Waits until it can be asked.

        Raises:
            ChildGone: It has ended instead.
        """
        if self.ask(b"") != READY:
            raise ChildGone

    def ask(self, data: bytes) -> bytes:
        """Sends a message, if it is not empty, and returns the answer.

        Raises:
            ChildGone: It has ended, or was ended because it was silent.
        """
        source, target = self._process.stdout, self._process.stdin
        if source is None or target is None:
            raise ChildGone
        alarm = threading.Timer(_SILENCE_S, self._process.kill)
        alarm.start()
        end_s = time.monotonic() + _SILENCE_S
        try:
            if data:
                send(target, data)
            n_bytes = int.from_bytes(_read(source, LENGTH_BYTES), "big")
            if n_bytes > self._max_answer_bytes:
                raise ChildGone
            return _read(source, n_bytes)
        except (ChildGone, OSError, ValueError) as fault:  # the pipe has ended, or is closed
            raise ChildGone(was_silent=time.monotonic() >= end_s) from fault
        finally:
            alarm.cancel()

    def end(self) -> None:
        """Ends it; at once, for it has nothing to finish."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # it flushes what nobody will read
                    pipe.close()


def send(target: IO[bytes], data: bytes) -> None:
    """Writes a message; in either process."""
    target.write(len(data).to_bytes(LENGTH_BYTES, "big"))
    target.write(data)
    target.flush()


def _read(source: IO[bytes], n_bytes: int) -> bytes:
    data = source.read(n_bytes)
    if len(data) < n_bytes:
        raise ChildGone
    return data
