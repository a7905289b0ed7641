"""The one place that speaks with Redis or Valkey: names of keys, and what is done to them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.state import scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

_CONNECT_S = 1.0
_ANSWER_S = 2.0
_CLOSE_S = 1.0


class StoreAway(Exception):
    """The store cannot be reached, or refuses; the text says why, without a password."""


def _n_cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


class Store:
    """One process's connection to the store.

    Args:
        url: As of ``--state-url``.
        prefix: Begins the names of all keys, in braces: a cluster keeps them in one place.
    """

    def __init__(self, url: str, prefix: str) -> None:
        scheme, colon, rest = url.partition(":")
        parts = urlsplit(url)
        self._secrets = [word for word in (parts.password, unquote(parts.password or "")) if word]
        self._client: Redis = Redis.from_url(
            scheme.replace("valkey", "redis") + colon + rest,
            decode_responses=True,
            protocol=2,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S,
            # Whoever calls goes on without it and comes again; so nothing is tried twice here.
            retry=Retry(NoBackoff(), 0),
        )
        self._workers = f"{{{prefix}}}:workers"
        self._changes = f"{{{prefix}}}:changes"
        self._rates = f"{{{prefix}}}:rate:"
        self._members = f"{{{prefix}}}:members"
        self._brain = f"{{{prefix}}}:brain"
        self._epoch = f"{{{prefix}}}:epoch"

    async def aclose(self) -> None:
        """Closes all connections."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._client.aclose()

    async def ping(self) -> None:
        """Makes sure that it is there.

        Raises:
            StoreAway: It is not; as of all that follows.
        """
        await self._told(self._client.ping())

    # Workers.

    async def records(self) -> dict[str, str]:
        """Returns all records of workers by address."""
        found: dict[str, str] = await self._told(self._client.hgetall(self._workers))
        return found

    async def put(self, address: str, text: str) -> str | None:
        """Keeps a record and tells all; returns a newer one if there is one already."""
        newer: str | None = await self._run(
            scripts.PUT, [self._workers], address, text, self._changes
        )
        return newer

    async def forget(self, address: str, text: str) -> None:
        """Drops a record, if it is this one."""
        await self._run(scripts.FORGET, [self._workers], address, text)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Callable[[float], Awaitable[str | None]]]:
        """While it lasts what all are told can be awaited: the next text, or None in time."""
        listener = self._client.pubsub(ignore_subscribe_messages=True)

        async def heard(timeout_s: float) -> str | None:
            message = await self._told(listener.get_message(timeout=timeout_s))
            return None if message is None else str(message["data"])

        try:
            await self._told(listener.subscribe(self._changes))
            yield heard
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                await listener.aclose()  # type: ignore[no-untyped-call]

    # Rate limits.

    async def take(self, limit: str, costs_us: Sequence[tuple[str, int]]) -> list[int]:
        """Takes from buckets of a limit; returns after how many us each is full again."""
        keys = [f"{self._rates}{limit}:{key}" for key, _ in costs_us]
        left = await self._run(scripts.TAKE, keys, *(cost for _, cost in costs_us))
        return [int(us) for us in left]

    async def beat(self, member: str, lasts_ms: int) -> int:
        """Says that a process lives; returns how many do."""
        return int(await self._run(scripts.BEAT, [self._members], member, lasts_ms))

    # The one brain.

    async def elect(self, holder: str, address: str, seen_epoch: int, lasts_ms: int) -> str:
        """Takes the brain's seat if it is free; returns who has it: epoch, holder and address.

        Args:
            holder: Who asks, without a bar.
            address: Where the holder would be reached.
            seen_epoch: The greatest epoch that the holder knows of.
            lasts_ms: How long it is the holder's, unless renewed.
        """
        keys = [self._brain, self._epoch]
        return str(await self._run(scripts.ELECT, keys, holder, address, seen_epoch, lasts_ms))

    async def renew(self, seat: str, lasts_ms: int) -> bool:
        """Keeps the seat; False: it is somebody else's by now, or nobody's."""
        return bool(await self._run(scripts.RENEW, [self._brain], seat, lasts_ms))

    async def resign(self, seat: str) -> None:
        """Gives the seat up, if it still is the holder's."""
        await self._run(scripts.RESIGN, [self._brain], seat)

    async def _run(self, script: str, keys: Sequence[str], *args: str | int) -> Any:
        return await self._told(self._client.eval(script, len(keys), *keys, *map(str, args)))

    async def _told(self, asked: Any) -> Any:
        # The client library loses a cancellation that comes at the wrong moment (redis-py 8.1).
        n_cancels = _n_cancels()
        try:
            return await asked
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreAway(self._reason(error)) from None
        finally:
            if _n_cancels() > n_cancels:
                raise asyncio.CancelledError

    def _reason(self, error: Exception) -> str:
        text = str(error).partition("\n")[0]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
