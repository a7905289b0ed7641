"""Starts the processes of one gateway, starts those anew that die, and ends them all.

It has no event loop and no thread, so that a process forked from it at any time is a clean one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from select import select
from typing import NoReturn

import structlog

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = (signal.SIGHUP, signal.SIGUSR1)
_WAITED_FOR = {*_STOPPING, *_PASSED_ON, signal.SIGCHLD}
CANNOT_START = frozenset({2, 3})
"""Exit codes of settings that cannot be used, and of an application that did not start."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_SOUND_S = 1.0
"""A process that lived for so long is started anew at once when it dies."""
BRAIN_END_S = 10.0
_TICK_S, _READY_TICK_S = 0.5, 0.02
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One process that there has to be.

    Attributes:
        name: As logs call it.
        main: Is run in it, with how often it was started; returns its exit code.
        pid: 0 while there is none.
        n_starts: So far.
        pause_s: Before the next start, if it dies young.
        due_s: When it is to be started.
    """

    name: str
    main: Callable[[int], int]
    pid: int = 0
    n_starts: int = 0
    started_s: float = 0.0
    pause_s: float = 0.0
    due_s: float = 0.0


class Supervisor:
    """Owns the brain and the pipes.

    Args:
        brain: Ends last: pipes that finish their requests tell it so.
        pipes: End at the first stop signal, each in its own time.
        on_stop: Called at the first stop signal, before anybody is told of it.
        ready: Readable once the first brain serves: until then there is no pipe, so that a
            setting that cannot be used is told once.
    """

    def __init__(
        self, brain: Child, pipes: Sequence[Child], on_stop: Callable[[], None], ready: int
    ) -> None:
        self._brain = brain
        self._pipes = list(pipes)
        self._on_stop = on_stop
        self._ready = ready
        self._is_ready = False
        self._log = structlog.get_logger("tandem.cluster")
        self._is_ending = False
        self._forced_by: int | None = None
        self._failed_with: int | None = None
        self._brain_end_s = 0.0

    def run(self) -> int:
        """Runs until all have ended; returns the exit code of the whole."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        try:
            while not self._has_ended():
                self._start_due(before)
                found = signal.sigtimedwait(_WAITED_FOR, self._wait_s())
                if found is not None:
                    self._take(found.si_signo)
                self._reap()
        finally:
            # Only a defect of this loop leaves anybody.
            for child in self._running():
                os.kill(child.pid, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._failed_with is not None:
            return self._failed_with
        return 0 if self._forced_by is None else 128 + self._forced_by

    def _running(self) -> list[Child]:
        return [child for child in (self._brain, *self._pipes) if child.pid]

    def _has_ended(self) -> bool:
        if not self._is_ending or any(child.pid for child in self._pipes):
            return False
        if not self._brain.pid:
            return True
        now_s = time.monotonic()
        if not self._brain_end_s:
            self._brain_end_s = now_s + BRAIN_END_S
            os.kill(self._brain.pid, signal.SIGTERM)
        elif now_s > self._brain_end_s:
            os.kill(self._brain.pid, signal.SIGKILL)
        return False

    def _wait_s(self) -> float:
        now_s = time.monotonic()
        if self._is_ending:
            return _TICK_S
        if not self._is_ready:
            return _READY_TICK_S
        dues = [c.due_s - now_s for c in (self._brain, *self._pipes) if not c.pid]
        return max(0.0, min([_TICK_S, *dues]))

    def _start_due(self, mask: set[int]) -> None:
        if self._is_ending:
            return
        self._is_ready = self._is_ready or bool(select([self._ready], [], [], 0)[0])
        for child in (self._brain, *(self._pipes if self._is_ready else ())):
            if not child.pid and time.monotonic() >= child.due_s:
                child.n_starts += 1
                child.started_s = time.monotonic()
                child.pid = _fork(child, mask)
                self._log.info("process started", name=child.name, pid=child.pid)

    def _take(self, number: int) -> None:
        if number in _STOPPING:
            if self._is_ending:
                self._forced_by = number
            self._end(number)
        elif number in _PASSED_ON:
            for child in self._running():
                os.kill(child.pid, number)

    def _end(self, number: int) -> None:
        if not self._is_ending:
            self._is_ending = True
            self._log.info("stopping", processes=len(self._running()))
            self._on_stop()
        for child in self._pipes:
            if child.pid:
                os.kill(child.pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in self._running():
                if child.pid == pid:
                    child.pid = 0
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        if self._is_ending:
            return
        if child.n_starts == 1 and code in CANNOT_START:
            self._failed_with = code
            self._end(signal.SIGTERM)
            return
        now_s = time.monotonic()
        if now_s - child.started_s >= _SOUND_S:
            child.pause_s = 0.0
        child.due_s = now_s + child.pause_s
        self._log.error("process died", name=child.name, exit_code=code, pause_s=child.pause_s)
        child.pause_s = min(max(2 * child.pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)


def _fork(child: Child, mask: set[int]) -> int:
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be(child, mask, parent)
    return pid


def _be(child: Child, mask: set[int], parent: int) -> NoReturn:
    """Is the child, to its end."""
    code: object = 1
    try:
        # Out of the terminal's group: Ctrl-C is the parent's to pass on.
        os.setpgid(0, 0)
        # Nobody may outlive the parent, however that ended.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = child.main(child.n_starts)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)
