"""One listening socket with uvicorn's own protocol, and no server loop around it.

uvicorn.Server takes two tenths of a second to stop and cannot drop its
connections at once; a simulated worker must be able to die like a process.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.sim.wire import TRANSPORT_KEY, reset


class _Protocol(HttpToolsProtocol):
    """Tells the application which transport it is on."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[TRANSPORT_KEY] = self.transport


class Listener:
    """Serves an ASGI application on one port.

    Args:
        app: The application.
        host: Where.
        protocol: Another protocol than a simulated worker's.
        keep_alive_s: How long a connection may be idle.
    """

    def __init__(
        self,
        app: Any,
        host: str,
        protocol: type[HttpToolsProtocol] = _Protocol,
        keep_alive_s: int = 5,
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive_s,
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = [(b"server", b"uvicorn")]
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> int:
        """Listens; 0 takes a free port.

        Returns:
            The port.

        Raises:
            OSError: The port is taken.
        """
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Named as TCP, so that asyncio sends small writes at once.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self._host, port))
        except OSError:
            listening.close()
            raise
        self._server = await loop.create_server(
            lambda: self._protocol(self._config, self._state, {}), sock=listening, backlog=2048
        )
        bound: int = listening.getsockname()[1]
        return bound

    def refuse_connections(self) -> None:
        """Closes the listening socket; open connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def kill(self) -> None:
        """No listener, and a reset on every connection, at once."""
        self.refuse_connections()
        for connection in tuple(self._state.connections):
            reset(connection.transport)

    async def settle(self) -> None:
        """Waits for the tasks of dead connections, and ends those that stay."""
        for attempt in range(40):
            if attempt == 20:
                for task in tuple(self._state.tasks):
                    task.cancel()
            if not self._state.tasks:
                return
            await asyncio.sleep(0)
