"""What one client's connection may carry: bounded heads, pipelined requests, offers to upgrade."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.server.client_protocol import MAX_HEAD_BYTES, MAX_PIPELINED
from app.sim import sim_pair
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.raw_client import connected, head_of, post_of

LIVENESS = head_of("GET", "/liveness")
CHUNKED = head_of("POST", CHAT, "transfer-encoding: chunked")
OFFER = (
    "connection: Upgrade, HTTP2-Settings",
    "upgrade: h2c",
    "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA",
)
DATA = json.dumps(body_of(CHAT)).encode()


def chunked(data: bytes) -> bytes:
    """The chunks of a body, without its trailers."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (data[:9], data[9:])) + b"0\r\n"


def n_tasks(fleet: Fleet) -> int:
    """How many tasks run for requests."""
    return len(fleet.leftovers().get("tasks", ()))


@pytest.mark.parametrize(
    ("before", "start", "more"),
    [
        (b"", b"GET /", b"a"),
        (b"", b"GET / HTTP/1.1\r\nx: ", b"a"),
        (b"", b"GET / HTTP/1.1\r\n", b"x: a\r\n"),
        (CHUNKED, b"0\r\n", b"x: a\r\n"),
    ],
    ids=["url", "header", "headers", "trailers"],
)
async def test_head_without_end(fleet: Fleet, before: bytes, start: bytes, more: bytes) -> None:
    """One byte over the bound, the connection ends with a 400."""
    too_long = (start + more * MAX_HEAD_BYTES)[: MAX_HEAD_BYTES + 1]
    async with connected(fleet) as client:
        await client.send(before)
        await until(lambda: not before or n_tasks(fleet))
        await client.send(too_long)
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert json.loads(body)["error"]["message"] == "The request's head is too long."
    assert b"connection: close" in head
    assert fleet.prefills[0].seen == []


async def test_head_as_long_as_allowed(fleet: Fleet) -> None:
    """Just within the bound it is served, again and again on one connection."""
    long = "a" * (MAX_HEAD_BYTES - len(LIVENESS) - len("x: \r\n"))
    async with connected(fleet) as client:
        for _ in range(3):
            await client.send(head_of("GET", "/liveness", f"x: {long}"))
            assert (await client.answer())[0] == 200


async def test_trailers_are_no_headers(fleet: Fleet) -> None:
    """What comes behind the body changes nothing of the request."""
    async with connected(fleet) as client:
        await client.send(CHUNKED + chunked(DATA) + b"x-request-id: late\r\n\r\n")
        status, head, _ = await client.answer()
    assert status == 200
    assert b"late" not in head


@pytest.mark.parametrize("is_apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_offer_to_upgrade(fleet: Fleet, is_chunked: bool, is_apart: bool) -> None:
    """It is not taken and costs neither the body nor the connection."""
    head, body = head_of("POST", CHAT, *OFFER, f"content-length: {len(DATA)}"), DATA
    if is_chunked:
        head = head_of("POST", CHAT, *OFFER, "transfer-encoding: chunked")
        body = chunked(DATA) + b"\r\n"
    async with connected(fleet) as client:
        for _ in range(2):
            if is_apart:
                await until(lambda: not n_tasks(fleet))
                await client.send(head)
                await until(lambda: n_tasks(fleet))
                await client.send(body)
            else:
                await client.send(head + body)
            assert (await client.answer())[0] == 200
        await client.send(post_of(CHAT, body_of(CHAT)))
        assert (await client.answer())[0] == 200
    assert [seen.body["messages"] for seen in fleet.prefills[0].seen] == [
        body_of(CHAT)["messages"]
    ] * 3


async def test_offer_to_upgrade_without_a_body(fleet: Fleet) -> None:
    """The next request on the connection is served too, whether it waits or not."""
    offer = head_of("GET", "/liveness", *OFFER)
    async with connected(fleet) as client:
        for request in (offer, offer + LIVENESS, LIVENESS):
            await client.send(request)
            for _ in range(request.count(b"GET ")):
                assert (await client.answer())[0] == 200


async def leave_during(
    stack: AsyncExitStack,
    body: dict[str, Any],
    behind: bytes,
    is_there: Callable[[Fleet], object],
    **sims: Any,
) -> Fleet:
    """Sends a request with others behind it, leaves, and waits until nothing is left."""
    pair = await stack.enter_async_context(sim_pair(disconnect_notice_s=60.0, **sims))
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body) + behind)
        await until(lambda: is_there(fleet))
        client.leave()
    await fleet.settle()
    return fleet


BEHIND = pytest.mark.parametrize(
    "behind",
    [LIVENESS, LIVENESS * MAX_PIPELINED, post_of(CHAT, body_of(CHAT)), b"POST / HTTP/1.1\r\n"],
    ids=["one", "many", "another generation", "half a head"],
)


@BEHIND
async def test_leaving_in_mid_stream(stack: AsyncExitStack, behind: bytes) -> None:
    """Decode is aborted although other requests wait behind the stream."""
    body = body_of(CHAT, stream=True, n_tokens=2000)
    fleet = await leave_during(
        stack, body, behind, lambda f: f.decodes[0].generated_tokens > 3, decode_step_s=0.005
    )
    (decode,) = fleet.decodes
    assert decode.aborted == [decode.seen[0].rid]
    assert decode.generated_tokens < 1000
    assert len(decode.seen) == 1


@BEHIND
async def test_leaving_during_prefill(stack: AsyncExitStack, behind: bytes) -> None:
    """Both legs are aborted although other requests wait behind this one."""
    body = body_of(CHAT, messages=[{"role": "user", "content": "word " * 200}])
    fleet = await leave_during(
        stack,
        body,
        behind,
        lambda f: f.prefills[0].n_rooms and f.decodes[0].n_active,
        prefill={"prefill_tokens_per_s": 50.0},
    )
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    assert prefill.aborted == decode.aborted == [decode.seen[0].rid]


@pytest.mark.parametrize(
    "behind",
    [LIVENESS * (MAX_PIPELINED + 1), CHUNKED + chunked(b"x" * 200_000)],
    ids=["requests", "body"],
)
async def test_too_much_behind_a_request(stack: AsyncExitStack, behind: bytes) -> None:
    """More waiting requests or more of a waiting body than may be kept end the connection."""
    pair = await stack.enter_async_context(sim_pair(decode_step_s=0.005))
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    body = body_of(CHAT, stream=True, n_tokens=2000)
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body))
        await client.until(b"data: ")
        await client.send(behind)
        await fleet.settle()
    assert pair[1].generated_tokens < 1000


async def test_waiting_requests_are_answered_in_order(fleet: Fleet) -> None:
    """Pipelined requests within the bound all get their answer."""
    requests = post_of(CHAT, body_of(CHAT)) + LIVENESS + post_of(CHAT, body_of(CHAT, n=2))
    async with connected(fleet) as client:
        await client.send(requests)
        bodies = [(await client.answer())[2] for _ in range(3)]
    assert [body.count(b'"message"') for body in bodies] == [1, 0, 2]
