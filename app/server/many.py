"""Runs the gateway as several processes: pipes on one port, and the brain that decides for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import uvloop

from app.cluster.asgi_call import call_asgi
from app.cluster.brain_seat import BrainSeat
from app.cluster.leading import Leading
from app.cluster.pipe_seat import PipeSeat
from app.cluster.supervisor import Child, Supervisor
from app.gateway.wants import wants_of
from app.lifespan import lifespan
from app.main import create_app
from app.observability.log import configure, get_logger
from app.server.garbage import look_less_often
from app.server.gateway_server import GatewayServer
from app.server.metrics_listener import MetricsListener
from app.server.run import bind, bind_brain, bind_metrics, bind_shared, run_server
from app.settings import Settings, SettingsError, flag_name

_BACKLOG = 128
REFUSED = 2


def serve(settings: Settings) -> int:
    """Serves until a stop signal.

    Returns:
        Exit code, as of :func:`app.server.serve`.

    Raises:
        SettingsError: The address cannot be listened on, or a setting is for one process only.
    """
    check(settings)
    configure(settings.log_level, is_json=settings.log_json, process="supervisor")
    with ExitStack() as stack:
        # Nobody else may have the port: sharing it is for our own processes.
        with bind(settings):
            pass
        listeners = [stack.enter_context(bind_shared(settings)) for _ in range(settings.workers)]
        metrics_socket = bind_metrics(settings)
        if metrics_socket is not None:
            stack.enter_context(metrics_socket)
        replicas_socket, replica = bind_brain(settings), uuid.uuid4().hex
        if replicas_socket is not None:
            stack.enter_context(replicas_socket)
        door, path = _door(stack)
        ready, is_ready = os.pipe()
        stack.callback(os.close, ready)
        stack.callback(os.close, is_ready)

        def close_listeners() -> None:
            for listener in listeners:
                listener.close()

        def be_brain(n_starts: int) -> int:
            close_listeners()
            leading = _leading(settings, replicas_socket)
            seat = BrainSeat(door, n_starts, settings.workers, leading)
            seat.replica = replica
            return _told(lambda: _be_brain(settings, seat, metrics_socket, is_ready), "brain")

        def be_pipe(number: int, n_starts: int) -> int:
            del n_starts
            own = listeners.pop(number - 1)
            close_listeners()
            door.close()
            if metrics_socket is not None:
                metrics_socket.close()
            if replicas_socket is not None:
                replicas_socket.close()
            return _told(lambda: _be_pipe(settings, own, number, path), f"pipe-{number}")

        pipes = [
            Child(f"pipe-{number}", partial(be_pipe, number))
            for number in range(1, settings.workers + 1)
        ]
        return Supervisor(Child("brain", be_brain), pipes, close_listeners, ready).run()


def _door(stack: ExitStack) -> tuple[socket.socket, str]:
    """Makes the socket at which the own pipes find the brain; returns it and its path."""
    folder = tempfile.mkdtemp(prefix="tandem-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    path = str(Path(folder, "brain"))
    door = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    door.bind(path)
    door.listen(_BACKLOG)
    door.setblocking(False)
    return door, path


def _told(run: Callable[[], int], name: str) -> int:
    """Runs a process's part; a setting that cannot be used is told, by one of the pipes."""
    try:
        return run()
    except SettingsError as error:
        if name in ("brain", "pipe-1"):
            sys.stderr.write(f"tandem: {error}\n")
        return REFUSED


def check(settings: Settings) -> None:
    """Lets settings pass that several processes can keep.

    Raises:
        SettingsError: One cannot be, yet.
    """
    asked = f"{flag_name('workers')} {settings.workers}"
    # What a store of shared state adds up.
    shared = (
        () if settings.state_url is None else ("key_rate_limit", "rate_limit_tokens_per_second")
    )
    for field in ("key_rate_limit", "rate_limit_tokens_per_second", "recorder_file"):
        if getattr(settings, field) and field not in shared:
            raise SettingsError(
                f"{flag_name(field)}: each process would count or write for itself; it needs "
                f"{flag_name('workers')} 1, not {settings.workers}{_or_store(field)}."
            )
    if 0 < settings.max_concurrent_requests < settings.workers:
        raise SettingsError(
            f"{asked}: {flag_name('max_concurrent_requests')} {settings.max_concurrent_requests} "
            "is divided among the processes; make it at least as many."
        )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError(f"{asked}: this system cannot share a port among processes.")


def _leading(settings: Settings, listener: socket.socket | None) -> Leading | None:
    if listener is None or settings.brain_secret is None:
        return None
    return Leading(listener, settings.brain_secret.get_secret_value())


def _or_store(field: str) -> str:
    return "" if field == "recorder_file" else f", or {flag_name('state_url')}"


def _be_brain(
    settings: Settings, seat: BrainSeat, metrics_socket: socket.socket | None, is_ready: int
) -> int:
    settings = settings.model_copy(
        # It sees no request: nothing to record, to trace or to tokenize.
        update=dict.fromkeys(("tokenizer_path", "model_path"))
        | {"recorder_mib": 0, "enable_trace": False}
    )
    app = create_app(settings, seat)
    # Keys and limits were asked for at the pipe.
    app.user_middleware.clear()
    gateway = app.state.gateway
    seat.call = partial(call_asgi, app)
    seat.wants = partial(wants_of, gateway.policies, gateway.scheduler)

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with lifespan(app):
            look_less_often()
            os.write(is_ready, b"1")
            await stop.wait()

    with ExitStack() as stack:
        if metrics_socket is not None:
            shown = stack.enter_context(MetricsListener(metrics_socket, seat.shown))
            get_logger("metrics").info("metrics are served without a key", port=shown.port)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    return 0


def _be_pipe(settings: Settings, listener: socket.socket, number: int, path: str) -> int:
    asked, n_pipes = settings.max_concurrent_requests, settings.workers
    share = asked // n_pipes + (number <= asked % n_pipes) if asked > 0 else asked
    settings = settings.model_copy(
        update={
            "max_concurrent_requests": share,
            "max_bodies_size": settings.max_bodies_size // n_pipes,
            "recorder_mib": -(-settings.recorder_mib // n_pipes),
            # The brain's to do.
            "service_discovery": False,
        }
    )
    secret = settings.brain_secret if settings.brain_port is not None else None
    seat = PipeSeat(number, path, "" if secret is None else secret.get_secret_value())
    server = GatewayServer(settings, seat)
    seat.shows["page"] = lambda: list(server.metrics.registry.collect())
    with listener:
        return run_server(server, listener)
