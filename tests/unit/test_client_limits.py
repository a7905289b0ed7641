"""The timer of a connection, and how a client is seen to read."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from app.server.client_limits import Alarm, Taking
from tests.unit.client_side import Wire


def test_alarm_goes_off_once_and_at_the_earliest_time() -> None:
    """Later times are forgotten: whoever is woken looks at the clock."""
    loop = asyncio.new_event_loop()
    went_off: list[float] = []
    alarm = Alarm(loop, lambda: went_off.append(loop.time()))
    now_s = loop.time()
    for wait_s in (0.03, 0.01, 0.02):
        alarm.by(now_s + wait_s)
    loop.run_until_complete(asyncio.sleep(0.06))
    assert len(went_off) == 1
    alarm.by(loop.time() + 0.01)
    alarm.cancel()
    loop.run_until_complete(asyncio.sleep(0.03))
    assert len(went_off) == 1
    loop.close()


class Reported(Wire):
    """A wire over a real socket."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection if name == "socket" else default


def test_taking_is_seen_where_it_happens() -> None:
    """Bytes that the other side has taken count, although this process has none waiting less."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with theirs, ours:
        taking = Taking(Reported(ours))
        assert taking.stalled_s(0.0) == 0.0
        assert taking.stalled_s(5.0) == 5.0
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        assert taking.stalled_s(9.0) == 0.0
        assert taking.stalled_s(12.0) == 3.0
        taking.forget()
        assert taking.stalled_s(99.0) == 0.0
