"""Runs the gateway: one socket, one server, one event loop.

The socket is bound before anything else is made, so that a port in use is one sentence.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from contextlib import ExitStack
from typing import Any

import uvloop

from app.observability.log import get_logger
from app.server.gateway_server import LISTEN_BACKLOG, GatewayServer
from app.server.metrics_listener import MetricsListener
from app.settings import Settings, SettingsError, flag_name

_ENDED_BY_SIGNAL = 128
"""Added to a signal's number, as shells show a program that died of it."""


def bind(settings: Settings) -> socket.socket:
    """Take the address to listen on; nothing can connect before the server starts.

    Raises:
        SettingsError: The port is taken, or the address is not one of this machine.
    """
    return _bind(settings.host, settings.port, "host", "port")


def bind_shared(settings: Settings) -> socket.socket:
    """Take one share of the address: the system spreads connections over all shares.

    Raises:
        SettingsError: As of :func:`bind`.
    """
    return _bind(settings.host, settings.port, "host", "port", is_shared=True)


def bind_brain(settings: Settings) -> socket.socket | None:
    """Take the address at which pipes of other replicas come in, if they may.

    Raises:
        SettingsError: As of :func:`bind`.
    """
    port = settings.brain_port
    return None if port is None else _bind(settings.brain_host, port, "brain_host", "brain_port")


def bind_metrics(settings: Settings) -> socket.socket | None:
    """Take the address of the metrics listener, if there is to be one.

    A second gateway on a machine finds the default port taken and goes on without, so that
    nobody has to turn it off; a port that was asked for has to be free.

    Raises:
        SettingsError: The port was set and is taken, or the address is not one of this machine.
    """
    port = settings.prometheus_port
    if port is None:
        return None
    try:
        return _bind(settings.prometheus_host, port, "prometheus_host", "prometheus_port")
    except PortTaken:
        if "prometheus_port" in settings.model_fields_set:
            raise
        return None


class PortTaken(SettingsError):
    """Somebody else listens there."""


def _bind(
    host: str, port: int, host_field: str, port_field: str, *, is_shared: bool = False
) -> socket.socket:
    host_flag, port_flag = flag_name(host_field), flag_name(port_field)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise SettingsError(f"{host_flag} {host}: no such address ({exc}).") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        # Taken for good: without listening, a second gateway could bind the port as well.
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"{port_flag} {port}: the port is taken on {host}; choose another one."
            ) from None
        raise SettingsError(
            f"{host_flag} {host} {port_flag} {port}: cannot listen there ({exc.strerror})."
        ) from None
    return listener


def serve(settings: Settings) -> int:
    """Serve until a stop signal.

    Returns:
        Exit code: 0 after a stop signal, 128 and its number after a second one, 3 when the
        application did not start.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    with bind(settings) as listener, ExitStack() as stack:
        metrics_socket = bind_metrics(settings)
        if metrics_socket is not None:
            stack.enter_context(metrics_socket)
        server = GatewayServer(settings)
        _show_metrics(settings, server, metrics_socket, stack)
        return run_server(server, listener)


def run_server(server: GatewayServer, listener: socket.socket) -> int:
    """Run a server until a stop signal; returns the exit code as :func:`serve` does."""

    def leave(signum: int, frame: Any) -> None:
        # uvicorn raises the signal it was stopped by once more when it is done: by then
        # there is nothing left to end. Before it has started, this is the only handler.
        del signum, frame
        if not server.should_exit:
            raise SystemExit(0)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve(sockets=[listener]))
    if server.forced_by is not None:
        return _ENDED_BY_SIGNAL + server.forced_by
    return 0 if server.started else 3


def _show_metrics(
    settings: Settings, server: GatewayServer, bound: socket.socket | None, stack: ExitStack
) -> None:
    log = get_logger("metrics")
    if bound is not None:
        port = stack.enter_context(MetricsListener(bound, server.metrics)).port
        log.info("metrics are served without a key", host=settings.prometheus_host, port=port)
    elif settings.prometheus_port is not None:
        log.warning("no metrics listener: its port is taken", port=settings.prometheus_port)
