"""The watch over an exchange: how long a worker may be silent, or take altogether."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.upstream.failures import Phase, SilenceTimeout

if TYPE_CHECKING:
    from app.upstream.http1 import Http1Pool
    from app.upstream.http1_connection import Http1Connection

MAX_SWEEP_S = 1.0
MIN_SWEEP_S = 0.01


class Watched:
    """What the pool's sweep looks at; costs a request nothing between two sweeps.

    Args:
        pool: Whose sweep it is.
        limit_s: Longest silence.

    Attributes:
        sent: A byte of the request was handed to a transport, so an engine may have seen it.
        sweep_s: How often the pool looks for silence on behalf of this exchange.
    """

    __slots__ = (
        "_connection",
        "_is_total",
        "_limit_s",
        "_n_unwritten_bytes",
        "_pool",
        "_since_s",
        "sent",
        "sweep_s",
    )

    def __init__(self, pool: Http1Pool, limit_s: float) -> None:
        self._pool = pool
        self._connection: Http1Connection | None = None
        self._limit_s = limit_s
        self._is_total = False
        self._since_s: float | None = None
        self._n_unwritten_bytes = 0
        self.sent = False
        self.sweep_s = max(MIN_SWEEP_S, min(MAX_SWEEP_S, limit_s / 4))

    def limit(self, limit_s: float, *, is_total: bool) -> None:
        """Sets another limit, which counts from now on.

        Args:
            limit_s: As ``silence_timeout_s`` of :meth:`Http1Pool.exchange`.
            is_total: It is for all that is still to come, whatever is heard in between.
        """
        self._limit_s = limit_s
        self._is_total = is_total
        self._since_s = None
        if limit_s < 4 * self.sweep_s:
            self.sweep_s = max(MIN_SWEEP_S, limit_s / 4)
            self._pool.hurry(self.sweep_s)

    def sweep(self, now_s: float) -> None:
        """Breaks the response off when the worker was silent for too long.

        Args:
            now_s: The pool's clock; silence counts from the first sweep after the last byte.
        """
        connection = self._connection
        if connection is None or not self.sent:
            return
        if connection.is_done or connection.failure is not None:
            return
        if connection.was_heard and connection.is_head_complete:
            self._pool.was_heard = True
            connection.was_heard = not self._is_total
        if self._since_s is None or not (self._is_total or self._is_silent(connection)):
            connection.was_heard = False
            self._since_s = now_s
        elif now_s - self._since_s >= self._limit_s:
            where: Phase = "body" if connection.is_head_complete else "head"
            what = "did not end its answer" if self._is_total else "sent nothing"
            connection.break_off(
                SilenceTimeout(
                    f"The worker {what} for {self._limit_s:g} s "
                    f"while its response {where} was awaited.",
                    "head" if self._is_total else where,
                )
            )

    def _is_silent(self, connection: Http1Connection) -> bool:
        """Neither side has moved; a slow reader of ours is no silence of the worker's."""
        transport = connection.transport
        n_before = self._n_unwritten_bytes
        n_now = 0 if transport is None else transport.get_write_buffer_size()
        self._n_unwritten_bytes = n_now
        return not connection.was_heard and not connection.is_paused and n_now == n_before
