"""The metrics port: it needs no loop, and a taken one is an error only if it was asked for."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from app.gateway import Gateway, build_gateway
from app.observability.process_watch import STUCK_S
from app.server.metrics_listener import MAX_CLIENTS, MetricsListener
from app.server.run import bind_metrics
from app.settings import Settings, SettingsError


class Turned:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Turned:
    return Turned()


@pytest.fixture
def gateway(clock: Turned) -> Gateway:
    return build_gateway(Settings(log_level="error"), now_s=clock)


@pytest.fixture
def listener(gateway: Gateway) -> Iterator[MetricsListener]:
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    with MetricsListener(bound, gateway.metrics) as listener:
        yield listener


def get(listener: MetricsListener, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{listener.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_answers_without_a_loop(listener: MetricsListener) -> None:
    """No event loop runs in this test, as none does while one is blocked."""
    status, text = get(listener, "/metrics?name=x")
    assert (status, "tandem_build_info" in text) == (200, True)
    assert get(listener, "/metrics", "HEAD") == (200, "")
    assert get(listener, "/other")[0] == 404


def test_a_loop_that_stands_still_does_not_live(
    listener: MetricsListener, gateway: Gateway, clock: Turned
) -> None:
    """Liveness says so after half a minute; health tells of the process only."""

    async def begin() -> None:
        watching.append(asyncio.create_task(gateway.metrics.watch.run()))  # noqa: TID251
        await asyncio.sleep(0)

    watching: list[asyncio.Task[None]] = []
    with asyncio.Runner() as runner:
        runner.run(begin())
        # From here on the loop stands still.
        clock.now += STUCK_S - 1
        assert get(listener, "/liveness") == (200, "OK")
        clock.now += 2
        assert get(listener, "/liveness") == (503, "stuck")
        assert get(listener, "/health") == (200, "OK")
    assert get(listener, "/liveness") == (200, "OK")


def test_silent_clients_do_not_keep_others_out_for_ever(listener: MetricsListener) -> None:
    """Beyond the limit a client is cut off at once, and a place that comes free serves again."""
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(MAX_CLIENTS)]
    late = socket.create_connection(("127.0.0.1", listener.port), timeout=5)
    assert late.recv(1) == b""
    late.close()
    for client in silent:
        client.close()
    for _ in range(50):
        try:
            assert get(listener, "/health") == (200, "OK")
            return
        except (urllib.error.URLError, ConnectionError):
            continue
    pytest.fail("no place came free")


def test_a_taken_port() -> None:
    """Asked for: no start, in one sentence. The default: on without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        asked = Settings(prometheus_host="127.0.0.1", prometheus_port=port)
        with pytest.raises(SettingsError, match=f"--prometheus-port {port}: the port is taken"):
            bind_metrics(asked)
        default = asked.model_copy()
        default.model_fields_set.discard("prometheus_port")
        assert bind_metrics(default) is None
    assert bind_metrics(Settings(prometheus_port=None)) is None
    bound = bind_metrics(asked)
    assert bound is not None
    bound.close()
