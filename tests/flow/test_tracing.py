"""Spans of requests: what they say, what hangs below what, and what workers are sent."""

from __future__ import annotations

import asyncio
import re
from concurrent import futures
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.gateway import tracing as gateway_tracing
from app.sim import sim_pair
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.process import free_port, pair_flags, running
from tests.flow.raw_client import post_of
from tests.flow.vllm_fleet import VllmFleet, fleet_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
_SENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Takes the spans in the exporter's place."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(
        "app.observability.tracing.exporting", lambda _endpoint: SimpleSpanProcessor(exporter)
    )
    return exporter


@pytest.fixture
async def traced(stack: AsyncExitStack, memory: InMemorySpanExporter) -> Fleet:
    prefill, decode = await stack.enter_async_context(sim_pair())
    return await stack.enter_async_context(serving([prefill], [decode], enable_trace=True))


async def spans_of(memory: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """All spans of the one request, by name."""
    await until(lambda: [s for s in memory.get_finished_spans() if s.name.startswith("POST")])
    return {span.name: span for span in memory.get_finished_spans()}


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


async def test_a_request_and_what_hangs_below_it(
    traced: Fleet, memory: InMemorySpanExporter
) -> None:
    """Its parent is the client's; its phases fill it; both workers are sent its id."""
    await traced.ask(CHAT, body_of(CHAT, stream=True, model="sim-model"), **GIVEN)
    spans = await spans_of(memory)
    request = spans.pop(f"POST {CHAT}")
    trace_id, span_id = ids(request)
    assert request.parent is not None
    assert (trace_id, f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert {"queue", "prefill leg", "decode leg", "first token"} <= spans.keys()
    start_ns, end_ns = request.start_time or 0, request.end_time or 0
    for span in spans.values():
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == span_id
        assert start_ns <= (span.start_time or 0) <= (span.end_time or 0) <= end_ns
    told = dict(request.attributes or {})
    assert told["gen_ai.request.model"] == "sim-model"
    assert (told["tandem.outcome"], told["http.response.status_code"]) == ("ok", 200)
    for worker, name in ((traced.prefills[0], "prefill leg"), (traced.decodes[0], "decode leg")):
        assert dict(spans[name].attributes or {}) == {"tandem.worker": worker.url}
        headers = worker.seen[0].headers
        found = _SENT.fullmatch(headers["traceparent"])
        assert found is not None
        assert found.groups() == (trace_id, span_id)
        assert headers["tracestate"] == "a=b"


async def test_a_failure_is_one(traced: Fleet, memory: InMemorySpanExporter) -> None:
    """Without a client's context a trace begins here."""
    await traced.decodes[0].kill()
    assert (await traced.ask(CHAT, body_of(CHAT))).status == 502
    request = (await spans_of(memory))[f"POST {CHAT}"]
    assert request.parent is None
    assert not request.status.is_ok
    assert (request.attributes or {})["tandem.leg"] == "decode"


async def test_what_is_not_sampled_costs_no_spans(
    traced: Fleet, memory: InMemorySpanExporter
) -> None:
    """The client's decision is passed on."""
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    await traced.ask(CHAT, body_of(CHAT), **headers)
    await until(lambda: len(traced.gateway.recorder) == 1)
    assert memory.get_finished_spans() == ()
    assert traced.decodes[0].seen[0].headers["traceparent"].endswith("-00")


@pytest.mark.parametrize("is_on", [True, False])
async def test_the_context_goes_over_grpc(
    stack: AsyncExitStack, memory: InMemorySpanExporter, model: Path, is_on: bool
) -> None:
    """As metadata of both calls; without tracing it is the client's own."""
    settings: dict[str, Any] = {"enable_trace": is_on}
    fleet: VllmFleet = await fleet_of(stack, model, settings=settings)
    await fleet.ask(CHAT, body_of(CHAT), **GIVEN)
    sent = [worker.counters.seen[0].metadata["traceparent"] for worker in fleet.workers]
    assert sent[0] == sent[1]
    assert sent[0].startswith(f"00-{TRACE}-")
    assert (sent[0] == GIVEN["traceparent"]) is not is_on
    if is_on:
        assert "handoff" in await spans_of(memory)


async def test_off_means_that_nothing_is_made(fleet: Fleet) -> None:
    """The client's context goes through as it is."""
    assert fleet.gateway.tracing is None
    await fleet.ask(CHAT, body_of(CHAT), **GIVEN)
    for worker in fleet.workers:
        assert GIVEN.items() <= worker.seen[0].headers.items()


class Collector(otlp_grpc.TraceServiceServicer):
    """Takes spans as an OTLP collector does."""

    def __init__(self) -> None:
        self.asked: list[otlp.ExportTraceServiceRequest] = []

    def Export(  # noqa: N802 - the contract's
        self, request: otlp.ExportTraceServiceRequest, context: object
    ) -> otlp.ExportTraceServiceResponse:
        self.asked.append(request)
        return otlp.ExportTraceServiceResponse()

    def names(self) -> set[str]:
        return {
            span.name
            for one in self.asked
            for resource in one.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


async def test_otlp(stack: AsyncExitStack) -> None:
    """A process sends its spans to a collector; without one it serves and ends all the same."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    otlp_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await asyncio.to_thread(server.start)
    try:
        for endpoint in (f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"):
            flags = ("--enable-trace", "--otlp-traces-endpoint", endpoint)
            quick = ("--shutdown-settle-secs", "0")
            async with running(pair_flags(prefill, decode, *flags, *quick)) as gateway:
                async with gateway.connected() as client:
                    await client.send(post_of(CHAT, body_of(CHAT)))
                    assert (await client.answer())[0] == 200
                gateway.child.terminate()
                assert await gateway.exit_code() == 0
    finally:
        await asyncio.to_thread(server.stop, 0)
    assert {f"POST {CHAT}", "queue", "prefill leg", "decode leg"} <= collector.names()
    (resource,) = {str(one.resource_spans[0].resource) for one in collector.asked}
    assert gateway_tracing.SERVICE in resource
