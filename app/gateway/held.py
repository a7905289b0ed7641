"""What the process holds at this moment, for whoever looks for a leak.

``kill -USR1 PID`` has it logged, as a warning so that it is seen at nearly every level. When no
request runs every number but ``tasks`` and ``worker_connections`` is zero; ``tasks`` is then a
constant and one for each worker.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from structlog.typing import FilteringBoundLogger

from app.gateway import Gateway
from app.workers.worker import Engine


def held(gateway: Gateway) -> dict[str, int]:
    """Counts what requests and workers occupy in this process."""
    workers = gateway.registry.workers()
    pools = [gateway.clients.get(w).pool for w in workers if w.spec.engine is Engine.SGLANG]
    return {
        "tasks": len(asyncio.all_tasks()),
        "leases": sum(worker.n_leases for worker in workers),
        "kv_held": sum(worker.n_held for worker in workers),
        "calls": sum(gateway.clients.n_running(worker) for worker in workers),
        "rank_leases": sum(sum(worker.rank_leases) for worker in workers),
        "exchanges": sum(pool.n_active for pool in pools),
        "worker_connections": sum(pool.n_open for pool in pools),
        "ending_legs": gateway.reaper.n_pending,
    }


@contextmanager
def told_on_signal(gateway: Gateway, log: FilteringBoundLogger) -> Iterator[None]:
    """While it lasts SIGUSR1 has the counts logged; nothing happens off the main thread."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGUSR1, lambda: log.warning("held", **held(gateway)))
    except (ValueError, RuntimeError):
        # A loop in another thread gets no signals.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
