"""The way to the API server: what cannot be used is one sentence, credentials are read anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.upstream.kubernetes_pods import KubernetesPods
from app.workers.pod_watch import PodApiFailed
from tests.flow.pod_api import PodServer, pod, pod_server, write_kubeconfig


@asynccontextmanager
async def api_of(server: PodServer, path: Path) -> AsyncIterator[KubernetesPods]:
    """A client of a server, by a kubeconfig."""
    api = KubernetesPods("app=llm", None, write_kubeconfig(server, path / "kubeconfig"))
    try:
        yield api
    finally:
        await api.aclose()


async def test_all_namespaces(tmp_path: Path) -> None:
    async with pod_server() as server, api_of(server, tmp_path) as api:
        server.put(pod("one", labels={"app": "llm"}))
        server.put(pod("two"))
        found = await api.list_pods()
    assert [p["metadata"]["name"] for p in found.pods] == ["one"]
    assert found.version == str(server.version)
    assert server.seen[0]["path"] == "/api/v1/pods"


async def test_a_refusal_is_told_in_the_servers_words(tmp_path: Path) -> None:
    async with pod_server() as server, api_of(server, tmp_path) as api:
        server.refusal = 403
        with pytest.raises(PodApiFailed, match="answered 403: not for you"):
            await api.list_pods()


async def test_after_401_the_credentials_are_read_anew(tmp_path: Path) -> None:
    async with pod_server() as server, api_of(server, tmp_path) as api:
        server.refusal = 401
        with pytest.raises(PodApiFailed, match="answered 401"):
            await api.list_pods()
        server.refusal = None
        file = tmp_path / "kubeconfig"
        file.write_text(file.read_text().replace("secret-token", "new-token"))
        await api.list_pods()
    sent = [query["authorization"] for query in server.seen]
    assert sent == ["Bearer secret-token", "Bearer new-token"]


@pytest.mark.parametrize("text", [None, "{", "apiVersion: v1\nkind: Config\n"])
async def test_a_configuration_that_cannot_be_used(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    api = KubernetesPods("", None, file)
    with pytest.raises(PodApiFailed, match="configuration cannot be used"):
        await api.list_pods()
    await api.aclose()


async def test_nobody_there(tmp_path: Path) -> None:
    async with pod_server() as server:
        file = write_kubeconfig(server, tmp_path / "kubeconfig")
    api = KubernetesPods("", None, file)
    with pytest.raises(PodApiFailed, match="cannot be asked"):
        await api.list_pods()
    await api.aclose()


@pytest.mark.parametrize("line", [b"what?\n", b'{"type": "ADDED"}\n', b'["ADDED"]\n'])
async def test_what_is_no_event(tmp_path: Path, line: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(line), line))
        writer.close()

    odd = PodServer()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    odd.port = server.sockets[0].getsockname()[1]
    async with server, api_of(odd, tmp_path) as api:
        with pytest.raises(PodApiFailed, match="The Kubernetes API sent"):
            async for _ in api.watch_pods("1"):
                pass
