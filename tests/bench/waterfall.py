"""Whether a request's phases add up to what its client measured, for requests that waited.

::

    PYTHONPATH=. python tests/bench/waterfall.py [--requests 100] [--rate 12]

Streams come faster than two simulated prefill workers compute, so they wait in the prefill queue.
Each connection is open before its request is sent; the client's time ends with the last byte. What
the gateway's recorder has of the same request is held against it, to the first event and to the
end. Exit code 1 where the largest difference is over 5 ms.

A loop that has no core cannot know when the bytes came that wait for it. So the kernel is asked
how long gateway and client had none just then, and that much is taken off a difference over 5 ms
before it is called one; each such request has a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import routing_fleet
import uvloop
from children import Bench, BenchFailed
from routing_cases import Case
from routing_fleet import ROUTERS, Fleet, start_router
from standing import Standing, looking_at, read

ALLOWED_S = 0.005
_LONGEST_S = 120.0
_SETTLE_S = 0.5
_TOKENS_PER_S = 10_000.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw: when it asked, and seconds from there to the first event and the end."""

    request_id: str
    asked_unix_s: float
    first_s: float
    whole_s: float


def main() -> int:
    """Asks, compares and prints."""
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("--requests", type=int, default=100)
    flags.add_argument("--rate", type=float, default=12.0, help="requests a second")
    asked = flags.parse_args()
    routing_fleet.SHRINK = 1
    router = next(one for one in ROUTERS if one.name == "queue")
    try:
        with Bench() as bench:
            fleet = Fleet(bench, Case(about="waiting", n_pairs=2), 1.0, _TOKENS_PER_S, None)
            port, pid = start_router(bench, router, fleet, 1.0)
            with (
                looking_at(bench, [pid, os.getpid()]) as looks,
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            ):
                seen = runner.run(_ask_all(port, asked.requests, asked.rate))
            standing = read(looks)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/flights", timeout=30) as answer:
                rows = [json.loads(line) for line in answer]
    except BenchFailed as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    return _compare(seen, {row["request_id"]: row for row in rows}, standing)


async def _ask_all(port: int, n_requests: int, rate: float) -> list[Seen]:
    chance = random.Random(11)
    found: list[Seen] = []
    moments = [n / rate for n in range(n_requests)]
    # Made before, or the first requests would wait for the bodies of the others.
    bodies = [_body(chance.randint(500, 4_000), number) for number in range(n_requests)]
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in moments]
    # So that they are all taken before the first request.
    began_s = time.perf_counter() + _SETTLE_S

    async def one(number: int, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - (time.perf_counter() - began_s)))
        found.append(await _ask(*connections[number], bodies[number], f"waterfall-{number}"))

    async with asyncio.timeout(_LONGEST_S), asyncio.TaskGroup() as requests:
        for number, at_s in enumerate(moments):
            requests.create_task(one(number, at_s))
    return found


def _body(n_words: int, number: int) -> bytes:
    message = {"role": "user", "content": f"{number} " * n_words}
    asked = {"model": "sim-model", "messages": [message], "stream": True, "max_tokens": 8}
    return json.dumps(asked).encode()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, request_id: str
) -> Seen:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    asked_unix_s, began_s = datetime.now(UTC).timestamp(), time.perf_counter()
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in answer[:20]:
        raise BenchFailed(f"refused: {answer!r}")
    await reader.readuntil(b"\n\n")
    first_s = time.perf_counter() - began_s
    await reader.readuntil(b"\r\n0\r\n\r\n")
    whole_s = time.perf_counter() - began_s
    writer.close()
    return Seen(request_id, asked_unix_s, first_s, whole_s)


def _compare(
    seen: Sequence[Seen], recorded: dict[str, dict[str, float]], standing: Standing
) -> int:
    lost = [one.request_id for one in seen if one.request_id not in recorded]
    if lost:
        print(f"not recorded: {lost}")
        return 1
    n_waited = sum(
        row["granted_s"] - row["first_asked_s"] > 0.1
        for row in recorded.values()
        if "granted_s" in row
    )
    print(f"{len(seen)} requests, {n_waited} of them waited more than 0.1 s in the queue")
    both = [(one, recorded[one.request_id]) for one in seen]
    first = [one.first_s - row["first_s"] for one, row in both]
    whole = [one.whole_s - row["ended_s"] for one, row in both]
    before = [row["arrived_unix_s"] - one.asked_unix_s for one, row in both]
    print(_line("client less waterfall, to the first event", first))
    print(_line("client less waterfall, to the end", whole))
    # Neither process can see these two: they are what the difference is made of.
    print(_line("of it, until the request was seen", before))
    print(
        _line(
            "of it, until the first event was seen",
            [f - b for f, b in zip(first, before, strict=True)],
        )
    )
    print(
        _line(
            "after the last event, until all was over",
            [row["ended_s"] - row["last_s"] for _, row in both],
        )
    )
    n_failed = sum(not _holds(one, row, standing) for one, row in both)
    print("failed" if n_failed else "passed")
    return int(n_failed > 0)


def _holds(one: Seen, row: dict[str, float], standing: Standing) -> bool:
    """Whether a request's two differences are within bounds, but for what the kernel explains."""
    arrived_s = row["arrived_unix_s"]
    standing_s = standing.between(one.asked_unix_s, arrived_s)
    holds = True
    for name, client_s, own_s in (
        ("first event", one.first_s, row["first_s"]),
        ("end", one.whole_s, row["ended_s"]),
    ):
        over_s = client_s - own_s
        if abs(over_s) <= ALLOWED_S:
            continue
        seen_s = one.asked_unix_s + client_s
        without_s = standing_s + standing.between(arrived_s + own_s, seen_s)
        print(
            f"{one.request_id}, {name}: {1000 * over_s:+.2f} ms, "
            f"of which {1000 * without_s:.2f} ms without a core"
        )
        holds = holds and abs(over_s) - without_s <= ALLOWED_S
    return holds


def _line(name: str, differences: Sequence[float]) -> str:
    ordered = sorted(differences, key=abs)
    at_ms = [1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0)]
    return f"{name}: p50 {at_ms[0]:+.2f} ms, p99 {at_ms[1]:+.2f} ms, largest {at_ms[2]:+.2f} ms"


if __name__ == "__main__":
    raise SystemExit(main())
