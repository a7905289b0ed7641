"""Where KV events are looked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.upstream.clients import WorkerClients
from app.upstream.kv_streams import kv_streams, source_of_labels
from app.upstream.sglang_info import kv_source
from app.workers.kv_events import KvSource
from app.workers.worker import Role, Worker, WorkerInfo, WorkerSpec

SAID = {
    "publisher": "zmq",
    "endpoint_host": "*",
    "endpoint_port_base": 5557,
    "topic": "kv",
    "block_size": 16,
    "dp_size": 1,
    "replay_endpoint_port_base": 5600,
}


def worker(
    url: str = "http://10.0.0.7:30000", info: WorkerInfo | None = None, **spec: Any
) -> Worker:
    made = Worker(WorkerSpec(url, Role.PREFILL, **spec))
    made.info = info or WorkerInfo()
    return made


def test_what_sglang_says_of_it() -> None:
    assert kv_source(SAID) == KvSource(5557, replay_port=5600, topic="kv")
    assert kv_source({k: v for k, v in SAID.items() if k[0] != "r"}) == KvSource(5557, topic="kv")


@pytest.mark.parametrize(
    "said", [None, "zmq", {}, SAID | {"publisher": "null"}, SAID | {"endpoint_port_base": 70_000}]
)
def test_what_says_nothing(said: object) -> None:
    assert kv_source(said) is None


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({"kv_events": "tcp://h:5557"}, KvSource(5557, "h")),
        (
            {"kv_events": "tcp://[::1]:5557", "kv_events_replay": "tcp://[::1]:5558"},
            KvSource(5557, "[::1]", 5558),
        ),
        ({"kv_events": "http://h:5557"}, None),
        ({"kv_events": "tcp://h"}, None),
        ({"kv_events": "tcp://h:99999"}, None),
        ({}, None),
    ],
)
def test_what_the_operator_says(labels: dict[str, str], found: KvSource | None) -> None:
    assert source_of_labels(worker(labels=labels)) == found


def endpoints(made: Worker) -> list[tuple[int, str, str | None]]:
    return [
        (one._rank, one._endpoint, one._replay_endpoint)
        for one in (read.__self__ for read in kv_streams(WorkerClients(), made))  # type: ignore[attr-defined]
    ]


def test_each_rank_has_its_own_port() -> None:
    info = WorkerInfo(dp_size=2, kv_source=kv_source(SAID))
    both = [
        (0, "tcp://10.0.0.7:5557", "tcp://10.0.0.7:5600"),
        (1, "tcp://10.0.0.7:5558", "tcp://10.0.0.7:5601"),
    ]
    assert endpoints(worker(info=info)) == both
    assert endpoints(worker("http://10.0.0.7:30000@1", info)) == both[1:]
    labelled = worker(info=replace(info, dp_size=1), labels={"kv_events": "tcp://h:1"})
    assert endpoints(labelled) == [(0, "tcp://h:1", None)]
    assert kv_streams(WorkerClients(), worker()) == []
