"""An answer that is collected as it arrives, for somebody who is called once it is whole."""

from __future__ import annotations

from collections.abc import Callable

from app.upstream.failures import BodyTooLong
from app.upstream.http1_response import Head

OnEnd = Callable[[Head | None, bytes, BaseException | None], None]
"""Takes the head if it came, the whole body or nothing, and what went wrong."""


class Following:
    """What has come of an answer.

    Args:
        on_end: Whom it is for.
        limit: Most bytes of an answer with status 200.
        refusal_limit: The same with another status.

    Attributes:
        failure: It is too long.
    """

    __slots__ = ("_limit", "_n_bytes", "_on_end", "_parts", "_refusal_limit", "failure")

    def __init__(self, on_end: OnEnd, limit: int, refusal_limit: int) -> None:
        self._on_end = on_end
        self._limit = limit
        self._refusal_limit = refusal_limit
        self._parts: list[bytes] = []
        self._n_bytes = 0
        self.failure: BodyTooLong | None = None

    def add(self, data: bytes, status: int) -> None:
        """Takes bytes of the body."""
        self._parts.append(data)
        self._n_bytes += len(data)
        limit = self._limit if status == 200 else self._refusal_limit
        if self._n_bytes > limit:
            self.failure = BodyTooLong(f"The worker's answer is longer than {limit} bytes.")

    def end(self, head: Head | None, failure: BaseException | None) -> None:
        """Hands it over."""
        parts = self._parts
        body = b"" if failure else parts[0] if len(parts) == 1 else b"".join(parts)
        self._on_end(head, body, failure)
