"""How simulated workers fail: aborts, deaths, faults on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from app.sim import Cut, Fault, FaultKind, SglangSim, sim_pair

Pair = tuple[SglangSim, SglangSim]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client with the patience of five seconds."""
    async with httpx.AsyncClient(timeout=5) as client:
        yield client


def body(prefill: SglangSim, **more: Any) -> dict[str, Any]:
    """A request for room 9 of this prefill worker."""
    port = prefill.bootstrap_port
    return {"text": "a b c", "bootstrap_port": port, "bootstrap_room": 9, "rid": "r1", **more}


async def until(is_so: Callable[[], bool]) -> None:
    """Waits up to two seconds."""
    for _ in range(400):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within two seconds")


async def active(sim: SglangSim) -> None:
    """Until a request is open there."""
    await until(lambda: sim.n_active > 0)


async def idle(sim: SglangSim) -> None:
    """Until no request is open there."""
    await until(lambda: sim.n_active == 0)


@pytest.mark.parametrize(
    ("index", "text"),
    [(0, "Prefill bootstrap failed for request"), (1, "Decode transfer failed for request")],
)
async def test_an_aborted_lone_leg_has_the_real_error(
    client: httpx.AsyncClient, index: int, text: str
) -> None:
    """500 in the error shape of the recorded abort."""
    async with sim_pair() as pair, asyncio.TaskGroup() as group:
        leg = group.create_task(client.post(pair[index].url + "/generate", json=body(pair[0])))
        await active(pair[index])
        await asyncio.sleep(0.02)
        await client.post(pair[index].url + "/abort_request", json={"rid": "r1"})
        answer = await leg
        assert answer.status_code == 500
        assert answer.json()["message"].startswith(text)
        assert pair[index].aborted == ["r1"]
        assert pair[0].n_rooms == 0


async def test_an_aborted_stream_ends_with_abort(client: httpx.AsyncClient) -> None:
    """200, the text so far, finish_reason abort."""
    async with sim_pair(decode_step_s=0.02) as (prefill, decode), asyncio.TaskGroup() as group:
        order = body(prefill, sampling_params={"max_new_tokens": 500, "ignore_eos": True})
        group.create_task(client.post(prefill.url + "/generate", json=order))
        leg = group.create_task(client.post(decode.url + "/generate", json=order))
        await until(lambda: decode.generated_tokens >= 3)
        await client.post(decode.url + "/abort_request", json={"rid": "r1"})
        meta = (await leg).json()["meta_info"]
        assert meta["finish_reason"]["type"] == "abort"
        assert 3 <= meta["completion_tokens"] < 500


async def test_a_rid_in_use_is_refused(client: httpx.AsyncClient) -> None:
    """400 with the real text, and the first request goes on."""
    async with sim_pair() as (prefill, _), asyncio.TaskGroup() as group:
        leg = group.create_task(_error(client, prefill.url, body(prefill)))
        await active(prefill)
        second = await client.post(prefill.url + "/generate", json=body(prefill))
        assert second.status_code == 400
        assert second.json() == {"error": {"message": "Duplicate request ID detected: r1"}}
        assert not leg.done()
        await prefill.kill()


async def test_decode_reports_a_dead_prefill(client: httpx.AsyncClient) -> None:
    """500 Lost connection, after the detection time."""
    slow = {"prefill_tokens_per_s": 1.0}
    async with sim_pair(slow, peer_death_s=0.1) as (prefill, decode):
        async with asyncio.TaskGroup() as group:
            dead = group.create_task(_error(client, prefill.url, body(prefill)))
            leg = group.create_task(client.post(decode.url + "/generate", json=body(prefill)))
            await active(prefill)
            await asyncio.sleep(0.05)
            await prefill.kill()
        assert isinstance(dead.result(), httpx.TransportError)
        assert leg.result().status_code == 500
        assert "Lost connection with prefill instance" in leg.result().json()["message"]


async def test_prefill_reports_a_dead_decode(client: httpx.AsyncClient) -> None:
    """500 Decode instance could be dead, though the tokens were computed."""
    slow = {"prefill_tokens_per_s": 20.0}
    async with sim_pair(slow, peer_death_s=0.1) as (prefill, decode):
        async with asyncio.TaskGroup() as group:
            leg = group.create_task(client.post(prefill.url + "/generate", json=body(prefill)))
            group.create_task(_error(client, decode.url, body(prefill)))
            await active(decode)
            await asyncio.sleep(0.05)
            await decode.kill()
        assert leg.result().status_code == 500
        assert "Decode instance could be dead" in leg.result().json()["message"]


async def test_a_wrong_bootstrap_port_fails_the_handshake(client: httpx.AsyncClient) -> None:
    """500 Decode handshake failed."""
    async with sim_pair(handshake_timeout_s=0.1) as (prefill, decode):
        answer = await client.post(decode.url + "/generate", json=body(prefill, bootstrap_port=1))
        assert answer.json()["message"].startswith("Decode handshake failed for request")


async def test_n_above_one_hangs_decode(client: httpx.AsyncClient) -> None:
    """Prefill answers, decode does not, until it is aborted."""
    async with sim_pair() as (prefill, decode), asyncio.TaskGroup() as group:
        order = body(prefill, sampling_params={"n": 2})
        leg = group.create_task(client.post(decode.url + "/generate", json=order))
        assert (await client.post(prefill.url + "/generate", json=order)).status_code == 200
        await asyncio.sleep(0.1)
        assert not leg.done()
        await client.post(decode.url + "/abort_request", json={"rid": "r1"})
        assert (await leg).status_code == 500


async def test_a_full_queue_answers_a_bare_503(client: httpx.AsyncClient) -> None:
    """503 without Retry-After, with the real text."""
    async with sim_pair({"max_queued_requests": 1}) as (prefill, _), asyncio.TaskGroup() as group:
        group.create_task(_error(client, prefill.url, body(prefill)))
        await active(prefill)
        full = await client.post(prefill.url + "/generate", json=body(prefill, rid="r2"))
        assert full.status_code == 503
        assert full.json()["message"] == "The request queue is full."
        assert "retry-after" not in full.headers
        await prefill.kill()


async def test_a_client_that_left_is_noticed_late(client: httpx.AsyncClient) -> None:
    """Its request is aborted after the notice time, and the room is free."""
    async with sim_pair(disconnect_notice_s=0.1) as (prefill, _):
        with pytest.raises(httpx.ReadTimeout):
            await client.post(prefill.url + "/generate", json=body(prefill), timeout=0.05)
        assert prefill.counters.disconnects_noticed == 0
        await idle(prefill)
        assert prefill.counters.disconnects_noticed == 1
        assert prefill.n_rooms == 0


async def test_a_killed_worker_comes_back_on_its_ports(client: httpx.AsyncClient) -> None:
    """Refused while dead, the same URL afterwards."""
    async with sim_pair() as (prefill, _):
        url = prefill.url
        await prefill.kill()
        with pytest.raises(httpx.ConnectError):
            await client.get(url + "/health")
        await prefill.restart()
        assert (await client.get(url + "/health")).status_code == 200


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (Fault(kind=FaultKind.REFUSE, status=429, headers={"retry-after": "3"}), "429"),
        (Fault(kind=FaultKind.RESET), "ReadError"),
        (Fault(kind=FaultKind.HANG), "ReadTimeout"),
        (Fault(kind=FaultKind.HALF_BODY), "RemoteProtocolError"),
        (Fault(kind=FaultKind.GARBAGE), "200 <html>"),
        (Fault(kind=FaultKind.ABORT_FINISH), '"type":"abort"'),
        (Fault(kind=FaultKind.CUT, how=Cut.RESET, after_events=1), "ReadError"),
        (Fault(kind=FaultKind.CUT, how=Cut.EOF, after_events=1), "RemoteProtocolError"),
        (Fault(kind=FaultKind.CUT, how=Cut.CLEAN, after_events=1), "Simulated answer"),
        (Fault(kind=FaultKind.CUT, how=Cut.INSIDE, after_events=1), "ReadError"),
        (Fault(kind=FaultKind.CUT, how=Cut.HANG, after_events=1), "ReadTimeout"),
    ],
    ids=lambda value: str(getattr(value, "kind", value)),
)
async def test_a_fault_spoils_one_request(
    client: httpx.AsyncClient, fault: Fault, seen: str
) -> None:
    """The ordered failure once, then everything works."""
    async with sim_pair(role="regular") as (sim, _):
        sim.faults.add(fault)
        order = body(sim, stream=fault.kind is FaultKind.CUT)
        outcomes = [await _outcome(client, sim.url, order) for _ in range(2)]
        if fault.how is Cut.CLEAN:
            assert "[DONE]" not in outcomes[0]
        else:
            assert seen in outcomes[0]
        assert "Simulated answer" in outcomes[1]
        await idle(sim)


async def _outcome(client: httpx.AsyncClient, url: str, order: dict[str, Any]) -> str:
    try:
        answer = await client.post(url + "/generate", json=order, timeout=0.3)
    except httpx.TransportError as error:
        # A request that hung is noticed late; the next one needs its id.
        order["rid"] = "r2"
        return type(error).__name__
    return f"{answer.status_code} {answer.text}"


async def _error(client: httpx.AsyncClient, url: str, order: dict[str, Any]) -> Exception | None:
    try:
        await client.post(url + "/generate", json=order)
    except httpx.TransportError as error:
        return error
    return None
