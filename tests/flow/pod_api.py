"""A Kubernetes API server that knows pods: lists and watches over real HTTP, and misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


def pod(name: str, ip: str = "127.0.0.1", *, ready: bool = True, **more: Any) -> dict[str, Any]:
    """A running pod as the API writes it; labels and annotations as ``more``."""
    return {
        "metadata": {
            "name": name,
            "namespace": more.get("namespace", "llm"),
            "uid": more.get("uid", f"uid-of-{name}"),
            "labels": more.get("labels", {}),
            "annotations": more.get("annotations", {}),
        },
        "status": {
            "phase": more.get("phase", "Running"),
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


class PodServer:
    """Holds pods by name, and a log of what happened to them.

    Attributes:
        seen: Query of every request, in order, with ``path`` and ``authorization``.
        refusal: Status of every answer while it is set.
        oldest: Watches from before this version get 410.
        page_size: Of lists, however many are asked for.
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.version = 100
        self.oldest = 0
        self.refusal: int | None = None
        self.page_size = 500
        self.seen: list[dict[str, str]] = []
        self.port = 0
        self._log: list[tuple[int, bytes]] = []
        self._news = asyncio.Event()
        self._watchers: set[asyncio.StreamWriter] = set()

    @property
    def lists(self) -> list[dict[str, str]]:
        """Lists from their first page on."""
        return [q for q in self.seen if "watch" not in q and "continue" not in q]

    @property
    def watches(self) -> list[dict[str, str]]:
        """Watches that were asked for."""
        return [q for q in self.seen if "watch" in q]

    @property
    def n_watching(self) -> int:
        """Watches that are open."""
        return len(self._watchers)

    def put(self, new: dict[str, Any]) -> None:
        """Add a pod, or change the one of this name."""
        name = new["metadata"]["name"]
        self._tell("MODIFIED" if name in self.pods else "ADDED", new)
        self.pods[name] = new

    def mark_deleted(self, name: str, grace_s: int) -> None:
        """What ``kubectl delete pod`` does at first."""
        changed = json.loads(json.dumps(self.pods[name]))
        changed["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
        changed["metadata"]["deletionGracePeriodSeconds"] = grace_s
        self.put(changed)

    def remove(self, name: str) -> None:
        """Take a pod away."""
        self._tell("DELETED", self.pods.pop(name))

    def bookmark(self) -> None:
        """Tell watchers a version at which nothing of theirs changed."""
        self.version += 50
        self._say("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}})

    def expire(self) -> None:
        """Forget the past, as after a compaction, and tell watchers so."""
        self.version += 1
        self.oldest = self.version
        self._say("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
        self._log.clear()

    def cut(self, *, inside_an_event: bool = False) -> None:
        """Break every watch."""
        for writer in tuple(self._watchers):
            if inside_an_event:
                writer.write(_chunk(b'{"type": "ADDED", "object": {"meta'))
            writer.close()
        self._watchers.clear()

    def forget_quietly(self, name: str) -> None:
        """Take a pod away without an event, as when a watch missed it."""
        del self.pods[name]

    def _tell(self, kind: str, changed: dict[str, Any]) -> None:
        self.version += 1
        changed["metadata"]["resourceVersion"] = str(self.version)
        self._say(kind, changed)

    def _say(self, kind: str, thing: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": thing}).encode() + b"\n"
        self._log.append((self.version, line))
        for writer in self._watchers:
            # In two parts, as lines need not come whole.
            writer.write(_chunk(line[:20]))
            writer.write(_chunk(line[20:]))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            writer.close()
            return
        target = urlsplit(head.split(" ", 2)[1])
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        headers = {name.lower(): value for name, value in lines.items()}
        authorization = headers.get("authorization", "")
        self.seen.append({"path": target.path, "authorization": authorization, **query})
        if self.refusal:
            _send(writer, self.refusal, {"kind": "Status", "message": "not for you"})
        elif "watch" not in query:
            self._send_list(writer, query)
        elif int(query["resourceVersion"]) < self.oldest:
            _send(writer, 410, {"kind": "Status", "code": 410, "message": "too old"})
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for version, line in self._log:
                if version > int(query["resourceVersion"]):
                    writer.write(_chunk(line))
            self._watchers.add(writer)
            await reader.read()
            self._watchers.discard(writer)
            writer.close()

    def _send_list(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> None:
        wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
        found = [p for p in self.pods.values() if wanted.items() <= p["metadata"]["labels"].items()]
        begin = int(query.get("continue", 0))
        end = begin + min(self.page_size, int(query["limit"]))
        meta = {"resourceVersion": str(self.version)}
        if end < len(found):
            meta["continue"] = str(end)
        _send(writer, 200, {"kind": "PodList", "metadata": meta, "items": found[begin:end]})


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _send(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n" % status)
    writer.write(b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data))
    writer.close()


@asynccontextmanager
async def pod_server() -> AsyncIterator[PodServer]:
    """A running server."""
    made = PodServer()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await server.wait_closed()


def write_kubeconfig(server: PodServer, path: Path) -> Path:
    """A file that leads to the server."""
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [
                    {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
                ],
                "users": [{"name": "us", "user": {"token": "secret-token"}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "us"}}],
            }
        )
    )
    return path
