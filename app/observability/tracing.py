"""OpenTelemetry spans of generations, for gateways that were started with ``--enable-trace``.

A request has one span from its head to its end, whose parent is what the client's ``traceparent``
says. Its id goes to both workers, so the engines' spans hang below it. The spans below it of our
own are made at the end, of the times that were noted anyway; so the way of a request pays for
one span and one header.

Needs the extra ``otel``; nothing of it is imported unless tracing is on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.observability.notes import Notes
from app.observability.phases import phases

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from app.clock import Clock

Headers = list[tuple[bytes, bytes]]
_NAMES = (b"traceparent", b"tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()


class RequestTracing:
    """Makes the spans.

    Args:
        processor: Takes the spans that have ended.
        service_name: Of the resource.
        version: The gateway's.
        unix_s: The time of day.
    """

    def __init__(
        self, processor: SpanProcessor, service_name: str, version: str, unix_s: Clock
    ) -> None:
        resource = Resource.create({"service.name": service_name, "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer: Tracer = self._provider.get_tracer("tandem", version)
        self._unix_s = unix_s

    def begin(self, notes: Notes, headers: Headers) -> Headers:
        """Begins a request's span.

        Args:
            notes: Of the request.
            headers: What its workers would be sent.

        Returns:
            The same with the span's own ``traceparent``.
        """
        carrier = {name.decode(): value.decode("latin-1") for name, value in _trace_of(headers)}
        offset_s = self._unix_s() - notes.now_s()
        span = self._tracer.start_span(
            f"POST {notes.route}",
            context=_PROPAGATOR.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            start_time=_ns(notes.arrived_s + offset_s),
        )
        notes.trace = (span, offset_s)
        sent: dict[str, str] = {}
        _PROPAGATOR.inject(sent, set_span_in_context(span, Context()))
        rest = [pair for pair in headers if pair[0] not in _NAMES]
        return rest + [(name.encode(), value.encode()) for name, value in sent.items()]

    def end(self, notes: Notes) -> None:
        """Ends the span of a request that is over, if it has one."""
        if notes.trace is None:
            return
        span, offset_s = notes.trace
        if span.is_recording():
            self._describe(span, notes)
            self._add_phases(span, notes, offset_s)
        span.end(_ns(notes.ended_s + offset_s))

    def close(self) -> None:
        """Sends what is left; blocks for as long as the exporter's own limits allow."""
        self._provider.shutdown()

    def _describe(self, span: Span, notes: Notes) -> None:
        found: dict[str, str | int | bool | None] = {
            "http.request.method": "POST",
            "http.route": notes.route,
            "http.response.status_code": notes.status,
            "gen_ai.request.model": notes.model,
            "gen_ai.usage.input_tokens": notes.n_prompt,
            "gen_ai.usage.output_tokens": notes.n_completion,
            "tandem.request_id": notes.request_id,
            "tandem.stream": notes.is_stream,
            "tandem.attempts": notes.n_attempts,
            "tandem.cached_tokens": notes.n_cached,
            "tandem.outcome": notes.outcome or "ok",
            "tandem.leg": notes.leg,
        }
        if notes.reason is not None:
            found["tandem.route"] = notes.reason.text(with_urls=False)
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if notes.outcome is not None:
            span.set_status(StatusCode.ERROR, notes.cause)

    def _add_phases(self, span: Span, notes: Notes, offset_s: float) -> None:
        """Adds a span for each phase, and the decode leg round those that belong to it."""
        below = set_span_in_context(span, Context())
        if notes.alone is not None:
            span.set_attribute("tandem.worker", notes.alone[0].spec.url)
        if notes.decode_sent_s and notes.decode is not None:
            leg = self._tracer.start_span(
                "decode leg",
                below,
                SpanKind.CLIENT,
                {"tandem.worker": notes.decode.spec.url},
                start_time=_ns(notes.decode_sent_s + offset_s),
            )
            leg.end(_ns((notes.last_s or notes.ended_s) + offset_s))
        at_s = notes.arrived_s
        for name, spent_s in phases(notes):
            worker = notes.prefill if name == "prefill" else None
            child = self._tracer.start_span(
                name.replace("_", " ") if worker is None else "prefill leg",
                below,
                SpanKind.INTERNAL if worker is None else SpanKind.CLIENT,
                None if worker is None else {"tandem.worker": worker.spec.url},
                start_time=_ns(at_s + offset_s),
            )
            at_s += spent_s
            child.end(_ns(at_s + offset_s))


def exporting(endpoint: str) -> SpanProcessor:
    """Returns what sends spans by OTLP over gRPC, 64 at a time or twice a second, as SMG does.

    Args:
        endpoint: ``host:port`` or a URL; ``https://`` means TLS.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    exporter = OTLPSpanExporter(
        endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=5
    )
    return BatchSpanProcessor(exporter, schedule_delay_millis=500, max_export_batch_size=64)


def _trace_of(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [pair for pair in headers if pair[0] in _NAMES]


def _ns(at_s: float) -> int:
    return int(at_s * 1_000_000_000)
