"""Pods from a Kubernetes API server: the only place that names ``kubernetes_asyncio``.

The library finds the server, its certificate and our credentials (and renews them); list and watch
are read here, as its own watch cannot be resumed by whoever uses it. Source of the protocol:
Kubernetes 1.36, "API concepts".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml
from kubernetes_asyncio import client as kube
from kubernetes_asyncio import config as kube_config

from app.workers.pod_watch import PodApiFailed, PodEvent, PodList, VersionGone

LIST_LIMIT_S = 30.0
PAGE_SIZE = 500
WATCH_S = 240
"""How long the server is asked to keep a watch; some proxies cut off what is older than 300 s."""
WATCH_GRACE_S = 30.0
MAX_LINE_BYTES = 8 * 1024 * 1024
"""Of one event; etcd holds objects of at most 1.5 MiB."""


class KubernetesPods:
    """Lists and watches pods; the rest of ``PodApi`` says how.

    Args:
        selector: Labels that all pods of interest have, as the API takes it; empty: all pods.
        namespace: Where they are; None: in all namespaces, which needs a ClusterRole.
        kubeconfig: A file; None: the pod's own service account, else the default file.
    """

    def __init__(
        self, selector: str, namespace: str | None = None, kubeconfig: Path | None = None
    ) -> None:
        self._selector = selector
        self._path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self._kubeconfig = kubeconfig
        self._client: kube.ApiClient | None = None

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones with credentials read anew."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def list_pods(self) -> PodList:
        """List all pods, page by page.

        Raises:
            PodApiFailed: The server cannot be reached, or refused.
            VersionGone: The list changed too much between two pages.
        """
        pods: list[Any] = []
        more = ""
        while True:
            query = {"limit": str(PAGE_SIZE)} | ({"continue": more} if more else {})
            async with self._answer(query, LIST_LIMIT_S) as answer:
                page = _object(await answer.read())
            meta = page.get("metadata") or {}
            pods += page.get("items") or ()
            more = meta.get("continue") or ""
            if not more:
                return PodList(tuple(pods), meta.get("resourceVersion") or "")

    async def watch_pods(self, version: str) -> AsyncIterator[PodEvent]:
        """Yield what changes from a version on, until the server ends the watch.

        Raises:
            PodApiFailed: The connection broke, or the server refused.
            VersionGone: The version is too old.
        """
        # Spread, so that the watches of many gateways do not end together.
        watch_s = round(WATCH_S * random.uniform(0.8, 1.0))
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(watch_s),
        }
        async with self._answer(query, watch_s + WATCH_GRACE_S) as answer:
            rest = b""
            async for data in answer.content.iter_any():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _event(_object(line))
                if len(rest) > MAX_LINE_BYTES:
                    raise PodApiFailed(f"An event has more than {MAX_LINE_BYTES} bytes.")
            if rest.strip():
                # The server ends lines; this one was cut.
                raise PodApiFailed("The watch was cut inside an event.")

    @asynccontextmanager
    async def _answer(
        self, query: dict[str, str], limit_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask; the body of a 200 is yet to be read."""
        if self._selector:
            query["labelSelector"] = self._selector
        try:
            if self._client is None:
                self._client = await self._connect()
            answer: aiohttp.ClientResponse = await self._client.call_api(
                self._path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(total=limit_s, sock_connect=10.0),
            )
            try:
                await self._check(answer)
                yield answer
            finally:
                answer.close()
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            detail = str(exc) or type(exc).__name__
            raise PodApiFailed(f"The Kubernetes API cannot be asked: {detail}.") from exc
        except (kube_config.ConfigException, yaml.YAMLError) as exc:
            raise PodApiFailed(f"The Kubernetes configuration cannot be used: {exc}") from exc

    async def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == 200:
            return
        text = (await answer.content.read(4096)).decode("utf-8", "replace")
        if answer.status == 410:
            raise VersionGone
        if answer.status == 401:
            # Credentials may have been renewed where they were read.
            await self.aclose()
        raise PodApiFailed(f"The Kubernetes API answered {answer.status}: {_reason(text)}")

    async def _connect(self) -> kube.ApiClient:
        made = kube.Configuration()
        if self._kubeconfig is None:
            try:
                await asyncio.to_thread(kube_config.load_incluster_config, made)
                return kube.ApiClient(made)
            except kube_config.ConfigException:
                pass  # Not in a cluster.
        path = None if self._kubeconfig is None else str(self._kubeconfig)
        await kube_config.load_kube_config(path, client_configuration=made, persist_config=False)
        return kube.ApiClient(made)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise PodApiFailed("The Kubernetes API sent what is no JSON object.")
    return found


def _event(line: dict[str, Any]) -> PodEvent:
    kind, thing = line.get("type"), line.get("object")
    if not isinstance(kind, str) or not isinstance(thing, dict):
        raise PodApiFailed("The Kubernetes API sent what is no event.")
    if kind == "ERROR":
        if thing.get("code") == 410:
            raise VersionGone
        raise PodApiFailed(f"The Kubernetes API ended the watch: {thing.get('message')}")
    return PodEvent(kind, thing)


def _reason(text: str) -> str:
    """The message of a Status object, else the beginning of the text."""
    try:
        found = orjson.loads(text)
        return str(found["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200].strip()
