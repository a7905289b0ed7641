"""The generation routes of a simulated worker: answer, stream, fault, disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from app.clock import Clock
from app.sim.answers import Scribe, error_body, error_event
from app.sim.config import SimConfig
from app.sim.counters import Counters, Seen
from app.sim.engine import Engine
from app.sim.faults import Cut, Fault, FaultKind
from app.sim.jobs import Refused
from app.sim.requests import CHAT, GENERATE, Asked, read_request
from app.sim.wire import Exchange, encode_event

DONE = b"data: [DONE]\n\n"
SSE = {"content-type": "text/event-stream; charset=utf-8"}


class Generation:
    """Serves one generation request at a time, many at once."""

    def __init__(self, config: SimConfig, engine: Engine, counters: Counters, now_s: Clock) -> None:
        self._config = config
        self._engine = engine
        self._counters = counters
        self._now_s = now_s

    async def serve(self, exchange: Exchange, fault: Fault | None) -> None:
        """Reads, computes, answers; counts whatever happens."""
        body = await self.note(exchange)
        if body is None:
            refused = Refused(400, "The body is not a JSON object.")
            await exchange.json(400, error_body(CHAT, refused))
            return
        self._counters.enter()
        try:
            await self._with_fault(exchange, body, fault)
        except Refused as refused:
            await exchange.json(refused.status, error_body(exchange.path, refused))
        finally:
            self._counters.leave()

    async def note(self, exchange: Exchange) -> dict[str, Any] | None:
        """Reads the body and remembers the request; None if it is no JSON object."""
        try:
            body = json.loads(await exchange.body())
        except ValueError:
            return None
        if not isinstance(body, dict):
            return None
        rid, room = body.get("rid"), body.get("bootstrap_room")
        seen = self._counters.seen
        seen.append(Seen(exchange.path, body, exchange.headers, rid, room))
        while len(seen) > self._config.n_kept_seen:
            seen.popleft()
        return body

    async def _with_fault(
        self, exchange: Exchange, body: dict[str, Any], fault: Fault | None
    ) -> None:
        if fault is not None and fault.kind is FaultKind.HANG:
            await self._hang(exchange, body.get("rid"))
            return
        asked = read_request(exchange.path, body, self._config)
        if fault is not None and fault.kind is FaultKind.GARBAGE:
            kind = SSE["content-type"] if asked.is_stream else "application/json"
            garbage = (fault.body or "<html>Not what you think</html>").encode()
            await exchange.bytes(200, garbage, {"content-type": kind})
            return
        if fault is not None and fault.kind is FaultKind.ABORT_FINISH:
            for job in asked.jobs:
                job.abort_after = max(1, fault.after_events)
        started_s = self._now_s()
        self._engine.submit(asked.jobs)
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._notice(exchange, asked))
                if asked.is_stream:
                    await self._stream(exchange, asked, fault, started_s)
                else:
                    await self._whole(exchange, asked, fault, started_s)
                watch.cancel()
        except* Refused as refusals:
            raise refusals.exceptions[0] from None
        finally:
            for job in asked.jobs:
                job.fail(499, "The request ended.")

    async def _hang(self, exchange: Exchange, rid: Any) -> None:
        rids = set(rid if isinstance(rid, list) else [rid or "?"])
        stuck = self._engine.table.stuck
        stuck |= rids
        try:
            await exchange.watch()
            self._counters.disconnects_noticed += 1
        finally:
            stuck -= rids

    async def _notice(self, exchange: Exchange, asked: Asked) -> None:
        await exchange.watch()
        if all(job.is_over for job in asked.jobs):
            return
        await asyncio.sleep(self._config.disconnect_notice_s)
        if not all(job.is_over for job in asked.jobs):
            self._counters.disconnects_noticed += 1
            for job in asked.jobs:
                self._engine.abort(job.rid, is_all=False)

    # ---- not streamed

    async def _whole(
        self, exchange: Exchange, asked: Asked, fault: Fault | None, started_s: float
    ) -> None:
        while not all(job.is_over for job in asked.jobs):
            await asked.bell.wait()
            asked.bell.clear()
        for job in asked.jobs:
            if job.failure is not None:
                raise job.failure
        scribe = Scribe(asked, self._config, started_s, self._now_s)
        data = json.dumps(scribe.whole(), ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        if fault is not None and fault.kind is FaultKind.HALF_BODY:
            await exchange.bytes(200, data, headers, n_sent=len(data) // 2)
        elif fault is not None and fault.kind is FaultKind.CUT:
            await exchange.reset()
        else:
            await exchange.bytes(200, data, headers)

    # ---- streamed

    async def _stream(
        self, exchange: Exchange, asked: Asked, fault: Fault | None, started_s: float
    ) -> None:
        cut = fault if fault is not None and fault.kind is FaultKind.CUT else None
        # SGLang sends the head of /generate at once, that of the OpenAI routes with
        # the first event.
        has_head = asked.route == GENERATE
        if has_head:
            await exchange.start(200, SSE)
        n_events = 0
        async for event in self._events(asked, started_s):
            if not has_head:
                await exchange.start(200, SSE)
                has_head = True
            if cut is not None and n_events >= cut.after_events:
                await self._cut(exchange, cut.how, event)
                return
            await exchange.write(encode_event(event))
            n_events += 1
        await exchange.write(DONE)
        await exchange.write(b"", is_last=True)

    async def _cut(self, exchange: Exchange, how: Cut, event: Any) -> None:
        if how is Cut.CLEAN:
            await exchange.write(b"", is_last=True)
        elif how is Cut.EOF:
            await exchange.close()
        elif how is Cut.HANG:
            await exchange.gone.wait()
        else:
            if how is Cut.INSIDE:
                encoded = encode_event(event)
                await exchange.write(encoded[: len(encoded) // 2])
                # A reset throws away what the peer has not read yet.
                await asyncio.sleep(0.05)
            await exchange.reset()

    async def _events(self, asked: Asked, started_s: float) -> AsyncIterator[Any]:
        scribe = Scribe(asked, self._config, started_s, self._now_s)
        n_sent = [0] * len(asked.jobs)
        is_ended = [False] * len(asked.jobs)
        while not all(is_ended):
            await asked.bell.wait()
            asked.bell.clear()
            for index, job in enumerate(asked.jobs):
                if is_ended[index]:
                    continue
                if job.failure is not None and asked.route != GENERATE:
                    yield error_event(job.failure)
                    return
                while n_sent[index] < len(job.pieces):
                    at = n_sent[index]
                    n_sent[index] = at + 1
                    is_ended[index] = job.finish is not None and at + 1 == len(job.pieces)
                    for event in self._token(asked, scribe, index, at, is_ended[index]):
                        yield event
                if job.is_over and not is_ended[index]:
                    is_ended[index] = True
                    for event in self._token(asked, scribe, index, -1, True):
                        yield event
        if asked.route != GENERATE and (asked.body.get("stream_options") or {}).get(
            "include_usage"
        ):
            yield scribe.usage_chunk()

    def _token(self, asked: Asked, scribe: Scribe, index: int, at: int, is_last: bool) -> list[Any]:
        if asked.route == GENERATE:
            n_tokens = at + 1 if at >= 0 else len(asked.jobs[index].pieces)
            return [scribe.item(index, n_tokens, is_last=is_last)]
        events = scribe.text_chunk(index, at, is_last)
        if asked.route == CHAT and (at == 0 or (at < 0 and not asked.jobs[index].pieces)):
            return [scribe.role_chunk(index), *events]
        return events
