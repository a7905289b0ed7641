"""The generation routes of a simulated worker: answer, stream, fault, disconnect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from app.clock import Clock
from app.sim.answers import OpenAIScribe
from app.sim.bodies import parse_body
from app.sim.config import SimConfig
from app.sim.counters import Counters, Seen
from app.sim.engine import Engine
from app.sim.faults import Cut, Fault, FaultKind
from app.sim.generate_answers import GenerateScribe
from app.sim.refusals import GENERATE, Crashed, Malformed, Refused, error_body, front_event
from app.sim.requests import Asked, read_request
from app.sim.streams import events
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
        try:
            body = await self.note(exchange)
        except Malformed as refused:
            await exchange.json(400, error_body(exchange.path, refused))
            return
        self._counters.enter()
        try:
            await self._with_fault(exchange, body, fault)
        except Refused as refused:
            await self._refuse(exchange, body, refused)
        finally:
            self._counters.leave()

    async def note(self, exchange: Exchange) -> dict[str, Any]:
        """Reads the body and remembers the request.

        Raises:
            Malformed: The body is no JSON object; nothing is remembered.
        """
        body = parse_body(exchange.path, await exchange.body())
        rid, room = body.get("rid"), body.get("bootstrap_room")
        seen = self._counters.seen
        seen.append(Seen(exchange.path, body, exchange.headers, rid, room))
        while len(seen) > self._config.n_kept_seen:
            seen.popleft()
        return body

    async def _refuse(self, exchange: Exchange, body: dict[str, Any], refused: Refused) -> None:
        # /generate sends the head of a stream before it looks at more than the types, so
        # a refusal is an event of a 200. The OpenAI routes wait for the first event.
        is_generate = exchange.path == GENERATE
        if is_generate and body.get("stream") is True and not isinstance(refused, Malformed):
            await exchange.start(200, SSE)
            if isinstance(refused, Crashed):
                await exchange.close()
                return
            await exchange.event(front_event(refused))
            await exchange.write(DONE)
            await exchange.write(b"", is_last=True)
        elif is_generate and isinstance(refused, Crashed):
            plain = {"content-type": "text/plain; charset=utf-8"}
            await exchange.bytes(500, b"Internal Server Error", plain)
        else:
            await exchange.json(refused.status, error_body(exchange.path, refused))

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
            failure: Refused | None = None
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._notice(exchange, asked))
                if asked.is_stream:
                    await self._stream(exchange, asked, fault, started_s)
                else:
                    failure = await self._whole(exchange, asked, fault, started_s)
                watch.cancel()
        finally:
            for job in asked.jobs:
                job.fail(499, "The request ended.")
        if failure is not None:
            await exchange.json(failure.status, error_body(exchange.path, failure))

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
    ) -> Refused | None:
        # The first failure of a batch is the whole request's: the others are not awaited.
        while True:
            failures = [job.failure for job in asked.jobs if job.failure is not None]
            if failures:
                return failures[0]
            if all(job.is_over for job in asked.jobs):
                break
            await asked.bell.wait()
            asked.bell.clear()
        answer: Any
        if asked.route == GENERATE:
            answer = GenerateScribe(asked, self._config, started_s, self._now_s).whole()
        else:
            answer = OpenAIScribe(asked, self._config).whole()
        data = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"content-type": "application/json"}
        if fault is not None and fault.kind is FaultKind.HALF_BODY:
            await asyncio.sleep(fault.delay_s)
            is_closed = fault.how is not Cut.HANG
            await exchange.bytes(200, data, headers, n_sent=len(data) // 2, is_closed=is_closed)
        elif fault is not None and fault.kind is FaultKind.CUT:
            await exchange.reset()
        else:
            await exchange.bytes(200, data, headers)
        return None

    # ---- streamed

    async def _stream(
        self, exchange: Exchange, asked: Asked, fault: Fault | None, started_s: float
    ) -> None:
        cut = fault if fault is not None and fault.kind is FaultKind.CUT else None
        # SGLang sends the head of /generate at once, that of the OpenAI routes with
        # the first event, which may be an error.
        has_head = asked.route == GENERATE
        if has_head:
            await exchange.start(200, SSE)
        n_events = 0
        async for event in events(asked, self._config, started_s, self._now_s):
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
