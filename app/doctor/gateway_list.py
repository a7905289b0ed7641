"""The workers of a running gateway, as its ``GET /workers`` tells them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from app.settings.fault import SettingsError
from app.upstream.get_json import get_json
from app.workers.worker import Role, WorkerSpec

Listed = tuple[WorkerSpec, Mapping[str, Any]]


async def list_workers(
    url: str,
    *,
    gateway_key: str | None,
    worker_key: str | None,
    timeout_s: float,
    ssl_context: ssl.SSLContext | None = None,
) -> list[Listed]:
    """Ask a gateway which workers it has.

    Args:
        url: ``http(s)://host:port``; a path is put before ``/workers``.
        gateway_key: What the gateway wants to see.
        worker_key: What the workers want to see: a gateway tells no keys.
        timeout_s: Longest wait.
        ssl_context: For ``https``.

    Raises:
        SettingsError: It cannot be asked, or is no gateway; with a sentence.
    """
    try:
        parts = urlsplit(url)
        headers = [] if gateway_key is None else [(b"authorization", _bearer(gateway_key))]
        answer = await get_json(
            f"{parts.scheme}://{parts.netloc}",
            f"{parts.path.rstrip('/')}/workers",
            timeout_s=timeout_s,
            headers=headers,
            ssl_context=ssl_context,
        )
    except ValueError as exc:
        raise SettingsError(f"--gateway {url}: {exc}") from None
    if answer.error:
        raise SettingsError(f"--gateway {url}: {answer.error}")
    if answer.status in (401, 403):
        which = "a" if gateway_key is None else "another"
        raise SettingsError(f"--gateway {url}: it wants {which} key; give it with --gateway-key.")
    rows = (answer.body or {}).get("workers")
    if answer.status != 200 or not isinstance(rows, list):
        raise SettingsError(
            f"--gateway {url}: GET /workers answered {answer.status} and no list of workers."
        )
    try:
        return [(_spec(row, worker_key), row) for row in rows if _is_known(row)]
    except ValueError as exc:
        raise SettingsError(f"--gateway {url}: {exc}") from None


def _bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


def _is_known(row: object) -> bool:
    return isinstance(row, dict) and "url" in row and row.get("worker_type") in tuple(Role)


def _spec(row: Mapping[str, Any], worker_key: str | None) -> WorkerSpec:
    cards = row.get("models")
    ids = [card.get("id") for card in cards or () if isinstance(card, dict)]
    labels = row.get("labels")
    port = row.get("bootstrap_port")
    return WorkerSpec(
        url=str(row["url"]),
        role=Role(row["worker_type"]),
        bootstrap_port=port if isinstance(port, int) else None,
        model_ids=tuple(name for name in ids if isinstance(name, str)),
        labels={k: str(v) for k, v in labels.items()} if isinstance(labels, dict) else {},
        api_key=worker_key,
    )
