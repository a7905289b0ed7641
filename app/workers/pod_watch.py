"""Keeps a list of pods current: lists once, then watches, resumes, and lists again when it must.

The API is behind ``PodApi``. Rules of the watch protocol as in Kubernetes' "API concepts": an
event's resource version is where a watch is taken up again; a bookmark carries one without a
change; 410 Gone means that the version is too old and only a new list helps.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from app.workers.pods import Pod, read_pod

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0


class VersionGone(Exception):
    """The resource version is too old: list anew."""


class PodApiFailed(Exception):
    """The API could not be asked, or refused; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class PodList:
    """All pods at one resource version, as the API writes them."""

    pods: tuple[Mapping[str, Any], ...]
    version: str


@dataclass(frozen=True, slots=True)
class PodEvent:
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK."""

    kind: str
    pod: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Where to take up the watch after this event; empty: it did not say."""
        version: str = (self.pod.get("metadata") or {}).get("resourceVersion") or ""
        return version


class PodApi(Protocol):
    """Where pods are asked for."""

    async def list_pods(self) -> PodList:
        """List all pods; raises ``PodApiFailed``, ``VersionGone``."""

    def watch_pods(self, version: str) -> AsyncIterator[PodEvent]:
        """Yield what changes from a version on, until the API ends it; raises the same."""


class PodWatch:
    """Holds the pods as of the last event.

    Args:
        api: Where they are asked for.
        on_change: Called after each list and each event.
        log: Called with an event's name and a sentence; structlog if left out.
    """

    def __init__(
        self,
        api: PodApi,
        on_change: Callable[[], None],
        log: Callable[[str, str], None] | None = None,
    ) -> None:
        self._api = api
        self._on_change = on_change
        self._log = log if log is not None else _log_event
        self._version = ""
        self._retry_s = FIRST_RETRY_S
        self.pods: dict[str, Pod] = {}
        """By uid; what was known stays while the API cannot be asked."""
        self.has_listed = False
        """The pods were listed at least once."""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._follow()
                # A server that ends every watch at once must not be asked in a circle.
                self._retry_s = FIRST_RETRY_S
                await asyncio.sleep(FIRST_RETRY_S)
            except VersionGone:
                self._version = ""
                # A server that answers 410 to every version must not be asked in a circle.
                await self._pause("relisted", "The watch was too old; the pods are listed anew.")
            except (PodApiFailed, ValueError) as exc:
                await self._pause("failed", f"{exc} What was known is kept.")

    async def _list(self) -> None:
        found = await self._api.list_pods()
        self.pods = {pod.uid: pod for pod in map(read_pod, found.pods)}
        self._version = found.version
        self.has_listed = True
        self._on_change()

    async def _follow(self) -> None:
        async for event in self._api.watch_pods(self._version):
            if event.kind in ("ADDED", "MODIFIED"):
                pod = read_pod(event.pod)
                self.pods[pod.uid] = pod
            elif event.kind == "DELETED":
                self.pods.pop(read_pod(event.pod).uid, None)
            self._version = event.version or self._version
            self._retry_s = FIRST_RETRY_S
            if event.kind != "BOOKMARK":
                self._on_change()

    async def _pause(self, event: str, text: str) -> None:
        self._log(event, text)
        await asyncio.sleep(self._retry_s * random.uniform(0.75, 1.25))
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)


def _log_event(event: str, text: str) -> None:
    structlog.get_logger("tandem.discovery").warning(f"pod_watch_{event}", reason=text)
