"""Where a worker's KV events come from: gRPC for vLLM, ZeroMQ where a publisher is known."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from urllib.parse import urlsplit

from app.upstream.clients import WorkerClients
from app.upstream.zmq_kv_events import ZmqKvEvents
from app.workers.kv_events import KvBatch, KvSource
from app.workers.worker import Engine, Worker

LABEL, REPLAY_LABEL = "kv_events", "kv_events_replay"
"""Labels by which an operator names a publisher that the worker does not tell of."""


def kv_streams(
    clients: WorkerClients, worker: Worker
) -> Sequence[Callable[[], AsyncGenerator[KvBatch]]]:
    """Returns what opens the streams of a worker: none, one for all ranks, or one for each.

    The operator's labels come first, then what the worker says; a vLLM worker is asked over gRPC.
    """
    source = source_of_labels(worker) or worker.info.kv_source
    if source is not None:
        ranks = range(max(1, worker.info.dp_size))
        if worker.spec.dp_rank is not None:
            ranks = range(worker.spec.dp_rank, worker.spec.dp_rank + 1)
        return [_of_rank(worker, source, rank).read for rank in ranks]
    if worker.spec.engine is Engine.VLLM:
        return [clients.vllm(worker).kv_events]
    return []


def source_of_labels(worker: Worker) -> KvSource | None:
    """Returns the publisher that the operator's labels name; a wrong one counts as none."""
    labels = worker.spec.labels
    found = _host_and_port(labels.get(LABEL))
    if found is None:
        return None
    replay = _host_and_port(labels.get(REPLAY_LABEL))
    return KvSource(found[1], found[0], replay[1] if replay is not None else None)


def _host_and_port(endpoint: str | None) -> tuple[str, int] | None:
    try:
        parts = urlsplit(endpoint or "")
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            return None
    except ValueError:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, parts.port


def _of_rank(worker: Worker, source: KvSource, rank: int) -> ZmqKvEvents:
    host = source.host or worker.host
    replay = source.replay_port
    return ZmqKvEvents(
        rank,
        f"tcp://{host}:{source.port + rank}",
        None if replay is None else f"tcp://{host}:{replay + rank}",
        source.topic,
    )
