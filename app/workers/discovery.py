"""Makes the registry follow the pods: adds the workers of ready ones, drains those that leave.

Only workers that came from pods are touched; what a flag or the API added stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

import structlog

from app.workers.pod_watch import PodApi, PodWatch
from app.workers.pods import POD_UID, PodRules, PodWorker, workers_of
from app.workers.registry import DuplicateWorker
from app.workers.states import State
from app.workers.worker import Worker, WorkerSpec

if TYPE_CHECKING:
    from app.workers.drain import Drain
    from app.workers.registry import Registry

SETTLE_S = 0.2
"""Changes that come close together are worked off together."""
LOOK_AGAIN_S = 5.0
"""For what could not be done yet: a URL that a draining worker still has, a silent pod."""

GONE_S = 5.0
"""For the requests of a worker whose pod is gone to fail by themselves."""

FindScheme = Callable[[str], Awaitable[str | None]]
Log = Callable[[str, PodWorker, str], None]


class Discovery:
    """Owns the workers of pods.

    A worker is added when its pod is ready, and stays while the pod does: a pod that is not ready
    any more is judged by the gateway's own probes. It is drained when its pod is being deleted
    (for as long as the pod may still run), is gone or over, or no longer matches. Nothing is
    removed before the pods could be listed.

    Args:
        api: Where the pods are.
        rules: Which of them are workers.
        registry: Where workers are added.
        drain: How they leave.
        find_scheme: Asks a place which scheme it speaks; None: it does not answer yet.
        check_url: Raises ``ValueError`` for a URL that must not be used.
        api_key: Bearer key of every worker found.
        log: Called with event, worker, reason; structlog if left out.
    """

    def __init__(
        self,
        api: PodApi,
        rules: PodRules,
        registry: Registry,
        drain: Drain,
        find_scheme: FindScheme,
        check_url: Callable[[str], None],
        api_key: str | None = None,
        log: Log | None = None,
    ) -> None:
        self._rules = rules
        self._registry = registry
        self._drain = drain
        self._find_scheme = find_scheme
        self._check_url = check_url
        self._api_key = api_key
        self._log = log if log is not None else _log_event
        self._wake = asyncio.Event()
        self.watch = PodWatch(api, self._wake.set)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Follow the pods until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.watch.run())
            while True:
                await asyncio.sleep(SETTLE_S)
                self._wake.clear()
                if self.watch.has_listed:
                    self._look(tasks)
                try:
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _look(self, tasks: asyncio.TaskGroup) -> None:
        """Compare pods and registry once."""
        wanted = [w for pod in self.watch.pods.values() for w in workers_of(pod, self._rules)]
        kept = {(worker.pod.uid, worker.place): worker for worker in wanted}
        have: set[tuple[str, str]] = set()
        for worker in self._registry.workers():
            uid = worker.spec.labels.get(POD_UID)
            if uid is None or worker.state is State.DRAINING:
                continue
            place = worker.spec.url.partition("://")[2]
            wish = kept.get((uid, place))
            if wish is None or wish.role is not worker.spec.role:
                self._remove(worker, uid)
            else:
                have.add((uid, place))
        self._said = {uid: text for uid, text in self._said.items() if uid in self.watch.pods}
        for key, wish in kept.items():
            if wish.pod.is_ready and key not in have and wish.place not in self._asking:
                self._asking[wish.place] = tasks.create_task(self._add(wish))

    def _remove(self, worker: Worker, uid: str) -> None:
        pod = self.watch.pods.get(uid)
        if pod is None or pod.is_ended:
            reason, limit_s = "its pod is gone", GONE_S
        elif pod.grace_s is None:
            reason, limit_s = "its pod is no longer such a worker", self._drain.limit_s
        else:
            # One second for the last answers to be passed on.
            reason, limit_s = "its pod is being deleted", max(1.0, pod.grace_s - 1.0)
        self._drain.start(worker, reason, timeout_s=min(limit_s, self._drain.limit_s))

    async def _add(self, wish: PodWorker) -> None:
        try:
            scheme = await self._find_scheme(wish.place)
            latest = self._as_of_now(wish)
            if latest is None:
                return
            wish = latest
            if scheme is None:
                self._say("silent", wish, "It is ready, and does not answer on its port.")
                return
            url = f"{scheme}://{wish.place}"
            self._check_url(url)
            spec = WorkerSpec(
                url,
                wish.role,
                bootstrap_port=wish.bootstrap_port,
                model_ids=wish.model_ids,
                labels=wish.labels,
                api_key=self._api_key,
                # Replicas know a pod's worker by the same id.
                id=str(uuid5(NAMESPACE_URL, f"{wish.pod.uid} {url}")),
            )
            self._registry.add(spec)
            self._log("added", wish, url)
            self._said.pop(wish.pod.uid, None)
        except DuplicateWorker as exc:
            if exc.state is not State.DRAINING:
                self._say("taken", wish, str(exc))
        except ValueError as exc:
            self._say("refused", wish, str(exc))
        finally:
            del self._asking[wish.place]

    def _as_of_now(self, wish: PodWorker) -> PodWorker | None:
        """What has become of a wish while its pod was asked; None: it is not wanted any more."""
        pod = self.watch.pods.get(wish.pod.uid)
        found = () if pod is None else workers_of(pod, self._rules)
        return next((new for new in found if new.place == wish.place), None)

    def _say(self, event: str, wish: PodWorker, text: str) -> None:
        """Log what is the matter with a pod, once as long as it is the same."""
        if self._said.get(wish.pod.uid) != text:
            self._said[wish.pod.uid] = text
            self._log(event, wish, text)


def _log_event(event: str, wish: PodWorker, reason: str) -> None:
    log = structlog.get_logger("tandem.discovery")
    write = log.info if event == "added" else log.warning
    write(
        f"pod_worker_{event}",
        pod=f"{wish.pod.namespace}/{wish.pod.name}",
        role=str(wish.role),
        place=wish.place,
        reason=reason,
    )
