"""Control calls to one SGLang worker, beside the two generation legs on the same connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import orjson
import structlog

from app.clock import Clock
from app.upstream.failures import removal
from app.upstream.http1 import Exchange, HeaderLines, Http1Pool
from app.upstream.http1_request import bearer_line
from app.upstream.http1_transport import Http1Transport
from app.upstream.keep_alive import KeepAlive, measure_keep_alive
from app.upstream.sglang_info import role_conflict, worker_info
from app.upstream.sglang_loads import LoadReader, NoLoads
from app.workers.checks import sentence
from app.workers.probe_rules import ProbeResult
from app.workers.states import State
from app.workers.worker import Engine, Role, Worker, WorkerInfo, rank_conflict

ABORT_TIMEOUT_S = 2.0
"""All aborts of one call together."""
MAX_ABORTS_AT_ONCE = 32
CALL_FAILURES = (httpx.HTTPError, httpx.InvalidURL, TimeoutError)
"""What a control call may raise beside ``WorkerRefused``."""
_ABSENT = frozenset({404, 405, 501})


class WorkerRefused(Exception):
    """The worker answered, but not so that it can be used; the text is a sentence."""


Warn = Callable[[Worker, str], None]


def _log_warning(worker: Worker, text: str) -> None:
    structlog.get_logger("tandem.workers").warning(
        "worker_warning", worker=worker.spec.url, reason=text
    )


class SglangWorkerClient:
    """Speaks to one worker; made by :class:`app.upstream.clients.WorkerClients`.

    Args:
        worker: The worker; its key is read anew for every call.
        health_path: What a probe asks; any 2xx is good.
        control_timeout_s: Longest time for one control call.
        connect_timeout_s: For name lookup, TCP and TLS together.
        idle_expiry_s: See :class:`app.upstream.http1.Http1Pool`.
        ssl_context: For ``https``.
        now_s: Clock of the pool.
        warn: Told of what an operator should know but what stops nothing.

    Raises:
        ValueError: The worker is no SGLang worker.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        health_path: str = "/health",
        control_timeout_s: float = 5.0,
        connect_timeout_s: float = 10.0,
        idle_expiry_s: float = 3.0,
        ssl_context: ssl.SSLContext | None = None,
        now_s: Clock = time.monotonic,
        warn: Warn = _log_warning,
    ) -> None:
        if worker.spec.engine is not Engine.SGLANG:
            raise ValueError(f"{worker.spec.url} is no SGLang worker: its scheme is not http(s).")
        self._worker = worker
        self._health_path = health_path if health_path.startswith("/") else f"/{health_path}"
        self._control_timeout_s = control_timeout_s
        self._warn = warn
        self._has_warned_of_port = False
        self.pool = Http1Pool(
            worker.spec.url,
            connect_timeout_s=connect_timeout_s,
            idle_expiry_s=idle_expiry_s,
            ssl_context=ssl_context,
            now_s=now_s,
        )
        self._loads = LoadReader(self.pool, worker, control_timeout_s)
        self.http = httpx.AsyncClient(
            transport=Http1Transport(self.pool, silence_timeout_s=control_timeout_s),
            base_url=worker.spec.url,
            headers={"accept-encoding": "identity"},
            timeout=httpx.Timeout(control_timeout_s, connect=connect_timeout_s),
            trust_env=False,
            follow_redirects=False,
        )

    def leg(
        self, target: bytes, header_lines: HeaderLines, body: bytes, *, silence_timeout_s: float
    ) -> Exchange:
        """Prepare one generation leg, with the worker's own credential.

        Args:
            target: Path of the route.
            header_lines: What both legs are sent.
            body: The whole body.
            silence_timeout_s: Longest time without a byte from the worker; may be changed later.
        """
        if key := self._worker.spec.api_key:
            header_lines = HeaderLines(header_lines + bearer_line(key))
        exchange = self.pool.exchange(
            b"POST", target, header_lines, body, silence_timeout_s=silence_timeout_s
        )
        if self._worker.state is State.GONE:
            exchange.fail(removal(was_sent=False))
        return exchange

    @property
    def running(self) -> Http1Pool:
        """Its calls, legs and control calls alike."""
        return self.pool

    async def aclose(self) -> None:
        """Close every connection."""
        await self.http.aclose()
        await self.pool.aclose()

    async def probe(self) -> ProbeResult:
        """Ask the health endpoint once; a failure is a result, nothing is raised."""
        limit_s = self._worker.spec.probes.timeout_s or self._control_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                response = await self.http.get(
                    self._health_path, headers=self._headers(), timeout=limit_s
                )
        except (TimeoutError, httpx.ReadTimeout):
            return ProbeResult(
                False, f"{self._health_path} gave no answer in {limit_s:g} s.", is_silence=True
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            return ProbeResult(False, f"No connection: {sentence(exc)}", is_connect_failure=True)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return ProbeResult(False, f"{self._health_path} failed: {sentence(exc)}")
        if response.is_success:
            return ProbeResult(True)
        return ProbeResult(False, f"{self._health_path} answered {response.status_code}.")

    async def info(self) -> WorkerInfo:
        """Ask what the worker is, whatever role it was given.

        ``/v1/models``, ``/server_info`` (else ``/get_server_info``) and ``/model_info`` (else
        ``/get_model_info``), as SMG 1.13 does; what the worker does not have is left out.

        Raises:
            WorkerRefused: It answered an error or something that is not JSON; with a sentence.
            httpx.HTTPError: It could not be asked.
        """
        models = await self._first_of("/v1/models")
        server = await self._first_of("/server_info", "/get_server_info")
        model = await self._first_of("/model_info", "/get_model_info")
        return worker_info(models, server, model)

    async def register(self) -> WorkerInfo:
        """Ask what the worker is, and whether it can do what it shall.

        Raises:
            WorkerRefused: As by ``info``, or its disaggregation mode contradicts its role.
            httpx.HTTPError: It could not be asked.
        """
        info = await self.info()
        spec = self._worker.spec
        conflict = role_conflict(spec.role, info.disaggregation_mode) or rank_conflict(spec, info)
        if conflict:
            raise WorkerRefused(f"{spec.url} {conflict}")
        is_portless = spec.bootstrap_port is None and info.bootstrap_port is None
        if spec.role is Role.PREFILL and is_portless and not self._has_warned_of_port:
            self._has_warned_of_port = True
            self._warn(
                self._worker,
                "No bootstrap port was given and the worker reports none: requests carry null.",
            )
        return info

    async def server_info(self) -> dict[str, Any]:
        """Return ``/server_info``; empty if the worker has none. Raises as ``register`` does."""
        return await self._first_of("/server_info", "/get_server_info")

    async def model_info(self) -> dict[str, Any]:
        """Return ``/model_info``; empty if the worker has none. Raises as ``register`` does."""
        return await self._first_of("/model_info", "/get_model_info")

    async def loads(self) -> dict[str, Any]:
        """Return ``/v1/loads`` with everything the scheduler could use; empty if there is none."""
        try:
            status, found = await self._loads.read()
        except NoLoads as exc:
            raise WorkerRefused(str(exc)) from None
        if not 200 <= status < 300 and status not in _ABSENT:
            raise WorkerRefused(_refused("/v1/loads", status))
        return found if isinstance(found, dict) else {}

    async def keep_alive(self, watch_s: float) -> KeepAlive | None:
        """Measure how long it keeps an idle connection, see :func:`measure_keep_alive`."""
        key = self._worker.spec.api_key
        headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        return await measure_keep_alive(
            self.pool,
            self._health_path,
            answer_s=self._control_timeout_s,
            watch_s=watch_s,
            headers=headers,
        )

    async def flush_cache(self) -> None:
        """Have the worker empty its prefix cache.

        Raises:
            WorkerRefused: It refused, as when requests run.
            httpx.HTTPError: It could not be asked.
            TimeoutError: It took too long.
        """
        async with asyncio.timeout(self._control_timeout_s):
            response = await self.http.post("/flush_cache", headers=self._headers())
        if not response.is_success:
            raise WorkerRefused(f"/flush_cache answered {response.status_code}.")

    async def abort(self, rids: Sequence[str]) -> int:
        """Have the worker end requests; takes at most 2 s, whatever the worker does.

        SGLang answers 200 for ids it does not know, too (seen with 0.5.23).

        Args:
            rids: Request ids; the scheduler of SGLang takes each as a prefix.

        Returns:
            How many calls the worker answered with 2xx.
        """
        answered: list[str] = []
        slots = asyncio.Semaphore(MAX_ABORTS_AT_ONCE)
        headers = self._headers() | {"content-type": "application/json"}

        async def abort_one(rid: str) -> None:
            try:
                async with slots:
                    response = await self.http.post(
                        "/abort_request", content=orjson.dumps({"rid": rid}), headers=headers
                    )
            except httpx.HTTPError:
                # Counted by not being counted: the caller sees the number that worked.
                return
            if response.is_success:
                answered.append(rid)

        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S), asyncio.TaskGroup() as calls:
                for rid in rids:
                    calls.create_task(abort_one(rid))
        except TimeoutError:
            pass
        return len(answered)

    async def _first_of(self, *paths: str) -> dict[str, Any]:
        """Return the JSON object of the first path that the worker has, or an empty one."""
        for path in paths:
            try:
                async with asyncio.timeout(self._control_timeout_s):
                    response = await self.http.get(path, headers=self._headers())
            except TimeoutError:
                raise WorkerRefused(
                    f"{path} gave no answer in {self._control_timeout_s:g} s."
                ) from None
            if response.status_code in _ABSENT:
                continue
            if not response.is_success:
                raise WorkerRefused(_refused(path, response.status_code))
            try:
                found = orjson.loads(response.content)
            except orjson.JSONDecodeError:
                raise WorkerRefused(f"{path} answered something that is no JSON.") from None
            return found if isinstance(found, dict) else {}
        return {}

    def _headers(self) -> dict[str, str]:
        key = self._worker.spec.api_key
        return {} if key is None else {"authorization": f"Bearer {key}"}


def _refused(path: str, status: int) -> str:
    if status in (401, 403):
        return f"{path} answered {status}: the worker wants another API key."
    return f"{path} answered {status}."
