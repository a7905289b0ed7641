"""The Generate calls that are open on one vLLM worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.upstream.failures import removal

if TYPE_CHECKING:
    from app.upstream.vllm_call import VllmCall


class OpenCalls:
    """Counts them, ends them together, and tells whether the worker speaks on any."""

    def __init__(self) -> None:
        self._calls: set[VllmCall] = set()
        self._n_messages_of_ended = 0
        self._n_heard = 0

    @property
    def n_active(self) -> int:
        """Calls that were begun and have not ended."""
        return len(self._calls)

    def add(self, call: VllmCall) -> None:
        """The call has begun."""
        self._calls.add(call)

    def discard(self, call: VllmCall) -> None:
        """The call has ended; again is harmless."""
        if call in self._calls:
            self._calls.remove(call)
            self._n_messages_of_ended += call.n_messages

    def fail_all(self) -> int:
        """Fail what is running, since the worker is removed; returns how many were running."""
        running = list(self._calls)
        for call in running:
            call.fail(removal(was_sent=call.sent))
        return len(running)

    def take_heard(self) -> bool:
        """Whether any call brought a message since this was asked last."""
        n_heard = self._n_messages_of_ended + sum(call.n_messages for call in self._calls)
        was_heard = n_heard > self._n_heard
        self._n_heard = n_heard
        return was_heard
