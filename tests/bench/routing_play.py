"""Sends the requests of a trace at their moments and takes the times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.twin.trace import Row

_LONGEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Times:
    """What a client saw of one answer, in seconds of the fleet.

    Attributes:
        ttft_s: From asking to the first text.
        tpot_s: From the first text to the end, by the token of the trace.
    """

    ttft_s: float
    tpot_s: float


async def play(
    port: int, rows: Sequence[Row], texts: Sequence[str], speed: float, shrink: int
) -> list[Times | None]:
    """Sends every row at its moment.

    Args:
        port: Of the router.
        rows: The trace.
        texts: The prompts.
        speed: Of the fleet's clock.
        shrink: Tokens of the trace that one token of the fleet stands for.

    Returns:
        One entry for each row; ``None`` where no answer came.
    """
    found: list[Times | None] = [None] * len(rows)
    began_s = time.perf_counter()

    async def one(number: int, row: Row) -> None:
        await asyncio.sleep(max(0.0, row.at_s / speed - (time.perf_counter() - began_s)))
        n_tokens = max(1, row.n_output // shrink)
        try:
            first_s, whole_s = await _ask(port, texts[number], n_tokens)
        except (OSError, EOFError, TimeoutError, _Refused):
            return
        n_gaps = max(1, n_tokens - 1) * shrink
        found[number] = Times(first_s * speed, (whole_s - first_s) * speed / n_gaps)

    async with asyncio.TaskGroup() as requests:
        for number, row in enumerate(rows):
            requests.create_task(one(number, row))
    return found


class _Refused(Exception):
    """Not a 200, or an answer without text."""


async def _ask(port: int, text: str, n_tokens: int) -> tuple[float, float]:
    """Seconds to the first text and to the end of one answer."""
    message = {"role": "user", "content": text}
    asked = {"model": "sim-model", "messages": [message], "stream": True}
    # To the last token: what the trace says of answers is what decode has to do.
    asked |= {"max_tokens": n_tokens, "ignore_eos": True}
    body = json.dumps(asked).encode()
    asked_s = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        async with asyncio.timeout(_LONGEST_S):
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:20]:
                raise _Refused
            seen = b""
            while b'"content":"' not in seen.replace(b'"content":""', b"").replace(b" ", b""):
                piece = await reader.read(65536)
                if not piece:
                    raise _Refused
                seen += piece
            first_s = time.perf_counter() - asked_s
            tail = seen
            while piece := await reader.read(65536):
                tail = (tail + piece)[-64:]
            if b"[DONE]" not in tail:
                raise _Refused
    finally:
        writer.close()
    return first_s, time.perf_counter() - asked_s
