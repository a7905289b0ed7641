"""Whether a worker URL that came over the network may be used, said in our one shape."""

from __future__ import annotations

from app.api.parts import Parts
from app.errors import InvalidRequest, WorkerUrlRefused
from app.workers.url_guard import UrlNotAllowed


def guard_url(gateway: Parts, url: str) -> None:
    """Lets a worker URL of a request pass; call it wherever a body names one.

    Raises:
        InvalidRequest: It is no worker URL; 400.
        WorkerUrlRefused: ``--worker-url-allow`` does not allow it; 403.
    """
    try:
        gateway.url_guard.check(url)
    except UrlNotAllowed as exc:
        raise WorkerUrlRefused(str(exc), param="url") from exc
    except ValueError as exc:
        raise InvalidRequest(str(exc), param="url") from exc
