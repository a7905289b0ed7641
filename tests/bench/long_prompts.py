"""Long prompts beside many token streams: how late does the gateway's loop get?

::

    .venv/bin/python tests/bench/long_prompts.py [--streams 500] [--rate 4] [--prompts 32]
                                                 [--tokens 131072] [--processes 1]

The gateway runs with a clock in its own loop that is due every 2 ms; the lateness of each tick is
the lag. Where other programs take the cores from the gateway, that is lag, too; so beside it stands
how much of it the gateway's own computing explains (CPU time of all its threads). Streams of a gRPC
worker run all the time. The prompts, no two of them alike and of 30,000 words as often as words
are, come at once, each over a connection of its own; lag is counted from the first one's sending to
the last one's answer, and for 5 s before without them. Exit code 1 when the gateway's own computing
makes it later than 10 ms at p99.9.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop
from children import Bench, Gateway, free_port, read_report
from measure import GrpcPair
from scenarios import Scenario, write_body

_TICK_S = 0.002
_N_WORDS = 30_000
_CHARS_PER_TOKEN = 2.0  # of the small tokenizer and these words
_ALLOWED_S = 0.010


async def serve(arguments: list[str]) -> None:
    """The gateway with a clock: writes a line for each tick, when it was and how late."""
    from app import cli
    from app.server.gateway_server import GatewayServer
    from app.server.run import bind

    asked = cli.load(arguments)
    server = GatewayServer(asked)

    async def tick() -> None:
        while not server.should_exit:
            due_s, cpu_s = time.monotonic() + _TICK_S, time.process_time()
            await asyncio.sleep(_TICK_S)
            now_s = time.monotonic()
            lag_s, own_s = now_s - due_s, time.process_time() - cpu_s - _TICK_S
            print(f"{now_s:.4f} {lag_s:.6f} {min(lag_s, own_s):.6f}", flush=True)

    with bind(asked) as listener:
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(tick())
            await server.serve(sockets=[listener])
            ticking.cancel()


def main() -> int:
    """Plays them and prints the lag."""
    asked = _arguments()
    words = _words()
    with Bench() as bench:
        pair = GrpcPair(bench)
        gateway, log = _start(bench, pair, asked.processes)
        bodies = [_body(asked.tokens, words, seed) for seed in range(asked.prompts + 1)]
        # The first one has processes started, and words known.
        _ask(gateway, bodies.pop())
        time.sleep(2)
        with _streams(bench, pair, gateway, asked) as outcome:
            time.sleep(5)
            quiet_s = time.monotonic()
            time.sleep(5)
            begun_s = time.monotonic()
            taken_s = _ask_all(gateway, bodies)
            ended_s = time.monotonic()
        samples = _read(log)
    alone = [each for each in samples if quiet_s <= each[0] < begun_s]
    beside = [each for each in samples if begun_s <= each[0] < ended_s]
    print(
        f"{asked.prompts} prompts of {len(bodies[0]) / 1e3:.0f} KB in {ended_s - begun_s:.1f} s, "
        f"each {min(taken_s):.1f} to {max(taken_s):.1f} s, beside {asked.streams} streams of "
        f"{asked.rate:g} tokens/s\n"
        f"lag of the loop with streams alone: {_shown(alone)}\n"
        f"with the prompts beside them:       {_shown(beside)}\n"
        f"streams: {outcome[0]['n_ok']} whole, {outcome[0]['n_errors']} errors, "
        f"longest pause {outcome[0]['max_gap_us'] / 1e3:.0f} ms"
    )
    is_late = _quantile([own_s for _, _, own_s in beside], 0.999) > _ALLOWED_S
    print("failed" if is_late or outcome[0]["n_errors"] else "passed")
    return 1 if is_late or outcome[0]["n_errors"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Long prompts beside many token streams.")
    parser.add_argument("--streams", type=int, default=500, help="streams open at a time")
    parser.add_argument("--rate", type=float, default=4.0, help="tokens a second of each")
    parser.add_argument("--prompts", type=int, default=32, help="long prompts, all at once")
    parser.add_argument("--tokens", type=int, default=131_072, help="tokens of each, about")
    parser.add_argument("--processes", type=int, default=1, help="--tokenizer-processes")
    return parser.parse_args()


def _start(bench: Bench, pair: GrpcPair, n_processes: int) -> tuple[Gateway, Path]:
    port = free_port()
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--serve",
        "--pd-disaggregation",
    ]
    command += ["--prefill", pair.prefill.url, "--decode", pair.decode.url, *pair.flags]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    command += ["--prometheus-port", str(free_port())]
    command += ["--tokenizer-processes", str(n_processes)]
    child, log = bench.spawn("gateway", command, cwd=bench.folder)
    deadline_s = time.monotonic() + 15
    gateway = Gateway("tandem", port, child.pid)
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            if _ask(gateway, _body(10, ["ready"], 0)):
                return gateway, log
        time.sleep(0.1)
    raise SystemExit(f"The gateway did not get ready: {log.read_text()[-2000:]}")


def _words() -> list[str]:
    draw = random.Random(7)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    return ["".join(draw.choices(letters, k=draw.randint(2, 11))) for _ in range(_N_WORDS)]


def _body(n_tokens: int, words: list[str], seed: int) -> bytes:
    draw = random.Random(seed)
    n_chars = int(n_tokens * _CHARS_PER_TOKEN)
    weights = [1 / (at + 10) for at in range(len(words))]
    parts = draw.choices(words, weights, k=n_chars // 4 + 1)
    text = f"{seed} {' '.join(parts)}"[:n_chars]
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "stub", "max_tokens": 2, "messages": messages}).encode()


def _ask(gateway: Gateway, body: bytes) -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, 120)) as there:
        headers = {"content-type": "application/json"}
        there.request("POST", "/v1/chat/completions", body, headers)
        answer = there.getresponse()
        said = json.loads(answer.read())
        if answer.status != 200:
            print(f"{answer.status}: {said}")
            return 0
    return 1


def _ask_all(gateway: Gateway, bodies: list[bytes]) -> list[float]:
    taken_s: list[float] = []

    def ask(body: bytes) -> None:
        begun_s = time.monotonic()
        if _ask(gateway, body):
            taken_s.append(time.monotonic() - begun_s)

    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(taken_s) < len(bodies):
        raise SystemExit(f"{len(bodies) - len(taken_s)} long prompts were not answered.")
    return taken_s


@contextlib.contextmanager
def _streams(
    bench: Bench, pair: GrpcPair, gateway: Gateway, asked: argparse.Namespace
) -> Iterator[list[dict[str, int]]]:
    """Streams that go on until the block is left; their report is put into the list."""
    n_events = int(asked.rate * 5)
    pair.decode.ask("POST", f"/stub/interval/{int(1e6 / asked.rate)}")
    body = write_body(bench.folder, Scenario("held", asked.streams, n_events=n_events))
    arguments = ["--body", str(body), "--connections", str(asked.streams), "--numbered", "1"]
    arguments += ["--events", str(n_events), "--seconds", "30", "--ramp-s", "3"]
    reports: list[dict[str, int]] = []
    with bench.loading(gateway.port, *arguments, "--drain-s", "30") as load:
        yield reports
        output, _ = load.communicate()
    reports.append(read_report(output))


def _read(file: Path) -> list[tuple[float, float, float]]:
    ticks = []
    for line in file.read_text().splitlines():
        words = line.split()
        # The gateway's own log is there, too.
        if len(words) == 3 and all(word.strip("-").replace(".", "", 1).isdigit() for word in words):
            ticks.append((float(words[0]), float(words[1]), float(words[2])))
    return ticks


def _quantile(lags: list[float], share: float) -> float:
    return sorted(lags)[min(len(lags) - 1, int(share * len(lags)))] if lags else 0.0


def _shown(ticks: list[tuple[float, float, float]]) -> str:
    said = []
    for name, at in (("", 1), ("; by its own work ", 2)):
        lags = [tick[at] for tick in ticks]
        figures = [f"p{100 * q:g} {1e3 * _quantile(lags, q):.1f} ms" for q in (0.5, 0.99, 0.999)]
        said.append(f"{name}{', '.join(figures)}, most {1e3 * max(lags, default=0.0):.1f} ms")
    return f"{''.join(said)} ({len(ticks)} ticks)"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(serve(sys.argv[2:]))
        sys.exit(0)
    sys.exit(main())
