"""The load generator of ``load.c`` on asyncio, for machines without a C compiler.

Same flags, same checks, same report; it costs more CPU than a gateway, so only the gateway's own
CPU and memory figures mean anything with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_MARK = b"@" * 12
_NUMBER = re.compile(rb'" w(\d{6})"')


class WrongAnswer(Exception):
    """An answer that is not what the stub said; the text says how."""


@dataclass(slots=True)
class Tally:
    """What all connections saw together."""

    n_ok: int = 0
    n_errors: int = 0
    n_open: int = 0
    n_events: int = 0
    n_bytes: int = 0
    max_gap_us: int = 0
    error: str = ""
    whole_us: list[int] = field(default_factory=list)
    first_us: list[int] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def report(self, elapsed_s: float) -> str:
        """The JSON that ``load.c`` prints."""
        whole, first = sorted(self.whole_us), sorted(self.first_us)
        return json.dumps(
            {
                "n_ok": self.n_ok,
                "n_errors": self.n_errors,
                "n_unfinished": self.n_open,
                "n_events": self.n_events,
                "n_bytes": self.n_bytes,
                "elapsed_s": round(elapsed_s, 3),
                "p50_us": _quantile(whole, 0.5),
                "p99_us": _quantile(whole, 0.99),
                "max_us": _quantile(whole, 1),
                "first_p50_us": _quantile(first, 0.5),
                "first_p99_us": _quantile(first, 0.99),
                "max_gap_us": self.max_gap_us,
                "error": self.error,
            }
        )


def _quantile(ordered: list[int], q: float) -> int:
    return ordered[int(q * (len(ordered) - 1) + 0.5)] if ordered else 0


class _Client:
    def __init__(self, asked: argparse.Namespace, tally: Tally) -> None:
        body = Path(asked.body).read_bytes()
        head = f"POST {asked.path} HTTP/1.1\r\nhost: 127.0.0.1:{asked.port}\r\n"
        head += "content-type: application/json\r\nauthorization: Bearer bench\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._asked = asked
        self._tally = tally

    async def run(self, begin_s: float, stop_s: float) -> None:
        """One connection: a request at a time until ``stop_s``."""
        tally = self._tally
        await asyncio.sleep(max(0.0, begin_s - time.monotonic()))
        while time.monotonic() < stop_s and tally.n_errors < 1000:
            writer = None
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._asked.port, limit=2**20
                )
                while time.monotonic() < stop_s:
                    tally.n_open += 1
                    await self._exchange(reader, writer)
                    tally.n_open -= 1
            except (OSError, asyncio.IncompleteReadError, WrongAnswer) as failure:
                tally.n_open -= writer is not None
                tally.n_errors += 1
                tally.error = tally.error or f"{type(failure).__name__} {failure}"[:150]
            finally:
                if writer is not None:
                    writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tally, n_expected = self._tally, self._asked.events
        start_s = time.monotonic()
        writer.write(self._request.replace(_MARK, b"%012d" % next(tally.numbers), 1))
        head = await reader.readuntil(b"\r\n\r\n")
        first_s = last_s = time.monotonic()
        if not head.startswith(b"HTTP/1.1 200"):
            raise WrongAnswer(f"status {head[9:40]!r}")
        body = bytearray()
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE):
            body += await reader.readexactly(int(length[1]))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
                now_s = time.monotonic()
                if len(body) > size:
                    tally.max_gap_us = max(tally.max_gap_us, int((now_s - last_s) * 1e6))
                last_s = now_s
            await reader.readexactly(2)
        if n_expected:
            check = _check_numbered if self._asked.numbered else _check_events
            tally.n_events += check(bytes(body), n_expected)
        elif not (body.startswith(b"{") and body.endswith(b"}")):
            raise WrongAnswer("not an object")
        tally.n_ok += 1
        tally.n_bytes += len(head) + len(body)
        tally.whole_us.append(int((time.monotonic() - start_s) * 1e6))
        tally.first_us.append(int((first_s - start_s) * 1e6))


def _check_events(body: bytes, n_expected: int) -> int:
    lines = [line for line in body.splitlines() if line and not line.startswith(b":")]
    if not lines or lines.pop() != b"data: [DONE]":
        raise WrongAnswer("no [DONE] at the end")
    if len(lines) != n_expected or b"finish_reason" not in lines[-1]:
        raise WrongAnswer(f"{len(lines)} of {n_expected} events")
    if [int(number) for number in _NUMBER.findall(body)] != list(range(n_expected - 1)):
        raise WrongAnswer("events out of order")
    return n_expected


def _check_numbered(body: bytes, n_expected: int) -> int:
    lines = [line for line in body.splitlines() if line and not line.startswith(b":")]
    if not lines or lines.pop() != b"data: [DONE]":
        raise WrongAnswer("no [DONE] at the end")
    if not all(b"finish_reason" in line for line in lines):
        raise WrongAnswer("error event")
    if [int(number) for number in _NUMBER.findall(body)] != list(range(n_expected)):
        raise WrongAnswer("events out of order")
    return n_expected


async def main() -> int:
    """Runs the load and prints the report."""
    parser = argparse.ArgumentParser(description="A closed-loop load generator.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--numbered", type=int, default=0)
    parser.add_argument("--ramp-s", type=float, default=0.0)
    parser.add_argument("--drain-s", type=float, default=30.0)
    asked = parser.parse_args()
    tally = Tally()
    client = _Client(asked, tally)
    start_s = time.monotonic()
    stop_s = start_s + asked.seconds
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(asked.seconds + asked.drain_s), asyncio.TaskGroup() as tasks:
            for i in range(asked.connections):
                begin_s = start_s + asked.ramp_s * i / asked.connections
                tasks.create_task(client.run(begin_s, stop_s))
    print(tally.report(time.monotonic() - start_s))
    return 1 if tally.n_errors or tally.n_open else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
