"""The loads of a worker's ranks, in one form for both engines."""

from __future__ import annotations

import httpx

from app.upstream.clients import WorkerClients
from app.upstream.failures import UpstreamError
from app.upstream.sglang_worker import WorkerRefused
from app.workers.worker import Worker


async def load_rows(clients: WorkerClients, worker: Worker) -> object:
    """Asks a worker; returns one row a rank by the names of SGLang's ``/v1/loads``.

    Raises:
        WorkerRefused: It did not answer as it should, or cannot be asked.
    """
    try:
        answer = await clients.control(worker).loads()
    except (httpx.HTTPError, UpstreamError) as error:
        raise WorkerRefused(str(error) or type(error).__name__) from error
    return answer.get("loads")
