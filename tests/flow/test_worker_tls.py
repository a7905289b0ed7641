"""SGLang workers behind TLS: legs, probes and aborts alike, and nothing for strangers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import PrefillUrl, Settings
from app.sim import sim_pair
from app.workers.states import State
from tests.flow.certificates import Authority, make_authority
from tests.flow.fleet import BOUND_S, CHAT, GENERATE, Fleet, body_of, serving, until
from tests.flow.tls_front import TlsFront, tls_front

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
Certificate = tuple[str, str]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom gateway and workers trust."""
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def of_workers(authority: Authority) -> Certificate:
    """Certificate and key of both workers."""
    return authority.sign("worker", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def of_gateway(authority: Authority) -> Certificate:
    """Certificate and key of the gateway."""
    return authority.sign("gateway", "DNS:gateway")


async def fronts_of(
    stack: AsyncExitStack, certificate: Certificate, client_ca: str | None = None, **sims: Any
) -> list[TlsFront]:
    """A simulated pair behind TLS."""
    pair = await stack.enter_async_context(sim_pair(disconnect_notice_s=60.0, **sims))
    return [
        await stack.enter_async_context(tls_front(worker, certificate, client_ca))
        for worker in pair
    ]


def client_side(certificate: Certificate) -> dict[str, str]:
    """The settings of the gateway's own certificate."""
    return {"client_cert_path": certificate[0], "client_key_path": certificate[1]}


async def fleet_of(stack: AsyncExitStack, prefills: Any, decodes: Any, **settings: Any) -> Fleet:
    """A gateway before workers behind TLS."""
    return await stack.enter_async_context(serving(prefills, decodes, **settings))


@pytest.fixture
async def mutual(
    stack: AsyncExitStack, authority: Authority, of_workers: Certificate, of_gateway: Certificate
) -> Fleet:
    """A gateway before a pair that wants to see its certificate."""
    slow = {"decode_step_s": 0.005}
    prefill, decode = await fronts_of(stack, of_workers, authority.pem, **slow)
    settings: dict[str, Any] = {"ca_cert_path": authority.pem} | client_side(of_gateway)
    return await fleet_of(stack, [prefill], [decode], **settings)


@BOTH
async def test_request(mutual: Fleet, stream: bool) -> None:
    """Registered, probed and served over TLS, on connections that are used again."""
    for _ in range(3):
        got = await mutual.ask(CHAT, body_of(CHAT, stream=stream))
        assert (got.status, got.is_stream) == (200, stream)
        await mutual.settle()
    for worker in mutual.workers:
        assert len(worker.seen) == 3
        # Registration alone is four calls; a second one after an idle while of a busy machine.
        assert worker.n_handshakes <= 2
        assert mutual.live(worker).spec.url.startswith("https://")
    # What meets in the bootstrap room is no HTTP: it is told the host alone.
    assert mutual.prefills[0].seen[0].body["bootstrap_host"] == "127.0.0.1"


async def test_client_leaves(mutual: Fleet) -> None:
    """The abort goes the same way."""
    (decode,) = mutual.decodes
    body = body_of(CHAT, stream=True, n_tokens=2000)
    async with mutual.http.stream("POST", CHAT, json=body) as answer:
        assert (await anext(answer.aiter_bytes())).startswith(b"data: ")
    await mutual.settle()
    assert decode.aborted == [decode.seen[0].rid]
    assert decode.generated_tokens < 1000


async def test_worker_cuts_the_connection(mutual: Fleet) -> None:
    """502 that names it, as without TLS."""
    (decode,) = mutual.decodes
    body = body_of(CHAT, n_tokens=2000)

    async def cut() -> None:
        await until(lambda: decode.seen)
        decode.cut()

    got = await mutual.during(mutual.ask(CHAT, body), cut())
    assert (got.status, got.error["leg"], got.error["code"]) == (502, "decode", "worker_broken")
    await mutual.settle()
    assert mutual.charged == ["decode"]


async def last_errors(fronts: list[TlsFront], **settings: Any) -> list[str]:
    """What a gateway says of workers that it cannot use; they were never asked to generate."""
    prefill, decode = fronts
    app = create_app(
        Settings(
            prefill=(PrefillUrl(prefill.url, prefill.bootstrap_port),),
            decode=(decode.url,),
            log_level="error",
            **settings,
        )
    )
    async with asyncio.timeout(BOUND_S), app.router.lifespan_context(app):
        workers = app.state.gateway.registry.workers()
        await until(lambda: all(worker.last_error for worker in workers))
        assert {worker.state for worker in workers} == {State.JOINING}
        return [worker.last_error for worker in workers]


async def test_worker_that_nobody_vouches_for(
    stack: AsyncExitStack, of_workers: Certificate
) -> None:
    """Without the CA, by the system's roots, neither is ever ready, and it is said why."""
    for text in await last_errors(await fronts_of(stack, of_workers)):
        assert "CERTIFICATE_VERIFY_FAILED" in text


async def test_worker_of_another_authority(
    stack: AsyncExitStack, of_workers: Certificate, tmp_path: Path
) -> None:
    """With a CA given only that one counts."""
    other = make_authority(tmp_path / "other")
    fronts = await fronts_of(stack, of_workers)
    for text in await last_errors(fronts, ca_cert_path=other.pem):
        assert "CERTIFICATE_VERIFY_FAILED" in text


async def test_worker_by_another_name(stack: AsyncExitStack, authority: Authority) -> None:
    """A good certificate of somebody else."""
    fronts = await fronts_of(stack, authority.sign("stranger", "DNS:elsewhere"))
    for text in await last_errors(fronts, ca_cert_path=authority.pem):
        assert "127.0.0.1" in text
        assert "certificate" in text.lower()


async def test_gateway_without_a_certificate(
    stack: AsyncExitStack, authority: Authority, of_workers: Certificate
) -> None:
    """The worker wants to see one: it is never ready, and no request ever reaches it."""
    fronts = await fronts_of(stack, of_workers, authority.pem)
    for text in await last_errors(fronts, ca_cert_path=authority.pem):
        assert text.startswith("/health failed: The worker ")
    assert [front.n_handshakes for front in fronts] == [0, 0]


async def test_handshake_that_fails_means_another_pair(
    stack: AsyncExitStack, authority: Authority, of_workers: Certificate
) -> None:
    """Nothing was sent, so the request goes elsewhere; the client sees 200."""
    one = await fronts_of(stack, of_workers)
    other = await fronts_of(stack, of_workers)
    settings: dict[str, Any] = {"ca_cert_path": authority.pem}
    prefills, decodes = zip(one, other, strict=True)
    fleet = await fleet_of(stack, prefills, decodes, **settings)
    first = next(w for w in fleet.gateway.registry.workers() if w.spec.url == one[0].url)
    pool = fleet.gateway.clients.get(first).pool
    for connection in tuple(pool._idle):
        connection.abort()
    assert pool.ssl_context is not None
    pool.host = "localhost"
    for _ in range(2):
        got = await fleet.ask(GENERATE, body_of(GENERATE))
        assert got.status == 200
    assert [len(front.seen) for front in prefills] == [0, 2]
