"""Control calls to workers, against workers that are tables of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
import pytest

from app.api.engine_info import aggregate, load_rows
from app.api.worker_calls import Answer, ask_vllm, ask_worker, json_of, without_secrets
from app.errors import LegRejected, LegUnreachable, WorkerError
from app.upstream.clients import WorkerClients
from app.upstream.failures import ConnectFailed, RpcFailed, SilenceTimeout
from app.upstream.http1 import Head
from app.upstream.sglang_worker import WorkerRefused
from app.workers.registry import Registry
from app.workers.worker import Role, Worker, WorkerSpec


class TableExchange:
    """Answers with a status and a body, or cannot connect."""

    def __init__(self, answer: tuple[int, bytes] | None) -> None:
        self._answer = answer
        self.is_closed = False

    async def head(self) -> Head:
        if self._answer is None:
            raise ConnectFailed("connection refused")
        return Head(self._answer[0], [])

    async def read(self, limit: int) -> bytes:
        assert self._answer is not None
        return self._answer[1]

    def close(self) -> None:
        self.is_closed = True


class TableClients:
    """Stands for the clients, a worker's client and its pool at once."""

    def __init__(self, answers: Mapping[str, tuple[int, bytes] | None]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str, list[tuple[bytes, bytes]]]] = []
        self.bodies: list[bytes] = []
        self.exchanges: list[TableExchange] = []

    def get(self, worker: Worker) -> TableClients:
        return self

    @property
    def pool(self) -> TableClients:
        return self

    def exchange(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        silence_timeout_s: float,
    ) -> TableExchange:
        self.bodies.append(body)
        self.asked.append((method.decode(), target.decode(), list(headers)))
        exchange = TableExchange(self._answers.get(target.decode(), (404, b"")))
        self.exchanges.append(exchange)
        return exchange


def _worker(role: Role = Role.PREFILL) -> Worker:
    return Registry().add(WorkerSpec(url="http://w:1", role=role, api_key="wk"))


async def _ask(clients: TableClients, worker: Worker, *paths: str) -> Answer:
    return await ask_worker(cast("WorkerClients", clients), worker, paths, timeout_s=1)


async def test_older_name_is_tried_after_404() -> None:
    """The older route's answer, asked with the worker's own key, both exchanges closed."""
    clients = TableClients({"/get_model_info": (200, b'{"a":1}')})
    worker = _worker()
    answer = await _ask(clients, worker, "/model_info", "/get_model_info")
    assert json_of(answer, worker) == {"a": 1}
    assert [target for _, target, _ in clients.asked] == ["/model_info", "/get_model_info"]
    assert (b"authorization", b"Bearer wk") in clients.asked[0][2]
    assert all(exchange.is_closed for exchange in clients.exchanges)


async def test_body_is_sent_as_json() -> None:
    """The client's own bytes, with their type; without a body no type is named."""
    clients = TableClients({"/x": (200, b"{}")})
    worker = _worker()
    fake = cast("WorkerClients", clients)
    await ask_worker(fake, worker, ("/x",), timeout_s=1, method="POST", body=b'{"a":1}')
    await ask_worker(fake, worker, ("/x",), timeout_s=1)
    json_type = (b"content-type", b"application/json")
    assert [json_type in headers for _, _, headers in clients.asked] == [True, False]
    assert clients.bodies == [b'{"a":1}', b""]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ConnectFailed("no"), 502, "worker_unreachable"),
        (SilenceTimeout("no", phase="head"), 504, "worker_timeout"),
        (RpcFailed("UNIMPLEMENTED", 501, "no such call"), 501, "worker_rejected"),
        (WorkerRefused("requests run"), 502, "worker_rejected"),
    ],
)
async def test_failed_call_of_a_vllm_worker(failure: Exception, status: int, code: str) -> None:
    """The leg of the worker, with its own status where it has one."""

    async def call() -> None:
        raise failure

    with pytest.raises(WorkerError) as caught:
        await ask_vllm(call(), _worker(Role.DECODE))
    assert (caught.value.status, caught.value.code, caught.value.leg) == (status, code, "decode")


@pytest.mark.parametrize(
    ("role", "kind", "leg"),
    [(Role.DECODE, LegUnreachable, "decode"), (Role.REGULAR, WorkerError, None)],
)
async def test_unreachable_worker_is_named(
    role: Role, kind: type[WorkerError], leg: str | None
) -> None:
    """The leg of the worker that refused the connection; no leg for a regular one."""
    with pytest.raises(kind) as caught:
        await _ask(TableClients({"/x": None}), _worker(role), "/x")
    assert caught.value.leg == leg


@pytest.mark.parametrize(
    ("answer", "status"),
    [(Answer(503, b'{"message":"busy"}'), 503), (Answer(200, b"<html>"), 502)],
)
def test_bad_answer_is_a_failure(answer: Answer, status: int) -> None:
    """The worker's own error status, or 502 for a 200 that is not JSON."""
    with pytest.raises(LegRejected) as caught:
        json_of(answer, _worker())
    assert caught.value.status == status


def test_secrets_do_not_pass() -> None:
    """Keys and passwords are nulled at every depth, all else stays."""
    told: Any = {"api_key": "k", "n": 1, "states": [{"admin_api_key": "k", "x": "y"}]}
    cleaned = without_secrets(orjson.loads(orjson.dumps(told)))
    assert cleaned == {"api_key": None, "n": 1, "states": [{"admin_api_key": None, "x": "y"}]}


def test_loads_are_summed() -> None:
    """Counts are added and usages averaged; a missing number counts as 0."""
    rows = load_rows(
        {"loads": [{"num_running_reqs": 2, "token_usage": 0.5}, {"token_usage": 1.0}, "junk"]}
    )
    summed = aggregate(rows)
    assert (summed["total_running_reqs"], summed["avg_token_usage"]) == (2, 0.75)
    assert summed["total_waiting_reqs"] == 0
    assert load_rows(None) == []
