"""The loads of an SGLang worker, asked ten times a second while it has requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from app.upstream.http1 import encode_lines

if TYPE_CHECKING:
    from app.upstream.http1 import HeaderLines, Http1Pool
    from app.workers.worker import Worker

TARGET = b"/v1/loads?include=core,disagg,queues,memory"
"""Everything that the scheduler could use (SGLang 0.5.23)."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class NoLoads(Exception):
    """The worker gave no usable answer; the text is a sentence."""


class LoadReader:
    """Asks past httpx's request objects, which cost three times as much as all the rest.

    Args:
        pool: Connections to the worker.
        worker: Its key is read anew for every call.
        limit_s: Longest time for an answer.
    """

    __slots__ = ("_key", "_limit_s", "_lines", "_pool", "_worker")

    def __init__(self, pool: Http1Pool, worker: Worker, limit_s: float) -> None:
        self._pool = pool
        self._worker = worker
        self._limit_s = limit_s
        self._key: str | None = None
        self._lines = _lines(None)

    async def read(self) -> tuple[int, Any]:
        """Returns the status and, of a 2xx, the JSON.

        Raises:
            NoLoads: There was no answer in time, or none in JSON.
            UpstreamError: It could not be asked.
        """
        key = self._worker.spec.api_key
        if key != self._key:
            self._key, self._lines = key, _lines(key)
        exchange = self._pool.exchange(b"GET", TARGET, self._lines, silence_timeout_s=self._limit_s)
        try:
            async with asyncio.timeout(self._limit_s):
                head = await exchange.head()
                data = await exchange.read(MAX_ANSWER_BYTES)
            return head.status, orjson.loads(data) if 200 <= head.status < 300 else None
        except TimeoutError:
            raise NoLoads(f"/v1/loads gave no answer in {self._limit_s:g} s.") from None
        except orjson.JSONDecodeError:
            raise NoLoads("/v1/loads answered something that is no JSON.") from None
        finally:
            exchange.close()


def _lines(key: str | None) -> HeaderLines:
    lines = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
    if key is not None:
        lines.append((b"authorization", b"Bearer " + key.encode()))
    return encode_lines(lines)
