"""What asking another process for a pair costs: CPU a side for each ask, grant and done.

``PYTHONPATH=. python tests/bench/brain_costs.py``; the same asked in one process stands beside it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from app.scheduling.grant import Ask, Outcome
from tests.unit.cluster.rig import FACTS, Pipe, Rig, rig_in

N_ASKS = 20_000
N_CLIENTS = 32
PROMPT = b"word " * 240


async def asks(scheduler: object, n: int) -> None:
    """So many asks, one after the other."""
    facts = replace(FACTS, prompt_key=PROMPT, n_prompt_tokens=300, max_tokens=64)
    for _ in range(n):
        grant = await scheduler.ask(Ask(facts))  # type: ignore[attr-defined]
        scheduler.prefill_ended(grant)  # type: ignore[attr-defined]
        scheduler.done(grant, Outcome.OK)  # type: ignore[attr-defined]


async def measure(scheduler: object, n_clients: int) -> float:
    """CPU seconds of this process for an ask."""
    await asks(scheduler, 500)
    begun_s = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(n_clients):
            tasks.create_task(asks(scheduler, N_ASKS // n_clients))
    return (time.process_time() - begun_s) / N_ASKS


async def brain(rig: Rig, report: int) -> None:
    """Serves until it is told to end; reports its CPU seconds each time it is asked."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    loop.add_signal_handler(
        signal.SIGUSR1, lambda: os.write(report, f"{time.process_time()}\n".encode())
    )
    async with rig.brain().running() as made:
        local_s = await measure(made.scheduler, 1)
        os.write(report, f"{local_s}\n".encode())
        await end.wait()


async def pipe(path: str, pid: int, report: int) -> None:
    """Asks the brain, by one client and by many."""
    with os.fdopen(report) as said:
        local_s = float(said.readline())
        print(f"in one process: {local_s * 1e6:.1f} us")
        made = Pipe(1, path)
        async with made.seat.running():
            for n_clients in (1, N_CLIENTS):
                os.kill(pid, signal.SIGUSR1)
                before_s = float(said.readline())
                own_s = await measure(made.scheduler, n_clients)
                os.kill(pid, signal.SIGUSR1)
                other_s = (float(said.readline()) - before_s) / (N_ASKS + 500)
                print(
                    f"{n_clients} at once: pipe {own_s * 1e6:.1f} us, brain {other_s * 1e6:.1f} us"
                )


def main() -> None:
    """Measures."""
    readable, writable = os.pipe()
    with tempfile.TemporaryDirectory() as folder, rig_in(Path(folder)) as rig:
        pid = os.fork()
        if pid == 0:
            uvloop.run(brain(rig, writable))
            os._exit(0)
        try:
            uvloop.run(pipe(rig.path, pid, readable))
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
