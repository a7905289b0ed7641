"""One dispatch to an SGLang pair: both legs at once, meeting in a bootstrap room.

Both connections are opened before a byte is sent on either, so a dead worker is found while
nothing has reached an engine. Then both legs get the client's body with the meeting place
spliced in; prefill is asked for a plain answer, decode for what the client wanted.

Source: SGLang 0.5.23 (fields ``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``,
``rid``; the last of two equal keys wins), recorded in ``tests/wire``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from app.dispatch import leg_failures
from app.dispatch.abort import LegReaper
from app.dispatch.reply import Prepared
from app.dispatch.whole_events import WholeEvents
from app.errors import LegBroken, LegRejected, WorkerError
from app.protocol import bootstrap
from app.protocol.peer_blame import is_peer_death
from app.protocol.reply_faults import abort_in_body, find_abort
from app.protocol.splice import splice
from app.scheduling.scheduler import Grant, Scheduler
from app.upstream.clients import WorkerClients
from app.upstream.failures import UpstreamError
from app.upstream.http1 import Exchange
from app.workers.worker import Worker

MAX_REPLY_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LegTools:
    """What every call needs of its surroundings.

    Attributes:
        hold_decode_s: Longest wait for a prefill refusal once decode has spoken.
        silence_timeout_s: Longest silence of a leg, to its first byte and between bytes.
    """

    clients: WorkerClients
    scheduler: Scheduler
    reaper: LegReaper
    hold_decode_s: float
    silence_timeout_s: float


class SglangCall:
    """Both legs of one body, from the first byte to the release.

    Args:
        grant: The pair and its leases; the caller gives them back.
        prepared: The request.
        patch: JSON members of this call alone (a fan-out's ``"n":1``), or nothing.
        tools: The surroundings.
        keep_rid: Use the client's own ``rid``; only the first attempt may.

    Attributes:
        head_headers: Response headers of decode, set by :meth:`start`.
        prefill_body: Prefill's whole answer once it is there, else ``None``.
    """

    def __init__(
        self, grant: Grant, prepared: Prepared, patch: bytes, tools: LegTools, *, keep_rid: bool
    ) -> None:
        self._grant = grant
        self._facts = facts = prepared.facts
        self._tools = tools
        self._rids = mint_rids(prepared, keep_rid=keep_rid)
        pair = grant.pair
        rooms = [
            bootstrap.mint_room(pair.prefill_rank, pair.prefill.info.dp_size)
            for _ in range(facts.batch or 1)
        ]
        is_batch = facts.batch is not None
        members = bootstrap.members(
            pair.prefill.spec.host,
            pair.prefill.bootstrap_port,
            rooms if is_batch else rooms[0],
            self._rids if is_batch else self._rids[0],
            facts.batch,
        )
        if patch:
            members += b"," + patch
        decode_body = splice(prepared.body, facts, members)
        prefill_body = decode_body
        if facts.stream:
            prefill_body = splice(prepared.body, facts, members + b',"stream":false')
        self._prefill = self._exchange(pair.prefill, prepared, prefill_body)
        self._decode = self._exchange(pair.decode, prepared, decode_body)
        self._events = WholeEvents()
        self._prefill_ended = asyncio.Event()
        self._prefill_error: WorkerError | None = None
        self._is_proven = False
        self._follower: asyncio.Task[None] | None = None
        self.prefill_body: bytes | None = None
        self.head_headers: Sequence[tuple[bytes, bytes]] = ()

    def _exchange(self, worker: Worker, prepared: Prepared, body: bytes) -> Exchange:
        headers = prepared.headers
        if worker.spec.api_key:
            bearer = b"Bearer " + worker.spec.api_key.encode()
            headers = [*headers, (b"authorization", bearer)]
        return self._tools.clients.get(worker).pool.exchange(
            b"POST",
            self._facts.route.value.encode(),
            headers,
            body,
            silence_timeout_s=self._tools.silence_timeout_s,
        )

    async def start(self, legs: asyncio.TaskGroup) -> bytes:
        """Sends both legs and waits for decode's first word.

        Args:
            legs: The request's task group; owns the task that follows prefill.

        Returns:
            The first whole events of a stream, or the whole body of a plain answer.

        Raises:
            WorkerError: A leg failed before anything was worth relaying.
        """
        pair = self._grant.pair
        try:
            await self._prefill.connect()
        except UpstreamError as failure:
            raise leg_failures.from_wire(failure, "prefill", pair.prefill) from failure
        try:
            await self._decode.connect()
        except UpstreamError as failure:
            raise leg_failures.from_wire(failure, "decode", pair.decode) from failure
        self._follower = legs.create_task(self._follow_prefill())
        try:
            first = await self._first_of_decode()
        except UpstreamError as failure:
            raise leg_failures.from_wire(failure, "decode", pair.decode) from failure
        except LegRejected as error:
            if error.leg == "decode" and is_peer_death(error.message):
                # Decode only reports it; prefill's own word, if it has one, is on its way.
                await self._hold()
            raise
        self._is_proven = self._facts.batch is None
        self._tools.scheduler.prefill_ended(self._grant)
        await self._hold()
        return first

    async def _first_of_decode(self) -> bytes:
        worker = self._grant.pair.decode
        head = await self._decode.head()
        self.head_headers = head.headers
        if head.status != 200:
            body = await self._decode.read(leg_failures.MAX_ERROR_BODY_BYTES)
            raise leg_failures.from_status(head, body, "decode", worker)
        if not self._facts.stream:
            return await self._decode.read(MAX_REPLY_BYTES)
        first = b""
        while not first:
            first = await self.next_events()
            if not first:
                raise LegBroken(
                    "the decode worker ended the stream before its first event",
                    leg="decode",
                    worker_id=worker.spec.id,
                )
        return first

    async def next_events(self) -> bytes:
        """Returns the next whole events of decode's stream; nothing at its proper end.

        Raises:
            WorkerError: A leg failed, or the stream ended without ``[DONE]``.
        """
        worker = self._grant.pair.decode
        try:
            while chunk := await self._decode.chunk():
                events = self._events.feed(chunk)
                if not events:
                    continue
                message = find_abort(events)
                if message is not None:
                    raise leg_failures.aborted(message, "decode", worker)
                return events
        except UpstreamError as failure:
            error = leg_failures.from_wire(failure, "decode", worker)
            error.is_settled = self._prefill_ended.is_set() or self._is_proven
            raise error from failure
        if self._events.has_rest or not self._events.ended_with_done:
            raise LegBroken(
                "the decode worker ended the stream without [DONE]",
                leg="decode",
                worker_id=worker.spec.id,
            )
        return b""

    async def wait_for_prefill(self) -> bytes:
        """Returns prefill's whole answer, however long it takes (prompt logprobs need it).

        Raises:
            WorkerError: The prefill leg failed.
        """
        await self._prefill_ended.wait()
        if self._prefill_error is not None:
            raise self._prefill_error
        return self.prefill_body or b""

    async def _hold(self) -> None:
        """Gives a refusal of prefill a moment to arrive before decode's word is passed on."""
        if not self._prefill_ended.is_set() and self._tools.hold_decode_s > 0:
            try:
                async with asyncio.timeout(self._tools.hold_decode_s):
                    await self._prefill_ended.wait()
            except TimeoutError:
                pass
        if self._prefill_error is not None:
            raise self._prefill_error

    async def _follow_prefill(self) -> None:
        worker = self._grant.pair.prefill
        try:
            head = await self._prefill.head()
            body = await self._prefill.read(MAX_REPLY_BYTES)
            if head.status != 200:
                raise leg_failures.from_status(head, body, "prefill", worker)
            parsed = leg_failures.parse_json(body, "prefill", worker)
            if (message := abort_in_body(parsed)) is not None:
                raise leg_failures.aborted(message, "prefill", worker)
            self.prefill_body = body
        except UpstreamError as failure:
            self._fail_prefill(leg_failures.from_wire(failure, "prefill", worker))
        except WorkerError as error:
            self._fail_prefill(error)
        self._prefill_ended.set()
        self._tools.scheduler.prefill_ended(self._grant)

    def _fail_prefill(self, error: WorkerError) -> None:
        self._prefill_error = error
        if not self._is_proven:
            self._decode.fail(error)

    def finish(self, *, is_ok: bool) -> None:
        """Ends both legs: kept for the next request when they did well, else aborted."""
        if self._follower is not None:
            self._follower.cancel()
        pair = self._grant.pair
        if is_ok:
            self._tools.reaper.drain(self._prefill)
            self._decode.close()
        else:
            self._tools.reaper.give_up(pair.prefill, self._rids, self._prefill)
            self._tools.reaper.give_up(pair.decode, self._rids, self._decode)


def mint_rids(prepared: Prepared, *, keep_rid: bool) -> list[str]:
    """Returns one fixed-width engine request id for each item of the batch."""
    facts = prepared.facts
    if keep_rid and facts.client_rid is not None:
        return [facts.client_rid] if isinstance(facts.client_rid, str) else list(facts.client_rid)
    return [bootstrap.mint_rid(facts.route) for _ in range(facts.batch or 1)]
