"""``python -m app demo``: the gateway and a simulated pair in one process and one loop.

Nothing but Python is needed: the pair meets, "computes" and answers over real HTTP (SGLang) or
gRPC (vLLM, with a small tokenizer that is made on the spot) on loopback. It prints what to paste
once the gateway is ready, and stops on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from app.server.gateway_server import GatewayServer
from app.server.run import bind
from app.settings import PrefillUrl, Settings, SettingsError, load
from app.sim import SglangSim, VllmSim, sim_pair, vllm_pair
from app.sim.folder_tokenizer import FolderTokenizer
from app.sim.small_tokenizer import write_small_tokenizer

_MODEL = "sim-model"
_READY_LIMIT_S = 15.0
_CONNECTORS = ("nixl", "mooncake")
# The pace of a small model: the words of a streamed answer are seen coming.
_PACE: Mapping[str, Any] = {"prefill_tokens_per_s": 20_000.0, "lead_s": 0.02, "decode_step_s": 0.03}
# Those of real workers; the simulator's own are short, for tests of failures.
_LEASES: Mapping[str, Any] = {
    "lease_s": 30.0,
    "mooncake_abort_s": 480.0,
    "mooncake_grace_s": 60.0,
}

_CURL = """\
curl {url}/v1/chat/completions -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]{more}}}'
"""


def main(argv: Sequence[str]) -> int:
    """Run the demo until a stop signal.

    Args:
        argv: Words after ``demo``.

    Returns:
        Exit code: 0 after a stop signal, 1 when the gateway did not become ready.

    Raises:
        SettingsError: The port is taken or no port; a connector for SGLang.
    """
    words = argparse.ArgumentParser(
        prog="tandem demo",
        description="The gateway with a simulated prefill/decode pair, in one process.",
    )
    words.add_argument(
        "--engine", choices=("sglang", "vllm"), default="sglang", help="default %(default)s"
    )
    words.add_argument(
        "--connector", choices=_CONNECTORS, help="what carries vLLM's KV cache (default nixl)"
    )
    words.add_argument("--host", default="127.0.0.1", help="address (default %(default)s)")
    words.add_argument("--port", default="30000", help="port (default %(default)s)")
    asked = words.parse_args(argv)
    if asked.connector is not None and asked.engine != "vllm":
        raise SettingsError(f"--connector {asked.connector}: only --engine vllm has connectors.")
    flags = {
        "host": asked.host,
        "port": asked.port,
        "log_level": "warn",
        "shutdown_grace_period_secs": "1",
    }
    with (
        bind(_settings(flags)) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_run(flags, listener, asked.engine, asked.connector or _CONNECTORS[0]))


def _settings(flags: dict[str, Any]) -> Settings:
    # The settings of a real gateway on this machine must not change the demo.
    return load(flags, {}, None)


async def _run(flags: dict[str, Any], listener: socket.socket, engine: str, carrier: str) -> int:
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        if engine == "vllm":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-demo-")))
            pair = await _vllm_pair(stack, folder, carrier)
            flags = {**flags, "model_path": str(folder)}
            kind = f"vLLM pair ({carrier})"
        else:
            pair = await stack.enter_async_context(sim_pair(model_id=_MODEL, **_PACE))
            kind = "SGLang pair"
        prefill, decode = pair
        settings = _settings(
            {
                **flags,
                "prefill": [PrefillUrl(prefill.url, prefill.bootstrap_port)],
                "decode": [decode.url],
            }
        )
        server = _QuietServer(settings)
        with _stopped_by_signals(stop):
            async with _serving(server, listener, stop):
                if await _is_ready(settings, stop):
                    _greet(_url(settings), kind, prefill.url, decode.url)
                elif not stop.is_set():
                    sys.stderr.write(f"tandem: the demo was not ready in {_READY_LIMIT_S:g} s.\n")
                    return 1
                await stop.wait()
    sys.stdout.write("\nStopped.\n")
    return 0


async def _vllm_pair(
    stack: AsyncExitStack, folder: Path, carrier: str
) -> tuple[SglangSim | VllmSim, SglangSim | VllmSim]:
    write_small_tokenizer(folder)
    return await stack.enter_async_context(
        vllm_pair(carrier, model_id=_MODEL, tokenizer=FolderTokenizer(folder), **_PACE, **_LEASES)
    )


class _QuietServer(GatewayServer):
    """Leaves signals to the demo, which has more than a server to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


@asynccontextmanager
async def _serving(
    server: GatewayServer, listener: socket.socket, stop: asyncio.Event
) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:

        async def serve() -> None:
            try:
                await server.serve(sockets=[listener])
            finally:
                stop.set()

        group.create_task(serve())
        try:
            yield
        finally:
            server.should_exit = True


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for signum in signals:
        loop.add_signal_handler(signum, stop.set)
    try:
        yield
    finally:
        for signum in signals:
            loop.remove_signal_handler(signum)


async def _is_ready(settings: Settings, stop: asyncio.Event) -> bool:
    """Ask ``/readiness`` over the wire, as a probe would, until it answers 200."""
    host = _reachable(settings.host)
    try:
        async with asyncio.timeout(_READY_LIMIT_S):
            while not stop.is_set():
                if await _status(host, settings.port) == b"200":
                    return True
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    return False


async def _status(host: str, port: int) -> bytes:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return b""
    try:
        writer.write(b"GET /readiness HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n")
        words = (await reader.readline()).split()
        await reader.read()
        return words[1] if len(words) > 1 else b""
    except OSError:
        return b""
    finally:
        writer.close()


def _greet(url: str, kind: str, prefill_url: str, decode_url: str) -> None:
    lines = (
        f"\nTandem is ready on {url}, with a simulated {kind}:",
        f"  prefill {prefill_url}   decode {decode_url}   model {_MODEL}",
        f"  the API with examples: {url}/docs",
        "\nPaste one of these into another terminal, the second one streams:\n",
        _CURL.format(url=url, model=_MODEL, more=""),
        _CURL.format(url=url, model=_MODEL, more=', "stream": true').replace("curl", "curl -N"),
        "Ctrl-C stops it.",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _url(settings: Settings) -> str:
    host = _reachable(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _reachable(host: str) -> str:
    """The address by which a listener on every address is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
