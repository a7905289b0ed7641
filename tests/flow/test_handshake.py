"""What both legs are sent, and what crosses the gateway."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import sim_pair
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving

RID = {CHAT: "chatcmpl-[0-9a-f]{32}", COMPLETIONS: "cmpl-[0-9a-f]{32}", GENERATE: "[0-9a-f]{32}"}
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTES = pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
RENDEZVOUS = ("bootstrap_host", "bootstrap_port", "bootstrap_room", "rid")


@BOTH
@ROUTES
async def test_both_legs_meet(fleet: Fleet, route: str, stream: bool) -> None:
    """Same room, host, port and id on both; prefill is never streamed; the rest is untouched."""
    asked = body_of(route, stream=stream)
    got = await fleet.ask(route, asked)
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    (for_prefill,), (for_decode,) = prefill.seen, decode.seen
    meeting = {key: for_prefill.body.pop(key) for key in RENDEZVOUS}
    assert meeting == {key: for_decode.body.pop(key) for key in RENDEZVOUS}
    assert meeting["bootstrap_host"] == "127.0.0.1"
    assert meeting["bootstrap_port"] == prefill.bootstrap_port
    assert 0 <= meeting["bootstrap_room"] < 2**63
    assert re.fullmatch(RID[route], meeting["rid"])
    assert for_prefill.body == asked | {"stream": False}
    assert for_decode.body == asked
    assert (got.status, got.is_stream) == (200, stream)
    # The KV cache did travel: one side computed the prompt, the other one the answer.
    await fleet.settle()
    assert prefill.computed_prompt_tokens > 0
    assert decode.computed_prompt_tokens == 0
    assert (prefill.counters.n_transfers, decode.counters.n_transfers) == (1, 1)
    assert (prefill.aborted, decode.aborted) == ([], [])


async def test_bytes_of_the_client_stay(fleet: Fleet) -> None:
    """Numbers, order, white space and unknown members reach decode as they were written."""
    body = (
        b' {"z": 1e2, "text" : "\\u00e9\xc3\xa9", "n1": {"room": [1.50]}, "sampling_params": {}} '
    )
    assert (await fleet.ask(GENERATE, body)).status == 200
    seen = fleet.decodes[0].seen[0]
    assert json.loads(body) == {k: v for k, v in seen.body.items() if k not in RENDEZVOUS}
    n_bytes = int(seen.headers["content-length"])
    members = {key: seen.body[key] for key in RENDEZVOUS}
    spliced = "," + json.dumps(members, separators=(",", ":"))[1:-1]
    assert n_bytes == len(body) + len(spliced)


@ROUTES
async def test_every_request_has_its_own_room_and_id(fleet: Fleet, route: str) -> None:
    """Eight requests, eight rooms, eight ids of one width."""
    for _ in range(8):
        assert (await fleet.ask(route, body_of(route))).status == 200
    seen = fleet.decodes[0].seen
    assert (len({s.room for s in seen}), len({s.rid for s in seen})) == (8, 8)
    assert len({len(s.rid) for s in seen}) == 1


async def test_batch_has_a_room_and_an_id_for_each_prompt(fleet: Fleet) -> None:
    """Lists as long as the batch, the same on both legs."""
    asked = body_of(COMPLETIONS, prompt=["One", "Two", "Three"])
    assert (await fleet.ask(COMPLETIONS, asked)).status == 200
    (one,), (other,) = fleet.prefills[0].seen, fleet.decodes[0].seen
    assert (one.room, one.rid) == (other.room, other.rid)
    assert (len(set(one.room)), len(set(one.rid))) == (3, 3)
    assert one.body["bootstrap_host"] == ["127.0.0.1"] * 3
    assert one.body["bootstrap_port"] == [fleet.prefills[0].bootstrap_port] * 3


@pytest.mark.parametrize("more", [{}, {"n": 2}], ids=["one", "fan-out"])
async def test_room_names_the_prefill_rank(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """``room % dp_size`` is the rank that the lease was taken on; ranks take turns."""
    pair = await stack.enter_async_context(sim_pair(prefill={"dp_size": 3}))
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    granted: list[int] = []
    ask = fleet.gateway.scheduler.ask

    async def noting(asked: Any) -> Any:
        grant = await ask(asked)
        granted.append(grant.pair.prefill_rank)
        return grant

    monkeypatch.setattr(fleet.gateway.scheduler, "ask", noting)
    for _ in range(6):
        assert (await fleet.ask(CHAT, body_of(CHAT, **more))).status == 200
    n_children = more.get("n", 1)
    assert sorted(granted) == [0, 0, 1, 1, 2, 2]
    ranks = [seen.room % 3 for seen in pair[0].seen]
    assert ranks == [rank for rank in granted for _ in range(n_children)]


@BOTH
async def test_headers_are_an_allow_list(fleet: Fleet, stream: bool) -> None:
    """The client's key and cookie stay here; its request id and trace go on; nothing leaks back."""
    sent = {
        "authorization": "Bearer key-of-the-client",
        "cookie": "a=b",
        "x-forwarded-for": "10.1.1.1",
        "x-request-id": "req-of-the-client",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream), **sent)
    for worker in fleet.workers:
        (seen,) = worker.seen
        assert {"host", "content-length", "content-type", "accept"} | {
            "x-request-id",
            "traceparent",
        } == set(seen.headers)
        assert seen.headers["x-request-id"] == "req-of-the-client"
        assert seen.headers["traceparent"] == sent["traceparent"]
        assert f"http://{seen.headers['host']}" == worker.url
    assert got.headers["x-request-id"] == "req-of-the-client"


async def test_each_worker_gets_its_own_key(stack: AsyncExitStack) -> None:
    """Both legs carry the worker's key, not the one that the client showed to the gateway."""
    keys = {"prefill": {"api_key": "key-of-prefill"}, "decode": {"api_key": "key-of-decode"}}
    pair = await stack.enter_async_context(sim_pair(**keys))
    fleet = await stack.enter_async_context(serving([], [], api_key="key-of-the-gateway"))
    fleet.prefills, fleet.decodes = [pair[0]], [pair[1]]
    bearer = {"authorization": "Bearer key-of-the-gateway"}
    for worker in pair:
        role = worker.config.role
        spec: dict[str, Any] = {
            "url": worker.url,
            "worker_type": role,
            "api_key": worker.config.api_key,
        }
        spec |= {"bootstrap_port": worker.bootstrap_port} if role == "prefill" else {}
        answer = await fleet.http.post("/workers", json=spec, headers=bearer)
        assert answer.status_code == 202
    await fleet.ready()
    assert (await fleet.ask(CHAT, body_of(CHAT), **bearer)).status == 200
    for worker in pair:
        (seen,) = worker.seen
        assert seen.headers["authorization"] == f"Bearer {worker.config.api_key}"
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 401
    assert len(pair[0].seen) == 1
